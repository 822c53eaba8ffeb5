"""Records of every dataset that the spots file holds: path, type, shape, unit and description.

The writer, the reader and the tests of the documentation take all of these facts from here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag

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


STATS = (
    DatasetRecord(
        path="stats/avg",
        dtypes=("float32",),
        shape=IMAGE,
        unit="counts",
        description="average of the background sample",
    ),
    DatasetRecord(
        path="stats/std",
        dtypes=("float32",),
        shape=IMAGE,
        unit="counts",
        description="standard deviation of the background sample (population)",
    ),
    DatasetRecord(
        path="stats/iqr",
        dtypes=("float32",),
        shape=IMAGE,
        unit="counts",
        description="interquartile range Q75 - Q25 of the background sample",
    ),
    DatasetRecord(
        path="stats/noise",
        dtypes=("float32",),
        shape=IMAGE,
        unit="counts",
        description="noise of a value: standard deviation, drawn towards the noise model's",
    ),
    DatasetRecord(
        path="stats/max",
        dtypes=(FRAMES_TYPE,),
        shape=IMAGE,
        unit="counts",
        description="maximum over all frames",
    ),
    DatasetRecord(
        path="stats/arg",
        dtypes=("int32",),
        shape=IMAGE,
        description="index of the first frame that has the maximum",
    ),
    DatasetRecord(
        path="stats/threshold",
        dtypes=("int32", "int64", "float64"),
        shape=IMAGE,
        unit="counts",
        description="a valid pixel is in masks_raw if and only if its value is at least this",
    ),
    DatasetRecord(
        path="stats/n_used",
        dtypes=("int32",),
        shape=IMAGE,
        description="number of frames in the background sample",
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
    DatasetRecord(
        path="spots/I",
        dtypes=("float64",),
        shape=("n_spots",),
        unit="counts",
        description=(
            "integrated intensity: sum over the spot's pixels of the value less the background"
        ),
    ),
    DatasetRecord(
        path="spots/XY",
        dtypes=("int32",),
        shape=("n_spots", 2),
        unit="pixel",
        description="X and Y of the spot's most intense pixel",
        components=("X", "Y"),
    ),
    DatasetRecord(
        path="spots/box",
        dtypes=("int32",),
        shape=("n_spots", 4),
        unit="pixel",
        description="box that contains the spot: X begin, X end, Y begin, Y end; ends exclusive",
        components=("X_begin", "X_end", "Y_begin", "Y_end"),
    ),
    DatasetRecord(
        path="spots/frame",
        dtypes=("int32",),
        shape=("n_spots",),
        description="index of the frame",
    ),
    DatasetRecord(
        path="spots/label",
        dtypes=("int32",),
        shape=("n_spots",),
        description=(
            "label of the spot in masks/labels[mask]; labels of different masks are not related"
        ),
    ),
    DatasetRecord(
        path="spots/mask",
        dtypes=("int32",),
        shape=("n_spots",),
        description=(
            "index of the mask in masks/labels, and in masks_synced if present, else masks_filtered"
        ),
    ),
    DatasetRecord(
        path="spots/pixel_list_BE",
        dtypes=("int64",),
        shape=("n_spots", 2),
        description="begin and end, exclusive, of each spot in spots/pixel_list",
        stack="pixels",
        components=("pixel_list_begin", "pixel_list_end"),
    ),
    DatasetRecord(
        path="spots/overload",
        dtypes=("int32",),
        shape=("n_spots",),
        unit="pixel",
        description="number of the spot's pixels that are saturated on the frame",
        absent="it is not known which values are saturated",
    ),
    DatasetRecord(
        path="spots/n_pixels",
        is_new=True,
        dtypes=("int32",),
        shape=("n_spots",),
        unit="pixel",
        description="number of pixels of the spot",
    ),
    DatasetRecord(
        path="spots/max",
        is_new=True,
        dtypes=(FRAMES_TYPE,),
        shape=("n_spots",),
        unit="counts",
        description="largest value of the spot, background included",
    ),
    DatasetRecord(
        path="spots/background",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots",),
        unit="counts",
        description="sum of the background over the spot's pixels, at the level of the frame",
    ),
    DatasetRecord(
        path="spots/centroid",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots", 2),
        unit="pixel",
        components=("centroid_X", "centroid_Y"),
        description=(
            "X and Y of the centre of mass of the value less the background (finder matched: with "
            "weights by the profile); NaN where I, or the weighted sum, is not above 0"
        ),
    ),
    DatasetRecord(
        path="spots/centroid_sigma",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots", 2),
        unit="pixel",
        components=("centroid_sigma_X", "centroid_sigma_Y"),
        description="standard errors of the centroid along X and Y; NaN where the centroid is",
    ),
    DatasetRecord(
        path="spots/moments",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots", 3),
        unit="pixel^2",
        components=("moments_XX", "moments_YY", "moments_XY"),
        description=(
            "second moments XX, YY and XY of the value less the background about its centre of "
            "mass; NaN where I is not above 0"
        ),
    ),
    DatasetRecord(
        path="spots/fwhm",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots", 2),
        unit="pixel",
        components=("fwhm_major", "fwhm_minor"),
        description=(
            "full width at half maximum along the major and the minor axis, "
            "of a Gaussian with these moments; 0 where noise makes a moment negative"
        ),
    ),
    DatasetRecord(
        path="spots/orientation",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots",),
        unit="degree",
        description="angle of the major axis from X towards Y, above -90 and up to 90",
    ),
    DatasetRecord(
        path="spots/sigma",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots",),
        unit="counts",
        description="standard error of I: noise of the pixels, the signal and the background; "
        "NaN if the noise is unknown",
    ),
    DatasetRecord(
        path="spots/snr",
        is_new=True,
        dtypes=("float64",),
        shape=("n_spots",),
        description="I divided by sigma; NaN where sigma is 0 or unknown",
    ),
    DatasetRecord(
        path="spots/I_prf",
        dtypes=("float64",),
        shape=("n_spots",),
        unit="counts",
        description="intensity by weights from the profile of the spot on all frames of its mask",
        absent="every frame has a mask of its own (-S none), or the noise is unknown",
    ),
    DatasetRecord(
        path="spots/sigma_prf",
        dtypes=("float64",),
        shape=("n_spots",),
        unit="counts",
        description="standard error of I_prf",
        absent="every frame has a mask of its own (-S none), or the noise is unknown",
    ),
    DatasetRecord(
        path="spots/n_maxima",
        is_new=True,
        dtypes=("int32",),
        shape=("n_spots",),
        description=(
            "number of the spot's pixels that have no higher pixel of the spot beside them, "
            "and are at least half as high above its lowest pixel as its highest one"
        ),
    ),
    DatasetRecord(
        path="spots/flags",
        is_new=True,
        dtypes=("uint16",),
        shape=("n_spots",),
        description=(
            "sum of: 1 touches the border, 2 touches a pixel without a valid value, 4 overloaded, "
            "8 several maxima, 16 touches another spot, 32 at the place of a static spot or a hot "
            "pixel"
        ),
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
    DatasetRecord(
        path="per_frame/angle",
        dtypes=("float64",),
        shape=("n_frames",),
        unit="degree",
        description="angle of each frame; NaN if unknown",
    ),
    DatasetRecord(
        path="per_frame/laser_on",
        dtypes=("int8",),
        shape=("n_frames",),
        description="1 if the laser is on, 0 if it is off, -1 if unknown",
    ),
    DatasetRecord(
        path="per_frame/delay",
        dtypes=("float64",),
        shape=("n_frames",),
        unit="s",
        description="delay from the laser pulse to the X-ray pulse; 0 if the laser is off, "
        "NaN if unknown",
    ),
    DatasetRecord(
        path="per_frame/block",
        dtypes=("int32",),
        shape=("n_frames",),
        description="index of the block of frames with the same angle, in the order of their "
        "first frames; -1 if the angle is unknown",
    ),
    DatasetRecord(
        path="per_frame/mask",
        dtypes=("int32",),
        shape=("n_frames",),
        description="index of the mask that each frame's spots come from",
        link="frame2mask",
    ),
    DatasetRecord(
        path="per_frame/partner",
        dtypes=("int32",),
        shape=("n_frames",),
        description="index of the other frame of the off/on pair, with -S none and -S blocks, too; "
        "-1 if there is none",
    ),
    DatasetRecord(
        path="per_frame/level",
        dtypes=("float64",),
        shape=("n_frames",),
        unit="counts",
        description="level of each frame: interquartile mean of a sample of its pixels, or with "
        "the method clip the mean of its clipped counts",
        link="frame_level",
    ),
    DatasetRecord(
        path="per_frame/scale",
        dtypes=("float64",),
        shape=("n_frames",),
        description=(
            "factor that scales each frame to the common background level, 1 if frames are not "
            "scaled (--normalise none), NaN if a frame without beam was left out; stats are in "
            "scaled counts"
        ),
        link="frame_scale",
    ),
    DatasetRecord(
        path="per_frame/n_spots",
        dtypes=("int32",),
        shape=("n_frames",),
        description="number of spots of each frame",
    ),
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
)
"""Levels of the pixels of each frame."""


NOISE_COLUMNS = (
    DatasetRecord(
        path="noise/level",
        dtypes=("float64",),
        shape=("n_bins",),
        unit="counts",
        description="median background of the pixels of each bin",
    ),
    DatasetRecord(
        path="noise/variance",
        dtypes=("float64",),
        shape=("n_bins",),
        unit="counts^2",
        description="trimmed mean of the variances of the pixels of each bin",
    ),
    DatasetRecord(
        path="noise/n_pixels",
        dtypes=("int64",),
        shape=("n_bins",),
        description="number of pixels of each bin",
    ),
)
"""Points that the noise model was fitted to. Each is the field of `NoiseModel` of that name."""
NOISE_LAGS = ("correlation_lag_1", "correlation_lag_2")
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
