"""Data sets, one file each; `splits` holds the rules they share, `prepare` downloads them. Nothing is imported here."""
