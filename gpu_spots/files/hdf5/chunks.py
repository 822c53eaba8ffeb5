"""Reading of frames, by threads that decompress chunks themselves, or through HDF5.

Either way the values are those that h5py gives, and what is damaged is an error that names the
frame. Plain h5py knows less: where a chunk was never written it gives zeros, and where one is too
short, whatever the memory held before.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.hdf5.chunk_map import (
    GZIP,
    SHUFFLE,
    ChunkMap,
    Position,
    begins_with_size,
    filters,
    hdf5_reason,
    why_not_direct,
)
from gpu_spots.files.hdf5.codecs import CodecError, inflate, unshuffle
from gpu_spots.files.hdf5.virtual import require_complete
from gpu_spots.model import Array


class FrameReader:
    """Reader of the frames of a dataset (n, n_X, n_Y) in a file that stays open.

    A context manager, or call `close`.

    `read` may be called from several threads at once; chunks that are read directly are then
    decompressed side by side.
    """

    source: str
    """File and dataset, for messages."""
    why_not_direct: str | None
    """Reason why HDF5 reads the frames, such as "filters lzf"; None: chunks are read directly."""

    def __init__(
        self,
        dataset: h5py.Dataset,
        dtype: np.dtype[Any] | None = None,
        other_files: Sequence[Path] | None = None,
    ) -> None:
        """Find out where the frames are; none is read.

        Args:
            dataset: (n, n_X, n_Y).
            dtype: the type of the frames, in native byte order; None: that of the dataset.
            other_files: files besides its own that hold the values, if they have been checked;
                None: they are looked for.

        Raises:
            InputError: it cannot be found out where the frames are, or something that the dataset
                refers to is missing or too short.
        """
        self.source = f"{dataset.file.filename}: {dataset.name}"
        self.why_not_direct = why_not_direct(dataset)
        self._dataset = dataset
        self._shape: Position = dataset.shape
        self._dtype = dataset.dtype.newbyteorder("=") if dtype is None else dtype
        # asked for each stretch of rows, and h5py takes its lock for every answer
        self._is_swapped = dataset.dtype != self._dtype
        self._stored_bytes = dataset.dtype.itemsize
        self._filters = filters(dataset)
        try:
            self._chunks = ChunkMap.of(dataset)
        except (IndexError, OSError, OverflowError, RuntimeError) as error:
            raise InputError(
                f"{self.source}: the list of its chunks cannot be read: {hdf5_reason(error)}"
            ) from error
        self._is_contiguous = (
            dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            and not dataset.external
        )
        self._begin: int | None = dataset.id.get_offset() if self._is_contiguous else None
        self._other_files = (
            require_complete(dataset, self.source).files if other_files is None else other_files
        )
        # HDF5's own descriptor, not the name: a file that has been put in the place of this one is
        # another
        self._descriptor: int | None = (
            os.dup(dataset.file.id.get_vfd_handle()) if dataset.file.driver == "sec2" else None
        )
        # in a file that is being written, the list of chunks may be too old
        self._can_check_chunks = (
            self._chunks is not None
            and self._descriptor is not None
            and dataset.file.mode == "r"
            and not (dataset.file.swmr_mode or dataset.file.userblock_size)
        )
        self._begins_with_size = begins_with_size(dataset)
        self._states = self._states_now()

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the file, when no thread reads any more. The dataset stays open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def way(self) -> str:
        """Return how frames are read: "direct" (by threads, without HDF5) or "h5py"."""
        return "direct" if self.why_not_direct is None else "h5py"

    @property
    def n_frames(self) -> int:
        """Number of frames of the dataset."""
        return self._shape[0]

    @property
    def frames_in_chunk(self) -> int:
        """Return the number of frames that are stored in one chunk."""
        return int(self._dataset.chunks[0]) if self._dataset.chunks else 1

    @property
    def is_decoded(self) -> bool:
        """True if rows are stored in the file as they are in memory."""
        return self.why_not_direct is None and (
            self._chunks is None or self._is_plain(self._chunks)
        )

    @property
    def rows_apart(self) -> int | None:
        """Number of rows that can be read without reading others.

        None: some rows take as long as whole frames.
        """
        if self._dataset.is_virtual or self._dataset.external:
            return None  # nobody knows
        if not self._dataset.chunks or self.is_decoded:
            return 1
        rows = int(self._dataset.chunks[1])
        return rows if rows < self._shape[1] else None

    @cached_property
    def shuffled_rows(self) -> int | None:
        """Rows of a shuffled chunk that `read_shuffled` can leave shuffled; None: it cannot.

        It can if a chunk is one frame, or whole rows whose number divides the rows of the frame,
        and if values have 2, 4 or 8 bytes in the order of this machine.
        """
        if self.why_not_direct is not None or self._chunks is None or SHUFFLE not in self._filters:
            return None
        frames, rows, columns = self._chunks.chunk
        if frames > 1 or columns != self._shape[2] or self._shape[1] % rows:
            return None
        has_order = not self._is_swapped and self._dtype.itemsize > 1
        skips = self._chunks.skipped >> self._filters.index(SHUFFLE) & 1
        return int(rows) if has_order and not skips.any() else None

    def check_written(self) -> None:
        """Raise `InputError` if anything was never written; it names the first such frame.

        Looks at the list of chunks only.
        """
        self._check_written(0, self._shape[0])

    def check_unchanged(self) -> None:
        """Raise `InputError` if a file of the frames changed after this reader was made.

        The size and the time of the file are compared.
        """
        if self._states_now() != self._states:
            raise InputError(f"{self.source}: the file was changed while it was being read")

    def read(self, begin: int, end: int, into: Array) -> None:
        """Fill ``into`` with the frames from ``begin`` to ``end``: `read_rows` of all rows."""
        self.read_rows(begin, end, 0, self._shape[1], into)

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Fill ``into`` with some rows of some frames. Thread-safe.

        They are the rows from ``first`` to ``last`` of the frames from ``begin`` to ``end``.

        A chunk is decoded each time that any of it is read: best read all of its frames and rows at
        once.

        Args:
            begin: the first frame.
            end: the one after the last.
            first: the first row.
            last: the one after the last.
            into: (end - begin, last - first, n_Y), the dataset's type in native byte order,
                C-contiguous.

        Raises:
            InputError: a frame, which it names, was never written, is damaged, or cannot be read.
            ValueError: ``into`` is not as described, or there are no such frames or rows.
        """
        self._check_request(
            begin, end, first, last, into, (last - first, self._shape[2]), self._dtype
        )
        self._check_written(begin, end)
        if self.why_not_direct is not None:
            self._read_by_hdf5(begin, end, first, last, into)
        elif self._chunks is None:
            self._read_contiguous(begin, first, into)
        else:
            frames, rows, columns = self._chunks.chunk
            for frame in range(begin // frames * frames, end, frames):
                for x in range(first // rows * rows, last, rows):
                    for y in range(0, self._shape[2], columns):
                        self._read_chunk(self._chunks, (frame, x, y), begin, first, into)

    def read_shuffled(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read rows like `read_rows`, but leave the bytes in the order in which they are stored.

        Only whole stretches of `shuffled_rows` rows can be read.

        ``into``: (end - begin, stretches, bytes of a value, rows of a stretch, n_Y) uint8,
        C-contiguous.
        """
        rows, chunks = self.shuffled_rows, self._chunks
        if rows is None or chunks is None or first % rows or last % rows:
            raise ValueError(
                f"rows {first} to {last} are not stored in shuffled stretches of {rows} rows"
            )
        of_frame = ((last - first) // rows, self._dtype.itemsize, rows, self._shape[2])
        self._check_request(begin, end, first, last, into, of_frame, np.dtype(np.uint8))
        self._check_written(begin, end)
        for frame, stretches in enumerate(into, begin):
            for x, planes in zip(range(first, last, rows), stretches, strict=True):
                with self._blamed_for(frame, frame + 1, x, 0):
                    self._decode(chunks, (frame, x, 0), planes, stays_shuffled=True)

    def _check_request(
        self,
        begin: int,
        end: int,
        first: int,
        last: int,
        into: Array,
        of_frame: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        """Raise ValueError if there are no such frames or rows, or ``into`` does not fit.

        ``into`` must have the shape ``of_frame`` for each frame, an allowed type, and be
        contiguous.
        """
        if not (0 <= begin <= end <= self._shape[0] and 0 <= first <= last <= self._shape[1]):
            raise ValueError(
                f"frames {begin} to {end}, rows {first} to {last}, expected some of {self._shape}"
            )
        shape = (end - begin, *of_frame)
        if into.shape != shape or into.dtype != dtype or not into.flags.c_contiguous:
            raise ValueError(
                f"into is {into.dtype} {into.shape}, expected contiguous {dtype} {shape}"
            )

    def _read_by_hdf5(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        try:
            if self._can_check_chunks and self._begins_with_size:
                self._check_sizes(begin, end, first, last)
            self._dataset.read_direct(into, np.s_[begin:end, first:last])
            if self._can_check_chunks:
                self._check_found(begin, end, first, last, into)
        except (OSError, RuntimeError) as error:
            if end == begin + 1:
                raise self._error(begin, end, hdf5_reason(error)) from error
            for frame in range(begin, end):  # until the one that is to blame
                self._read_by_hdf5(
                    frame, frame + 1, first, last, into[frame - begin : frame - begin + 1]
                )

    def _check_sizes(self, begin: int, end: int, first: int, last: int) -> None:
        """Raise OSError if a chunk that is about to be read does not begin with its right size."""
        assert self._chunks is not None
        frames, rows, _ = self._chunks.chunk
        part = np.s_[begin // frames : -(-end // frames), first // rows : -(-last // rows)]
        # the size is there unless the last filter was left out for the chunk
        is_there = self._chunks.skipped[part] >> (len(self._filters) - 1) & 1 == 0
        n_bytes = int(np.prod(self._chunks.chunk, dtype=object)) * self._stored_bytes
        for place in self._chunks.begin[part][is_there].tolist():
            found = int.from_bytes(os.pread(self._open_file(), 8, place), "big")
            if found != n_bytes:
                raise OSError(f"it decompresses to {found} bytes, expected {n_bytes}")

    def _check_found(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Raise OSError for a chunk that HDF5 did not find.

        In a damaged index, HDF5 lists a chunk and does not find it: it gives zeros in its place.
        """
        assert self._chunks is not None
        if not into.size:
            return
        steps = self._chunks.chunk
        for frame, x, y in itertools.product(
            range(begin // steps[0] * steps[0], end, steps[0]),
            range(first // steps[1] * steps[1], last, steps[1]),
            range(0, self._shape[2], steps[2]),
        ):
            top, left = max(frame - begin, 0), max(x - first, 0)
            part = into[
                top : frame - begin + steps[0], left : x - first + steps[1], y : y + steps[2]
            ]
            if not part[0, 0].any() and not part.any():
                self._dataset.id.read_direct_chunk((frame, x, y))

    def _read_contiguous(self, begin: int, first: int, into: Array) -> None:
        assert self._begin is not None  # it is written
        row_bytes = self._shape[2] * self._dtype.itemsize
        for frame, image in enumerate(into, begin):
            try:
                self._fill(image, self._begin + (frame * self._shape[1] + first) * row_bytes)
            except (CodecError, OSError) as error:
                raise self._error(frame, frame + 1, str(error)) from error

    def _read_chunk(
        self, chunks: ChunkMap, at: Position, begin: int, top: int, into: Array
    ) -> None:
        """Decode the chunk that begins ``at`` a frame, X and Y, into its part of ``into``.

        ``into`` begins at a frame and a row.
        """
        frame, x, y = at
        first, last = max(frame, begin), min(frame + chunks.chunk[0], begin + len(into))
        upper, lower = max(x, top), min(x + chunks.chunk[1], top + into.shape[1])
        there = into[
            first - begin : last - begin, upper - top : lower - top, y : y + chunks.chunk[2]
        ]
        with self._blamed_for(first, last, x, y):
            if self._is_plain(chunks):
                self._copy_rows(chunks, at, upper - x, first - frame, there)
            elif self._may_be_unfiltered(chunks, at):
                there[...] = self._dataset[first:last, upper:lower, y : y + chunks.chunk[2]]
            elif there.shape == chunks.chunk and there.flags.c_contiguous:
                self._decode(chunks, at, there)
            else:  # cut off at an edge, narrower than a frame, or with frames or rows not asked for
                whole = np.empty(chunks.chunk, self._dtype)
                self._decode(chunks, at, whole)
                there[...] = whole[
                    first - frame : last - frame, upper - x : lower - x, : there.shape[2]
                ]

    @contextmanager
    def _blamed_for(self, begin: int, end: int, x: int, y: int) -> Iterator[None]:
        """Turn errors in the block into one that names the chunk at X and Y of these frames."""
        try:
            yield
        except (CodecError, OSError, RuntimeError) as error:
            raise self._error(begin, end, f"chunk at X {x}, Y {y}: {hdf5_reason(error)}") from error

    def _is_plain(self, chunks: ChunkMap) -> bool:
        """Return True if each row of a chunk is a whole row of a frame, as it is in memory."""
        return not self._filters and chunks.chunk[2] == self._shape[2]

    def _copy_rows(self, chunks: ChunkMap, at: Position, row: int, frame: int, out: Array) -> None:
        """Fill ``out`` from a plain chunk, from a row and a frame of it on.

        Raises `CodecError` or OSError.
        """
        _, rows, columns = chunks.chunk
        row_bytes = columns * self._dtype.itemsize
        size, expected = int(chunks.size[chunks.index(at)]), chunks.chunk[0] * rows * row_bytes
        if size != expected:
            raise CodecError(f"{size} bytes, expected {expected}")
        for i, image in enumerate(out, frame):
            self._fill(image, int(chunks.begin[chunks.index(at)]) + (i * rows + row) * row_bytes)

    def _may_be_unfiltered(self, chunks: ChunkMap, at: Position) -> bool:
        """Return True if HDF5 may have stored this chunk, at the edge of a stack, without filters.

        HDF5 has an option for that and does not mark such chunks.
        """
        is_cut = any(
            begin + step > length
            for begin, step, length in zip(at, chunks.chunk, self._shape, strict=True)
        )
        n_bytes = int(np.prod(chunks.chunk, dtype=object)) * self._dtype.itemsize
        return is_cut and bool(self._filters) and chunks.size[chunks.index(at)] == n_bytes

    def _decode(
        self, chunks: ChunkMap, at: Position, out: Array, *, stays_shuffled: bool = False
    ) -> None:
        """Read a chunk and undo its filters into ``out``, of the chunk's size and contiguous.

        Raises `CodecError` or OSError.
        """
        index = chunks.index(at)
        begin, size = int(chunks.begin[index]), int(chunks.size[index])
        applied = [
            number for k, number in enumerate(self._filters) if not chunks.skipped[index] >> k & 1
        ]
        if stays_shuffled:
            applied = [number for number in applied if number != SHUFFLE]
        if GZIP not in applied and size != out.nbytes:
            raise CodecError(f"{size} bytes, expected {out.nbytes}")
        if not applied:
            self._fill(out, begin)
            return
        stored = self._bytes(begin, size)
        data = inflate(stored, out.nbytes) if GZIP in applied else stored
        if SHUFFLE in applied:
            unshuffle(data, out)
        else:
            out.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        self._to_native(out)

    def _fill(self, out: Array, begin: int) -> None:
        """Fill ``out``, contiguous, with what stands in the file from ``begin`` on."""
        rest = out.reshape(-1).view(np.uint8).data
        while rest:
            n_read = os.preadv(self._open_file(), [rest], begin)
            if not n_read:
                raise CodecError("the file ends before it")
            rest, begin = rest[n_read:], begin + n_read
        self._to_native(out)

    def _bytes(self, begin: int, size: int) -> bytes:
        if (
            begin + size > os.stat(self._open_file()).st_size
        ):  # or memory would be asked for, however large a damaged size
            raise CodecError("the file ends before it")
        data = os.pread(self._open_file(), size, begin)
        while len(data) < size:
            more = os.pread(self._open_file(), size - len(data), begin + len(data))
            if not more:
                raise CodecError("the file ends before it")
            data += more
        return data

    def _to_native(self, out: Array) -> None:
        if self._is_swapped:
            out.byteswap(inplace=True)

    def _open_file(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.source}: the reader is closed")
        return self._descriptor

    def _check_written(self, begin: int, end: int) -> None:
        if self._is_contiguous and self._begin is None:
            raise self._error(begin, begin + 1, "it was never written")
        hole = self._chunks.unwritten(begin, end) if self._chunks is not None else None
        if hole is not None:
            raise self._error(
                hole[0], hole[0] + 1, f"its chunk at X {hole[1]}, Y {hole[2]} was never written"
            )

    def _error(self, begin: int, end: int, why: str) -> InputError:
        """Return the error that frames cannot be read, or that the file was changed."""
        try:
            self.check_unchanged()
        except InputError as changed:
            return changed
        which = f"frame {begin}" if end == begin + 1 else f"frames {begin} to {end - 1}"
        return InputError(f"{self.source}: {which} cannot be read: {why}")

    def _states_now(self) -> list[tuple[int, int] | None]:
        """Return size and time of each file of the frames."""
        files = [
            self._dataset.file.filename if self._descriptor is None else self._descriptor,
            *self._other_files,
        ]
        return [_state(file) for file in files]


def _state(file: int | str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:  # in memory only, or gone
        return None
    return status.st_size, status.st_mtime_ns
