"""A run's frames and metadata, from an HDF5 file or from arrays in memory."""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from gpu_spots import watchdog
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.chunks import FrameReader
from gpu_spots.files.detector import DetectorFacts, detector_facts
from gpu_spots.files.lauecollect import GROUP
from gpu_spots.files.layout import hdf5_reason, other_files
from gpu_spots.files.layouts import Layout, recognise
from gpu_spots.files.metadata import given_to_frames_in_memory, read_metadata
from gpu_spots.files.tree import FAILURES
from gpu_spots.files.validity import Limits, limits
from gpu_spots.files.virtual import sources_in_order
from gpu_spots.grouping import Columns
from gpu_spots.inputs import InputOptions
from gpu_spots.model import FRAME_DTYPES, Array, Validity
from gpu_spots.protocols import Shuffled

READ_BYTES = 2**28
"""At most this much is read in one call."""


class ArrayStack:
    """Frames in memory: (n_frames, n_X, n_Y), one of `FRAME_DTYPES`. Raises `InputError` for any other array."""

    source = "frames"
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
            raise InputError(f"{self.source} is {frames.dtype}, expected one of {types}; frames.astype(numpy.int32) converts it")
        _check_stack(frames.shape, frames.dtype, self.source)
        self._frames = np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))
        self.shape = self._frames.shape
        self.dtype = self._frames.dtype
        self.columns: Columns = {name: np.asarray(values) for name, values in (columns or {}).items()}
        self.validity = validity or Validity()
        self.saturation: float | None = largest_value(self.dtype) if saturation is None else saturation
        self.notes: tuple[str, ...] = ()
        self.record: Mapping[str, Any] = {}

    def resident(self) -> Array:
        """The frames."""
        return self._frames

    def read(self, begin: int, end: int, into: Array) -> None:
        """Copy frames."""
        into[...] = self._frames[begin:end]

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Copy rows of frames."""
        into[...] = self._frames[begin:end, first:last]

    def check_whole(self) -> None:
        """Frames in memory are."""


class FileStack:
    """Frames in a dataset of an open HDF5 file, or in several that follow each other, there or in files that it leads to."""

    def __init__(
        self, file: h5py.File, layout: Layout, columns: Columns, limits: Limits, readers: Sequence[FrameReader], record: Mapping[str, Any]
    ) -> None:
        self._readers = readers
        self._begins = np.cumsum([0, *(reader.n_frames for reader in readers)]).tolist()
        datasets = [part.dataset for part in layout.parts]
        self.layout = layout
        self.path = layout.path
        self.file = file
        self.file_name = file.filename
        self.source = f"{self.file_name}: {self.path}"
        others = (path for dataset in datasets for path in (Path(dataset.file.filename), *other_files(dataset, self.source)))
        self.files = list(dict.fromkeys([Path(file.filename), *others]))
        self.shape = (self._begins[-1], *datasets[0].shape[1:])
        self.dtype = datasets[0].dtype.newbyteorder("=")
        self.columns = columns
        self.validity = limits.validity
        self.saturation = limits.saturation
        self.notes = limits.notes
        self.record = {**record, **limits.record}
        frame_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        # a chunk that holds several frames is inflated once if they are read together
        frames_in_chunk = max(reader.frames_in_chunk for reader in readers)
        stretches = [reader.rows_apart for reader in readers]
        stretch = None if None in stretches else math.lcm(*filter(None, stretches))
        self.rows_apart = stretch if stretch is not None and stretch < max(self.shape[1], 2) else None
        self.is_decoded = all(reader.is_decoded for reader in readers)
        self.step = max(1, min(frames_in_chunk, READ_BYTES // frame_bytes))

    def resident(self) -> None:
        """Nothing is in memory yet."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames; may be called by several threads. Raises `InputError`, which names the frame in its dataset."""
        for reader, first, last, part in self._parts(begin, end, into):
            reader.read(first, last, part)

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read rows of frames; as `read`."""
        for reader, first_frame, last_frame, part in self._parts(begin, end, into):
            reader.read_rows(first_frame, last_frame, first, last, part)

    @property
    def shuffled(self) -> Shuffled | None:
        """Frames as they are stored, if all of them are shuffled in the same way."""
        ways = {reader.shuffled_rows for reader in self._readers}
        rows = ways.pop()
        return None if ways or rows is None else Shuffled(rows, self._read_shuffled)

    def _read_shuffled(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        for reader, first_frame, last_frame, part in self._parts(begin, end, into):
            reader.read_shuffled(first_frame, last_frame, first, last, part)

    def _parts(self, begin: int, end: int, into: Array) -> Iterator[tuple[FrameReader, int, int, Array]]:
        """Of some frames: the readers that have them, which ones they are there, and where they go in ``into``."""
        for reader, (first, last) in zip(self._readers, pairwise(self._begins), strict=True):
            from_, to = max(begin, first), min(end, last)
            if from_ < to:
                yield reader, from_ - first, to - first, into[from_ - begin : to - begin]

    def check_whole(self) -> None:
        """Raise `InputError` if a frame was never written, which it names, or a file was changed since it was opened."""
        for reader in self._readers:
            reader.check_unchanged()
            reader.check_written()

    @property
    def why_not_direct(self) -> str | None:
        """Why HDF5 reads the frames, in a few words; None where all chunks are read directly."""
        return next((reader.why_not_direct for reader in self._readers if reader.why_not_direct), None)


class Apart(Protocol):
    """Frames that are in no HDF5 file: an array, or images."""

    source: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    columns: Columns
    validity: Validity
    saturation: float | None
    notes: tuple[str, ...]
    record: Mapping[str, Any]


def apply_inputs(stack: Apart, options: InputOptions) -> None:
    """Let frames that are in no HDF5 file have what the options say. Raises `InputError` and `ParameterError` as `open_run`."""
    for name in ("frames_path", "angles_path", "laser_path"):
        if getattr(options, name):
            raise ParameterError(name, "names a dataset, and the frames are in no HDF5 file")
    stack.columns = given_to_frames_in_memory(stack.columns, stack.shape[0], options)
    facts = DetectorFacts(
        low=stack.validity.low,
        low_from="negative values mark pixels without a value",
        saturation=stack.saturation,
        saturation_from=f"the largest value of {stack.dtype}" if stack.saturation == largest_value(stack.dtype) else "the header",
    )
    found = limits(stack.source, stack.shape[1:], stack.dtype, facts, options)
    stack.validity, stack.saturation, stack.notes, stack.record = found.validity, found.saturation, found.notes, found.record


@contextmanager
def open_run(path: str | Path, options: InputOptions | None = None) -> Iterator[FileStack]:
    """Open a run; ``options`` say where things are that are not found by themselves, and what does not count.

    Raises `InputError` where the file is missing, is not HDF5, is damaged, where the frames are not found or not frames, and where the
    options do not fit them; `ParameterError` where an option is needed or wrong.
    """
    path, options = Path(path), options or InputOptions()
    with open_hdf5(path) as file, ExitStack() as opened:
        try:
            layout = recognise(file, options.frames_path)
            _check_parts(path, layout)
            pieces = [piece for part in layout.parts for piece in sources_in_order(part.dataset, f"{path}: {part.path}", opened)]
            for piece in pieces:
                _load_filters(piece)
            readers = [opened.enter_context(FrameReader(piece)) for piece in pieces]
            stack = _described(file, layout, readers, options)
        except FAILURES as error:  # as h5py has it where a file is damaged
            raise InputError(f"{path}: cannot be read: {hdf5_reason(error)}") from error
        yield stack


def _described(file: h5py.File, layout: Layout, readers: Sequence[FrameReader], options: InputOptions) -> FileStack:
    """The stack with all that the file and the user say of it."""
    n_frames = sum(len(part.dataset) for part in layout.parts)
    n_x, n_y = layout.parts[0].dataset.shape[1:]
    dtype = layout.parts[0].dataset.dtype.newbyteorder("=")
    facts = detector_facts(
        file,
        layout,
        (n_x, n_y),
        dtype,
        with_mask=options.file_mask,
        with_bounds=options.valid_range is None or options.saturation is None,
    )
    columns = read_metadata(file, layout, n_frames, options)
    record: dict[str, Any] = {"layout": layout.kind}
    for name, place in columns.origin.items():
        if name in ("angle", "laser_on") and place != f"{GROUP}/{name}":
            record[f"{'angles' if name == 'angle' else 'laser'}_from"] = place
    return FileStack(file, layout, columns, limits(file.filename, (n_x, n_y), dtype, facts, options), readers, record)


def _check_parts(path: Path, layout: Layout) -> None:
    """All parts are frames, of one size and type. Raises `InputError`, which names those that differ."""
    first = layout.parts[0]
    for part in layout.parts:
        _check_stack(part.dataset.shape, part.dataset.dtype, f"{path}: {part.path}")
        found, expected = _frames_in_words(part.dataset), _frames_in_words(first.dataset)
        if found != expected:
            raise InputError(f"{path}: {part.path} has frames of {found}, expected {expected} as in {first.path}")


def _frames_in_words(dataset: h5py.Dataset) -> str:
    return f"{dataset.shape[1]} x {dataset.shape[2]} {dataset.dtype.newbyteorder('=')}"


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. Raises `InputError` where it is missing, is not HDF5, or is damaged."""
    watchdog.reading(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is a {'folder' if path.is_dir() else 'device'}, expected an HDF5 file")
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: is {'not' if path.stat().st_size else 'empty, expected'} an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = hdf5_reason(error)
        locked = reason.startswith("unable to lock file")
        raise InputError(f"{path}: cannot be opened: {'another program is writing to it' if locked else reason}") from error


def _load_filters(dataset: h5py.Dataset) -> None:
    """Make the plugins known that the frames are compressed by. Raises `InputError` for a filter that is not installed."""
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, name = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401 (importing it registers its filters)
        if not h5py.h5z.filter_avail(number):
            known = f"{number} ({name.decode(errors='replace')})" if name else number
            raise InputError(
                f"{dataset.file.filename}: {dataset.name} is compressed by HDF5 filter {known}, which is not installed; "
                "pip install hdf5plugin brings the usual ones"
            )


def largest_value(dtype: np.dtype[Any]) -> int | None:
    """The value, counts, at which frames of that type saturate for want of a larger one; None for floats."""
    return None if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _check_stack(shape: tuple[int, ...] | None, dtype: np.dtype[Any], source: str) -> None:
    if dtype.newbyteorder("=") not in FRAME_DTYPES or h5py.check_dtype(enum=dtype):
        raise InputError(f"{source} is {_type_name(dtype)}, expected one of {', '.join(map(str, FRAME_DTYPES))}")
    if shape is None or len(shape) != 3:
        raise InputError(f"{source} has shape {shape}, expected three dimensions: frames, X, Y")
    if 0 in shape:
        raise InputError(f"{source} has shape {shape}, expected at least one frame, row and column")


def _type_name(dtype: np.dtype[Any]) -> str:
    """As messages call it; NumPy has no words for some of HDF5's types."""
    if h5py.check_string_dtype(dtype):
        return "text"
    if h5py.check_dtype(enum=dtype):
        return f"an enumeration of {dtype}"
    return "of variable length" if dtype.kind == "O" else str(dtype)
