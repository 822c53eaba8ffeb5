"""The blocks that are left of many pixels while the Kruskal-Wallis test drops one after the other.

Arrays are (n, p): a column is a pixel, and the values of a block lie below each other. With ``s``
the centred ranks (`cpu_fallback.ranks`), ``D`` their sum over a block of ``k`` values, and sums
over blocks and over values, the statistic with its correction for ties is

    H = (n - 1) * sum(D^2 / k) / sum(s^2)

and ``D / k`` orders blocks as their mean ranks do. A block that leaves takes its comparisons out of
``s``: nothing is sorted again.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.ranks import forget, order_codes
from gpu_spots.model import Array


@dataclass(frozen=True, slots=True)
class FrameBlocks:
    """Blocks of frames, in the forms that background methods need.

    Ranks are held block by block: their place says which block and frame they are of.
    """

    of_frame: NDArray[np.int64]
    """(n,) block of each frame."""
    order: NDArray[np.int64]
    """(n,) frame at each place."""
    place: NDArray[np.int64]
    """(n,) place of each frame."""
    begin: NDArray[np.int64]
    """(b + 1,) block ``i`` has the places ``begin[i]`` to ``begin[i + 1]``."""

    @classmethod
    def of(cls, block_of_frame: NDArray[np.integer]) -> "FrameBlocks":
        """Return the blocks, from the block of each frame."""
        of_frame = block_of_frame.astype(np.int64)
        order = of_frame.argsort(kind="stable")
        return cls(of_frame, order, order.argsort(), np.append(0, np.bincount(of_frame).cumsum()))


class EqualBlocks:
    """Blocks of one size without invalid values.

    The last block takes the place of a dropped one, so that the arrays shrink.
    """

    def __init__(self, ranks: Array, n_blocks: int) -> None:
        """Take ``ranks`` (n, p), ordered by block. They are overwritten."""
        n, p = ranks.shape
        self.ranks, self.codes = ranks, order_codes(ranks)
        self.size, self.n_blocks_at_first = n // n_blocks, n_blocks
        # wide enough for a sum times the number of blocks
        block = np.arange(n_blocks, dtype=np.int32 if n * n * n_blocks < 2**31 else np.int64)
        self.block_at, self.slot_of = (
            np.repeat(block[:, None], p, axis=1),
            np.repeat(block[:, None], p, axis=1),
        )

    @property
    def n(self) -> NDArray[np.int64]:
        """Number of values that each pixel still has, (1,) int64."""
        return np.array([len(self.ranks)])

    @property
    def n_blocks(self) -> NDArray[np.int64]:
        """Number of blocks that each pixel still has, (1,) int64."""
        return np.array([len(self.block_at)])

    @property
    def sizes(self) -> Array:
        """Number of values of each block, (b, 1)."""
        return np.full((len(self.block_at), 1), self.size)

    def sums(self) -> Array:
        """D of each block, (b, p) integers."""
        fits_short = self.size * len(self.ranks) < 2**15
        blocks = self.ranks.reshape(len(self.block_at), self.size, self.ranks.shape[1])
        return blocks.sum(axis=1, dtype=np.int16 if fits_short else np.int32)

    def between(self, sums: Array) -> NDArray[np.float64]:
        """Return the sum of D^2 / k, (p,) float64."""
        return np.einsum("ij,ij->j", sums, sums, dtype=np.float64) / self.size

    def select(self, pixels: NDArray[np.int64]) -> None:
        """Keep some of the pixels only."""
        self.ranks, self.codes = columns(self.ranks, pixels), columns(self.codes, pixels)
        self.block_at, self.slot_of = columns(self.block_at, pixels), columns(self.slot_of, pixels)

    def drop(self, sums: Array) -> NDArray[np.int64]:
        """Drop the block of largest mean rank from every pixel, and return which, (p,).

        Ties: the first block in the run.
        """
        keys: Array = sums.astype(self.block_at.dtype)
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
        self.codes, self.ranks, self.block_at = (
            self.codes[:stay],
            self.ranks[:stay],
            self.block_at[:-1],
        )
        forget(self.ranks, self.codes, gone)
        return block


class UnequalBlocks:
    """Blocks of any size, with invalid values.

    All values of a dropped block become invalid.
    """

    def __init__(self, ranks: Array, usable: NDArray[np.bool_], begin: NDArray[np.int64]) -> None:
        """Take ranks and valid values, ordered by block; the ranks are overwritten.

        ``ranks`` and ``usable`` have the shape (n, p). Block ``i`` has the rows ``begin[i]`` to
        ``begin[i + 1]``.
        """
        self.ranks, self.codes = ranks, order_codes(ranks)
        # all bits set: usable
        self.mask = -usable.astype(ranks.dtype)
        self.begin, self.largest = begin, int(np.diff(begin).max())
        sizes = np.add.reduceat(usable, begin[:-1], axis=0, dtype=np.int64)
        self.n, self.n_blocks = sizes.sum(axis=0), np.count_nonzero(sizes, axis=0)
        # D is 0 for blocks that are not there, whatever their size
        self.sizes = np.maximum(sizes, 1).astype(np.float64)

    def sums(self) -> Array:
        """D of each block, (b, p) integers; 0 for dropped blocks."""
        sums = np.empty(self.sizes.shape, np.int32)
        for block, (begin, end) in enumerate(
            pairwise(self.begin)
        ):  # several times faster than reduceat
            self.ranks[begin:end].sum(axis=0, dtype=np.int32, out=sums[block])
        return sums

    def between(self, sums: Array) -> NDArray[np.float64]:
        """Return the sum of D^2 / k, (p,) float64."""
        return np.einsum("ij,ij->j", sums, sums / self.sizes)

    def select(self, pixels: NDArray[np.int64]) -> None:
        """Keep some of the pixels only."""
        self.ranks, self.codes, self.mask = (
            columns(self.ranks, pixels),
            columns(self.codes, pixels),
            columns(self.mask, pixels),
        )
        self.n, self.n_blocks, self.sizes = (
            self.n[pixels],
            self.n_blocks[pixels],
            columns(self.sizes, pixels),
        )

    def drop(self, sums: Array) -> NDArray[np.int64]:
        """Drop the block of largest mean rank from every pixel, and return which, (p,).

        Ties: the first block in the run.
        """
        # different quotients of integers below 2^30 and 2^16 are different float64 numbers; the
        # largest is above 0, so that block is there
        means = sums / self.sizes
        numbers = np.arange(len(means), dtype=np.int32)[:, None]
        block = np.where(means == means.max(axis=0), numbers, np.int32(len(means))).min(axis=0)
        pixels = np.arange(len(block))
        begin, row = self.begin[block], np.arange(self.largest)[:, None]
        inside = row < self.begin[block + 1] - begin
        at = (begin + row * inside) * len(block) + pixels
        usable = (self.mask.reshape(-1).take(at, mode="clip") != 0) & inside
        gone = self.codes.reshape(-1).take(at, mode="clip")
        self.mask.reshape(-1)[at] = 0
        self.n -= np.count_nonzero(usable, axis=0)
        self.n_blocks -= 1
        forget(self.ranks, self.codes, gone, usable)
        self.ranks &= self.mask
        return block


def columns(values: Array, pixels: NDArray[np.int64]) -> Array:
    """Return some columns as a contiguous array (``values[:, pixels]`` is not)."""
    return values.take(pixels, axis=1, mode="clip")
