"""Virtual datasets over files with the frames of a small run."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import N_FRAMES, SHAPE, frames_of
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run

WHOLE = (N_FRAMES, *SHAPE)
UNLIMITED = h5py.h5s.UNLIMITED


def space(
    shape: tuple[int, ...],
    begin: tuple[int, ...] | None = None,
    count: tuple[int, ...] = (1, 1, 1),
    stride: tuple[int, ...] | None = None,
    block: tuple[int, ...] | None = None,
) -> h5py.h5s.SpaceID:
    """A dataspace; everything is selected in it, or a hyperslab."""
    made = h5py.h5s.create_simple(shape, (UNLIMITED, *shape[1:]))
    if begin is not None:
        made.select_hyperslab(begin, count, stride or block, block)
    return made


def write_mapped(
    path: Path,
    *mappings: tuple[h5py.h5s.SpaceID, str, str, h5py.h5s.SpaceID],
    name: str = "frames",
    dtype: str = "u2",
    shape: tuple[int, ...] = WHOLE,
) -> Path:
    """Add a virtual dataset to a file: target, file, dataset and what is taken, of each source."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for target, file, dataset, taken in mappings:
        created.set_virtual(target, file.encode(), dataset.encode(), taken)
    with h5py.File(path, "a") as opened:
        extent = h5py.h5s.create_simple(shape, (UNLIMITED, *shape[1:]))
        h5py.h5d.create(
            opened.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), extent, created
        )
    return path


def frames_at(begin: int, end: int) -> h5py.h5s.SpaceID:
    """Return some frames of the run."""
    return space(WHOLE, (begin, 0, 0), block=(end - begin, *SHAPE))


def everything(n: int = N_FRAMES) -> h5py.h5s.SpaceID:
    return space((n, *SHAPE))


def write_parts(folder: Path, *begins: int, **options: Any) -> None:
    """part0.h5, part1.h5, ...: dataset x with the frames from one of ``begins`` to the next."""
    for i, (begin, end) in enumerate(zip(begins, (*begins[1:], N_FRAMES), strict=True)):
        with h5py.File(folder / f"part{i}.h5", "w") as file:
            file.create_dataset(
                "x", data=frames_of()[begin:end], **{"chunks": (1, *SHAPE), **options}
            )


def write_two(folder: Path, **options: Any) -> Path:
    """A virtual dataset over two parts, of 12 and 8 frames."""
    write_parts(folder, 0, 12, **options)
    first = (frames_at(0, 12), "part0.h5", "x", everything(12))
    return write_mapped(
        folder / "run.h5", first, (frames_at(12, 20), "part1.h5", "x", everything(8))
    )


def assert_read(
    path: Path, *, direct: bool, dtype: str = "u2", expected: np.ndarray | None = None
) -> None:
    """The run is read without options, as it should be."""
    with open_run(path) as stack:
        in_order = stack.storage()["read_through_hdf5"] is None
        assert (stack.dtype, in_order) == (np.dtype(dtype), direct)
        into = np.zeros(stack.shape, stack.dtype)
        stack.read(0, len(into), into)
        stack.check_whole()
    np.testing.assert_array_equal(into, frames_of() if expected is None else expected)


def problem(path: Path) -> str:
    """Return the error of a run."""
    with pytest.raises(InputError) as found:
        open_run(path).__enter__()
    return str(found.value)
