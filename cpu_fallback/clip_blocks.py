"""Clip of a pixel's blocks of frames: blocks whose mean stands out are left out as a whole."""

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.clip_narrow import narrowed
from cpu_fallback.clip_values import (
    Counts,
    Floats,
    as_float,
    exact_scatter,
    number_of,
    quartiles,
)
from cpu_fallback.moments import Band, Tile, fill, largest_of, places
from cpu_fallback.narrow import Sorter
from cpu_fallback.trimmed import sorting_dtype
from gpu_spots.background.clip import (
    BLOCK_MARGIN,
    BLOCK_STEPS,
    at_run_level,
    limit,
    lower_half,
)
from gpu_spots.background.methods import Clip
from gpu_spots.model import FACTOR_BITS, Array

LEVEL_1 = 2.0**FACTOR_BITS
"""The level of the run."""
FEW_BLOCKS = 16
"""Blocks whose means are faster put in order by exchanges than pixel by pixel."""
TILE_VALUES = 3 << 18
"""Values of a tile where blocks are compared: so many that threads seldom wait for the interpreter.
"""


def store_blocks(
    band: Band,
    tile: Tile,
    comparison: "Comparison",
    blocks: FrameBlocks,
    sorter: Sorter | None = None,
    *,
    is_levelled: bool = False,
) -> None:
    """Store the statistics of a tile without the blocks that stand out.

    ``sorter``: room for values that may be narrow. ``is_levelled``: values are what is left of 8-
    or 16-bit values; invalid ones are the largest.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        left = comparison.left()
    usable = None if is_levelled else tile.usable
    if comparison.lowest is not None:
        kept = comparison.size(left)
        quartiles = _quartiles(
            tile if usable is tile.usable else replace(tile, usable=usable),
            left,
            kept,
            blocks,
            sorter,
        )
        comparison.store(band, tile.where, left, kept, quartiles)
        return
    rows = _without(tile.values, usable, _left_out(left, blocks))
    if usable is None and left.all():
        band.sample(tile.where, rows)
    else:
        band.sample_counted(places(tile.where), rows, comparison.size(left), int)


def _quartiles(
    tile: Tile,
    left: NDArray[np.bool_],
    kept: Counts,
    blocks: FrameBlocks,
    sorter: Sorter | None,
) -> Counts:
    """Return 4 * (Q75 - Q25) of the ``kept`` values (p,) of the blocks left."""
    out = _left_out(left, blocks)
    found = narrowed(tile, sorter, out=out)
    if found is None:
        return quartiles(_without(tile.values, tile.usable, out), kept)
    result, unknown = found.quartiles(kept)
    if len(unknown):
        out = _left_out(left.take(unknown, axis=1), blocks)
        rows = _without(tile.values.take(unknown, axis=1), None, out)
        result[unknown] = quartiles(rows, kept[unknown])
    return result


def _without(
    values: Array,
    usable: NDArray[np.bool_] | None,
    out: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Array:
    """Return values (n, p) in ascending rows (p, n), those that are not left ``out`` first."""
    rows = np.empty(values.shape[::-1], sorting_dtype(values.dtype))
    fill(values, usable, rows)
    rows[out[::-1]] = largest_of(values.dtype)
    rows.sort(axis=1)
    return rows


def _left_out(
    left: NDArray[np.bool_], blocks: FrameBlocks
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return frame and pixel of each value that is left out, where ``left`` (b, p) is false."""
    block, pixel = np.divmod(np.flatnonzero(~left), left.shape[1])
    size = np.diff(blocks.begin)[block]
    end = size.cumsum()
    place = np.arange(size.sum()) + np.repeat(blocks.begin[block] - (end - size), size)
    return blocks.order.take(place), np.repeat(pixel, size)


class Comparison:
    """The blocks of some pixels, (b, p) each, while it is decided which are kept."""

    def __init__(
        self, tile: Tile, blocks: FrameBlocks, shifts: Floats, base: Counts | None = None
    ) -> None:
        """Compare the blocks of a tile.

        ``base`` (p,): what was subtracted from 8- or 16-bit values; None: nothing.
        """
        is_float = tile.values.dtype.kind == "f"
        self.quantum = 0.0 if is_float else 1.0
        self.sizes: Counts
        """(b, p), or (b, 1) where all values are valid."""
        self.totals: Array
        """(b, p): int64, or float64, exact where they are integers."""
        self.lowest: Floats | None = None
        """(p,) float64: smallest value of a pixel, 8- and 16-bit values; else None."""
        if is_float:
            self.sizes, self.totals, self.scatters = _float_sums(tile, blocks)
        elif tile.values.dtype.itemsize > 2:
            self.sizes, self.totals, self.scatters = _integer_sums(tile, blocks)
        else:
            self.lowest, self.sizes, self.sums, self.squares, keys = _short_sums(tile, blocks)
            if base is not None:
                self.lowest += base
            number = self.sizes.astype(np.float64)
            self.totals = self.sums + number * self.lowest
            self.scatters = as_float(exact_scatter(self.sizes, self.sums, self.squares))
            self.scatters /= np.maximum(number, 1.0)
        if tile.usable is None:
            self.sizes = self.sizes[:, :1]
        self.number = self.sizes.astype(np.float64)
        self.means = self.totals / self.number
        self.all_there = bool((self.sizes > 0).all())
        self.there = np.broadcast_to(self.sizes > 0, self.means.shape)
        if not self.all_there:
            self.means[~self.there] = np.inf
        self.equal = self.all_there and bool((self.sizes == self.sizes[0, 0]).all())
        """All blocks of all pixels have as many values."""
        if self.equal:
            # the limit of all blocks of a pixel is one number
            self.number = self.number[:1]
        n_blocks = number_of(self.there) if not self.all_there else len(self.means)
        n_values = self.sizes.sum(axis=0).astype(np.float64)
        half = np.broadcast_to(
            np.array([lower_half(b) for b in range(len(shifts))])[n_blocks], self.means.shape[1:]
        )
        if self.lowest is None or not self.equal:
            keys = self.means
        self.first = self._lowest(half, keys)
        """(b, p) bool: the blocks of lowest mean, which are taken first."""
        bits = _bits(self.first)
        mean = _in_order(self.means, bits) / np.maximum(half, 1)
        self.of_first = mean
        """(p,) float64, counts: mean of these blocks."""
        self.variance = self._pooled(self.first, bits, self.size(self.first))
        error = np.divide(
            self.variance * n_blocks, n_values, out=np.zeros_like(mean), where=n_values > 0
        )
        self.mean = mean + shifts[n_blocks] * np.sqrt(error)

    def start(self, method: Clip) -> Floats:
        """Return the background (p,) that values are levelled by, counts, at the run's level."""
        levels = method.block_levels()
        if levels is None:
            return self.mean
        # the lowest blocks are rather those of low levels than of low noise
        mean, half = self.of_first, number_of(self.first)
        level = np.einsum("b,bp->p", levels.astype(np.float64), self.first)
        above = (level - LEVEL_1 * half) / (LEVEL_1 * np.maximum(half, 1))
        return at_run_level(mean, above, method.constant_part)

    def left(self) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks that are kept; those without valid values are not."""
        if not self.equal:
            return self._steps(self.mean, self.variance)
        # pixels that keep all blocks in the first step and in the second do so in all
        left = np.ones(self.means.shape, bool)
        most, then = (
            limit(mean, variance, self.quantum, self.number[0], BLOCK_MARGIN)
            for mean, variance in ((self.mean, self.variance), self._moments_of_all())
        )
        highest = self._highest()
        pixels = np.flatnonzero(~((highest <= most) & (highest <= then)))
        if len(pixels):
            left[:, pixels] = self._of(pixels)._steps(self.mean[pixels], self.variance[pixels])
        return left

    def _highest(self) -> Floats:
        """Return the highest mean of the blocks of each pixel."""
        return self.means.max(axis=0)

    def _of(self, pixels: NDArray[np.int64]) -> "Comparison":
        """Return what `_steps` needs of some pixels; all blocks have valid values."""
        part = self._part(pixels)
        part.totals = self.totals.take(pixels, axis=1)
        return part

    def _part(self, pixels: NDArray[np.int64]) -> "Comparison":
        """Return the same without the totals."""
        part = copy(self)
        part.scatters = self.scatters.take(pixels, axis=1)
        part.means = self.means.take(pixels, axis=1)
        part.there = self.there[:, : len(pixels)]
        if self.sizes.shape[1] > 1:
            part.sizes = self.sizes.take(pixels, axis=1)
        return part

    def _steps(self, mean: Floats, variance: Floats) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks that are kept, from the mean and variance of the first."""
        for step in range(BLOCK_STEPS):
            left = self.means <= limit(mean, variance, self.quantum, self.number, BLOCK_MARGIN)
            left &= self.there
            none = np.flatnonzero(~left.any(axis=0))
            if len(none):
                left[self.means[:, none].argmin(axis=0), none] = self.there[:, none].any(axis=0)
            if step < BLOCK_STEPS - 1:
                mean, variance = self._moments(left)
        return left

    def store(
        self,
        band: Band,
        where: Any,
        left: NDArray[np.bool_],
        kept: Counts,
        iqr4: Counts,
    ) -> None:
        """Store the statistics of 8- or 16-bit values.

        Args:
            band: receiver of the statistics.
            where: places of the pixels.
            left: (b, p) bool: the blocks that are kept.
            kept: (p,) int64: how many values they have.
            iqr4: (p,) int64: 4 * (Q75 - Q25) of these.
        """
        self._store(band, where, iqr4, kept, *self.sums_of(left))

    def sums_of(self, left: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return sums of 8- or 16-bit values of the blocks left, less the lowest, and squares."""
        bits = _bits(left)
        return _in_order(self.sums, bits), _in_order(self.squares, bits)

    def _store(
        self, band: Band, where: Any, iqr4: Counts, kept: Counts, total: Floats, square: Floats
    ) -> None:
        assert self.lowest is not None
        band.kept[where], band.total[where] = kept, total + kept * self.lowest
        band.scatter_low[where] = exact_scatter(kept, total, square)
        band.iqr4[where] = iqr4
        masked = np.flatnonzero(kept < 2)
        if len(masked):
            band.mask(places(where)[masked])

    def _lowest(self, half: Counts, keys: Array) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks of lowest mean; ties: the first of the run.

        ``keys`` (b, p) are the means, or numbers in the same order.
        """
        if self.equal and len(keys) <= FEW_BLOCKS:
            highest = _ascending(keys)[half[0] - 1]
        else:
            ascending = np.sort(keys.T, axis=1)
            highest = ascending[np.arange(len(half)), np.maximum(half - 1, 0)]
        left = (keys <= highest) & self.there[:, : keys.shape[1]]
        more = np.flatnonzero(number_of(left) > half)
        if len(more):
            some = keys.take(more, axis=1)
            tied = some == highest[more]
            below = number_of(some < highest[more])
            left[:, more] &= ~tied | (tied.cumsum(axis=0) <= half[more] - below)
        return left

    def size(self, left: NDArray[np.bool_]) -> Counts:
        """Return the number of values (p,) int64 of the blocks that are left."""
        if self.equal:
            return number_of(left) * self.sizes[0, 0]
        return np.add.reduce(np.broadcast_to(self.sizes, left.shape), axis=0, where=left)

    def _moments(self, left: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return mean and variance (p,) of the values of the blocks that are left.

        Sums of integers are exact, and rounded once.
        """
        bits = _bits(left)
        if self.totals.dtype.kind == "f":
            total = _in_order(self.totals, bits)
        else:
            total = np.add.reduce(self.totals, axis=0, where=left).astype(np.float64)
        size = self.size(left)
        return total / np.maximum(size, 1), self._pooled(left, bits, size)

    def _moments_of_all(self) -> tuple[Floats, Floats]:
        """Return the same of all blocks, where each has as many values as the others."""
        is_float = self.totals.dtype.kind == "f"
        total = _in_order(self.totals) if is_float else self.totals.sum(axis=0).astype(np.float64)
        size, n_blocks = int(self.sizes[0, 0]), len(self.totals)
        variance = np.zeros(len(total))
        if size > 1:
            variance = _in_order(self.scatters) / (n_blocks * (size - 1))
        return total / (n_blocks * size), variance

    def _pooled(self, left: NDArray[np.bool_], bits: NDArray[np.int64], size: Counts) -> Floats:
        """Return the variance (p,) of a value inside the blocks that are left.

        They have ``size`` values.
        """
        freedom = size - number_of(left)
        scatter = _in_order(self.scatters, bits)
        return np.divide(scatter, freedom, out=np.zeros(len(scatter)), where=freedom > 0)


def _ascending(values: Array) -> list[Array]:
    """Return the values (b, p) of each pixel in ascending order, by exchanges of whole rows."""
    rows = list(values)
    n, size = len(rows), 1
    # Batcher's network: pairs in the order in which they are exchanged
    while size < n:
        step = size
        while step:
            for begin in range(step % size, n - step, 2 * step):
                for i in range(begin, min(begin + step, n - step)):
                    if i // (2 * size) == (i + step) // (2 * size):
                        a, b = rows[i], rows[i + step]
                        rows[i], rows[i + step] = np.minimum(a, b), np.maximum(a, b)
            step //= 2
        size *= 2
    return rows


def _in_order(values: Floats, bits: NDArray[np.int64] | None = None) -> Floats:
    """Return the sums (p,) over blocks, added one after the other.

    ``bits``: `_bits` of those that are left, (b, p); None: all.
    """
    if bits is not None:
        values = (values.view(np.int64) & bits).view(np.float64)
    if values.shape[1] == 1:
        # NumPy adds up pairs where all values follow each other in memory
        return np.cumsum(values, axis=0)[-1] + 0.0
    return np.add.reduce(values, axis=0, initial=0.0)


def _bits(left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return all bits where true, else none: with them a float64 stays, or becomes 0."""
    return np.negative(left.view(np.int8)).astype(np.int64)


def _short_sums(tile: Tile, blocks: FrameBlocks) -> tuple[Floats, Counts, Floats, Floats, Array]:
    """Return sums of 8- or 16-bit values, less the lowest of each pixel.

    Returns:
        (p,) float64: the lowest value; (b, p) each: number of values, int64, or (b, 1) where all
        are valid; their sum, and that of their squares, float64, exact; and their sum as a short
        integer.
    """
    values, usable = tile.values, tile.usable
    n_blocks, n_pixels = len(blocks.begin) - 1, values.shape[1]
    known = values if usable is None else np.where(usable, values, np.iinfo(values.dtype).max)
    lowest = known.min(axis=0)
    # differences modulo 2^8 or 2^16 are right, as they fit
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    above = known.view(unsigned) - lowest.view(unsigned)
    if usable is not None:
        above[~usable] = 0
    above = above.astype(np.uint16, copy=False)
    n_frames = blocks.begin[1:] - blocks.begin[:-1]
    sizes = n_frames[:, None]
    if usable is not None:
        sizes = np.add.reduceat(usable[blocks.order], blocks.begin[:-1], axis=0, dtype=np.int64)

    sums = np.zeros((n_blocks, n_pixels), np.uint16)
    squares = np.zeros((n_blocks, n_pixels), np.uint32)
    size = int(n_frames.max())
    is_regular = len(above) == size * n_blocks and bool((np.diff(blocks.order) == 1).all())
    room = np.empty(squares.shape, np.uint32)
    for i in range(size):
        # the i-th frame of each block
        which = slice(None) if n_frames.min() > i else np.flatnonzero(n_frames > i)
        frames = blocks.order[blocks.begin[:-1][which] + i]
        some = above[i::size] if is_regular else above.take(frames, axis=0)
        sums[which] += some
        square = room[: len(some)]
        np.copyto(square, some)
        square *= square
        squares[which] += square
    exact, exact_squares = sums.astype(np.float64), squares.astype(np.float64)
    # sums of a few pixels do not fit 16 bits, or those of their squares 32
    large = np.flatnonzero(above.max(axis=0) >= (1 << 16) // size)
    if len(large):
        values = above[:, large].astype(np.float64)[blocks.order]
        exact[:, large] = np.add.reduceat(values, blocks.begin[:-1], axis=0)
        values *= values
        exact_squares[:, large] = np.add.reduceat(values, blocks.begin[:-1], axis=0)
    keys = exact.astype(np.uint32) if len(large) else sums
    return lowest.astype(np.float64), sizes, exact, exact_squares, keys


def _integer_sums(tile: Tile, blocks: FrameBlocks) -> tuple[Counts, Counts, Floats]:
    """Return number, sum and sum of squared deviations, (b, p) each; 32 bits."""
    values, usable = tile.values, tile.usable
    lowest = values.min(axis=0).astype(np.int64)
    span = int((values.max(axis=0) - lowest).max(initial=0))
    kind: DTypeLike = object if (len(values) * span) ** 2 >= 2**63 else np.int64
    shape = len(blocks.begin) - 1, values.shape[1]
    sizes, totals, scatters = np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape)
    value, sums, squares = (np.empty(shape[1], kind) for _ in "123")
    for block in range(shape[0]):
        frames = blocks.order[blocks.begin[block] : blocks.begin[block + 1]]
        sums[:] = squares[:] = 0
        for frame in frames:
            value[:] = values[frame] - lowest
            if usable is not None:
                value[~usable[frame]] = 0
            sums += value
            value *= value
            squares += value
        size = len(frames) if usable is None else usable[frames].sum(axis=0)
        sizes[block] = size
        totals[block] = sums.astype(np.int64) + sizes[block] * lowest
        scatter = sizes[block] * squares - sums * sums
        scatters[block] = scatter.astype(np.float64) / np.maximum(sizes[block], 1)
    return sizes, totals, scatters


def _float_sums(tile: Tile, blocks: FrameBlocks) -> tuple[Counts, Floats, Floats]:
    """Return the sums of float values, with the values of each block in ascending order."""
    n_blocks, p = len(blocks.begin) - 1, tile.values.shape[1]
    sizes = np.empty((n_blocks, p), np.int64)
    totals, scatters = np.zeros((n_blocks, p)), np.zeros((n_blocks, p))
    for block in range(n_blocks):
        which = blocks.order[blocks.begin[block] : blocks.begin[block + 1]]
        values = tile.values[which].astype(np.float64)
        usable = np.ones(values.shape, bool) if tile.usable is None else tile.usable[which]
        values[~usable] = np.inf
        values.sort(axis=0)
        sizes[block] = usable.sum(axis=0)
        for i, row in enumerate(values):
            totals[block] += np.where(i < sizes[block], row, 0.0)
        last = values[np.maximum(sizes[block] - 1, 0), np.arange(p)]
        mean = totals[block] / np.maximum(sizes[block], 1)
        mean = np.where(values[0] == last, values[0], mean)
        for i, row in enumerate(values):
            difference = row - mean
            scatters[block] += np.where(i < sizes[block], difference * difference, 0.0)
    return sizes, totals, scatters
