"""A run's frames and metadata, from an HDF5 file or from arrays in memory."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.chunks import FrameReader
from gpu_spots.files.lauecollect import link_of, read_columns
from gpu_spots.files.layout import hdf5_reason, other_files
from gpu_spots.grouping import Columns
from gpu_spots.model import FRAME_DTYPES, Array, Validity

DEFAULT_PATH = "frames"
READ_BYTES = 2**28
"""At most this much is read in one call."""


class ArrayStack:
    """Frames in memory: (n_frames, n_X, n_Y), one of `FRAME_DTYPES`. Raises `InputError` for any other array."""

    source = "frames"
    step = 1

    def __init__(
        self,
        frames: Array,
        columns: Mapping[str, Any] | None = None,
        validity: Validity | None = None,
        saturation: float | None = None,
    ) -> None:
        frames = np.asarray(frames)
        _check_stack(frames.shape, frames.dtype, self.source)
        self._frames = np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))
        self.shape = self._frames.shape
        self.dtype = self._frames.dtype
        self.columns: Columns = {name: np.asarray(values) for name, values in (columns or {}).items()}
        self.validity = validity or Validity()
        self.saturation: float | None = largest_value(self.dtype) if saturation is None else saturation

    def resident(self) -> Array:
        """The frames."""
        return self._frames

    def read(self, begin: int, end: int, into: Array) -> None:
        """Copy frames."""
        into[...] = self._frames[begin:end]

    def check_whole(self) -> None:
        """Frames in memory are."""


class FileStack:
    """Frames in a dataset of an open HDF5 file, or of another file that this one leads to."""

    def __init__(self, file: h5py.File, path: str, dataset: h5py.Dataset, columns: Columns, reader: FrameReader) -> None:
        self._reader = reader
        self.path = path
        self.file = file
        self.file_name = file.filename
        self.source = f"{self.file_name}: {self.path}"
        self.files = [Path(file.filename), Path(dataset.file.filename), *other_files(dataset, self.source)]
        self.shape = dataset.shape
        self.dtype = dataset.dtype.newbyteorder("=")
        self.columns = columns
        self.validity = Validity()
        self.saturation: float | None = largest_value(self.dtype)
        frame_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        # a chunk that holds several frames is inflated once if they are read together
        frames_in_chunk = dataset.chunks[0] if dataset.chunks else 1
        self.step = max(1, min(frames_in_chunk, READ_BYTES // frame_bytes))

    def resident(self) -> None:
        """Nothing is in memory yet."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames; may be called by several threads. Raises `InputError`, which names the frame."""
        self._reader.read(begin, end, into)

    def check_whole(self) -> None:
        """Raise `InputError` if a frame was never written, which it names, or the file was changed since it was opened."""
        self._reader.check_unchanged()
        self._reader.check_written()


@contextmanager
def open_run(path: str | Path, frames_path: str | None = None) -> Iterator[FileStack]:
    """Open a run; ``frames_path`` names the dataset, None means /frames or the only 3-D one.

    Raises `InputError` where the file is missing, is not HDF5, is damaged, or where the frames are not found or not frames.
    """
    path = Path(path)
    with open_hdf5(path) as file, ExitStack() as opened:
        try:
            name, dataset = _find_frames(file, frames_path)
            _check_stack(dataset.shape, dataset.dtype, f"{path}: {name}")
            _load_filters(dataset)
            stack = FileStack(file, name, dataset, read_columns(file), opened.enter_context(FrameReader(dataset)))
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:  # as h5py has it where a file is damaged
            raise InputError(f"{path}: cannot be read: {hdf5_reason(error)}") from error
        yield stack


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. Raises `InputError` where it is missing, is not HDF5, or is damaged."""
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


def _find_frames(file: h5py.File, frames_path: str | None) -> tuple[str, h5py.Dataset]:
    """The path of the frames in the file, and what is there."""
    if frames_path is not None or DEFAULT_PATH in file:
        path = DEFAULT_PATH if frames_path is None else frames_path
        return "/" + path.strip("/"), _dataset_at(file, path)
    candidates: list[h5py.Dataset] = []

    def consider(_: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "uif" and item.shape[0] >= 2:
            candidates.append(item)

    try:
        file.visititems(consider)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file.filename}: cannot be searched for frames: {hdf5_reason(error)}") from error
    if not candidates:
        raise InputError(f"{file.filename}: no /frames and no 3-D numeric dataset of at least 2 frames; --frames PATH names another")
    if len(candidates) > 1:
        listed = ", ".join(f"{found.name} {found.shape} {found.dtype}" for found in candidates)
        raise InputError(f"{file.filename}: several datasets could be the frames: {listed}; choose one with --frames PATH")
    return candidates[0].name, candidates[0]


def _dataset_at(file: h5py.File, path: str) -> h5py.Dataset:
    try:
        item = file[path]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{file.filename}: no dataset {path!r}: {link_of(file, path) or hdf5_reason(error)}") from None
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{file.filename}: {path} is a {_kind(item)}, expected the dataset of the frames")
    return item


def largest_value(dtype: np.dtype[Any]) -> int | None:
    """The value, counts, at which frames of that type saturate for want of a larger one; None for floats."""
    return None if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _kind(item: Any) -> str:
    return "group" if isinstance(item, h5py.Group) else "type"


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
