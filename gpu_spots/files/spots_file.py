"""The spots file: statistics, masks, labels and the table of spots, written and read."""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, OutputError
from gpu_spots.files import lauecollect
from gpu_spots.files.chunk_writer import ImageWriter, compress_image
from gpu_spots.files.image_list import ImageList, write_images
from gpu_spots.files.layout import hdf5_reason
from gpu_spots.files.output import NewFile, uninterrupted
from gpu_spots.grouping import LocatedColumns
from gpu_spots.model import FACTOR_BITS, Array, SpotTable
from gpu_spots.parameters import STACK_NAMES

STRIP = 128
"""Rows of a chunk: a frame is as quick to read as in one piece, a pixel of all frames much quicker.
"""
PIXELS_IN_CHUNK = 1 << 16
ROWS_IN_CHUNK = 1 << 13
"""Rows of a table in a chunk, each with a checksum."""
SMALL_IMAGE = 1 << 12
"""Images of at most this many pixels share chunks and are written together: an HDF5 call for each
would take most of the time.
"""

STACKS = frozenset(STACK_NAMES)

DESCRIPTIONS = {
    "stats/avg": ("average of the background sample", "counts"),
    "stats/std": ("standard deviation of the background sample (population)", "counts"),
    "stats/iqr": ("interquartile range Q75 - Q25 of the background sample", "counts"),
    "stats/max": ("maximum over all frames", "counts"),
    "stats/arg": ("index of the first frame that has the maximum", None),
    "stats/threshold": (
        "a valid pixel is in masks_raw if and only if its value is at least this",
        "counts",
    ),
    "stats/n_used": ("number of frames in the background sample", None),
    "masks_raw": ("pixels at or above stats/threshold: frame, X, Y", None),
    "masks_filtered": ("masks_raw after erosions and dilations: frame, X, Y", None),
    "masks_synced": ("union of masks_filtered over each off/on pair or block: mask, X, Y", None),
    "masks/labels": ("label of the spot a pixel belongs to, 0 for none: mask, X, Y", None),
    "masks/counts": ("number of spots of each mask", None),
    "spots/I": (
        "integrated intensity: sum over the spot's pixels of the value less the background",
        "counts",
    ),
    "spots/XY": ("X and Y of the spot's most intense pixel", "pixel"),
    "spots/box": (
        "box that contains the spot: X begin, X end, Y begin, Y end; ends exclusive",
        "pixel",
    ),
    "spots/frame": ("index of the frame", None),
    "spots/label": (
        "label of the spot in masks/labels[mask]; labels of different masks are not related",
        None,
    ),
    "spots/mask": (
        "index of the mask in masks/labels, and in masks_synced if present, else masks_filtered",
        None,
    ),
    "spots/overload": ("number of the spot's pixels that are saturated on the frame", "pixel"),
    "spots/pixel_list": (
        "flattened index X * n_Y + Y of the pixels of each spot, ascending inside a spot",
        None,
    ),
    "spots/pixel_list_BE": ("begin and end, exclusive, of each spot in spots/pixel_list", None),
    "frame_level": ("level of each frame: interquartile mean of a sample of its pixels", "counts"),
    "frame_scale": (
        "what each frame was multiplied by before it was compared with others; stats are in these scaled counts",
        None,
    ),
    "frame2mask": ("index of the mask that each frame's spots come from", None),
    "frame2spotsBE": ("begin and end, exclusive, of each frame's rows in the spots arrays", None),
}
"""Path: description, units."""

COLUMN_ATTRIBUTES = {
    "angle": {"description": "rotation angle of the crystal", "units": "degrees"},
    "laser_on": {"description": "state of the laser: 1 or on, 0 or off"},
}
"""What is said of columns that do not come from a group lauecollect."""

LINKS = {
    "masks/masks_raw": "/masks_raw",
    "masks/masks_filtered": "/masks_filtered",
    "masks/masks_synced": "/masks_synced",
    "spots/frame2spotsBE": "/frame2spotsBE",
}
"""Other places where a reader may look."""


Arguments = ParamSpec("Arguments")


def _writes(
    method: Callable[Concatenate["SpotsWriter", Arguments], None],
) -> Callable[Concatenate["SpotsWriter", Arguments], None]:
    """Mark a method that writes: signals wait until it is over and the datasets it opened are closed; failures are `OutputError`."""

    @wraps(method)
    def whole(self: "SpotsWriter", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with uninterrupted():
            try:
                method(self, *args, **kwargs)
            except (OSError, RuntimeError) as error:
                raise OutputError(
                    f"{self._name}: cannot be written: {hdf5_reason(error)}"
                ) from error
            if isinstance(self._file, NewFile):
                self._file.check()

    return whole


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image on its way into the file."""

    image: Callable[[], Array]
    """Makes it: (n_X, n_Y)."""
    dtype: np.dtype[Any] | None
    """Its type, where it is compressed already."""
    strips: list[bytes]
    """The compressed strips of it, none where HDF5 is to compress it."""


class SpotsWriter:
    """Writes a spots file as its parts are finished; a sink of the pipeline.

    Raises `OutputError` where writing fails.
    """

    def __init__(
        self,
        file: h5py.File,
        name: str,
        stack_shape: tuple[int, int, int],
        filters: dict[str, Any],
        keep: frozenset[str] = STACKS,
    ) -> None:
        """Begin an output file that messages call ``name``; ``filters`` as `compression.filter_options` gives them."""
        self.keep = keep
        self._file = file
        self._name = name
        self._shape = stack_shape[1:]
        self._n_masks = {"raw": stack_shape[0], "filtered": stack_shape[0]}
        self._filters = filters
        self._counts = "counts"
        self._images: dict[str, ImageWriter] = {}
        self._is_small = self._shape[0] * self._shape[1] <= SMALL_IMAGE
        self._compresses = filters.get("compression") == "gzip" and not self._is_small
        if "pixels" in keep:
            self._create_pixel_list(
                np.int32 if self._shape[0] * self._shape[1] <= 2**31 else np.int64
            )

    @_writes
    def _create_pixel_list(self, dtype: type[np.integer[Any]]) -> None:
        self._create(
            "spots/pixel_list",
            (0,),
            dtype,
            chunks=(PIXELS_IN_CHUNK,),
            maxshape=(None,),
            fletcher32=True,
        )

    def expect_synced(self, n_masks: int) -> None:
        """There will be that many synced masks, and they are the ones that are labelled."""
        self._n_masks["synced"] = n_masks

    @_writes
    def write_info(self, attributes: Mapping[str, Any]) -> None:
        """Attributes of the group ``info``."""
        self._file.require_group("info").attrs.update(
            {name: _storable(value) for name, value in attributes.items()}
        )

    @_writes
    def copy_lauecollect(
        self, source: h5py.File, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        """The run's metadata, as it is; what links lead to is copied too.

        ``warn`` is told of what is damaged and left out.
        """
        lauecollect.copy_group(source, self._file, warn)

    @_writes
    def write_lauecollect(self, columns: Mapping[str, Array]) -> None:
        """The run's metadata, from arrays; what was copied stays, unless it is given in its place.

        An attribute says where it is from.
        """
        origin = columns.origin if isinstance(columns, LocatedColumns) else {}
        for name, values in columns.items():
            path = f"{lauecollect.GROUP}/{name.replace('/', '_')}"
            if path in self._file:
                if origin.get(name) == path:
                    continue
                del self._file[path]
            text = values.dtype.kind in "USO"
            self._file[path] = (
                values.astype(h5py.string_dtype())
                if text
                else values.astype(np.uint8)
                if values.dtype == bool
                else values
            )
            if name in origin:
                self._file[path].attrs["origin"] = _storable(origin[name])
                self._file[path].attrs.update(COLUMN_ATTRIBUTES.get(name, {}))

    @_writes
    def write_images(self, images: ImageList) -> None:
        """The metadata of a run of images."""
        write_images(self._file, images)

    @_writes
    def write_levels(
        self, frame_levels: NDArray[np.float64], factors: NDArray[np.int64] | None
    ) -> None:
        """The frames' levels, and their scales where they were scaled."""
        self._create_table("frame_level", frame_levels)
        if factors is not None:
            self._counts = "scaled counts"
            self._create_table("frame_scale", factors / 2**FACTOR_BITS)

    def encode(self, image: Callable[[], Array]) -> "Encoded":
        """Compress an image here, in any thread, if that can be done outside of HDF5; else it is made when it is written."""
        if not self._compresses:
            return Encoded(image, None, [])
        values = image()
        return Encoded(image, values.dtype, compress_image(values, min(STRIP, self._shape[0])))

    @_writes
    def write_map(self, name: str, encoded: "Encoded") -> None:
        """A map of the group ``stats``."""
        dataset = self._create_image(
            f"stats/{name}", self._shape, encoded.dtype or encoded.image().dtype
        )
        if dataset.attrs.get("units") == "counts":
            dataset.attrs["units"] = self._counts
        self._write_image(ImageWriter(dataset), None, encoded)

    def write_masks(self, kind: str, begin: int, images: Sequence["Encoded"]) -> None:
        """The masks of a kind (raw, filtered or synced) from number ``begin`` on."""
        path = f"masks_{kind}"
        self._write_images(path, self._n_masks[kind], np.uint8, begin, images)

    def write_labels(
        self, begin: int, counts: NDArray[np.int32], images: Sequence["Encoded"]
    ) -> None:
        """The labels of masks from number ``begin`` on; the dataset is widened once a mask has more spots than 16 bits can number.

        Args:
            begin: number of the first mask.
            counts: (k,) int32: spots of each mask.
            images: (k) label images.
        """
        path = "masks/labels"
        n_masks = self._n_masks.get("synced", self._n_masks["filtered"])
        wide = np.flatnonzero(counts > np.iinfo(np.uint16).max)
        if len(wide) and (path not in self._images or self._images[path].dtype == np.uint16):
            first = int(wide[0])
            self._write_images(path, n_masks, np.uint16, begin, images[:first])
            self._widen(path, begin + first)
            begin, images = begin + first, images[first:]
        self._write_images(path, n_masks, np.uint16, begin, images)

    def _write_images(
        self, path: str, n: int, dtype: Any, begin: int, images: Sequence["Encoded"]
    ) -> None:
        """Write consecutive images; signals wait for one large image, or for all small ones."""
        if self._is_small:
            self._write_small_images(path, n, dtype, begin, images)
            return
        for i, image in enumerate(images):
            self._write_one_image(path, n, dtype, begin + i, image)

    @_writes
    def _write_small_images(
        self, path: str, n: int, dtype: Any, begin: int, images: Sequence["Encoded"]
    ) -> None:
        writer = self._images.get(path) or self._begin_images(path, n, dtype)
        if images:
            writer.dataset[begin : begin + len(images)] = np.stack(
                [image.image() for image in images]
            )

    @_writes
    def _write_one_image(self, path: str, n: int, dtype: Any, index: int, image: "Encoded") -> None:
        self._write_image(
            self._images.get(path) or self._begin_images(path, n, dtype), index, image
        )

    @_writes
    def write_pixels(self, pixels: NDArray[np.int64]) -> None:
        """The pixels of the next components."""
        pixel_list = self._file["spots/pixel_list"]
        n_before = len(pixel_list)
        pixel_list.resize(n_before + len(pixels), axis=0)
        pixel_list[n_before:] = pixels.astype(pixel_list.dtype)  # HDF5 converts more slowly

    @_writes
    def write_spots(self, table: SpotTable, counts: NDArray[np.int32]) -> None:
        """The table, and what leads to its rows."""
        self._create_table("masks/counts", counts)
        for name in (
            "I",
            "XY",
            "box",
            "frame",
            "label",
            "mask",
            "pixel_list_BE",
            "overload",
            "frame2mask",
            "frame2spotsBE",
        ):
            values = getattr(table, name)
            if values is None or (name == "pixel_list_BE" and "pixels" not in self.keep):
                continue
            path = name if name in DESCRIPTIONS else f"spots/{name}"
            self._create_table(path, values)
        for path, target in LINKS.items():
            if target in self._file:
                self._file[path] = h5py.SoftLink(target)

    def _begin_images(self, path: str, n: int, dtype: Any) -> ImageWriter:
        """Make a dataset of images, and keep it open: to find it again for each image takes as long as to write one."""
        images = self._images[path] = ImageWriter(
            self._create_image(path, (n, *self._shape), dtype)
        )
        return images

    @_writes
    def _widen(self, path: str, n_written: int) -> None:
        """Make a dataset of uint32 out of one of uint16, with the first ``n_written`` images of it."""
        if path not in self._images:
            self._begin_images(
                path, self._n_masks.get("synced", self._n_masks["filtered"]), np.uint32
            )
            return
        narrow, images = path + "_uint16", self._images.pop(path).dataset
        self._file.move(path, narrow)
        wide = self._begin_images(path, len(images), np.uint32)
        for i in range(n_written):
            wide.dataset[i] = images[i]
        del self._file[narrow]

    def _write_image(self, images: ImageWriter, index: int | None, encoded: "Encoded") -> None:
        """Image ``index`` of a dataset, None for its only one.

        Labels that were made wider since are compressed by HDF5.
        """
        if encoded.strips and encoded.dtype == images.dtype:
            images.store(index, encoded.strips)
        else:
            images.dataset[... if index is None else index] = encoded.image()

    def _create_image(self, path: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
        rows, columns = shape[-2:]
        chunks: tuple[int, ...] = (min(STRIP, rows), columns)
        if len(shape) == 3:
            in_chunk = min(shape[0], PIXELS_IN_CHUNK // (rows * columns)) if self._is_small else 1
            chunks = (in_chunk, rows if self._is_small else chunks[0], columns)
        return self._create(path, shape, dtype, chunks=chunks, **self._filters)

    def _create_table(self, path: str, values: Array) -> None:
        """Write a dataset of one value or row a spot, mask or frame, with a checksum that HDF5 verifies when it reads."""
        options = (
            {"chunks": (min(ROWS_IN_CHUNK, len(values)), *values.shape[1:]), "fletcher32": True}
            if len(values)
            else {}
        )
        self._create(path, values.shape, values.dtype, **options)[...] = values

    def _create(
        self, path: str, shape: tuple[int, ...], dtype: Any, **options: Any
    ) -> h5py.Dataset:
        dataset = self._file.create_dataset(path, shape, dtype, **options)
        description, units = DESCRIPTIONS[path]
        dataset.attrs["description"] = description
        if units:
            dataset.attrs["units"] = units
        return dataset


def _storable(value: Any) -> Any:
    """As HDF5 can hold it: text that is no Unicode, as names of files can be, is escaped, and integers beyond 64 bits are text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


_memory_names = itertools.count(1)


def memory_file() -> h5py.File:
    """A new HDF5 file that lives in memory only."""
    return h5py.File(
        f"spots in memory {next(_memory_names)}",
        "w",
        driver="core",
        backing_store=False,
        libver=("earliest", "v110"),
    )


class SpotsFile:
    """The results of a run.

    Arrays are read when they are asked for; use it as a context manager, or call `close`.

    Everything that reads raises `InputError` where the file is damaged and ValueError where it is
    closed.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._name: str = file.filename
        self._ranges = self._read("frame2spotsBE")

    def __enter__(self) -> "SpotsFile":
        """The results themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file; arrays that were read stay."""
        self._file.close()

    def __repr__(self) -> str:
        """Return the name and the numbers of frames and spots."""
        if not self._file:
            return "<SpotsFile, closed>"
        return f"<SpotsFile {self._name!r}: {self.n_frames} frames, {self.n_spots} spots>"

    @property
    def avg(self) -> NDArray[np.float32]:
        """(n_X, n_Y) float32, counts: average of the background sample."""
        return self._read("stats/avg")

    @property
    def std(self) -> NDArray[np.float32]:
        """(n_X, n_Y) float32, counts: standard deviation of the background sample."""
        return self._read("stats/std")

    @property
    def iqr(self) -> NDArray[np.float32]:
        """(n_X, n_Y) float32, counts: interquartile range of the background sample."""
        return self._read("stats/iqr")

    @property
    def max(self) -> Array:
        """(n_X, n_Y), the frames' type, counts: maximum over all frames."""
        return self._read("stats/max")

    @property
    def arg(self) -> NDArray[np.int32]:
        """(n_X, n_Y) int32: index of the first frame that has the maximum."""
        return self._read("stats/arg")

    @property
    def threshold(self) -> Array:
        """(n_X, n_Y), counts: smallest value of a pixel in the raw mask; int32, int64 or float64 as the file format says."""
        return self._read("stats/threshold")

    @property
    def info(self) -> dict[str, Any]:
        """Every option's value, and how the file was made."""
        with self._reading("info"):
            return dict(self._found("info", h5py.Group).attrs)

    @property
    def columns(self) -> dict[str, Array]:
        """The run's metadata: one value a frame (group lauecollect)."""
        with self._reading(lauecollect.GROUP):
            group = self._file.get(lauecollect.GROUP, {})
            return {
                name: item[()] for name, item in group.items() if isinstance(item, h5py.Dataset)
            }

    @property
    def frame_ranges(self) -> NDArray[np.int64]:
        """(n_frames, 2) int64: begin and end of each frame's rows in the table of spots."""
        return self._ranges

    @property
    def pixel_list(self) -> Array:
        """(p,) int32 or int64: flat index X * n_Y + Y of the pixels of all spots.

        ``pixel_list_BE`` in the table of spots tells which are those of a spot. Raises KeyError
        where the file has no pixels.
        """
        self._check_kept("spots/pixel_list")
        return self._read("spots/pixel_list")

    @property
    def n_frames(self) -> int:
        """Number of frames of the run."""
        return len(self._ranges)

    @property
    def n_spots(self) -> int:
        """Number of spots on all frames."""
        with self._reading("spots/I"):
            return len(self._found("spots/I", h5py.Dataset))

    def mask(self, frame: int, kind: str = "filtered") -> NDArray[np.bool_]:
        """Return the mask of a frame, (n_X, n_Y) bool.

        Args:
            frame: index of the frame; negative indices count from the end.
            kind: raw, filtered or synced.

        Raises:
            KeyError: the file does not have masks of this kind.
            IndexError: there is no such frame.
            TypeError: ``frame`` is not an integer.
        """
        self._check_kept(f"masks_{kind}")
        index = (
            self._mask_of(frame)
            if kind == "synced"
            else self._checked(frame, self.n_frames, "frame")
        )
        return self._read(f"masks_{kind}", index).astype(bool)

    def labels(self, frame: int) -> Array:
        """Return the labels of the mask that the frame's spots come from, (n_X, n_Y) uint16 or uint32; 0: no spot.

        Raises KeyError where the file has no labels, and IndexError and TypeError as `mask`.
        """
        self._check_kept("masks/labels")
        return self._read("masks/labels", self._mask_of(frame))

    def spots(self, frame: int | None = None) -> dict[str, Array]:
        """Return the table of a frame's spots, or of all: one row a spot, types and units as the file format says.

        The columns are ``I``, ``XY``, ``box``, ``frame``, ``label``, ``mask``, and, where the file
        has them, ``pixel_list_BE`` and ``overload``.

        Raises IndexError and TypeError as `mask`.
        """
        begin, end = (
            (0, self.n_spots)
            if frame is None
            else self._ranges[self._checked(frame, self.n_frames, "frame")]
        )
        optional = [name for name in ("pixel_list_BE", "overload") if self._has(f"spots/{name}")]
        return {
            name: self._read(f"spots/{name}", slice(begin, end))
            for name in ("I", "XY", "box", "frame", "label", "mask", *optional)
        }

    def pixels(self, spot: int) -> NDArray[np.int64]:
        """Return X and Y of every pixel of a spot, (p, 2) int64; ``spot`` is its row in the whole table.

        Raises KeyError where the file has no pixels, IndexError where there is no such spot, and
        TypeError.
        """
        self._check_kept("spots/pixel_list_BE")
        begin, end = self._read("spots/pixel_list_BE", self._checked(spot, self.n_spots, "spot"))
        flat = self._read("spots/pixel_list", slice(begin, end)).astype(np.int64)
        with self._reading("stats/avg"):
            n_columns = self._found("stats/avg", h5py.Dataset).shape[1]
        return np.stack(np.divmod(flat, n_columns), axis=1)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Turn what h5py raises into errors that name the file and the dataset."""
        if not self._file:
            raise ValueError(
                f"{self._name}: the spots file is closed; open it again with open_spots"
            )
        try:
            yield
        except (KeyError, OSError, RuntimeError) as error:
            raise InputError(
                f"{self._name}: {path} cannot be read: {hdf5_reason(error)}; the file is damaged"
            ) from error

    def _found(self, path: str, kind: type[h5py.Dataset] | type[h5py.Group]) -> Any:
        item = self._file.get(path)
        if not isinstance(item, kind):
            raise InputError(
                f"{self._name}: not a spots file, it has no {kind.__name__.lower()} {path}"
            )
        return item

    def _read(self, path: str, where: Any = ...) -> Array:
        """Read a dataset, or the part ``where`` of it."""
        with self._reading(path):
            return np.asarray(self._found(path, h5py.Dataset)[where])

    def _has(self, path: str) -> bool:
        with self._reading(path):
            return path in self._file

    def _check_kept(self, path: str) -> None:
        """Raise KeyError for a stack that the file does not have."""
        if not self._has(path):
            raise KeyError(f"{self._name}: no {path}; --keep and -S say which stacks a file has")

    def _checked(self, index: int, n: int, what: str) -> int:
        """Return an index from 0 to n - 1."""
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"{what}: found {index!r}, expected an integer from {-n} to {n - 1}"
            ) from None
        if not -n <= index < n:
            raise IndexError(f"{what} {index} of {n}: expected an index from {-n} to {n - 1}")
        return index % n

    def _mask_of(self, frame: int) -> int:
        return int(self._read("frame2mask", self._checked(frame, self.n_frames, "frame")))


def open_spots(path: str | Path) -> SpotsFile:
    """Open a spots file. Raises `InputError` where there is none."""
    from gpu_spots.files.frames import open_hdf5

    file = open_hdf5(Path(path))
    try:
        return SpotsFile(file)
    except BaseException:
        file.close()
        raise
