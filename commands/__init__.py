"""`mocoop <command>`: one file each, thin. `main` finds the command; each has `main(argv) -> exit code`."""
