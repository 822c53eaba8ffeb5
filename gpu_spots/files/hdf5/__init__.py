"""HDF5 itself: chunks, virtual datasets, links, and checks of what is damaged."""
