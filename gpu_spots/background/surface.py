"""Level of each frame as a smooth surface: ``--normalise surface``.

The level of a pixel on a frame, over the run's, is interpolated between knots, which are whole
numbers of 2^-16. The interpolation is one of integers, so that it is equal on every backend.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS

LEAST_BITS, MOST_BITS = 6, 10
"""Binary logarithms of the smallest and the largest distance of knots, pixels."""
INTERVALS = 8
"""Intervals along the longer side of a frame, where the limits of the distance allow it."""
LARGEST_KNOT = 1 << (FACTOR_BITS + 4)
"""Largest level of a knot; the smallest is its inverse. Products with distances fit 32 bits."""
ONE = 1 << FACTOR_BITS
"""Level of the run."""


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

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.knots)

    def __getitem__(self, frames: slice | NDArray[np.int64]) -> "Surface":
        """Return the surfaces of some frames."""
        return replace(self, knots=self.knots[frames])

    def below(self, rows: int) -> "Surface":
        """Return the surfaces of a band that begins so many rows further down."""
        return replace(self, first_row=self.first_row + rows)

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

    def of_pixels(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the levels of some pixels, (p,) int64 each, on all frames: (n, p) int64, 2^-16."""
        distance, half = 1 << self.bits, 1 << self.bits >> 1
        x = x + self.first_row
        i, j, along, across = x >> self.bits, y >> self.bits, x & (distance - 1), y & (distance - 1)

        def line(column: NDArray[np.int64]) -> NDArray[np.int64]:
            first, second = (self.knots[:, row, column].astype(np.int64) for row in (i, i + 1))
            return (first * (distance - along) + second * along + half) >> self.bits

        return (line(j) * (distance - across) + line(j + 1) * across + half) >> self.bits


def distance_bits(n_rows: int, n_columns: int) -> int:
    """Return the binary logarithm of the distance of knots for frames of a size."""
    bits = LEAST_BITS
    while bits < MOST_BITS and max(n_rows, n_columns) > INTERVALS << bits:
        bits += 1
    return bits


def knots_for(n_rows: int, n_columns: int, bits: int) -> tuple[int, int]:
    """Return the number of knots along X and along Y."""
    return ((n_rows - 1) >> bits) + 2, ((n_columns - 1) >> bits) + 2


def corners(
    x: NDArray[np.float64], y: NDArray[np.float64], n_columns: int, bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield number and weight of each of the four knots about places, (p,) int64 and float64.

    Args:
        x: (p,) float64: place along X, pixels.
        y: (p,) float64: place along Y, pixels.
        n_columns: g_Y, knots of a row.
        bits: Binary logarithm of the distance of knots.
    """
    distance = float(1 << bits)
    i, j = (np.floor(each / distance).astype(np.int64) for each in (x, y))
    u, v = x / distance - i, y / distance - j
    for down, of_x in ((0, 1.0 - u), (1, u)):
        for right, of_y in ((0, 1.0 - v), (1, v)):
            yield (i + down) * n_columns + j + right, of_x * of_y
