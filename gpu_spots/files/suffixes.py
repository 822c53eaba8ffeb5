"""Endings of file names. This module loads quickly, as each command imports it."""

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs", ".nx", ".nexus", ".cxi")
"""Endings of the names of HDF5 files."""
