"""Data sets, one file each; `splits` holds the rules they share, `prepare` fetches them. Nothing is imported here."""
