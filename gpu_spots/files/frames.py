"""Stacks of frames in an HDF5 file or in memory, with their metadata."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots import watchdog
from gpu_spots.errors import InputError
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.files.hdf5.tree import FAILURES
from gpu_spots.files.hdf5.virtual import Origin, require_complete, sources_in_order
from gpu_spots.files.lauecollect import GROUP, copy_group, write_located
from gpu_spots.files.layouts.layout import FrameDatasets
from gpu_spots.files.layouts.metadata import read_metadata
from gpu_spots.files.layouts.recognise import recognise
from gpu_spots.files.layouts.search import Part
from gpu_spots.files.output.spots_summary import why_no_run
from gpu_spots.files.paths import require_regular_file
from gpu_spots.files.storage import storage_of_datasets
from gpu_spots.files.validity import ValidRange, valid_values
from gpu_spots.inputs import Inputs
from gpu_spots.model import FRAME_DTYPES, Array, Columns, Validity
from gpu_spots.protocols import Provenance, Shuffled

READ_BYTES = 2**28
"""Largest number of bytes that is read in one call."""


class ArrayStack:
    """Frames in memory: (n_frames, n_X, n_Y), one of `FRAME_DTYPES`.

    Raises `InputError` for any other array.
    """

    source = "frames"
    files: tuple[Path, ...] = ()
    step = 1
    rows_apart: int | None = 1
    is_decoded = True
    shuffled = None

    def __init__(
        self,
        frames: Array,
        columns: Mapping[str, Any] | None = None,
        validity: Validity | None = None,
        saturation: float | None = None,
    ) -> None:
        frames = np.asarray(frames)
        if frames.dtype.kind in "iu" and frames.dtype.newbyteorder("=") not in FRAME_DTYPES:
            types = ", ".join(map(str, FRAME_DTYPES))
            raise InputError(
                f"{self.source} is {frames.dtype}, expected one of {types}; "
                "frames.astype(numpy.int32) converts it"
            )
        _check_type(frames.dtype, self.source)
        _check_shape(frames.shape, self.source)
        self._frames = np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))
        self.shape = self._frames.shape
        self.dtype = self._frames.dtype
        self.columns: Columns = {
            name: np.asarray(values) for name, values in (columns or {}).items()
        }
        self.validity = validity or Validity()
        self.saturation: float | None = (
            largest_value(self.dtype) if saturation is None else saturation
        )
        self.notes: tuple[str, ...] = ()
        self.provenance = Provenance()

    def resident(self) -> Array:
        """Return the frames."""
        return self._frames

    def read(self, begin: int, end: int, into: Array) -> None:
        """Copy frames."""
        into[...] = self._frames[begin:end]

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Copy rows of frames."""
        into[...] = self._frames[begin:end, first:last]

    def check_whole(self) -> None:
        """Do nothing: no frame is missing."""

    def storage(self) -> dict[str, Any]:
        """Return nothing: the frames are in memory."""
        return {}

    def write_metadata(self, file: h5py.File, warn: Callable[[str], None]) -> None:
        """Write the columns."""
        write_located(file, self.columns)


class FileStack:
    """Frames in one or several datasets of an open HDF5 file, or in files that it links to."""

    def __init__(
        self,
        file: h5py.File,
        parts: Sequence[Part],
        dtype: np.dtype[Any],
        columns: Columns,
        values: ValidRange,
        readers: Sequence[FrameReader],
        other_files: Sequence[Path],
        provenance: Provenance,
    ) -> None:
        self._readers = readers
        self._begins = np.cumsum([0, *(reader.n_frames for reader in readers)]).tolist()
        datasets = [part.dataset for part in parts]
        self._file = file
        self._datasets = parts
        self.source = f"{provenance.input_file}: {provenance.frames_path}"
        self.provenance = provenance
        own = [Path(dataset.file.filename) for dataset in datasets]
        self.files = tuple(dict.fromkeys([Path(file.filename), *own, *other_files]))
        self.shape = (self._begins[-1], *datasets[0].shape[1:])
        self.dtype = dtype
        self.columns = columns
        self.validity = values.validity
        self.saturation = values.saturation
        self.notes = values.notes
        frame_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        # a chunk that holds several frames is inflated once if they are read together
        frames_in_chunk = max(reader.frames_in_chunk for reader in readers)
        stretches = [reader.rows_apart for reader in readers]
        stretch = None if None in stretches else math.lcm(*filter(None, stretches))
        self.rows_apart = (
            stretch if stretch is not None and stretch < max(self.shape[1], 2) else None
        )
        self.is_decoded = all(reader.is_decoded for reader in readers)
        self.step = max(1, min(frames_in_chunk, READ_BYTES // frame_bytes))

    def resident(self) -> None:
        """Return None, because nothing is in memory."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames; may be called by several threads.

        Raises `InputError`, which names the frame in its dataset.
        """
        for reader, first, last, part in self._parts(begin, end, into):
            reader.read(first, last, part)

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read rows of frames; as `read`."""
        for reader, first_frame, last_frame, part in self._parts(begin, end, into):
            reader.read_rows(first_frame, last_frame, first, last, part)

    @property
    def shuffled(self) -> Shuffled | None:
        """Return a reader of frames as they are stored, if all are shuffled in the same way."""
        ways = {reader.shuffled_rows for reader in self._readers}
        rows = ways.pop()
        return None if ways or rows is None else Shuffled(rows, self._read_shuffled)

    def _read_shuffled(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        for reader, first_frame, last_frame, part in self._parts(begin, end, into):
            reader.read_shuffled(first_frame, last_frame, first, last, part)

    def _parts(
        self, begin: int, end: int, into: Array
    ) -> Iterator[tuple[FrameReader, int, int, Array]]:
        """Yield the readers of some frames, their frame numbers, and their part of ``into``."""
        for reader, (first, last) in zip(self._readers, pairwise(self._begins), strict=True):
            from_, to = max(begin, first), min(end, last)
            if from_ < to:
                yield reader, from_ - first, to - first, into[from_ - begin : to - begin]

    def check_whole(self) -> None:
        """Raise `InputError` if a frame was never written, or a file changed after opening."""
        for reader in self._readers:
            reader.check_unchanged()
            reader.check_written()

    def storage(self) -> Mapping[str, Any]:
        """Return chunks and filters, and why HDF5 reads the frames if it does."""
        reasons = (reader.why_not_direct for reader in self._readers)
        return storage_of_datasets(self._datasets, next(filter(None, reasons), None))

    def write_metadata(self, file: h5py.File, warn: Callable[[str], None]) -> None:
        """Copy the group lauecollect, following links, and write the columns from elsewhere."""
        watchdog.reading(f"{self._file.filename}: {GROUP}")
        copy_group(self._file, file, warn)
        write_located(file, self.columns)


@contextmanager
def open_run(path: str | Path, options: Inputs | None = None) -> Iterator[FileStack]:
    """Open the HDF5 file of a run.

    Raises:
        InputError: the file is missing, not HDF5 or damaged, has no frames, or the options do not
            fit it.
        ParameterError: an option is missing or wrong.
    """
    path, options = Path(path), options or Inputs()
    with open_hdf5(path) as file, ExitStack() as opened:
        try:
            if not options.frames_path and (problem := why_no_run(file)):
                raise InputError(problem)
            frames = recognise(file, options.frames_path)
            origins = [_origin(part, f"{path}: {part.path}") for part in frames.parts]
            dtype = _type_of_all(path, frames, origins)
            readers = []
            for part, origin in zip(frames.parts, origins, strict=True):
                for piece in sources_in_order(part.dataset, dtype, f"{path}: {part.path}", opened):
                    # sources that are read themselves are not in other files
                    others = origin.files if piece is part.dataset else ()
                    readers.append(opened.enter_context(FrameReader(piece, dtype, others)))
            all_others = [other for origin in origins for other in origin.files]
            stack = _described(file, frames, dtype, readers, all_others, options)
        except FAILURES as error:  # as h5py has it where a file is damaged
            raise InputError(f"{path}: cannot be read: {hdf5_reason(error)}") from error
        yield stack


def _described(
    file: h5py.File,
    frames: FrameDatasets,
    dtype: np.dtype[Any],
    readers: Sequence[FrameReader],
    other_files: Sequence[Path],
    options: Inputs,
) -> FileStack:
    """Return the stack with all that the file and the user say of it."""
    facts = frames.layout.detector(
        frames,
        dtype,
        with_mask=options.file_mask,
        with_bounds=options.valid_range is None or options.saturation is None,
    )
    columns = read_metadata(frames, options)
    record: dict[str, Any] = {"layout": frames.layout.name}
    for name, place in columns.origin.items():
        if name in ("angle", "laser_on") and place != f"{GROUP}/{name}":
            record[f"{'angles' if name == 'angle' else 'laser'}_from"] = place
    values = valid_values(file.filename, frames.shape, dtype, facts, options)
    first, *others = frames.parts
    provenance = Provenance(
        file.filename,
        frames.path,
        frames.layout.name,
        {**record, **values.record},
        dataset="" if others else first.path,
    )
    return FileStack(file, frames.parts, dtype, columns, values, readers, other_files, provenance)


def _origin(part: Part, source: str) -> Origin:
    """Return the files and types that the frames of a part come from.

    Raises `InputError` where they are no frames, or some are missing.
    """
    if not part.dataset.is_virtual:
        _check_type(part.dataset.dtype, source)
    _check_shape(part.dataset.shape, source)
    return require_complete(part.dataset, source)


def _type_of_all(path: Path, frames: FrameDatasets, origins: Sequence[Origin]) -> np.dtype[Any]:
    """Return the type of the frames.

    Raises `InputError` where those of a part have another size or type, or a type that is not for
    frames.
    """
    first = frames.parts[0]
    dtype = _stored_type(first, origins[0], f"{path}: {first.path}")
    expected = _frames_in_words(first, dtype)
    for part, origin in zip(frames.parts, origins, strict=True):
        found = _frames_in_words(part, _stored_type(part, origin, f"{path}: {part.path}"))
        if found != expected:
            raise InputError(
                f"{path}: {part.path} has frames of {found}, expected {expected} as in {first.path}"
            )
    return dtype


def _stored_type(part: Part, origin: Origin, source: str) -> np.dtype[Any]:
    """Return the type of the frames of a part, in native byte order.

    That of the dataset; but for a virtual one whose type is not for frames, or cannot hold all
    values of its sources, that of the sources.
    """
    declared = part.dataset.dtype.newbyteorder("=")
    holds_all = declared.kind == "f" or all(np.can_cast(dtype, declared) for dtype in origin.types)
    if part.dataset.is_virtual and not (declared in FRAME_DTYPES and holds_all):
        if len(origin.types) > 1:
            found = ", ".join(
                f"{_type_name(dtype)} ({name})" for dtype, name in origin.types.items()
            )
            raise InputError(
                f"{source} is a virtual dataset of {declared} with sources of different types: "
                f"{found}; expected one type"
            )
        declared = next(iter(origin.types))
    _check_type(declared, source)
    return declared


def _frames_in_words(part: Part, dtype: np.dtype[Any]) -> str:
    return f"{part.dataset.shape[1]} x {part.dataset.shape[2]} {dtype}"


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises `InputError` where it is missing, is not HDF5, or is damaged.
    """
    require_regular_file(path, "an HDF5 file")
    watchdog.reading(str(path))
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    if not h5py.is_hdf5(path):
        raise InputError(
            f"{path}: is {'not' if path.stat().st_size else 'empty, expected'} an HDF5 file"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = hdf5_reason(error)
        if sizes := re.match(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", reason):
            found, expected = sizes.groups()
            message = f"is cut off: {found} bytes, expected {expected}; copy the whole file again"
        elif reason.startswith("unable to lock file"):
            message = "cannot be opened: another program is writing to it"
        else:
            message = f"cannot be opened: {reason}"
        raise InputError(f"{path}: {message}") from error


def largest_value(dtype: np.dtype[Any]) -> int | None:
    """Return the value at which frames of a type saturate, counts; None for floats.

    It is the largest value of the type.
    """
    return None if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _check_type(dtype: np.dtype[Any], source: str) -> None:
    if dtype.newbyteorder("=") not in FRAME_DTYPES or h5py.check_dtype(enum=dtype):
        raise InputError(
            f"{source} is {_type_name(dtype)}, expected one of {', '.join(map(str, FRAME_DTYPES))}"
        )


def _check_shape(shape: tuple[int, ...] | None, source: str) -> None:
    if shape is None or len(shape) != 3:
        raise InputError(f"{source} has shape {shape}, expected three dimensions: frames, X, Y")
    if 0 in shape:
        raise InputError(f"{source} has shape {shape}, expected at least one frame, row and column")
    if math.prod(shape) >= 2**60:
        raise InputError(f"{source} has shape {shape}, expected less than 2^60 values")


def _type_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a type for messages; NumPy has no names for some types of HDF5."""
    if h5py.check_string_dtype(dtype):
        return "text"
    if h5py.check_dtype(enum=dtype):
        return f"an enumeration of {dtype}"
    return "of variable length" if dtype.kind == "O" else str(dtype)
