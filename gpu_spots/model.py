"""Data that the modules exchange. Arrays are NumPy's unless a field says otherwise.

Axes: a frame is indexed ``[X, Y]``, X is dimension 1 of the stack (row) and Y is dimension 2
(column). ``n_X`` and ``n_Y`` are the numbers of rows and columns. A flat pixel index is ``X * n_Y +
Y``. In a band, ``n_X`` is the number of rows of that band.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.noise_model import NoiseModel

FRAME_DTYPES = tuple(
    np.dtype(name) for name in ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
)
"""Types that frames can have."""

MAX_FRAMES = 65535
"""Largest number of frames in a run. More frames would overflow the exact sums."""

Array = NDArray[Any]

MOMENT_SIDE = 4096
"""Longest side of a box, pixels, for which `Measurements.moments` fit 64 bits. For sides up to a, a
sum of x^2 over pixels is below a * a^3 / 3 < 2^46.5, as are those of x, y, y^2 and x * y. Values of
8 and 16 bits, and both halves of values of 32 bits, are at most 2^16, so that no sum reaches
2^62.5.
"""
HALF_BITS = 16
"""Bits of the lower half of a value of 32 bits."""

FETCH_BYTES = 1 << 23
"""Bytes of packed masks that `Operations.fetch` copies from a device at a time."""

FACTOR_BITS = 16
"""Factors that scale frames to a common level are multiples of 2^-16."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Valid pixels and values of a stack. NaN and infinity are never valid."""

    pixels: NDArray[np.bool_] | None = None
    """(n_X, n_Y) bool: False pixels are invalid on every frame; None: no pixel is."""
    low: int | float | None = None
    """Smallest valid value, counts; None: no lower bound."""
    high: int | float | None = None
    """Largest valid value, counts; None: no upper bound."""

    def rows(self, begin: int, end: int) -> "Validity":
        """Return the validity of the rows from ``begin`` to ``end``, end exclusive."""
        return self if self.pixels is None else replace(self, pixels=self.pixels[begin:end])

    @property
    def n_masked(self) -> int:
        """Number of pixels that are invalid on every frame."""
        return 0 if self.pixels is None else int(self.pixels.size - np.count_nonzero(self.pixels))

    def bounds(self, dtype: np.dtype[Any]) -> tuple[int, int] | tuple[float, float]:
        """Return the smallest and the largest valid value of a type, counts.

        They are integers of the type for integer frames, and finite float64 for float frames. If no
        value is valid, the first is larger than the second.
        """
        if dtype.kind == "f":
            largest = float(np.finfo(np.float64).max)
            low = -largest if self.low is None else max(float(self.low), -largest)
            return low, largest if self.high is None else min(float(self.high), largest)
        least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        low = least if self.low is None else math.ceil(min(max(self.low, least), most + 1))
        high = most if self.high is None else math.floor(max(min(self.high, most), least - 1))
        return low, high

    def allows(self, values: Array) -> NDArray[np.bool_] | None:
        """Return which values are finite and within the bounds, in any pixel.

        Returns:
            bool array with the shape of ``values``; None: all values are.
        """
        is_float = values.dtype.kind == "f"
        usable = np.isfinite(values) if is_float else None
        for bound, compare in ((self.low, np.greater_equal), (self.high, np.less_equal)):
            if bound is not None:
                # NumPy would round a Python number to the type of float values
                within = compare(values, np.float64(bound) if is_float else bound)
                usable = within if usable is None else usable & within
        return None if usable is None or usable.all() else usable

    def marks(self, dtype: np.dtype[Any]) -> bool:
        """Return True if scaled frames of a type mark invalid values by the type's maximum."""
        return dtype.kind != "f" and (self.low is not None or self.high is not None)

    def of_scaled(self, dtype: np.dtype[Any]) -> "Validity":
        """Return the validity of scaled frames of a type."""
        return Validity(
            self.pixels, None, int(np.iinfo(dtype).max) - 1 if self.marks(dtype) else None
        )


@dataclass(frozen=True, slots=True)
class ConstantPart:
    """Part of the background that does not follow the beam, such as a detector's bias.

    At a level l of a frame over the run's, the background of a pixel is ``B + (l - 1) F`` with
    ``F = B + contrast (B - centre)``, from 0 to 2 B, or to ``(1 + contrast) B`` if that is more;
    pixels without counts are in proportion.
    """

    contrast: float
    """u: a bias of o counts has ``u = o / (centre - o)``."""
    centre: float
    """Background of pixels that follow the level in proportion, counts: about the mean one."""

    @property
    def most(self) -> float:
        """Largest F of a pixel over its background."""
        return max(2.0, 1.0 + self.contrast)

    def following(self, background: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return F of pixels, float64, counts."""
        line = background + self.contrast * (background - self.centre)
        most = self.most * np.maximum(background, 0.0)
        limited: NDArray[np.float64] = np.clip(line, 0.0, most)
        return np.where(background > 0, limited, background)


def following(
    background: NDArray[np.float64], constant_part: ConstantPart | None
) -> NDArray[np.float64]:
    """Return the part of the background of pixels that follows the levels, float64, counts.

    ``constant_part``: None: all of it does.
    """
    return background if constant_part is None else constant_part.following(background)


FLAT_BITS = 10
"""The knots of surfaces with one level are 2^10 pixels apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Levels of the pixels of frames over those of the run, in 2^-16, by their values at knots.

    Between knots, the level is interpolated along X, then along Y, each time rounded to 2^-16:
    ``(a * (d - w) + b * w + d / 2) >> bits`` with the distance ``d = 2**bits`` and ``w`` pixels
    from a to b.
    """

    knots: NDArray[np.int32]
    """(n, g_X, g_Y) int32, 2^-16: levels at the pixels that are multiples of the distance."""
    bits: int
    """The distance of the knots is 2^bits pixels."""
    first_row: int = 0
    """Row of the frame that is row 0 of the band."""

    @classmethod
    def flat(cls, levels: NDArray[np.int64], shape: tuple[int, int]) -> Self:
        """Return surfaces of frames of one level each, (n,) int64, 2^-16.

        ``shape``: n_X, n_Y.
        """
        n_knots = ((max(1, n) - 1 >> FLAT_BITS) + 2 for n in shape)
        knots = np.broadcast_to(levels.astype(np.int32)[:, None, None], (len(levels), *n_knots))
        return cls(knots, FLAT_BITS)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.knots)

    def __getitem__(self, frames: slice | NDArray[np.int64]) -> "Surface":
        """Return the surfaces of some frames."""
        return replace(self, knots=self.knots[frames])

    def below(self, rows: int) -> "Surface":
        """Return the surfaces of a band that begins so many rows further down."""
        return replace(self, first_row=self.first_row + rows)

    def background(
        self,
        frame: int,
        x: NDArray[np.int64],
        y: NDArray[np.int64],
        background: NDArray[np.float64],
        constant_part: ConstantPart | None,
    ) -> NDArray[np.float64]:
        """Return the background of some pixels on a frame, (p,) float64, counts.

        Args:
            frame: Index of the frame.
            x: (p,) int64: row of each pixel.
            y: (p,) int64: column of each pixel.
            background: (p,) float64, counts: background of each pixel at the level of the run.
            constant_part: Part of it that does not follow the levels; None: there is none.
        """
        level = self[frame : frame + 1].of_pixels(x, y)[0] / 2.0**FACTOR_BITS
        return background + (level - 1.0) * following(background, constant_part)

    def of_rows(self, frame: int, rows: slice, n_columns: int) -> NDArray[np.int32]:
        """Return the levels of some rows of a frame, (rows, n_Y) int32, 2^-16."""
        distance, half = 1 << self.bits, 1 << self.bits >> 1
        x = np.arange(self.first_row + rows.start, self.first_row + rows.stop)
        before, along = x >> self.bits, (x & (distance - 1)).astype(np.int32)[:, None]
        knots = self.knots[frame]
        lines = (knots[before] * (distance - along) + knots[before + 1] * along + half) >> self.bits
        steps = np.diff(lines, axis=1)[:, :, None]
        levels = steps * np.arange(distance, dtype=np.int32)
        levels += (lines[:, :-1, None] << self.bits) + half
        levels >>= self.bits
        return levels.reshape(len(x), -1)[:, :n_columns]

    def shape_change(self, n_rows: int, n_columns: int) -> float:
        """Return the change of the shape of the background from frame to frame, relative, rms.

        It is taken from the levels at knots, or at the edge of the frame where a knot is outside,
        over the mean of the frame. Frames with the same level everywhere do not count.
        """
        rows, columns = (
            np.minimum(np.arange(number) << self.bits, n - 1)
            for number, n in zip(self.knots.shape[1:], (n_rows, n_columns), strict=True)
        )
        x, y = (each.reshape(-1) for each in np.meshgrid(rows, columns, indexing="ij"))
        levels = self.of_pixels(x, y).astype(np.float64)
        levels = levels[np.ptp(levels, axis=1) > 0]
        if not len(levels):
            return 0.0
        shapes = levels / levels.mean(axis=1, keepdims=True)
        return float(np.std(shapes - shapes.mean(axis=0)))

    def of_pixels(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the levels of some pixels, (p,) int64 each, on all frames: (n, p) int64, 2^-16."""
        distance, half = 1 << self.bits, 1 << self.bits >> 1
        x = x + self.first_row
        i, j, along, across = x >> self.bits, y >> self.bits, x & (distance - 1), y & (distance - 1)

        def line(column: NDArray[np.int64]) -> NDArray[np.int64]:
            first, second = (self.knots[:, row, column].astype(np.int64) for row in (i, i + 1))
            return (first * (distance - along) + second * along + half) >> self.bits

        return (line(j) * (distance - across) + line(j + 1) * across + half) >> self.bits


def check_frame_count(n_frames: int) -> None:
    """Raise ValueError for more than `MAX_FRAMES` frames."""
    if n_frames > MAX_FRAMES:
        raise ValueError(f"{n_frames} frames: at most {MAX_FRAMES} can be summed exactly")


@dataclass(frozen=True, slots=True)
class IntegerMoments:
    """Exact statistics of the background sample of each pixel, for integer frames.

    All arrays are 0 where ``kept`` is 0.
    """

    kept: NDArray[np.int32]
    """(n_X, n_Y) int32: m, the number of values in the sample; 0: the pixel is masked."""
    total: NDArray[np.int64]
    """(n_X, n_Y) int64, counts: S, the sum of the sample."""
    scatter_low: NDArray[np.uint64]
    """(n_X, n_Y) uint64, counts^2: the lower word of m*Q - S*S, with Q the sum of squares."""
    scatter_high: NDArray[np.uint64] | None
    """(n_X, n_Y) uint64, 2^64 counts^2: the upper word of m*Q - S*S; None: 0 everywhere."""
    iqr4: NDArray[np.int64]
    """(n_X, n_Y) int64, counts: four times the interquartile range (quartiles of m values are
    multiples of 1/4).
    """
    max: Array
    """(n_X, n_Y), the frames' dtype, counts: maximum over all valid values."""
    arg: NDArray[np.int32]
    """(n_X, n_Y) int32: the first frame that has the maximum."""
    gaps: bool
    """True if a pixel that ``Validity.pixels`` allows is invalid on some, but not all frames."""
    dropped: NDArray[np.int32] | None = None
    """(n_X, n_Y) int32: blocks that the Kruskal-Wallis test rejected; None for n_removed."""


@dataclass(frozen=True, slots=True)
class FloatMoments:
    """Statistics of the background sample of each pixel, for float frames.

    They are computed in float64, with sums that begin at the smallest value. All arrays are 0 where
    ``kept`` is 0.
    """

    kept: NDArray[np.int32]
    """(n_X, n_Y) int32: m, the number of values in the sample; 0: the pixel is masked."""
    average: NDArray[np.float64]
    """(n_X, n_Y) float64, counts: S / m; if all values are equal, this value."""
    deviation: NDArray[np.float64]
    """(n_X, n_Y) float64, counts^2: sum of (value - average)^2."""
    iqr: NDArray[np.float64]
    """(n_X, n_Y) float64, counts: Q75 - Q25, linear interpolation."""
    max: Array
    """(n_X, n_Y), the frames' dtype, counts: maximum over all valid values."""
    arg: NDArray[np.int32]
    """(n_X, n_Y) int32: the first frame that has the maximum."""
    gaps: bool
    """True if a pixel that ``Validity.pixels`` allows is invalid on some, but not all frames."""
    dropped: NDArray[np.int32] | None = None
    """(n_X, n_Y) int32: blocks that the Kruskal-Wallis test rejected; None for n_removed."""


@dataclass(frozen=True, slots=True)
class FixedPointMean:
    """Background of each pixel as an exact fixed-point number.

    It is ``(high * 2^32 + low) / scale`` counts.
    """

    scale: int
    """Number m of values in the sample if all pixels have the same, else 2^32."""
    high: NDArray[np.int64] | None
    """(n_X, n_Y) int64: the upper part; None: 0 everywhere."""
    low: NDArray[np.uint32]
    """(n_X, n_Y) uint32: the lower 32 bits."""


@dataclass(frozen=True, slots=True)
class Background:
    """Background of each pixel, the result of the first pass. Masked pixels have statistics 0."""

    avg: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: average of the sample."""
    std: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: standard deviation of the sample, population."""
    iqr: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: interquartile range of the sample."""
    max: Array
    """(n_X, n_Y), the frames' dtype, counts: maximum over all valid values."""
    arg: NDArray[np.int32]
    """(n_X, n_Y) int32: the first frame that has the maximum."""
    threshold: Array
    """(n_X, n_Y) int32, int64 (32-bit frames) or float64 (float frames), counts: a valid value is
    in the raw mask if it is >= this.
    """
    n_used: NDArray[np.int32] | None
    """(n_X, n_Y) int32: values in the sample; None: all pixels that are not masked have the same
    number.
    """
    dropped: NDArray[np.int32] | None
    """(n_X, n_Y) int32: blocks that the Kruskal-Wallis test rejected; None for n_removed."""
    gaps: bool
    """True if a pixel that ``Validity.pixels`` allows is invalid on some, but not all frames."""
    mean: "FixedPointMean | NDArray[np.float64]"
    """The background to subtract: fixed point for integer frames, (n_X, n_Y) float64 counts for
    float frames.
    """
    validity: Validity
    """Valid values in masks and spots. Masked pixels are invalid here."""
    noise: NDArray[np.float32] | None = None
    """(n_X, n_Y) float32, counts: noise of a value, drawn towards the noise model; 0 where a pixel
    is masked. None: not known.
    """
    noise_model: NoiseModel | None = None
    """Variance as a function of the background; None: not known."""
    flagged: NDArray[np.bool_] | None = None
    """(n_X, n_Y) bool: hot and cold pixels; None: the method does not look for them."""
    static: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """X and Y of spots that stay in the background, as they are on many frames, (n, 2) int64."""
    n_sampled: int = 1
    """Values in the sample of each pixel that is not masked, where ``n_used`` is None."""
    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the levels of the frames; None: there is none."""
    follows: Array | None = None
    """(n_X, n_Y): part of the background that `Operations.levelled` multiplies: int64, 1/16 counts,
    rounded down, for integer frames, float64 counts for float frames. None: no frames are levelled.
    """
    held: Any = None
    """Copies of these maps in the memory of the backend (`Operations.allocate_background`);
    None: nothing.
    """


@dataclass(frozen=True, slots=True)
class Morphology:
    """Erosions and dilations that turn raw masks into filtered ones."""

    erosions: int
    """Number of binary erosions. Pixels outside of the frame are False."""
    dilations: int
    """Number of binary dilations after the erosions."""
    connectivity: int
    """1: cross of five pixels; 2: square of nine."""


class HeldFrames(Protocol):
    """Frames in the memory of a backend."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the frames, (n, n_X, n_Y)."""

    def __getitem__(self: "Frames", part: slice | tuple[slice, slice], /) -> "Frames":
        """Return some of the frames, or of the rows of all, as a view."""


class HeldMasks(Protocol):
    """Masks in the memory of a backend."""

    def __len__(self) -> int:
        """Return the number of masks."""

    def __getitem__(self: "Masks", masks: slice, /) -> "Masks":
        """Return some of the masks, as a view."""


Frames = TypeVar("Frames", bound=HeldFrames)
"""Type of the frames in the memory of a backend."""
Masks = TypeVar("Masks", bound=HeldMasks)
"""Type of the masks in the memory of a backend, in its own packed form."""


@dataclass(frozen=True, slots=True)
class FoundMasks(Generic[Masks]):
    """Masks of a batch of frames."""

    raw: Masks
    """Pixels at or above their threshold, one mask per frame."""
    filtered: Masks
    """Raw masks after erosions and dilations, valid pixels only, one mask per frame."""
    invalid: Masks | None
    """Pixels whose value on the frame is invalid, one mask per frame; None: all invalid pixels are
    those of ``Validity.pixels``.
    """


@dataclass(frozen=True, slots=True)
class PackedImages:
    """Masks in host memory, one bit per pixel. An index or a slice unpacks some of them."""

    octets: NDArray[np.uint8]
    """(k, n_X, b) uint8: column ``j`` is bit ``j % 8`` of byte ``j // 8``; unused bits are 0."""
    n_columns: int
    """Number of columns of a mask, n_Y."""

    def __getitem__(self, masks: int | slice) -> NDArray[np.uint8]:
        """Return one image, (n_X, n_Y) uint8, 0 or 1, or several, (k, n_X, n_Y)."""
        return np.unpackbits(self.octets[masks], axis=-1, bitorder="little", count=self.n_columns)

    def clear(self, masks: NDArray[np.int64], pixels: NDArray[np.int64]) -> None:
        """Take pixels out of masks: flat indices, and the mask of each, (z,) int64 both."""
        x, y = np.divmod(pixels, self.n_columns)
        other_bits = ~(np.uint8(1) << (y & 7).astype(np.uint8))
        np.bitwise_and.at(self.octets, (masks, x, y >> 3), other_bits)


@dataclass(frozen=True, slots=True)
class Components:
    """Connected components of a batch of masks, as lists of their pixels."""

    pixels: NDArray[np.int64]
    """(p,) int64: flat pixel index in the frame; by mask, then label, ascending inside a component.
    """
    begin: NDArray[np.int64]
    """(c + 1,) int64: component ``i`` has the pixels ``begin[i]`` to ``begin[i + 1]``."""
    box: NDArray[np.int32]
    """(c, 4) int32: X begin, X end, Y begin, Y end; ends exclusive."""
    first: NDArray[np.int64]
    """(k + 1,) int64: mask ``j`` has the components ``first[j]`` to ``first[j + 1]``, labelled 1,
    2, ... in raster order.
    """
    held: Any = None
    """Copies of these components in the memory of the backend, for `measure`; None: nothing."""

    @property
    def counts(self) -> NDArray[np.int32]:
        """(k,) int32: components of each mask."""
        return np.diff(self.first).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Measurements:
    """Sums over the pixels of components on frames: one row per component and frame.

    Rows are ordered by frame, then label. For float frames, ``background_*`` are None.
    """

    total: Array
    """(s,) int64: sum of the values; float frames: float64, sum of value - background, in ascending
    pixel order.
    """
    background_high: NDArray[np.int64] | None
    """(s,) int64: sum of ``FixedPointMean.high``."""
    background_low: NDArray[np.int64] | None
    """(s,) int64: sum of ``FixedPointMean.low``."""
    peak: NDArray[np.int64]
    """(s,) int64: flat index of the largest value; ties: the first in raster order."""
    overload: NDArray[np.int64] | None
    """(s,) int64: number of saturated pixels; None: the saturation is unknown."""
    largest: Array
    """(s,) int64, float64 for float frames, counts: the largest value."""
    n_maxima: NDArray[np.int64]
    """(s,) int64: local maxima, see `gpu_spots.columns`."""
    moments: Array
    """(5, s) int64: sums of value * u, where u is x, y, x^2, y^2 and x * y, and x and y begin with
    0 in the box of the component; for frames of 32 bits the sums of (value mod 2^16) * u. Float
    frames: float64, sums of (value - background) * u, in ascending pixel order. Meaningless for
    boxes with a side of more than `MOMENT_SIDE`.
    """
    moments_high: NDArray[np.int64] | None
    """(5, s) int64: sums of floor(value / 2^16) * u for integer frames of 32 bits, else None."""
    values: Array | None = None
    """(v,), the frames' dtype, counts: values of all pixels of each spot, one spot after the other,
    pixels ascending; None: they were not asked for.
    """
    excess: NDArray[np.float64] | None = None
    """(6, s) float64, counts times pixel^k: sums of E, E x, E y, E x^2, E y^2 and E x y, where E is
    the background of a pixel on its frame less that at the level of the frame; None: there is none.
    """

    @classmethod
    def joined(cls, parts: "Sequence[Measurements]") -> "Measurements":
        """Return the measurements of consecutive frames, of at least one part, as one."""
        joined: dict[str, Any] = {
            each.name: None
            if getattr(parts[0], each.name) is None
            else np.concatenate([getattr(part, each.name) for part in parts], axis=-1)
            for each in fields(cls)
        }
        return cls(**joined)


SpotTable = Mapping[str, Array]
"""Columns of the spots, masks and frames of a run, by path in the spots file.

`gpu_spots.columns` has the records of all paths, with types, shapes and units. Optional columns are
absent if they are unknown.
"""

GIVEN_BY = {"angle": ("angles_path", "table"), "laser_on": ("laser_path", "table")}
"""Parameters that can give a column which a file does not have."""

Columns = Mapping[str, Array]
"""Metadata of a run: column name to one value per frame."""


class LocatedColumns(dict[str, Array]):
    """Metadata with the origin of each column, for messages."""

    def __init__(
        self,
        columns: Columns,
        origin: Mapping[str, str],
        missing: Mapping[str, str],
        given_by: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Keep the columns and what messages say about them.

        Args:
            columns: column name to values.
            origin: column name to its place in the file, or elsewhere.
            missing: column name to the reason why it was not found.
            given_by: column name to the parameters that can give it; None: `GIVEN_BY`.
        """
        super().__init__(columns)
        self.origin = origin
        self.missing = missing
        self.given_by = GIVEN_BY if given_by is None else given_by
