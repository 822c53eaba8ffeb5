"""Files with chunks, and their reading."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.hdf5.chunks import FrameReader

SHAPE = (5, 21, 34)


def frames_of(dtype: Any = np.uint16, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Values whose every byte matters, and some runs that compress."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]
    if dtype.kind == "f":
        frames = rng.normal(100, 30, shape).astype(dtype)
    frames[..., ::3] = 7
    return frames


def make(path: Path, frames: np.ndarray, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, **options)


def read_all(reader: FrameReader, like: np.ndarray, step: int = 1) -> np.ndarray:
    """Read all frames, ``step`` at a time, into memory with other values."""
    into = np.full_like(like, 99)
    for begin in range(0, len(into), step):
        reader.read(begin, min(begin + step, len(into)), into[begin : begin + step])
    return into


def check_same(path: Path, way: str, why: str = "", steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Check that all frames are read that way, and equal those of h5py."""
    with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
        assert (reader.way, reader.why_not_direct or "") == (way, why)
        expected = file["frames"][...].astype(file["frames"].dtype.newbyteorder("="))
        for step in steps:
            np.testing.assert_array_equal(read_all(reader, expected, step), expected)
        reader.check_written()
        reader.check_unchanged()
