"""Writer of the spots file."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import (
    DATASETS,
    MATCHED_MASKS,
    NOISE_ATTRIBUTES,
    NOISE_COLUMNS,
    SURFACE,
)
from gpu_spots.files.hdf5.chunk_writer import ImageWriter, compress_image
from gpu_spots.files.output.new_file import writing
from gpu_spots.files.output.nexus import ORIENTATION, add_view, mark_root
from gpu_spots.model import FACTOR_BITS, Array, ConstantPart, SpotTable, Surface
from gpu_spots.noise_model import NoiseModel
from gpu_spots.parameters import STACK_NAMES
from gpu_spots.protocols import Stack

STRIP = 128
"""Rows of an image in a chunk.

Reading a frame is as fast as from one chunk, and reading one pixel of all frames is much faster.
"""
PIXELS_IN_CHUNK = 1 << 16
"""Pixels in a chunk of small images, and values in a chunk of ``spots/pixel_list``."""
ROWS_IN_CHUNK = 1 << 13
"""Rows of a table in a chunk. Each chunk has a checksum."""
SMALL_IMAGE = 1 << 12
"""Images of at most this many pixels share chunks and are written together, since one HDF5 call per
image would take most of the time.
"""
BACKGROUND = tuple(f"stats/{name}" for name in ("avg", "std", "noise", "iqr", "max"))
"""Maps that viewers offer in one picture, the first of them before the others."""
VIEWS = {
    "labels": "masks/labels",
    "masks_filtered": "masks_filtered",
    "masks_raw": "masks_raw",
    "masks_synced": "masks_synced",
    "spots_of_masks": "masks/counts",
    "spots_per_frame": "per_frame/n_spots",
    "frame_level": "per_frame/level",
}
"""Datasets that viewers show, by the name of their NXdata group."""

STACKS = frozenset(STACK_NAMES)
"""Names of the stacks that a file can have."""

Arguments = ParamSpec("Arguments")


def _writes(
    method: Callable[Concatenate["SpotsWriter", Arguments], None],
) -> Callable[Concatenate["SpotsWriter", Arguments], None]:
    """Wrap a method that writes: raise `OutputError` on failure, and delay signals until the end.

    Its datasets are then closed, so that the file is consistent when a signal is handled.
    """

    @wraps(method)
    def whole(self: "SpotsWriter", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with writing(self._file, self._name):
            method(self, *args, **kwargs)

    return whole


@dataclass(frozen=True, slots=True)
class Encoded:
    """Image that is ready to be written."""

    image: Callable[[], Array]
    """Function that computes the image, (n_X, n_Y)."""
    dtype: np.dtype[Any] | None
    """Type of the image if it is compressed already, else None."""
    strips: list[bytes]
    """Compressed strips of rows; empty: HDF5 compresses the image."""


class SpotsWriter:
    """Writer of a spots file, a sink of the pipeline.

    Paths, types, units and descriptions of the datasets are those of `DATASETS`. All methods that
    write raise `OutputError` on failure.
    """

    def __init__(
        self,
        file: h5py.File,
        name: str,
        stack_shape: tuple[int, int, int],
        filters: dict[str, Any],
        keep: frozenset[str] = STACKS,
    ) -> None:
        """Prepare an empty file.

        Args:
            file: where to write.
            name: name of the file in messages.
            stack_shape: (n_frames, n_X, n_Y) of the run.
            filters: options of h5py for images, from `compression.filter_options`.
            keep: stacks to write.
        """
        self.keep = keep
        self._file = file
        self._name = name
        self._n_frames, *_ = stack_shape
        self._shape = stack_shape[1:]
        self._n_masks = {"raw": stack_shape[0], "filtered": stack_shape[0]}
        self._descriptions: dict[str, str] = {}
        self._filters = filters
        self._counts = "counts"
        self._images: dict[str, ImageWriter] = {}
        self._is_small = self._shape[0] * self._shape[1] <= SMALL_IMAGE
        self._compresses = filters.get("compression") == "gzip" and not self._is_small
        if "pixels" in keep:
            self._create_pixel_list()

    @_writes
    def _create_pixel_list(self) -> None:
        self._create(
            "spots/pixel_list",
            (0,),
            np.int32 if self._shape[0] * self._shape[1] <= 2**31 else np.int64,
            chunks=(PIXELS_IN_CHUNK,),
            maxshape=(None,),
            fletcher32=True,
        )

    def expect_matched(self, n_masks: int | None) -> None:
        """Set the number of masks of each kind, and describe them as those of the matched finder.

        Args:
            n_masks: number of groups of frames; None: there is a mask for each frame.
        """
        of = "frame" if n_masks is None else "mask"
        if n_masks is not None:
            self._n_masks = dict.fromkeys(("raw", "filtered", "synced"), n_masks)
        self._descriptions = {path: f"{text}: {of}, X, Y" for path, text in MATCHED_MASKS.items()}

    def expect_synced(self, n_masks: int) -> None:
        """Set the number of synced masks, which are the ones that are labelled."""
        self._n_masks["synced"] = n_masks

    @_writes
    def write_info(self, attributes: Mapping[str, Any]) -> None:
        """Write attributes of the group ``info``."""
        self._file.require_group("info").attrs.update(
            {name: _storable(value) for name, value in attributes.items()}
        )

    @_writes
    def write_metadata(self, stack: Stack, warn: Callable[[str], None]) -> None:
        """Write the metadata of a run; ``warn`` is called for each damaged item."""
        stack.write_metadata(self._file, warn)

    @_writes
    def write_levels(
        self,
        frame_levels: NDArray[np.float64],
        factors: NDArray[np.int64] | None,
        left_out: NDArray[np.bool_] | None = None,
        constant_part: ConstantPart | None = None,
        surface: Surface | None = None,
    ) -> None:
        """Write the level of each frame and its scale, which is 1 if frames were not scaled.

        The scale of frames that were left out is NaN. Attributes of the levels say which part of
        the background does not follow them.
        """
        if factors is not None:
            self._counts = "scaled counts"
        scale = np.ones(len(frame_levels)) if factors is None else factors / 2**FACTOR_BITS
        if left_out is not None:
            scale = np.where(left_out, np.nan, scale)
        self._create_table("per_frame/level", frame_levels)
        if constant_part is not None:
            self._file["per_frame/level"].attrs.update(asdict(constant_part))
        self._create_table("per_frame/scale", scale)
        if surface is not None:
            self._create_table(SURFACE.path, surface.knots / 2.0**FACTOR_BITS)
            self._file[SURFACE.path].attrs["distance"] = 1 << surface.bits

    @_writes
    def write_noise(self, model: NoiseModel) -> None:
        """Write the group ``noise``."""
        for record in NOISE_COLUMNS:
            self._create_table(record.path, getattr(model, record.name))
        self._file["noise"].attrs.update({name: getattr(model, name) for name in NOISE_ATTRIBUTES})

    def encode(self, image: Callable[[], Array]) -> "Encoded":
        """Compute and compress an image if that can be done outside of HDF5.

        Otherwise the image is computed when it is written. Any thread may call this.
        """
        if not self._compresses:
            return Encoded(image, None, [])
        values = image()
        return Encoded(image, values.dtype, compress_image(values, min(STRIP, self._shape[0])))

    @_writes
    def write_map(self, name: str, encoded: "Encoded") -> None:
        """Write a map of the group ``stats``."""
        dataset = self._create_image(
            f"stats/{name}", self._shape, encoded.dtype or encoded.image().dtype
        )
        if dataset.attrs.get("units") == "counts":
            dataset.attrs["units"] = self._counts
        self._write_image(ImageWriter(dataset), None, encoded)

    def write_masks(self, kind: str, begin: int, images: Sequence["Encoded"]) -> None:
        """Write masks of a kind (raw, filtered or synced) from index ``begin`` on."""
        path = f"masks_{kind}"
        self._write_images(path, self._n_masks[kind], np.uint8, begin, images)

    def write_labels(
        self, begin: int, counts: NDArray[np.int32], images: Sequence["Encoded"]
    ) -> None:
        """Write label images.

        The dataset becomes uint32 when the first mask with more than 65535 spots is written.

        Args:
            begin: index of the first mask.
            counts: (k,) int32: number of spots of each mask.
            images: k label images.
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
        """Write consecutive images. Signals wait for one large image, or for all small ones."""
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
        """Append the flat pixel indices of the next components, (p,) int64."""
        pixel_list = self._file["spots/pixel_list"]
        n_before = len(pixel_list)
        pixel_list.resize(n_before + len(pixels), axis=0)
        pixel_list[n_before:] = pixels.astype(pixel_list.dtype)  # HDF5 converts more slowly

    @_writes
    def write_spots(self, table: SpotTable) -> None:
        """Write the tables of spots, masks and frames, and the soft links."""
        for path, values in table.items():
            if DATASETS[path].stack is None or DATASETS[path].stack in self.keep:
                self._create_table(path, values)
        for record in DATASETS.values():
            if record.link is not None and record.path in self._file:
                self._file[record.link] = h5py.SoftLink(f"/{record.path}")

    @_writes
    def write_views(self, frames: h5py.ExternalLink | None) -> None:
        """Mark what viewers show: first the background, whose quality decides on all spots.

        It is small and in every file. Call this when all datasets are written.

        Args:
            frames: link to the frames; None: they are not in one dataset of a file.
        """
        file, n_frames = self._file, self._n_frames
        lengths = dict(zip(("X", "Y"), self._shape, strict=True))
        lengths |= {"frame": n_frames, "mask": len(file["masks/counts"])}
        mark_root(file, lengths, "spots", "background")
        background, *others = (f"/{path}" for path in BACKGROUND)
        title = f"background; {ORIENTATION}"
        add_view(file, "background", background, ["X", "Y"], title, others=others, logarithmic=True)
        if frames is not None:
            title = f"frames; {ORIENTATION}"
            add_view(file, "frames", frames, ["frame", "X", "Y"], title, logarithmic=True)
        for name, path in VIEWS.items():
            if path in file:
                dataset = file[path]
                axes = ["frame" if len(dataset) == n_frames else "mask", "X", "Y"]
                title = dataset.attrs["description"]
                title += f"; {ORIENTATION}" if dataset.ndim == 3 else ""
                add_view(file, name, f"/{path}", axes[: dataset.ndim], title)

    def _begin_images(self, path: str, n: int, dtype: Any) -> ImageWriter:
        """Create a dataset of images and keep it open.

        Opening it again for each image would take as long as writing the image.
        """
        images = self._images[path] = ImageWriter(
            self._create_image(path, (n, *self._shape), dtype)
        )
        return images

    @_writes
    def _widen(self, path: str, n_written: int) -> None:
        """Replace a uint16 dataset by one of uint32 with the same first ``n_written`` images."""
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
        """Write image ``index`` of a dataset, or with None its only image.

        HDF5 compresses labels that were encoded as uint16 before the dataset became uint32.
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
        """Write a dataset with one row per spot, mask or frame.

        Its chunks have checksums, which HDF5 verifies on reading.
        """
        options = (
            {"chunks": (min(ROWS_IN_CHUNK, len(values)), *values.shape[1:]), "fletcher32": True}
            if len(values)
            else {}
        )
        self._create(path, values.shape, values.dtype, **options)[...] = values

    def _create(
        self, path: str, shape: tuple[int, ...], dtype: Any, **options: Any
    ) -> h5py.Dataset:
        """Create a dataset with its attributes. Raise TypeError if it does not match its record."""
        record = DATASETS[path]
        record.check(dtype, shape)
        dataset = self._file.create_dataset(path, shape, dtype, **options)
        dataset.attrs.update(record.attributes)
        if path in self._descriptions:
            dataset.attrs["description"] = self._descriptions[path]
        return dataset


def _storable(value: Any) -> Any:
    """Return a value that HDF5 can store.

    Text that is not valid Unicode, such as some file names, is escaped. Integers beyond 64 bits
    become text.
    """
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


_memory_names = itertools.count(1)


def memory_file() -> h5py.File:
    """Create an HDF5 file in memory."""
    return h5py.File(
        f"spots in memory {next(_memory_names)}",
        "w",
        driver="core",
        backing_store=False,
        libver=("earliest", "v110"),
    )
