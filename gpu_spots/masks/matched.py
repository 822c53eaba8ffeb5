"""Significance of pixels in the matched finder: maps of its constants, levels, and groups.

The rule is `docs/decisions/matched-finder.md`. A backend works on integers only; whatever needs
floating point is computed here, once a run, by correctly rounded float64 operations in a fixed
order. `gpu_spots.masks.kernels` has the maps that are smoothed from it,
`gpu_spots.masks.seed_levels` the levels of seeds. ``s`` is the unit of the significance, see
`gpu_spots.masks.noise_map`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.memory.workers import Span, in_order
from gpu_spots.model import Array, Validity, following

GROWN_PIXELS = 1 << 23
"""Pixels of frames whose spots grow together: fewer calls, for which threads wait."""
UNIT = 16
"""Units of a pixel's significance in one ``s``."""
ZERO = 64
"""Significance of a pixel at its background, and of every place without a valid value."""
BITS = 16
"""Bits of fraction of the significance while it is computed."""
FURTHEST = 16000
"""A frame's value is limited so that its significance is at most this far from `ZERO`."""
LARGEST_SHIFT = 5843
"""The level of a frame moves the significance of a pixel by at most so many units."""
LEVEL_BITS = 8
"""Bits of fraction of the background in units of ``s``, which frame levels are multiplied by."""
LARGEST_LEVEL = (1 << 19) - 1
"""Largest background in these units."""
CLIP = 511
"""Significance is limited to so much, either way, before it is smoothed for seeds."""
STEPS = 5
"""Steps that a mask may grow down the height of its spot; one step more goes to any pixel."""
LARGEST_SUM = 21844
"""The significance of a group is limited to be so far from `ZERO`."""
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
"""Order in which the pixels of a 4 x 4 square round up: sums over pixels are not biased then."""
BAND_PIXELS = 1 << 16
"""Pixels of a band in the computation of maps: few enough for the cache."""


@dataclass(frozen=True, slots=True)
class SignificanceMaps:
    """Maps that turn the values of a frame into significance.

    Integer frames: ``p = (min(max(I, low), high) * gain - offset - level shift) >> 16``, see
    `level_shift`. Float frames: ``p = floor((I - offset * level) * gain + 64 + rounding)``.
    """

    gain: Array
    """(n_X, n_Y) int32: units per count in 2^-16; float frames float64, units per count.

    0 for pixels that are not usable.
    """
    offset: Array
    """(n_X, n_Y) int32, modulo 2^32; float frames: float64, the background in counts."""
    low: Array | None
    """(n_X, n_Y), type of the frames: smallest value that is told apart; None: the type's, or
    float frames.
    """
    high: Array | None
    """(n_X, n_Y), type of the frames: largest value that is told apart; None: float frames."""
    level: NDArray[np.int32] | None
    """(n_X, n_Y) int32: part of the background that follows the level, in units of ``s`` in 2^-8;
    None: float frames.
    """
    usable: NDArray[np.bool_] | None
    """(n_X, n_Y) bool: pixels that may be in masks; None: all."""
    validity: Validity | None
    """Valid values of a frame; None: all values of usable pixels."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    streaks: bool
    """Maps of lines are computed too."""


def significance_maps(of: NoiseMap, *, streaks: bool, workers: int) -> SignificanceMaps:
    """Return the constants that turn frames into significance."""
    is_float = of.dtype.kind == "f"
    shape, wide = of.shape, np.float64 if is_float else np.int32
    gain, offset = np.empty(shape, wide), np.empty(shape, wide)
    usable = np.empty(shape, bool)
    low = high = level = None
    if not is_float:
        low, high, level = (
            np.empty(shape, of.dtype),
            np.empty(shape, of.dtype),
            np.empty(shape, np.int32),
        )

    def fill(span: Span) -> bool:
        rows = slice(*span)
        good = usable[rows] = of.usable(rows)
        unit = np.where(good, of.unit(rows), 1.0)
        if is_float:
            gain[rows] = np.where(good, UNIT / unit, 0.0)
            offset[rows] = np.where(good, of.mean[rows], 0.0)
            return False
        limits = np.iinfo(of.dtype)
        mean = np.clip(of.mean[rows], limits.min, limits.max)
        factor = np.where(good, np.rint(UNIT * 2.0**BITS / unit), 0.0)
        whole = factor.astype(np.int64)
        zero = np.rint(np.where(good, mean, 0.0) * factor).astype(np.int64)
        zero -= (ZERO << BITS) + np.where(good, rounding(rows, shape[1]), 0)
        gain[rows] = whole
        offset[rows] = _modulo(zero)
        divisor = np.maximum(whole, 1)
        most = ((FURTHEST << BITS) + (1 << BITS) - 1 + zero) // divisor
        least = -((-(-(FURTHEST << BITS) + zero)) // divisor)
        assert low is not None
        assert high is not None
        assert level is not None
        high[rows] = np.where(good, np.clip(most, limits.min, limits.max), limits.max)
        low[rows] = np.where(good, np.clip(least, limits.min, limits.max), limits.min)
        follows = following(mean, of.constant_part)
        in_units = np.rint(np.clip(follows / unit, -(2.0**11), 2.0**11) * 2.0**LEVEL_BITS)
        level[rows] = np.where(good, np.clip(in_units, -LARGEST_LEVEL, LARGEST_LEVEL), 0)
        return bool((low[rows] > limits.min).any())

    limited = list(in_order(fill, bands(shape), workers))
    return SignificanceMaps(
        gain=gain,
        offset=offset,
        low=low if any(limited) else None,
        high=high,
        level=level,
        usable=None if usable.all() else usable,
        validity=of.validity if of.gaps or is_float else None,
        dtype=of.dtype,
        streaks=streaks,
    )


def rounding(rows: slice, n_columns: int) -> NDArray[np.int64]:
    """Return what is added to the significance of each pixel before it is rounded down, in 2^-16.

    (rows, n_Y) int64: 1/32, 3/32 ... 31/32, each once in any 4 x 4 pixels.
    """
    four_rows = ((2 * BAYER + 1) << (BITS - 5))[:, np.arange(n_columns) & 3]
    every: NDArray[np.int64] = four_rows[np.arange(rows.start, rows.stop) & 3]
    return every


def _modulo(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the lower 32 bits."""
    return (values & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def bands(shape: tuple[int, int]) -> Iterator[Span]:
    """Yield stretches of rows, few enough pixels for the cache; they begin at multiples of 4."""
    step = max(4, BAND_PIXELS // shape[1] // 4 * 4)
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def level_shift(relative_level: int) -> tuple[int, int, int]:
    """Return how the level of a frame moves the significance.

    The shift of a pixel is ``L * factor`` times ``2**up`` (down: rounded down), limited to
    `LARGEST_SHIFT` units, where ``L`` is `SignificanceMaps.level` limited to ``largest``.

    Args:
        relative_level: level of the frame over that of the run, in 2^-16.

    Returns:
        factor, up (negative: bits to shift right), largest.

    >>> level_shift(65536 + 655)
    (655, -4, 524287)
    """
    factor, bits = relative_level - (1 << BITS), BITS
    while abs(factor) >= 1 << 11:
        factor, bits = (factor + 1) >> 1, bits - 1
    up = BITS + 4 - LEVEL_BITS - bits
    # |L factor 2^up| <= LARGEST_SHIFT 2^16
    room = LARGEST_SHIFT << BITS
    most = (room >> up if up >= 0 else room << -up) // max(1, abs(factor))
    return factor, up, min(most, LARGEST_LEVEL)


def surface_shift(background: NDArray[np.int32], levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return by how much the levels of pixels move their significance, int32, units in 2^-16.

    It is ``(L * (level - 2^16)) >> 4``, limited to `LARGEST_SHIFT` units.

    Args:
        background: `SignificanceMaps.level` of some pixels.
        levels: Level of each over that of the run, int32, 2^-16.
    """
    wide = background * (levels.astype(np.int64) - (1 << BITS))
    wide >>= LEVEL_BITS - 4
    limit = LARGEST_SHIFT << BITS
    return np.clip(wide, -limit, limit).astype(np.int32)


def grown_at_once(n_frames: int, n_pixels: int) -> int:
    """Return of how many frames or groups of a batch on the host spots grow together.

    It is a quarter of the batch at most, as lists of pixels take memory.
    """
    return max(1, min(GROWN_PIXELS // n_pixels, n_frames // 4))


def group_scale(size: int) -> tuple[int, int]:
    """Return how the sum of a group becomes a significance.

    ``p = 64 + ((limited sum * factor + rounding) >> 16)``.

    Returns:
        limit of the sum, either way, and factor: 65536 / sqrt(size), rounded.
    """
    factor = int(np.rint(65536 / np.sqrt(float(size))))
    return (LARGEST_SUM - ZERO) * (1 << BITS) // factor, factor
