"""Storage of a stack in its file: positions of chunks, and missing chunks.

It also tells whether the chunks can be read without HDF5.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError

Position = tuple[int, int, int]
"""Frame, X and Y."""
GZIP = h5py.h5z.FILTER_DEFLATE
SHUFFLE = h5py.h5z.FILTER_SHUFFLE
LZ4 = 32004
BITSHUFFLE = 32008
MAX_CHUNKS = 1 << 24
"""Chunks of a dataset, at most: 250 of each of as many frames as there can be."""
DIRECT_PIPELINES = ((), (GZIP,), (SHUFFLE,), (SHUFFLE, GZIP))
"""Filters that are undone here, in the order in which they were applied."""


def filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return HDF5's numbers of the filters of a dataset, in the order in which they are applied."""
    created = dataset.id.get_create_plist()
    return tuple(created.get_filter(i)[0] for i in range(created.get_nfilters()))


def begins_with_size(dataset: h5py.Dataset) -> bool:
    """Return whether each stored chunk begins with its decompressed size (8 bytes, big endian).

    The plugins for LZ4 and for bitshuffle with compression write it so. When they read, they trust
    it, and a damaged one makes them crash.
    """
    *before, last = filters(dataset) or (0,)
    if last not in (LZ4, BITSHUFFLE) or not set(before) <= {SHUFFLE}:  # others may change the size
        return False
    number, _, values, _ = dataset.id.get_create_plist().get_filter(len(before))
    return number == LZ4 or (number == BITSHUFFLE and len(values) > 4 and values[4] > 0)


def why_not_direct(dataset: h5py.Dataset) -> str | None:
    """Return why a dataset must be read through HDF5; None: its bytes can be decoded here."""
    created = dataset.id.get_create_plist()
    names = [
        created.get_filter(i)[3].decode(errors="replace") for i in range(created.get_nfilters())
    ]
    stored, native = dataset.id.get_type(), h5py.h5t.py_create(dataset.dtype)
    reasons = {
        "virtual dataset": dataset.is_virtual,
        "external files": bool(dataset.external),
        "compact dataset": created.get_layout() == h5py.h5d.COMPACT,
        f"file driver {dataset.file.driver}": dataset.file.driver != "sec2",
        # what was written and not yet flushed is not in the file
        "file open for writing": dataset.file.mode != "r" or dataset.file.swmr_mode,
        # older HDF5 leaves it out of the addresses of chunks
        "user block": dataset.file.userblock_size > 0,
        # a number may have fewer bits than its bytes
        f"unusual type {dataset.dtype}": not stored.equal(native),
        f"filters {', '.join(names)}": filters(dataset) not in DIRECT_PIPELINES,
        "this HDF5 cannot list chunks": dataset.chunks is not None
        and not hasattr(dataset.id, "chunk_iter"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """Positions of the chunks of a stack in its file.

    Arrays have one value a chunk, in the chunks' own grid (frames, X, Y).
    """

    chunk: Position
    """Frames, rows and columns of a chunk."""
    begin: NDArray[np.int64]
    """First byte in the file; -1: the chunk was never written."""
    size: NDArray[np.int64]
    """Bytes in the file."""
    skipped: NDArray[np.uint32]
    """Bit k is set where filter k was not applied."""

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "ChunkMap | None":
        """Return the map of a dataset (n, n_X, n_Y), made in one pass.

        None if it has no chunks, or if HDF5 is too old to list them.

        Raises OSError or RuntimeError where the file is damaged, `InputError` where there are too
        many.
        """
        if dataset.chunks is None or not hasattr(dataset.id, "chunk_iter"):
            return None
        grid = tuple(
            -(-length // step) for length, step in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if math.prod(grid) > MAX_CHUNKS:
            raise InputError(
                f"{dataset.file.filename}: {dataset.name} has {math.prod(grid)} chunks (shape "
                f"{dataset.shape}, "
                f"chunks of {dataset.chunks}), of which {dataset.id.get_num_chunks()} are written; "
                f"expected at most {MAX_CHUNKS}"
            )
        chunks: list[Any] = []
        dataset.id.chunk_iter(chunks.append)
        found = cls(
            dataset.chunks,
            np.full(grid, -1, np.int64),
            np.zeros(grid, np.int64),
            np.zeros(grid, np.uint32),
        )
        if chunks:
            at = tuple(
                np.array([chunk.chunk_offset for chunk in chunks], np.int64).T
                // np.reshape(dataset.chunks, (-1, 1))
            )
            if any((place >= length).any() for place, length in zip(at, grid, strict=True)):
                raise OSError("a chunk lies outside of the dataset")
            found.begin[at] = [
                -1 if chunk.byte_offset is None else chunk.byte_offset for chunk in chunks
            ]
            found.size[at] = [chunk.size for chunk in chunks]
            found.skipped[at] = [chunk.filter_mask for chunk in chunks]
        return found

    def index(self, at: Position) -> Position:
        """Return the place in the grid of the chunk that begins at a frame, X and Y."""
        return at[0] // self.chunk[0], at[1] // self.chunk[1], at[2] // self.chunk[2]

    def unwritten(self, begin: int, end: int) -> Position | None:
        """Return frame, X and Y of the first chunk of some frames that was never written.

        None if there is none.
        """
        first = begin // self.chunk[0]
        is_hole = self.begin[first : -(-end // self.chunk[0])] < 0
        if not is_hole.any():
            return None
        place = is_hole.argmax()
        frame, x, y = (
            int(i) * step
            for i, step in zip(np.unravel_index(place, is_hole.shape), self.chunk, strict=True)
        )
        return max(first * self.chunk[0] + frame, begin), x, y


def require_filters(dataset: h5py.h5d.DatasetID, what: str) -> None:
    """Load the plugins that a dataset is compressed by.

    Raises `InputError` for a filter that is not installed.

    Args:
        dataset: the dataset that is about to be read.
        what: what messages call it.
    """
    properties = dataset.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, name = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401 (importing it registers its filters)
        if not h5py.h5z.filter_avail(number):
            known = f"{number} ({name.decode(errors='replace')})" if name else number
            raise InputError(
                f"{what} is compressed by HDF5 filter {known}, which is not installed; "
                "pip install hdf5plugin installs the usual filters"
            )


def hdf5_reason(error: BaseException) -> str:
    """Return HDF5's explanation of an error in one line: the text in parentheses."""
    text = " ".join(str(error).split())
    opening, closing = text.find("("), text.rfind(")")
    return text[opening + 1 : closing] if 0 <= opening < closing else text
