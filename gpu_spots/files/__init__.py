"""Files: the only package that imports h5py, fabio and codecs."""
