"""Parts of a report: charts, pictures and tables, and sections that contain them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots import pictures
from gpu_spots.model import Array

MOST_POINTS = 3000
"""Points of a scatter plot: more cannot be told apart."""
MOST_FRAMES = 4000
"""Points of a curve over the frames; longer runs are averaged over neighbours."""
LARGEST_PICTURE = 700
"""Pixels along the longer side of a picture of a whole frame."""
MOST_BOXES = 1500
"""Spots that are drawn on a picture."""
GREYS = 48
"""Grey levels of a picture: the eye tells no more apart, and noise compresses better."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Values that a chart draws."""

    label: str
    """Name in the legend."""
    y: Floats
    """(n,) float64; NaN: nothing."""
    style: str = "line"
    """``"line"``, ``"points"``, ``"steps"`` or ``"dashes"``."""
    colour: int = 0
    """Number of the colour of the page."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves or points that share the values of x."""

    name: str
    """Unique name."""
    title: str
    """Heading."""
    x_label: str
    """Quantity and unit of x."""
    y_label: str
    """Quantity and unit of y."""
    x: Floats
    """(n,) float64, ascending."""
    series: Sequence[Series]
    """Curves or points."""
    caption: str = ""
    """Advice to the reader."""
    x_log: bool = False
    """True if x is logarithmic."""
    y_log: bool = False
    """True if y is logarithmic."""
    y_range: tuple[float, float] | None = None
    """Limits of y that are shown first; None: all values."""

    def as_dict(self) -> dict[str, Any]:
        """Return the chart as JSON can hold it, with five digits."""
        return {
            "name": self.name,
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "x_log": self.x_log,
            "y_log": self.y_log,
            "y_range": None if self.y_range is None else plain(np.array(self.y_range)),
            "x": plain(self.x, positive=self.x_log),
            "series": [
                {
                    "label": one.label,
                    "style": one.style,
                    "colour": one.colour,
                    "y": plain(one.y, positive=self.y_log),
                }
                for one in self.series
            ],
        }

    @property
    def summary(self) -> list[tuple[str, int, str, str, str]]:
        """Label, number of values, smallest, median and largest of each series."""
        rows = []
        for one in self.series:
            known = one.y[np.isfinite(one.y)]
            if len(known):
                three = (known.min(), np.median(known), known.max())
                least, median, most = (f"{value:.4g}" for value in three)
                rows.append((one.label, len(known), least, median, most))
        return rows


@dataclass(frozen=True, slots=True)
class Mark:
    """Lines that are drawn on a picture."""

    label: str
    """Meaning of the lines."""
    path: str
    """Path of SVG, in pixels of the frame: x is Y, y is X."""
    colour: int = 0
    """Number of the colour of the page."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Picture of a frame or a map, with marks."""

    title: str
    """Heading."""
    address: str
    """The picture itself, as a data URI."""
    frame: tuple[int, int, int, int]
    """X and Y of its first pixel in the frame; numbers of rows and columns to show."""
    extent: tuple[int, int]
    """Rows and columns of the frame that the picture covers: whole bins, so it may be larger."""
    scale: str
    """Values of the colours, in words."""
    marks: Sequence[Mark] = ()
    """Marks on it."""
    caption: str = ""
    """Advice to the reader."""
    is_small: bool = False
    """True if it is a cutout around a spot."""


@dataclass(frozen=True, slots=True)
class Table:
    """Table of text and numbers."""

    title: str
    """Heading."""
    head: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str]]
    """Cells."""


@dataclass(frozen=True, slots=True)
class Section:
    """Part of a report with a heading."""

    name: str
    """Name to link to."""
    title: str
    """Heading."""
    text: Sequence[str] = ()
    """Sentences below it."""
    charts: Sequence[Chart] = ()
    """Charts."""
    pictures: Sequence[Picture] = ()
    """Pictures."""
    tables: Sequence[Table] = ()
    """Tables."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers for the JSON file."""


def plain(values: Array, *, positive: bool = False) -> list[float | int | None]:
    """Return numbers with five digits; None if not finite, or with ``positive`` not above 0."""
    return [
        None
        if not math.isfinite(value) or (positive and value <= 0)
        else int(value)
        if value == int(value) and abs(value) < 2**53
        else float(f"{value:.5g}")
        for value in np.asarray(values, np.float64).tolist()
    ]


def for_json(value: Any) -> Any:
    """Return nested values as JSON can hold them: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): for_json(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return for_json(value.tolist())
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Iterable):
        return [for_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def histogram(values: Array, *, log: bool = False, bins: int = 60) -> tuple[Floats, Floats]:
    """Return edges and counts of a histogram, (n,) float64 each; the last count is repeated."""
    is_whole = values.dtype.kind in "iu"
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values) & ((values > 0) if log else True)]
    if not len(values):
        return np.zeros(0), np.zeros(0)
    low, high = float(values.min()), float(values.max())
    if log:
        edges = np.geomspace(low, max(high, low * 1.01), bins + 1)
        if is_whole:
            edges = np.unique(np.append(np.floor(edges), high + 1))
        edges[-1] *= 1 + 1e-9
    else:
        edges = np.linspace(low, max(high, low + 1), bins + 1)
    counts = np.histogram(values, edges)[0].astype(np.float64)
    return edges, np.append(counts, counts[-1])


def sampled(n: int, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Return at most so many of n indices, at equal distances."""
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).astype(np.int64))


def range_without_outliers(y: Array) -> tuple[tuple[float, float] | None, str]:
    """Return limits that a few outliers do not stretch, and a sentence on the points outside.

    Args:
        y: (n,) values, finite.

    Returns:
        The limits and the sentence; None and empty if no point is outside.
    """
    if not len(y):
        return None, ""
    low, high = np.percentile(y, (1, 99))
    low, high = low - (high - low) / 2, high + (high - low) / 2
    n_outside = int(((y < low) | (y > high)).sum())
    if not n_outside or low == high:
        return None, ""
    points = "1 point is" if n_outside == 1 else f"{n_outside} points are"
    return (
        float(low),
        float(high),
    ), f"{points} outside of the chart; all are {y.min():.3g} to {y.max():.3g}. "


def scatter(
    x: Array, groups: Sequence[tuple[str, Array, NDArray[np.bool_]]]
) -> tuple[Floats, list[Series]]:
    """Return x and series of points in groups, for a chart.

    Args:
        x: (n,) values.
        groups: Label, y (n,) and which of the points belong to it, (n,) bool.
    """
    order = np.argsort(x, kind="stable")
    series = [
        Series(label, np.where(which, y, np.nan).astype(np.float64)[order], "points", number)
        for number, (label, y, which) in enumerate(groups)
    ]
    return np.asarray(x, np.float64)[order], series


def map_picture(
    title: str,
    image: Array,
    valid: NDArray[np.bool_],
    lit: NDArray[np.bool_],
    *,
    percentiles: tuple[float, float] = (1.0, 99.8),
    scale: str = "log",
    how: str = "mean",
    saturation: float | None = None,
    marks: Sequence[Mark] = (),
    caption: str = "",
) -> Picture:
    """Return the picture of a whole frame or map.

    Args:
        title: Heading.
        image: (n_X, n_Y), counts.
        valid: (n_X, n_Y) bool: pixels that are not masked.
        lit: (n_X, n_Y) bool: pixels that the limits of the contrast are taken from.
        percentiles: See `pictures.contrast_of`.
        scale: One of `pictures.SCALES`.
        how: One of `pictures.REDUCTIONS`.
        saturation: Smallest saturated value, counts.
        marks: What is drawn on it.
        caption: What to look for.
    """
    factor = max(1, math.ceil(max(image.shape) / LARGEST_PICTURE))
    small, good = pictures.binned(image, factor, how, valid)
    contrast = pictures.contrast_of(small, pictures.binned(lit, factor)[0], percentiles, scale)
    levels = fewer_greys(pictures.grey_levels(small, contrast, good, saturation))
    words = f"{contrast.low:.4g} to {contrast.high:.4g} counts, {scale} scale"
    if factor > 1:
        words += f"; {how} of {factor} x {factor} pixels"
    # the last bins extend beyond the frame
    rows, columns = (factor * n for n in small.shape)
    address = pictures.data_uri(pictures.png(levels, small=True))
    return Picture(title, address, (0, 0, *image.shape), (rows, columns), words, marks, caption)


def fewer_greys(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with `GREYS` grey levels; marks of invalid and saturated pixels stay."""
    table = np.arange(256, dtype=np.uint8)
    greys = np.rint(np.arange(pictures.N_LEVELS) / (pictures.N_LEVELS - 1) * (GREYS - 1))
    table[: pictures.N_LEVELS] = np.rint(greys / (GREYS - 1) * (pictures.N_LEVELS - 1))
    return table[levels]


def boxes(box: Array) -> str:
    """Return the path of the boxes of spots, (n, 4): X begin, X end, Y begin, Y end."""
    return "".join(
        f"M{y - 1} {x - 1}h{last - y + 2}v{end - x + 2}h{y - last - 2}z"
        for x, end, y, last in np.asarray(box).tolist()
    )


def circles(places: Array, radius: float) -> str:
    """Return the path of circles around places, (n, 2): X and Y."""
    return "".join(
        f"M{y + 0.5 - radius:g} {x + 0.5:g}a{radius:g} {radius:g} 0 1 0 {2 * radius:g} 0"
        f"a{radius:g} {radius:g} 0 1 0 {-2 * radius:g} 0"
        for x, y in np.asarray(places).tolist()
    )
