"""Any other HDF5 file: the frames are the only stack in it, or the dataset that the user gives."""

from collections.abc import Iterator

import h5py

from gpu_spots.files.hdf5.tree import datasets_below
from gpu_spots.files.layouts.layout import Layout
from gpu_spots.files.layouts.search import DEPTH, Part, Parts, is_stack


class Generic(Layout):
    """Frames anywhere in the file."""

    def stacks(self, file: h5py.File) -> Iterator[Parts]:
        """Yield every 3-D dataset of numbers with at least two frames."""
        for path, dataset in datasets_below(file, "", DEPTH):
            if is_stack(dataset) and dataset.shape[0] >= 2:
                yield (Part(path, dataset),)


GENERIC = Generic(
    name="HDF5",
    title="unknown HDF5 layout",
    frames="the only 3-D numeric dataset with at least two frames",
)
