"""Records of every dataset that the spots file holds: path, type, shape, unit and description.

The writer, the reader and the tests of the documentation take all of these facts from here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpu_spots.model import FRAME_DTYPES

FRAMES_TYPE = "frames' type"
"""Name of the type of the input's frames in `DatasetRecord.dtypes`."""
IMAGE = ("n_X", "n_Y")
"""Shape of a frame."""
IMAGE_ATTRIBUTES = {"interpretation": "image"}
"""Attributes by which viewers show the last two dimensions of a dataset as an image."""


class Flag(IntFlag):
    """Bits of ``spots/flags``."""

    BORDER = 1
    """A pixel of the spot is in the first or last row or column of the frame."""
    INVALID = 2
    """A pixel of the spot shares an edge or a corner with a masked pixel, or with one that has no
    valid value on a frame of the spot's mask.
    """
    OVERLOADED = 4
    """A pixel of the spot is saturated on the frame."""
    SEVERAL_MAXIMA = 8
    """``spots/n_maxima`` is more than 1."""
    NEIGHBOUR = 16
    """A pixel of the spot shares an edge or a corner with a pixel of another spot of its mask."""
    STATIC = 32
    """A pixel of the spot is within 3 rows and 3 columns of a spot that stays in the background, or
    is a hot or cold pixel (method clip).
    """
    ONE_FRAME = 64
    """The spot is far stronger than on each of the other frames of its mask, of which there are at
    least two.
    """
    ZINGER = 128
    """Pixels that a zinger hit were left out of the mask of the spot, which one frame has alone
    (matched finder).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """Description of one dataset of the spots file."""

    path: str
    """Path of the dataset in the file, without a leading slash."""
    dtypes: tuple[str, ...]
    """Names of the allowed NumPy types, the most common one first, or only `FRAMES_TYPE`."""
    shape: tuple[str | int, ...]
    """Length of each dimension: a number, or the name of one: ``n_frames``, ``n_masks``,
    ``n_spots``, ``n_pixels`` (in ``spots/pixel_list``), ``n_bins``, ``n_knots_X``, ``n_knots_Y``,
    ``n_X`` and ``n_Y``.
    """
    unit: str | None = None
    """Attribute ``units``; None: no such attribute."""
    description: str
    """Attribute ``description``."""
    label: str | None = None
    """Attribute ``long_name``, with which viewers label an axis; None: no such attribute."""
    absent: str | None = None
    """Condition under which the dataset is not written, apart from ``stack``; None: it is always
    written.
    """
    stack: str | None = None
    """Member of `STACK_NAMES` that ``--keep`` must include; None: ``--keep`` has no effect."""
    link: str | None = None
    """Path of a soft link to the dataset, for readers that expect it there; None: no link."""
    is_new: bool = False
    """True: files of earlier versions lack the dataset, which readers accept."""
    components: tuple[str, ...] = ()
    """Names, in tables of 1-D columns, of the columns of a dataset with two dimensions."""

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of the dataset."""
        known = {"description": self.description, "units": self.unit, "long_name": self.label}
        found = {name: text for name, text in known.items() if text is not None}
        return found | (IMAGE_ATTRIBUTES if self.shape[-2:] == IMAGE else {})

    @property
    def optional(self) -> bool:
        """True if complete files exist without this dataset."""
        return self.absent is not None or self.stack is not None

    def check(self, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
        """Raise TypeError for a type or a shape that does not match the record."""
        dtype = np.dtype(dtype).newbyteorder("=")
        frames_type = self.dtypes == (FRAMES_TYPE,) and dtype in FRAME_DTYPES
        if dtype.name not in self.dtypes and not frames_type:
            raise TypeError(f"{self.path}: type {dtype}, expected {' or '.join(self.dtypes)}")
        if len(shape) != len(self.shape) or any(
            isinstance(expected, int) and found != expected
            for found, expected in zip(shape, self.shape, strict=True)
        ):
            expected = ", ".join(map(str, self.shape))
            raise TypeError(f"{self.path}: shape {shape}, expected ({expected})")


def _of_group(group: str, *shape: str) -> Callable[..., DatasetRecord]:
    """Return what makes the records of a group of datasets, whose shapes begin alike."""

    def record(
        name: str, dtypes: str | tuple[str, ...], description: str, unit: str | None = None,
        *, components: tuple[str, ...] = (), **more: Any,
    ) -> DatasetRecord:  # fmt: skip
        return DatasetRecord(
            path=f"{group}/{name}",
            dtypes=(dtypes,) if isinstance(dtypes, str) else dtypes,
            shape=(*shape, len(components)) if components else shape,
            unit=unit,
            description=description,
            components=components,
            **more,
        )

    return record


_map, _spot = _of_group("stats", *IMAGE), _of_group("spots", "n_spots")
_frame, _noise = _of_group("per_frame", "n_frames"), _of_group("noise", "n_bins")

STATS = (
    _map("avg", "float32", "average of the background sample", "counts"),
    _map("std", "float32", "standard deviation of the background sample (population)", "counts"),
    _map("iqr", "float32", "interquartile range Q75 - Q25 of the background sample", "counts"),
    _map(
        "noise",
        "float32",
        "noise of a value: standard deviation, drawn towards the noise model's",
        "counts",
    ),
    _map("max", FRAMES_TYPE, "maximum over all frames", "counts"),
    _map("arg", "int32", "index of the first frame that has the maximum"),
    _map(
        "threshold",
        ("int32", "int64", "float64"),
        "a valid pixel is in masks_raw if and only if its value is at least this",
        "counts",
    ),
    _map(
        "n_used",
        "int32",
        "number of frames in the background sample",
        absent="the number is the same for every pixel that is not masked",
    ),
)
"""Maps of the background, one value per pixel. Each is the field of `Background` of that name."""

MASKS = (
    DatasetRecord(
        path="masks_raw",
        dtypes=("uint8",),
        shape=("n_frames", *IMAGE),
        description="pixels at or above stats/threshold: frame, X, Y",
        stack="raw",
        link="masks/masks_raw",
    ),
    DatasetRecord(
        path="masks_filtered",
        dtypes=("uint8",),
        shape=("n_frames", *IMAGE),
        description="masks_raw after erosions and dilations: frame, X, Y",
        stack="filtered",
        link="masks/masks_filtered",
    ),
    DatasetRecord(
        path="masks_synced",
        dtypes=("uint8",),
        shape=("n_masks", *IMAGE),
        description="union of masks_filtered over each off/on pair or block: mask, X, Y",
        absent="masks are not synchronized (-S none)",
        stack="synced",
        link="masks/masks_synced",
    ),
    DatasetRecord(
        path="masks/labels",
        dtypes=("uint16", "uint32"),
        shape=("n_masks", *IMAGE),
        description="label of the spot a pixel belongs to, 0 for none: mask, X, Y",
        stack="labels",
    ),
)
"""Stacks of mask images and label images."""

MATCHED_MASKS = {
    "masks_raw": "pixels at or above the seed level of any smoothed map",
    "masks_filtered": "pixels of the spots, grown from the seeds",
    "masks_synced": "pixels of the spots, grown from the seeds of the sum of the mask's frames",
    "masks/labels": "label of the spot a pixel belongs to, 0 for none; spots may touch",
}
"""Descriptions of datasets with ``--finder matched``, by path."""

MASK_COLUMNS = (
    DatasetRecord(
        path="masks/counts",
        dtypes=("int32",),
        shape=("n_masks",),
        description="number of spots of each mask",
    ),
)
"""Columns with one row per mask that is labelled."""

SPOT_COLUMNS = (
    _spot(
        "I",
        "float64",
        "integrated intensity: sum over the spot's pixels of the value less the background",
        "counts",
    ),
    _spot(
        "XY", "int32", "X and Y of the spot's most intense pixel", "pixel", components=("X", "Y")
    ),
    _spot(
        "box",
        "int32",
        "box that contains the spot: X begin, X end, Y begin, Y end; ends exclusive",
        "pixel",
        components=("X_begin", "X_end", "Y_begin", "Y_end"),
    ),
    _spot("frame", "int32", "index of the frame"),
    _spot(
        "label",
        "int32",
        "label of the spot in masks/labels[mask]; labels of different masks are not related",
    ),
    _spot(
        "mask",
        "int32",
        "index of the mask in masks/labels, and in masks_synced if present, else masks_filtered",
    ),
    _spot(
        "pixel_list_BE",
        "int64",
        "begin and end, exclusive, of each spot in spots/pixel_list",
        stack="pixels",
        components=("pixel_list_begin", "pixel_list_end"),
    ),
    _spot(
        "overload",
        "int32",
        "number of the spot's pixels that are saturated on the frame",
        "pixel",
        absent="it is not known which values are saturated",
    ),
    _spot("n_pixels", "int32", "number of pixels of the spot", "pixel", is_new=True),
    _spot(
        "max", FRAMES_TYPE, "largest value of the spot, background included", "counts", is_new=True
    ),
    _spot(
        "background",
        "float64",
        "sum of the background over the spot's pixels, at the level of the frame",
        "counts",
        is_new=True,
    ),
    _spot(
        "centroid",
        "float64",
        "X and Y of the centre of mass of the value less the background (finder matched: with "
        "weights by the profile); NaN where I, or the weighted sum, is not above 0",
        "pixel",
        is_new=True,
        components=("centroid_X", "centroid_Y"),
    ),
    _spot(
        "centroid_sigma",
        "float64",
        "standard errors of the centroid along X and Y; NaN where the centroid is",
        "pixel",
        is_new=True,
        components=("centroid_sigma_X", "centroid_sigma_Y"),
    ),
    _spot(
        "moments",
        "float64",
        "second moments XX, YY and XY of the value less the background about its centre of mass; "
        "NaN where I is not above 0",
        "pixel^2",
        is_new=True,
        components=("moments_XX", "moments_YY", "moments_XY"),
    ),
    _spot(
        "fwhm",
        "float64",
        "full width at half maximum along the major and the minor axis, of a Gaussian with these "
        "moments; 0 where noise makes a moment negative",
        "pixel",
        is_new=True,
        components=("fwhm_major", "fwhm_minor"),
    ),
    _spot(
        "orientation",
        "float64",
        "angle of the major axis from X towards Y, above -90 and up to 90",
        "degree",
        is_new=True,
    ),
    _spot(
        "sigma",
        "float64",
        "standard error of I: noise of the pixels, the signal and the background (finder matched, "
        "-S none: and the choice of the mask); NaN if the noise is unknown",
        "counts",
        is_new=True,
    ),
    _spot("snr", "float64", "I divided by sigma; NaN where sigma is 0 or unknown", is_new=True),
    _spot(
        "I_prf",
        "float64",
        "intensity by weights from the profile of the spot on all frames of its mask",
        "counts",
        absent="every frame has a mask of its own (-S none), or the noise is unknown",
    ),
    _spot(
        "sigma_prf",
        "float64",
        "standard error of I_prf",
        "counts",
        absent="every frame has a mask of its own (-S none), or the noise is unknown",
    ),
    _spot(
        "n_maxima",
        "int32",
        "number of the spot's pixels that have no higher pixel of the spot beside them, and are "
        "at least half as high above its lowest pixel as its highest one",
        is_new=True,
    ),
    _spot(
        "flags",
        "uint16",
        "sum of: 1 touches the border, 2 touches a pixel without a valid value, 4 overloaded, 8 "
        "several maxima, 16 touches another spot, 32 at the place of a static spot or a hot pixel, "
        "64 far stronger than on the other frames of its mask, 128 a zinger left out",
        is_new=True,
    ),
)
"""Columns of the table of spots: one row per spot on a frame, ordered by frame, then label."""

PIXEL_COLUMNS = (
    DatasetRecord(
        path="spots/pixel_list",
        dtypes=("int32", "int64"),
        shape=("n_pixels",),
        description=(
            "flattened index X * n_Y + Y of the pixels of each spot, ascending inside a spot"
        ),
        stack="pixels",
    ),
)
"""Columns with one row per pixel of a component, by mask, then label."""

FRAME_COLUMNS = (
    DatasetRecord(
        path="frame2spotsBE",
        dtypes=("int64",),
        shape=("n_frames", 2),
        description="begin and end, exclusive, of each frame's rows in the spots arrays",
        link="spots/frame2spotsBE",
    ),
    _frame("angle", "float64", "angle of each frame; NaN if unknown", "degree"),
    _frame("laser_on", "int8", "1 if the laser is on, 0 if it is off, -1 if unknown"),
    _frame(
        "delay",
        "float64",
        "delay from the laser pulse to the X-ray pulse; 0 if the laser is off, NaN if unknown",
        "s",
    ),
    _frame(
        "block",
        "int32",
        "index of the block of frames with the same angle, in the order of their first frames; -1 "
        "if the angle is unknown",
    ),
    _frame(
        "mask", "int32", "index of the mask that each frame's spots come from", link="frame2mask"
    ),
    _frame(
        "partner",
        "int32",
        "index of the other frame of the off/on pair, with -S none and -S blocks, too; -1 if "
        "there is none",
    ),
    _frame(
        "level",
        "float64",
        "level of each frame: interquartile mean of a sample of its pixels, or with the method "
        "clip the mean of its clipped counts",
        "counts",
        link="frame_level",
    ),
    _frame(
        "scale",
        "float64",
        "factor that scales each frame to the common background level, 1 if frames are not scaled "
        "(--normalise none), NaN if a frame without beam was left out; stats are in scaled counts",
        link="frame_scale",
    ),
    _frame("n_spots", "int32", "number of spots of each frame"),
)
"""Columns with one row per frame."""
SURFACE = DatasetRecord(
    path="per_frame/surface",
    dtypes=("float64",),
    shape=("n_frames", "n_knots_X", "n_knots_Y"),
    description=(
        "with --normalise surface: level of each frame over that of the run at the pixels whose X "
        "and Y are multiples of the attribute distance; it is interpolated linearly between them"
    ),
    absent="each frame has one level",
)
"""Levels of the pixels of each frame."""


NOISE_COLUMNS = (
    _noise("level", "float64", "median background of the pixels of each bin", "counts"),
    _noise(
        "variance", "float64", "trimmed mean of the variances of the pixels of each bin", "counts^2"
    ),
    _noise("n_pixels", "int64", "number of pixels of each bin"),
)
"""Points that the noise model was fitted to. Each is the field of `NoiseModel` of that name."""
NOISE_LAGS = tuple(f"correlation_lag_{distance}" for distance in (1, 2, 3, 4))
"""Attributes of the group ``noise`` that older files do not have."""
NOISE_ATTRIBUTES = (
    "gain",
    "gain_error",
    "offset",
    "offset_error",
    "correlation",
    "correlation_error",
    *NOISE_LAGS,
)
"""Attributes of the group ``noise``. Each is the field of `NoiseModel` of that name."""

AXES = (
    DatasetRecord(
        path="entry/axes/frame",
        dtypes=("int32",),
        shape=("n_frames",),
        description="index of the frame",
        label="frame",
    ),
    DatasetRecord(
        path="entry/axes/mask",
        dtypes=("int32",),
        shape=("n_masks",),
        description="index of the mask",
        label="mask",
    ),
    DatasetRecord(
        path="entry/axes/X",
        dtypes=("int32",),
        shape=("n_X",),
        unit="pixel",
        description="index of the row; row 0 is at the top",
        label="X (row)",
    ),
    DatasetRecord(
        path="entry/axes/Y",
        dtypes=("int32",),
        shape=("n_Y",),
        unit="pixel",
        description="index of the column; column 0 is on the left",
        label="Y (column)",
    ),
)
"""Axes of the pictures that viewers show."""


def _by_path(*groups: Iterable[DatasetRecord]) -> dict[str, DatasetRecord]:
    return {record.path: record for records in groups for record in records}


DATASETS = _by_path(
    STATS,
    MASKS,
    MASK_COLUMNS,
    SPOT_COLUMNS,
    PIXEL_COLUMNS,
    FRAME_COLUMNS,
    (SURFACE,),
    NOISE_COLUMNS,
    AXES,
)
"""Records of all datasets by path."""
