"""Clip of 8- and 16-bit values that are close together, as bytes that are sorted where they are.

What does not fit a byte, like a pixel that a strong spot stays on, is left to `clip_values`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.clip_values import (
    Counts,
    Floats,
    Sums,
    columns_left_out,
    exact_scatter,
    first_of,
    largest_left_out,
    of_sums,
    quartiles_at,
    shifted,
    some_left_out,
)
from cpu_fallback.moments import Band, Tile, narrow_sums
from cpu_fallback.narrow import CUT, Sorter
from gpu_spots.background.clip import limit, unclipped
from gpu_spots.background.methods import Clip
from gpu_spots.model import Array

ROOMY = 1.4
"""Values are narrow if so many times the usual range of a pixel fits a byte."""
MOST_WHOLE = 0.75
"""Share of the pixels, at least, that have no invalid values."""


def _are_narrow(lowest: Array, largest: Array) -> bool:
    """Return whether the values of most pixels, from ``lowest`` to ``largest`` (p,), are narrow."""
    some = slice(None, None, 32)
    return ROOMY * float(np.median(largest[some] - lowest[some].astype(np.int64))) < CUT


def narrowed(
    tile: Tile,
    sorter: Sorter | None,
    base: Counts | int = 0,
    out: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> "Narrow | None":
    """Return the values of a tile, ascending, if they are narrow and most pixels have no others.

    Args:
        tile: values of 8 or 16 bits.
        sorter: room for them; None: they are not narrow.
        base: (p,): what was subtracted from them before.
        out: frame and pixel of values that are left out; None: there are none.
    """
    sorter = None if sorter is None else sorter.of_pixels(tile.values.shape[1])
    if sorter is None:
        return None
    is_whole: Any = None if tile.usable is None else tile.usable.all(axis=0)
    if is_whole is not None and np.count_nonzero(is_whole) < MOST_WHOLE * is_whole.size:
        return None
    lowest, largest = tile.lowest, tile.largest
    if not _are_narrow(lowest, largest):
        return None
    sorter.load(tile.values, lowest)
    if out is not None:
        sorter.bytes[out] = CUT
    sorter.sort()
    least, most = (each.astype(np.int64) + base for each in (lowest, largest))
    return Narrow(sorter, least, most, is_whole)


class Narrow:
    """Pixels whose sorted values less a base are bytes."""

    def __init__(
        self, sorter: Sorter, base: Counts, largest: Counts, is_whole: NDArray[np.bool_] | None
    ) -> None:
        """Take the values of ``sorter``, which are less ``base`` (p,).

        ``largest`` (p,): their largest. ``is_whole`` (p,): where all are valid; None: everywhere.
        """
        self.sorter, self.base, self.largest = sorter, base, largest
        self._is_whole = np.ones(len(base), bool) if is_whole is None else is_whole
        self.values = sorter.bytes[:, : len(base)]

    def starts(self, method: Clip) -> tuple[Floats, Sums, NDArray[np.int64]]:
        """Return the first background (p,) for the clip; see `clip_values.starts`.

        And the sums of the values that it comes from, and the pixels whose background is unknown.
        """
        n = len(self.values)
        m = int(method.start.kept[n])
        low = self.sorter.sums(0, m, len(self.base))
        mean, population, _ = of_sums(float(m), *shifted(m, *low, self.base))
        shift, width = float(method.start.shift[n]), float(method.start.width[n])
        start, _ = first_of(mean, population, shift, width)
        return start, low, np.flatnonzero((self.values[m - 1] == CUT) | ~self._is_whole)

    def store(self, band: Band, where: Any, method: Clip, low: Sums | None) -> NDArray[np.int64]:
        """Store the statistics of all pixels after the clip, and return those that are left.

        ``low``: sums of the first values that `starts` took; None: unknown.
        """
        values, base = self.values, self.base
        n = len(values)
        m = int(method.start.kept[n])
        shift, width = float(method.start.shift[n]), float(method.start.width[n])
        low = self.sorter.sums(0, m, len(base)) if low is None else low
        mean, population, _ = of_sums(float(m), *shifted(m, *low, base))
        most = limit(*first_of(mean, population, shift, width), 1.0)
        columns = columns_left_out(n, m)
        more, top = (
            self.sorter.sums(*part, len(base)) for part in ((m, n - columns), (n - columns, n))
        )
        low = low[0] + more[0], low[1] + more[1]
        total, square = low[0] + top[0], low[1] + top[1]
        mean, _, variance = of_sums(float(n), *shifted(n, total, square, base))
        # pixels that keep all values in the first step and in the second do so in all
        then = limit(*unclipped(mean, variance, 1.0), 1.0)
        pixels = np.flatnonzero(~((self.largest <= most) & (self.largest <= then)))
        kept, iqr4 = np.full(len(base), n), _quartiles(values)
        if len(pixels):
            kept[pixels], total[pixels], square[pixels] = self._left_out(
                pixels, m, columns, low, most
            )
            flat = self.sorter.bytes.reshape(-1)
            iqr4[pixels] = quartiles_at(flat, pixels, self.sorter.bytes.shape[1], kept[pixels])
        known = self._is_whole & (values[m - 1] < CUT)
        known &= (kept > 0) & ((kept < n) | (self.largest - base < CUT))
        band.kept[where], band.total[where] = kept, total + kept * base
        band.scatter_low[where] = exact_scatter(kept, total, square)
        band.iqr4[where] = iqr4
        return np.flatnonzero(~known)

    def quartiles(self, kept: Counts) -> tuple[Counts, NDArray[np.int64]]:
        """Return 4 * (Q75 - Q25) of the ``kept`` smallest values (p,), and where it is unknown."""
        flat, pixels = self.sorter.bytes.reshape(-1), np.arange(len(kept))
        step = self.sorter.bytes.shape[1]
        iqr4 = quartiles_at(flat, pixels, step, kept)
        last = np.maximum(kept - 1, 0)
        highest = flat.take(pixels + step * np.minimum((3 * last >> 2) + 1, last))
        return iqr4, np.flatnonzero((highest == CUT) | ~self._is_whole)

    def _left_out(
        self, pixels: NDArray[np.int64], m: int, columns: int, low: Sums, most: Floats
    ) -> tuple[Counts, Floats, Floats]:
        """Leave out the largest values of some pixels; see `some_left_out`.

        ``low``: sums of all values but the last ``columns``.
        """
        values, base, most = self.values, self.base[pixels], most[pixels]
        n = len(values)
        top = values[n - columns :].take(pixels, axis=1)
        kept, total, square, beyond = largest_left_out(
            top, n, (low[0][pixels], low[1][pixels]), most, base, CUT
        )
        again = np.flatnonzero(beyond)
        if len(again):
            rows = np.ascontiguousarray(values.take(pixels[again], axis=1).T)
            sums = narrow_sums(rows[:, :m])
            found = some_left_out(rows, m, sums, most[again], base[again], CUT)
            kept[again], total[again], square[again] = found
        return kept, total, square


def _quartiles(values: NDArray[np.uint8]) -> Counts:
    """Return 4 * (Q75 - Q25) of ascending values (n, p)."""
    last = len(values) - 1
    result = np.zeros(values.shape[1], np.int64)
    for sign, quarters in ((1, 3 * last), (-1, last)):
        index, rest = divmod(quarters, 4)
        result += sign * (4 - rest) * values[index].astype(np.int64)
        if rest:
            result += sign * rest * values[index + 1].astype(np.int64)
    return result
