"""Frames out of a file: by threads that read and decompress chunks themselves where that is possible, else through HDF5.

Whatever the way, the values are those that h5py gives, and what is damaged is an error that names the frame. Plain h5py knows less:
where a chunk was never written it gives zeros, and where one is short, what was in memory before.
"""

import os
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.codecs import CodecError, inflate, unshuffle
from gpu_spots.files.layout import GZIP, SHUFFLE, ChunkMap, filters, other_files, why_not_direct
from gpu_spots.model import Array

Position = tuple[int, int, int]


class FrameReader:
    """Reads frames of a dataset (n, n_X, n_Y). `read` may be called from several threads at once; use it as a context manager, or `close`.

    A chunk that holds several frames is decoded whenever some of them are read: read multiples of ``dataset.chunks[0]`` frames.
    """

    why_not_direct: str | None
    """Why HDF5 reads, in a few words: "filters lzf"; None where chunks are read directly."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        """Prepare to read; nothing is read yet but where the chunks are.

        Raises `InputError` where that is damaged, or where a file is missing or too short that the dataset takes frames from.
        """
        self.source = f"{dataset.file.filename}: {dataset.name}"
        self._dataset = dataset
        self._shape: Position = dataset.shape
        self._native = dataset.dtype.newbyteorder("=")
        self._swapped = dataset.dtype != self._native
        self._filters = filters(dataset)
        self.why_not_direct = why_not_direct(dataset)
        self._map = self._chunk_map()
        self._contiguous = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not dataset.external
        self._begin: int | None = dataset.id.get_offset() if self._contiguous else None
        self._file: int | None = os.dup(dataset.file.id.get_vfd_handle()) if dataset.file.driver == "sec2" else None
        try:
            self._others = list(other_files(dataset, self.source))
            self._state = self._states()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "FrameReader":
        """The reader itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the file go; no thread may be reading. The dataset stays open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._closed = True

    @property
    def path(self) -> str:
        """The way that frames come: "direct" or "h5py"."""
        return "direct" if self.why_not_direct is None else "h5py"

    def check_written(self) -> None:
        """Raise `InputError` if a part of a frame was never written; the error names the first such frame. Reads nothing."""
        self._require_written(0, self._shape[0])

    def check_unchanged(self) -> None:
        """Raise `InputError` if a file that frames come from has another size or time than when this reader was made."""
        if self._states() != self._state:
            raise InputError(f"{self.source}: the file was changed while it was read")

    def read(self, begin: int, end: int, into: Array) -> None:
        """Fill ``into``, (end - begin, n_X, n_Y), native byte order, C-contiguous, with the frames from ``begin`` to ``end``.

        Raises `InputError`, which names the frame, where one cannot be read, is damaged, or was never written.
        """
        if not 0 <= begin <= end <= self._shape[0] or into.shape != (end - begin, *self._shape[1:]):
            raise ValueError(f"frames {begin} to {end} of {self._shape} into {into.shape}")
        if into.dtype != self._native or not into.flags.c_contiguous:
            raise ValueError(f"into is {into.dtype}, expected {self._native}, contiguous")
        self._require_written(begin, end)
        if self.why_not_direct is not None:
            self._read_by_hdf5(begin, end, into)
            return
        if self._map is None:
            self._read_contiguous(begin, end, into)
        else:
            step = self._map.chunk
            for frame in range(begin // step[0] * step[0], end, step[0]):
                for x in range(0, self._shape[1], step[1]):
                    for y in range(0, self._shape[2], step[2]):
                        self._read_chunk(self._map, (frame, x, y), begin, into)
        if self._swapped:
            into.byteswap(inplace=True)
