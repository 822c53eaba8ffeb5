"""Background without the blocks that the Kruskal-Wallis test rejects, pixel by pixel.

Ranks are kept as integers: ``s``, the number of values left that are smaller less the number that are larger, is twice the rank less
``n + 1``, ties included. With ``D`` the sum of ``s`` over a block of ``k`` values, and sums over blocks and over values,

    H = (n - 1) * sum(D^2 / k) / sum(s^2)

is the statistic with its correction for ties, and ``D / k`` orders blocks as their mean ranks do. Where a block leaves, every other value's
``s`` loses its comparisons with that block's values: nothing is sorted again.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
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
TABLE_FROM = 20
"""Values from which a block is compared with the others through a table: from there on that is faster than one by one."""


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
    """Store the statistics of the frames left. ``rows`` (p, n) values by frame, ``dropped`` (p, b)."""
    where = np.arange(tile.where.start, tile.where.stop)
    whole = ~dropped.any(axis=1)
    if tile.usable is not None:
        whole &= tile.usable.all(axis=0)
    if whole.any():
        band.sample(where[whole], np.sort(rows[whole], axis=1))
    parts = np.flatnonzero(~whole)
    if len(parts):
        gone = dropped[parts].take(blocks.of_frame, axis=1)
        if tile.usable is not None:
            gone |= ~tile.usable.T[parts]
        left = rows[parts]
        left[gone] = band.limits.max
        left.sort(axis=1)
        band.sample_counted(where[parts], left, gone.shape[1] - np.count_nonzero(gone, axis=1), int)


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
    sizes = np.diff(blocks.begin)
    if usable is not None:
        whole = usable.all(axis=0)
        rest = np.flatnonzero(~whole)
        dropped = np.empty((len(whole), len(sizes)), bool)
        dropped[whole] = _dropped_blocks(_take(ranks, np.flatnonzero(whole)), None, blocks, limits)
        dropped[rest] = _rounds(_UnequalBlocks(_take(ranks, rest), _take(usable, rest)[blocks.order], blocks.begin), limits)
        return dropped
    if (sizes == sizes[0]).all():
        return _rounds(_EqualBlocks(ranks, len(sizes)), limits)
    return _rounds(_UnequalBlocks(ranks, np.ones(ranks.shape, bool), blocks.begin), limits)


def _rounds(left: "_EqualBlocks | _UnequalBlocks", limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(p, b) bool: the blocks that leave, one a round, until no pixel's test rejects."""
    sums = left.sums()
    dropped = np.zeros(sums.shape[::-1], bool)
    pixels = np.arange(len(dropped))
    while True:
        rejected = _rejected(left, sums, limits)
        if not rejected.any():
            return dropped
        if not rejected.all():
            pixels, sums = pixels[rejected], sums[:, rejected]
            left.select(np.flatnonzero(rejected))
        dropped[pixels, left.drop(sums)] = True
        sums = left.sums()


def _rejected(left: "_EqualBlocks | _UnequalBlocks", sums: Array, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(p,) bool: H exceeds the limit for the number of blocks left, exactly. ``sums`` (b, p) of the ranks of each block."""
    limit = limits[left.n_blocks]
    statistic = (left.n - 1) * left.between(sums)
    # without ties the sum of squares is (n^3 - n) / 3, with ties less
    rejected = statistic > (1 + CERTAIN) * limit * np.maximum((left.n**3 - left.n) // 3, 1)
    if rejected.all():
        return rejected
    # each square is below n^2
    squares = np.einsum("ij,ij->j", left.ranks, left.ranks, dtype=np.int32 if len(left.ranks) <= 1290 else np.int64)
    with np.errstate(invalid="ignore"):  # no limit, times 0 where all values are equal
        bound = limit * squares
    rejected = statistic > bound
    doubtful = (np.abs(statistic - bound) <= CERTAIN * bound) & np.isfinite(bound)
    for pixel in np.flatnonzero(doubtful):
        sizes, n, exact_limit = (np.broadcast_to(x, (*x.shape[:-1], len(bound)))[..., pixel] for x in (left.sizes, left.n, limit))
        between = sum(Fraction(d**2, k) for d, k in zip(sums[:, pixel].tolist(), sizes.astype(int).tolist(), strict=True))
        rejected[pixel] = (int(n) - 1) * between > Fraction(float(exact_limit)) * int(squares[pixel])
    return rejected


class _EqualBlocks:
    """What is left of some pixels whose blocks are equally large: the last block moves to where one leaves."""

    def __init__(self, ranks: Array, n_blocks: int) -> None:
        n, p = ranks.shape
        self.ranks, self.codes = ranks, _codes(ranks)
        self.size = n // n_blocks
        self.n_blocks_at_first = n_blocks
        # wide enough for a sum times the number of blocks
        block = np.arange(n_blocks, dtype=np.int32 if n * n * n_blocks < 2**31 else np.int64)
        self.block_at, self.slot_of = np.repeat(block[:, None], p, axis=1), np.repeat(block[:, None], p, axis=1)

    @property
    def n_blocks(self) -> NDArray[np.int64]:
        """(1,) int64: blocks left."""
        return np.array([len(self.block_at)])

    @property
    def n(self) -> NDArray[np.int64]:
        """(1,) int64: values left."""
        return np.array([len(self.ranks)])

    @property
    def sizes(self) -> Array:
        """(b, 1): values of each block."""
        return np.full((len(self.block_at), 1), self.size)

    def sums(self) -> Array:
        """(b, p): sums of the ranks of each block."""
        short = self.size * len(self.ranks) < 2**15
        blocks = self.ranks.reshape(len(self.block_at), self.size, self.ranks.shape[1])
        return blocks.sum(axis=1, dtype=np.int16 if short else np.int32)

    def between(self, sums: Array) -> NDArray[np.float64]:
        """(p,): sum of the squares of ``sums``, each over the block's size."""
        return np.einsum("ij,ij->j", sums, sums, dtype=np.float64) / self.size

    def select(self, pixels: NDArray[np.int64]) -> None:
        """Go on with some of the pixels."""
        self.ranks, self.codes = _take(self.ranks, pixels), _take(self.codes, pixels)
        self.block_at, self.slot_of = _take(self.block_at, pixels), _take(self.slot_of, pixels)

    def drop(self, sums: Array) -> NDArray[np.int64]:
        """Drop the block of largest mean rank from each pixel; (p,): which."""
        # of equal sums the block that comes first in the run is the largest here
        keys = sums.astype(self.block_at.dtype)
        keys *= self.n_blocks_at_first
        keys -= self.block_at
        block = -keys.max(axis=0) % self.n_blocks_at_first
        pixels = np.arange(len(block))
        slot, last = self.slot_of[block, pixels], self.block_at[-1]
        at = (slot * self.size + np.arange(self.size)[:, None]) * len(block) + pixels
        gone = self.codes.reshape(-1).take(at, mode="clip")
        stay = len(self.ranks) - self.size
        for values in (self.codes, self.ranks):
            values.reshape(-1)[at] = values[stay:]
        self.block_at[slot, pixels], self.slot_of[last, pixels] = last, slot
        self.codes, self.ranks, self.block_at = self.codes[:stay], self.ranks[:stay], self.block_at[:-1]
        _forget(self.ranks, self.codes, gone)
        return block


class _UnequalBlocks:
    """What is left of some pixels whose blocks differ in size, or have unusable values: a block that leaves becomes unusable."""

    def __init__(self, ranks: Array, usable: NDArray[np.bool_], begin: NDArray[np.int64]) -> None:
        self.ranks, self.codes = ranks, _codes(ranks)
        self.mask = -usable.astype(ranks.dtype)
        self.begin, self.largest = begin, int(np.diff(begin).max())
        sizes = np.add.reduceat(usable, begin[:-1], axis=0, dtype=np.int64)
        self.n, self.n_blocks = sizes.sum(axis=0), np.count_nonzero(sizes, axis=0)
        # blocks that are not there have the sum 0
        self.sizes = np.maximum(sizes, 1).astype(np.float64)

    def sums(self) -> Array:
        """(b, p): sums of the ranks of each block, 0 where it has left."""
        sums = np.empty(self.sizes.shape, np.int32)
        for block, (begin, end) in enumerate(pairwise(self.begin)):  # reduceat is several times slower
            self.ranks[begin:end].sum(axis=0, dtype=np.int32, out=sums[block])
        return sums

    def between(self, sums: Array) -> NDArray[np.float64]:
        """(p,): sum of the squares of ``sums``, each over the block's size."""
        return np.einsum("ij,ij->j", sums, sums / self.sizes)

    def select(self, pixels: NDArray[np.int64]) -> None:
        """Go on with some of the pixels."""
        self.ranks, self.codes, self.mask = _take(self.ranks, pixels), _take(self.codes, pixels), _take(self.mask, pixels)
        self.n, self.n_blocks, self.sizes = self.n[pixels], self.n_blocks[pixels], _take(self.sizes, pixels)

    def drop(self, sums: Array) -> NDArray[np.int64]:
        """Drop the block of largest mean rank from each pixel; (p,): which."""
        # different quotients of such small integers are different float64 numbers, and the largest is above 0, so a block that is still there
        means = sums / self.sizes
        numbers = np.arange(len(means), dtype=np.int32)[:, None]
        block = np.where(means == means.max(axis=0), numbers, np.int32(len(means))).min(axis=0)
        pixels = np.arange(len(block))
        begin = self.begin[block]
        rows = np.arange(self.largest)[:, None]
        inside = rows < self.begin[block + 1] - begin
        at = (begin + rows * inside) * len(block) + pixels
        inside &= self.mask.reshape(-1).take(at, mode="clip") != 0
        gone = self.codes.reshape(-1).take(at, mode="clip")
        self.mask.reshape(-1)[at] = 0
        self.n -= self.sizes[block, pixels].astype(np.int64)
        self.n_blocks -= 1
        _forget(self.ranks, self.codes, gone, inside)
        self.ranks &= self.mask
        return block


def _take(values: Array, pixels: NDArray[np.int64]) -> Array:
    """Some columns, as a contiguous array (``values[:, pixels]`` is not)."""
    return values.take(pixels, axis=1, mode="clip")


def _codes(ranks: Array) -> Array:
    """Short integers in the order of the ranks, which differ by two at least where they differ: uint8 up to 256 values, else uint16."""
    n = len(ranks)
    return ((ranks.view(f"u{ranks.itemsize}") + n) >> 1).astype(np.uint8 if n <= 256 else np.uint16)


def _forget(ranks: Array, codes: Array, gone: Array, inside: NDArray[np.bool_] | None = None) -> None:
    """Take the comparisons with values that leave out of ``ranks`` (n, p), in place.

    ``codes`` (n, p) order the values, ``gone`` (k, p) are the codes of those that leave, ``inside`` (k, p) says which of them count; None: all.
    """
    if len(gone) < TABLE_FROM:
        # nothing is above the largest code, nothing is below 0
        above = gone if inside is None else np.where(inside, gone, np.iinfo(gone.dtype).max)
        below = gone if inside is None else np.where(inside, gone, 0)
        balance, differs = np.zeros(ranks.shape, np.int8), np.empty(ranks.shape, bool)
        for high, low in zip(above, below, strict=True):
            np.greater(codes, high, out=differs)
            balance += differs.view(np.int8)
            np.less(codes, low, out=differs)
            balance -= differs.view(np.int8)
        ranks -= balance
        return
    # row c of the table becomes the number of values gone that are below c less the number above; unusable ones count beyond all codes
    pixels = np.arange(ranks.shape[1])
    beyond = max(int(codes.max()), int(gone.max())) + 1
    table = np.zeros((beyond + 2, len(pixels)), ranks.dtype)
    table[0] = -len(gone) if inside is None else -np.count_nonzero(inside, axis=0)
    for code in gone.astype(np.intp) if inside is None else np.where(inside, gone, beyond):
        at = code * len(pixels) + pixels
        table.reshape(-1)[at] += 1
        at += len(pixels)
        table.reshape(-1)[at] += 1
    for lower, row in pairwise(table):  # faster than cumsum
        row += lower
    at = codes.astype(np.intp)
    at *= len(pixels)
    at += pixels
    ranks -= table.reshape(-1).take(at, mode="clip")
