"""Output files: complete or absent, whatever ends the program."""
