"""Runs of image files: formats, names, logs, and the stack of frames they make."""
