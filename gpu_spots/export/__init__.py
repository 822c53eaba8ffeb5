"""Files for other programs, made from a spots file: one module per format."""
