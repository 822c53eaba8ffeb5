"""Layouts of HDF5 files: where each has its frames, angles, laser states and pixel mask."""
