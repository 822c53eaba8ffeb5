"""Files: the only rooms that know HDF5."""
