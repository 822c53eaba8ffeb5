"""Blocks of equally many valid values of 8 or 16 bits: their sums fit short integers.

They are added up and put in order in the narrowest types, and only results are float64. The few
pixels whose sums do not fit are compared as `Comparison` does it, in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.clip_blocks import TILE_VALUES, Comparison
from cpu_fallback.clip_values import Counts, Floats, number_of
from cpu_fallback.moments import Band, Tile
from gpu_spots.background.clip import lower_half
from gpu_spots.model import Array, Validity

IN_CACHE = 1 << 18
"""Values that are squared at a time: 1 MB."""
FEW_BLOCKS = 64
"""Blocks that are faster put in order by exchanges of whole rows than pixel by pixel."""
LONG_BLOCK = 6
"""Values of a block from which on sums take so little memory that a tile may have four times as
many pixels.
"""
FEWEST_PIXELS = 16
"""Pixels of a tile, at least."""


def tile_pixels(
    n_frames: int, dtype: np.dtype[Any], blocks: FrameBlocks, validity: Validity | None = None
) -> int:
    """Return the pixels of a tile of a band: more where comparisons of long blocks are short."""
    pixels = max(1, TILE_VALUES // n_frames)
    is_whole = dtype.kind != "f" and (
        validity is None or validity.bounds(dtype) == Validity().bounds(dtype)
    )
    is_long = _are_short(dtype, blocks) and int(blocks.begin[1]) >= LONG_BLOCK
    return 4 * pixels if is_whole and is_long else pixels


def _are_short(dtype: np.dtype[Any], blocks: FrameBlocks) -> bool:
    """Return whether values have 8 or 16 bits, and blocks one size."""
    sizes = np.diff(blocks.begin)
    is_short = dtype.kind != "f" and dtype.itemsize <= 2
    return is_short and len(sizes) <= FEW_BLOCKS and bool((sizes == sizes[0]).all())


def compare(
    tile: Tile, blocks: FrameBlocks, shifts: Floats, base: Counts | None = None
) -> Comparison:
    """Compare the blocks of a tile.

    ``base`` (p,): what was subtracted from 8- or 16-bit values; None: nothing.
    """
    is_whole = tile.usable is None and tile.values.shape[1] >= FEWEST_PIXELS
    if is_whole and _are_short(tile.values.dtype, blocks):
        return ShortComparison(tile, blocks, shifts, base)
    return Comparison(tile, blocks, shifts, base)


class ShortComparison(Comparison):
    """Comparison of blocks of one size without invalid values."""

    def __init__(
        self, tile: Tile, blocks: FrameBlocks, shifts: Floats, base: Counts | None = None
    ) -> None:
        """Compare the blocks of a tile of 8- or 16-bit values; see `compare`."""
        values = tile.values
        if (np.diff(blocks.order) != 1).any():
            values = values.take(blocks.order, axis=0)
        n_blocks, size = len(blocks.begin) - 1, int(blocks.begin[1])
        self.quantum, self.equal = 1.0, True
        self.sizes = np.full((n_blocks, 1), size)
        self.number = np.full((1, 1), float(size))
        self.there = np.broadcast_to(np.True_, (n_blocks, values.shape[1]))
        self.lowest = tile.lowest.astype(np.float64)
        large = np.flatnonzero(tile.largest - self.lowest > np.iinfo(np.uint16).max // size)
        if base is not None:
            self.lowest += base
        self.short_sums, self.short_squares = _sums(values, tile.lowest, n_blocks)
        whole = self.short_sums.astype(np.uint32)
        whole *= whole
        scatter = self.short_squares * np.uint32(size)
        scatter -= whole
        self.scatters = scatter / float(size)
        self.means = self.short_sums + size * self.lowest
        self.means /= float(size)
        half = lower_half(n_blocks)
        left = _lowest_blocks(self.short_sums, half)
        self.large: tuple[NDArray[np.int64], Comparison] | None = None
        """Pixels whose sums do not fit, and their comparison."""
        if len(large):
            rest = Comparison(tile.of(large), blocks, shifts, _of(base, large))
            self.large = large, rest
            self.means[:, large], self.scatters[:, large] = rest.means, rest.scatters
            left[:, large] = rest.first
        unknown = np.flatnonzero(number_of(left) != half)
        if len(unknown):
            some = self.means.take(unknown, axis=1)
            left[:, unknown] = self._lowest(np.full(len(unknown), half), some)
        factor = left.astype(np.float64)
        # a factor of 1 or 0 changes no bit of a sum
        mean = np.einsum("bp,bp->p", self.means, factor) / half
        self.first, self.of_first = left, mean
        freedom = half * (size - 1)
        self.variance = np.zeros(len(mean))
        if freedom:
            self.variance = np.einsum("bp,bp->p", self.scatters, factor) / freedom
        error = self.variance * n_blocks / (n_blocks * size)
        self.mean = mean + shifts[n_blocks] * np.sqrt(error)

    def _totals(self, sums: Array, pixels: Any = slice(None)) -> Floats:
        """Return the totals of some pixels from the sums of their blocks."""
        assert self.lowest is not None
        return sums + self.sizes[0, 0] * self.lowest[pixels]

    def _highest(self) -> Floats:
        """Return the highest mean of the blocks of each pixel."""
        highest = self._totals(self.short_sums.max(axis=0)) / self.sizes[0, 0]
        if self.large is not None:
            highest[self.large[0]] = self.large[1].means.max(axis=0)
        return highest

    def _of(self, pixels: NDArray[np.int64]) -> Comparison:
        """Return what `_steps` needs of some pixels."""
        part = self._part(pixels)
        part.totals = self._totals(self.short_sums.take(pixels, axis=1), pixels)
        if self.large is not None:
            large, rest = self.large
            at = np.searchsorted(large, pixels)
            both = np.flatnonzero(large.take(at, mode="clip") == pixels)
            part.totals[:, both] = rest.totals[:, at[both]]
        return part

    def _moments_of_all(self) -> tuple[Floats, Floats]:
        """Return mean and variance (p,) of the values of all blocks."""
        assert self.lowest is not None
        n_blocks, size = len(self.means), int(self.sizes[0, 0])
        total = self.short_sums.sum(axis=0, dtype=np.uint32) + n_blocks * size * self.lowest
        if self.large is not None:
            total[self.large[0]] = self.large[1].totals.sum(axis=0)
        variance = np.zeros(len(total))
        if size > 1:
            variance = np.add.reduce(self.scatters, axis=0) / (n_blocks * (size - 1))
        return total / (n_blocks * size), variance

    def store(
        self, band: Band, where: Any, left: NDArray[np.bool_], kept: Counts, iqr4: Counts
    ) -> None:
        """Store the statistics; see `Comparison.store`."""
        assert self.lowest is not None
        number = number_of(left)
        total = self.short_sums.sum(axis=0, dtype=np.uint32).astype(np.float64)
        square = self.short_squares.sum(axis=0, dtype=np.uint64).astype(np.float64)
        some = np.flatnonzero(number < len(left))
        if len(some):
            factor = left.take(some, axis=1).astype(np.float64)
            total[some], square[some] = (
                np.einsum("bp,bp->p", each.take(some, axis=1).astype(np.float64), factor)
                for each in (self.short_sums, self.short_squares)
            )
        if self.large is not None:
            large, rest = self.large
            total[large], square[large] = rest.sums_of(left.take(large, axis=1))
        self._store(band, where, iqr4, kept, total, square)


def _sums(values: Array, lowest: Array, n_blocks: int) -> tuple[Array, Array]:
    """Return the sums of blocks, and of their squares, (b, p) uint16 and uint32.

    They are sums, modulo 2^16 and 2^32, of values (n, p) less ``lowest`` (p,).
    """
    n_pixels = values.shape[1]
    by_block = values.reshape(n_blocks, -1, n_pixels)
    shape = n_blocks, n_pixels
    sums, squares = np.empty(shape, np.uint16), np.empty(shape, np.uint32)
    at_once = max(1, min(n_blocks, IN_CACHE // (by_block.shape[1] * n_pixels)))
    # differences modulo 2^8 or 2^16 are right, as they fit
    unsigned = np.dtype(f"u{values.itemsize}")
    above = np.empty((at_once, *by_block.shape[1:]), unsigned)
    wide = np.empty(above.shape, np.uint32)
    for begin in range(0, n_blocks, at_once):
        which = slice(begin, min(begin + at_once, n_blocks))
        less, some = above[: which.stop - begin], wide[: which.stop - begin]
        np.subtract(by_block[which].view(unsigned), lowest.view(unsigned), out=less)
        np.add.reduce(less, axis=1, dtype=np.uint16, out=sums[which])
        np.copyto(some, less)
        np.einsum("bsp,bsp->bp", some, some, out=squares[which])
    return sums, squares


def _lowest_blocks(sums: NDArray[np.uint16], half: int) -> NDArray[np.bool_]:
    """Return (b, p) bool: the ``half`` blocks of lowest sum; ties: the first ones.

    Fewer or more are true for pixels of which they are not known.
    """
    n_blocks = len(sums)
    # no two keys of a pixel are equal, but those of sums that are too large
    largest = np.uint16((1 << 16) // n_blocks - 1)
    keys = np.minimum(sums, largest)
    keys *= np.uint16(n_blocks)
    keys += np.arange(n_blocks, dtype=np.uint16)[:, None]
    last = _nth(keys, half - 1)
    left = keys <= last
    left[:, last >= largest * np.uint16(n_blocks)] = False
    return left


def _nth(keys: Array, nth: int) -> Array:
    """Return the key of each pixel, (b, p), that ``nth`` others are below, by a bitonic network."""
    n_blocks, n_pixels = keys.shape
    n_rows = 1 << max(1, (n_blocks - 1).bit_length())
    rows, other = (np.empty((n_rows, n_pixels), keys.dtype) for _ in "12")
    rows[:n_blocks], rows[n_blocks:] = keys, np.iinfo(keys.dtype).max
    size = 2
    while size < n_rows:
        # runs of half that size are merged: compared with what is mirrored, then with neighbours
        low, high = _halves(rows, size)
        of_low, of_high = _halves(other, size)
        np.minimum(low, high[:, ::-1], out=of_low)
        np.maximum(low, high[:, ::-1], out=of_high[:, ::-1])
        rows, other = other, rows
        step = size // 2
        while step > 1:
            low, high = _halves(rows, step)
            of_low, of_high = _halves(other, step)
            np.minimum(low, high, out=of_low)
            np.maximum(low, high, out=of_high)
            rows, other = other, rows
            step //= 2
        size *= 2
    step = n_rows // 2
    low, high = rows[:step], rows[step:][::-1]
    while True:
        rows = np.minimum(low, high) if nth < step else np.maximum(low, high)
        nth -= 0 if nth < step else step
        if step == 1:
            return rows[0]
        step //= 2
        low, high = rows[:step], rows[step:]


def _halves(rows: Array, size: int) -> tuple[Array, Array]:
    """Return lower and upper halves of groups of ``size`` rows, (groups, size / 2, p) each."""
    groups = rows.reshape(-1, size, rows.shape[1])
    return groups[:, : size // 2], groups[:, size // 2 :]


def _of(base: Counts | None, pixels: NDArray[np.int64]) -> Counts | None:
    return None if base is None else base[pixels]
