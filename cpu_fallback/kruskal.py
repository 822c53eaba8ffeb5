"""Background without the blocks that the Kruskal-Wallis test rejects, pixel by pixel.

Ranks are kept as integers: ``s``, the number of values left that are smaller less the number that are larger, is twice the rank less
``n + 1``, ties included. With ``D`` the sum of ``s`` over a block of ``k`` values, and sums over blocks and over values,

    H = (n - 1) * sum(D^2 / k) / sum(s^2)

is the statistic with its correction for ties, and ``D / k`` orders blocks as their mean ranks do. Where a block leaves, every other value's
``s`` loses its comparisons with that block's values: nothing is sorted again.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.moments import Band, Tile, tiles
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity

TILE_VALUES = 1 << 19
"""Values of a tile: some megabytes of work."""
CERTAIN = 2.0**-36
"""Where the two sides of the test differ by more than this, relatively, float64 decides as exact numbers would: each side is a sum of at most
2^15 terms that are not negative, and every term and every addition is rounded by at most 2^-53."""
TESTED = 3
"""Fewer blocks than this are never tested."""
RERANK = 48
"""Larger blocks are dropped by ranking the rest anew, which costs the same whatever the size."""


def kruskal_moments(
    frames: Array, block_of_frame: NDArray[np.integer], critical: NDArray[np.float64], validity: Validity
) -> IntegerMoments | FloatMoments:
    """Moments of the frames left; see ``gpu_spots.backend.Backend.kruskal_moments``."""
    blocks = _Blocks.of(block_of_frame)
    limits = np.array(critical, np.float64)
    limits[:TESTED] = np.inf
    band = Band(frames, validity)
    band.dropped = np.zeros(frames[0].size, np.int32)
    tile_pixels = max(1, TILE_VALUES // len(frames))
    buffer = np.empty((min(tile_pixels, frames[0].size), len(frames)), _row_dtype(frames.dtype))
    for tile in tiles(frames, validity, tile_pixels):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        ranks = _centred_ranks(rows, frames.dtype, tile.usable, blocks.place)
        dropped = _dropped_blocks(ranks, tile.usable, blocks, limits)
        band.dropped[tile.where] = dropped.sum(axis=1)
        _store(band, tile, rows, dropped, blocks)
    return band.moments()


def _row_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values are sorted: short integers are sorted slowly by some processors."""
    return np.dtype(f"{dtype.kind}{max(4, dtype.itemsize)}")


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Which frames belong together. Values are held block by block: a value's place says which block and frame it is of."""

    of_frame: NDArray[np.int64]
    """(n,) block of each frame."""
    order: NDArray[np.int64]
    """(n,) frame at each place."""
    place: NDArray[np.int64]
    """(n,) place of each frame."""
    begin: NDArray[np.int64]
    """(b + 1,) block ``i`` has the places ``begin[i]`` to ``begin[i + 1]``."""

    @classmethod
    def of(cls, block_of_frame: NDArray[np.integer]) -> "_Blocks":
        of_frame = block_of_frame.astype(np.int64)
        order = of_frame.argsort(kind="stable")
        return cls(of_frame, order, order.argsort(), np.append(0, np.bincount(of_frame).cumsum()))


def _store(band: Band, tile: Tile, rows: Array, dropped: NDArray[np.bool_], blocks: _Blocks) -> None:
    """Store the statistics of the frames left. ``rows`` (p, n) is sorted in place; ``dropped`` (p, b)."""
    some = np.flatnonzero(dropped.any(axis=1))
    first = tile.where.start
    if tile.usable is not None:
        unusable = ~tile.usable.T
        unusable[some] |= dropped[some][:, blocks.of_frame]
        rows[unusable] = band.limits.max
        rows.sort(axis=1)
        band.sample_counted(np.arange(first, tile.where.stop), rows, rows.shape[1] - unusable.sum(axis=1), int)
        return
    if len(some):
        left = rows[some]
        gone = dropped[some][:, blocks.of_frame]
        left[gone] = band.limits.max
        left.sort(axis=1)
        band.sample_counted(first + some, left, left.shape[1] - gone.sum(axis=1), int)
    rest = np.ones(len(rows), bool)
    rest[some] = False
    untouched = rows[rest]
    untouched.sort(axis=1)
    band.sample(first + np.flatnonzero(rest), untouched)


# ------------------------------------------------------------------------------------------------------------------------------ ranks


def _centred_ranks(rows: Array, dtype: np.dtype[Any], usable: NDArray[np.bool_] | None, place: NDArray[np.int64]) -> Array:
    """Twice the rank less n + 1 of each value among the usable ones of its row (p, n): (n, p), int16 or int32, by place.

    Values are sorted together with their place, and then by it, once with ascending places among equals and once with descending ones:
    the sum of both positions is the same for all equals. Values are within ``dtype``; unusable ones get 0; ``place`` (n,).
    """
    n = rows.shape[1]
    bits = max(1, (n - 1).bit_length())
    keys = _ordered_keys(rows, dtype, usable, bits)
    twice = _positions(keys | place.astype(keys.dtype), bits)
    keys |= (n - 1 - place).astype(keys.dtype)
    twice += _positions(keys, bits)[:, ::-1]
    # wraps where negative, as the signed view expects
    twice -= np.uint32(n - 1) if usable is None else usable.sum(axis=0, dtype=np.uint32)[:, None] - np.uint32(1)
    ranks = np.empty((n, len(rows)), np.int16 if n <= 2**15 else np.int32)
    np.copyto(ranks, twice.view(np.int32).T, casting="unsafe")
    if usable is not None:
        ranks[place] *= usable
    return ranks


def _ordered_keys(rows: Array, dtype: np.dtype[Any], usable: NDArray[np.bool_] | None, bits: int) -> Array:
    """Unsigned integers in the order of the values, unusable ones above all others; the last ``bits`` are free."""
    if dtype == np.float64:
        rows, dtype = _dense(rows), np.dtype(np.uint16)
    width = 8 * dtype.itemsize
    integer = np.uint32 if width + 1 + bits <= 32 else np.uint64
    if dtype.kind == "f":
        pattern = (rows + dtype.type(0)).view(np.uint32)  # no negative zero
        keys = np.where(pattern >> 31, ~pattern, pattern | np.uint32(1 << 31)).astype(integer)
    else:
        keys = rows.astype(integer)
        if dtype.kind == "i":
            keys += integer(1 << (width - 1))
    keys <<= integer(bits)
    if usable is not None:
        keys[~usable.T] = 1 << (width + bits)
    return keys


def _dense(rows: Array) -> NDArray[np.uint16]:
    """The number of different values below each value, in rows (p, n) of at most 2^16 values."""
    order = rows.argsort(axis=1)
    ascending = np.take_along_axis(rows, order, axis=1)
    below = np.zeros(rows.shape, np.uint16)
    np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1, dtype=np.uint16, out=below[:, 1:])
    codes = np.empty_like(below)
    np.put_along_axis(codes, order, below, axis=1)
    return codes


def _positions(keys: Array, bits: int) -> NDArray[np.uint32]:
    """Sort rows of keys, in place; the position that each came to, by the number in its last ``bits``."""
    keys.sort(axis=1)
    keys &= keys.dtype.type((1 << bits) - 1)
    by_number = keys.astype(np.uint32, copy=False)
    by_number <<= np.uint32(bits)
    by_number |= np.arange(keys.shape[1], dtype=np.uint32)
    by_number.sort(axis=1)
    by_number &= np.uint32((1 << bits) - 1)
    return by_number


# ----------------------------------------------------------------------------------------------------------------------------- rounds


def _dropped_blocks(ranks: Array, usable: NDArray[np.bool_] | None, blocks: _Blocks, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(p, b) bool: the blocks that the test rejects. ``ranks`` (n, p) by place, overwritten; ``usable`` (n, p) by frame."""
    n_pixels, sizes = ranks.shape[1], np.diff(blocks.begin)
    dropped = np.zeros((n_pixels, len(sizes)), bool)
    pixels = np.arange(n_pixels)
    left: _EqualBlocks | _UnequalBlocks
    if usable is None and (sizes == sizes[0]).all():
        left = _EqualBlocks(ranks, len(sizes))
    else:
        left = _UnequalBlocks(ranks, np.ones(ranks.shape, bool) if usable is None else usable[blocks.order], blocks.begin)
    # sums of squares are at most (n^3 - n) / 3
    exact = np.int32 if len(ranks) <= 1860 else np.int64
    while True:
        sums = left.sums()
        squares = np.einsum("ij,ij->j", left.ranks, left.ranks, dtype=exact)
        rejected = _rejected(sums, left.sizes, squares, limits)
        if not rejected.any():
            return dropped
        if not rejected.all():
            pixels, sums = pixels[rejected], sums[:, rejected]
            left.select(np.flatnonzero(rejected))
        dropped[pixels, left.drop(sums)] = True


def _rejected(sums: Array, sizes: Array, squares: Array, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(p,) bool: H exceeds the limit for the number of blocks left, exactly. ``sums`` (b, p), ``sizes`` (b, p) or (b, 1), ``squares`` (p,)."""
    n, n_blocks = sizes.sum(axis=0), np.count_nonzero(sizes, axis=0)
    between = sums.astype(np.float64)
    between *= between
    between /= np.maximum(sizes, 1)
    with np.errstate(invalid="ignore"):  # no limit, times 0 where all values are equal
        statistic, limit = (n - 1) * between.sum(axis=0), limits[n_blocks] * squares
        rejected = statistic > limit
        doubtful = np.abs(statistic - limit) <= CERTAIN * limit
    for pixel in np.flatnonzero(doubtful & np.isfinite(limit)):
        own_sizes = np.broadcast_to(sizes, sums.shape)[:, pixel].tolist()
        exact = sum(Fraction(total**2, size) for total, size in zip(sums[:, pixel].tolist(), own_sizes, strict=True) if size)
        bound = Fraction(float(np.broadcast_to(limits[n_blocks], squares.shape)[pixel])) * int(squares[pixel])
        rejected[pixel] = (sum(own_sizes) - 1) * exact > bound
    return rejected


class _EqualBlocks:
    """What is left of some pixels whose blocks are equally large: the last block moves to where one leaves."""

    def __init__(self, ranks: Array, n_blocks: int) -> None:
        self.ranks, self.first = ranks, ranks.copy()
        self.n_blocks, self.size = n_blocks, len(ranks) // n_blocks
        self.block = np.repeat(np.arange(n_blocks)[:, None], ranks.shape[1], axis=1)

    @property
    def sizes(self) -> Array:
        return np.full((len(self.block), 1), self.size)

    def sums(self) -> Array:
        return self.ranks.reshape(len(self.block), self.size, -1).sum(axis=1, dtype=np.int32)

    def select(self, pixels: NDArray[np.int64]) -> None:
        self.ranks, self.first, self.block = self.ranks[:, pixels], self.first[:, pixels], self.block[:, pixels]

    def drop(self, sums: Array) -> NDArray[np.int64]:
        # the first of equals in the run
        slot = (sums * np.int64(self.n_blocks) - self.block).argmax(axis=0)
        pixels = np.arange(len(slot))
        block = self.block[slot, pixels]
        rows = slot * self.size + np.arange(self.size)[:, None]
        left = len(self.ranks) - self.size
        gone = self.first[rows, pixels]
        for values in (self.first, self.ranks):
            values[rows, pixels] = values[left:]
        self.block[slot, pixels] = self.block[-1]
        self.first, self.ranks, self.block = self.first[:left], self.ranks[:left], self.block[:-1]
        _forget(self.ranks, self.first, gone, gone)
        return block


class _UnequalBlocks:
    """What is left of some pixels whose blocks differ in size, or have unusable values: a block that leaves becomes unusable."""

    def __init__(self, ranks: Array, usable: NDArray[np.bool_], begin: NDArray[np.int64]) -> None:
        self.ranks, self.first, self.usable, self.begin = ranks, ranks.copy(), usable, begin
        self.sizes = np.add.reduceat(usable, begin[:-1], axis=0, dtype=np.int64)

    def sums(self) -> Array:
        return np.add.reduceat(self.ranks, self.begin[:-1], axis=0, dtype=np.int32)

    def select(self, pixels: NDArray[np.int64]) -> None:
        self.ranks, self.first = self.ranks[:, pixels], self.first[:, pixels]
        self.usable, self.sizes = self.usable[:, pixels], self.sizes[:, pixels]

    def drop(self, sums: Array) -> NDArray[np.int64]:
        # different quotients of such small integers are different float64 numbers
        block = np.where(self.sizes > 0, sums / np.maximum(self.sizes, 1), -np.inf).argmax(axis=0)
        pixels = np.arange(len(block))
        rows = self.begin[block] + np.arange(np.diff(self.begin).max())[:, None]
        inside = rows < self.begin[block + 1]
        rows = np.where(inside, rows, self.begin[block])
        inside &= self.usable[rows, pixels]
        gone = self.first[rows, pixels]
        limits = np.iinfo(gone.dtype)
        self.usable[rows, pixels] = False
        self.sizes[block, pixels] = 0
        # nothing is larger than what stands for an unusable value, and nothing is smaller
        _forget(self.ranks, self.first, np.where(inside, gone, limits.max), np.where(inside, gone, limits.min))
        self.ranks *= self.usable
        return block


def _forget(ranks: Array, first: Array, upper: Array, lower: Array) -> None:
    """Take the comparisons with values that leave out of ``ranks`` (n, p), in place.

    ``first`` (n, p) orders the values, ``upper`` and ``lower`` (k, p) order those that leave: one counts where it is above the first,
    or below the second.
    """
    balance, differs = np.zeros(ranks.shape, np.int8), np.empty(ranks.shape, bool)
    for i in range(0, len(upper), 127):  # as many as int8 can count
        balance[...] = 0
        for high, low in zip(upper[i : i + 127], lower[i : i + 127], strict=True):
            np.greater(first, high, out=differs)
            balance += differs.view(np.int8)
            np.less(first, low, out=differs)
            balance -= differs.view(np.int8)
        ranks -= balance
