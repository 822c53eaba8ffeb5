"""HDF5 files that are still being written: test for it, and copy of the frames so far."""

from pathlib import Path

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import FAILURES
from gpu_spots.files.lauecollect import GROUP
from gpu_spots.files.layouts.recognise import recognise
from gpu_spots.files.output.new_file import new_output

WRITTEN = ("unable to lock file", "already open for write", "already open for SWMR write")
"""Parts of HDF5's messages about a file that another program is writing."""


def is_being_written(path: Path) -> bool:
    """Return whether a program has the file open for writing, as far as locks and HDF5 tell."""
    try:
        with h5py.File(path, "r"):
            return False
    except OSError as error:
        return any(text in str(error) for text in WRITTEN)


def copy_frames(path: Path, output: Path) -> int:
    """Copy the frames that a growing file has so far, with their metadata.

    The file must be written in the mode SWMR of HDF5, or not be open for writing.

    Args:
        path: HDF5 file of a run.
        output: File to write, uncompressed; an existing one is replaced.

    Returns:
        Number of frames. Nothing is written if there are none.

    Raises:
        InputError: The file cannot be read, or has no frames.
        OutputError: The output cannot be written.
    """
    try:
        opened = h5py.File(path, "r", swmr=True)
    except OSError:
        opened = open_hdf5(path)
    with opened as file:
        try:
            (part, *others) = recognise(file).parts
            if others:
                raise InputError(f"{path}: its frames are in several datasets, expected one")
            columns = {
                name: item[()]
                for name, item in file.get(GROUP, {}).items()
                if isinstance(item, h5py.Dataset) and item.ndim
            }
            n_frames = min([len(part.dataset), *map(len, columns.values())])
            if n_frames < 1:
                return 0
            with new_output(output, [path], force=True) as copy:
                shape = (n_frames, *part.dataset.shape[1:])
                frames = copy.create_dataset("frames", shape, part.dataset.dtype)
                for i in range(n_frames):
                    frames[i] = part.dataset[i]
                for name, values in columns.items():
                    if values.dtype.kind in "iufb":
                        copy[f"{GROUP}/{name}"] = np.asarray(values[:n_frames])
        except FAILURES as error:
            raise InputError(f"{path}: cannot be read: {hdf5_reason(error)}") from error
    return n_frames
