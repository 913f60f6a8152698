"""One method, one file, and the parts they share. Imported only when a method is used (they need torch)."""
