"""Background of each pixel from the blocks that the Kruskal-Wallis test leaves."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.blocks import EqualBlocks, FrameBlocks, UnequalBlocks, columns
from cpu_fallback.moments import Band, Tile, places, row_dtype, tiles
from cpu_fallback.ranks import centred_ranks
from gpu_spots.background.methods import TESTED_FROM, rejects
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity

TILE_VALUES = 1 << 19
"""Values of a tile: some megabytes of work."""
CERTAIN = 2.0**-36
"""Relative difference of both sides of the test from which float64 decides as exact numbers do. The
left side is a sum of less than 2^16 terms that are not negative, and each term and each addition is
rounded by at most 2^-53.
"""


def kruskal_moments(
    frames: Array,
    block_of_frame: NDArray[np.integer],
    critical: NDArray[np.float64],
    validity: Validity,
) -> IntegerMoments | FloatMoments:
    """Return the moments of a band (n, n_X, n_Y); see ``cpu_fallback.background.moments``."""
    blocks = FrameBlocks.of(block_of_frame)
    limits = np.array(critical, np.float64)
    limits[:TESTED_FROM] = np.inf
    n_frames, n_pixels = len(frames), frames[0].size
    band = Band(frames, validity)
    n_dropped = np.empty(n_pixels, np.int32)
    step = max(1, TILE_VALUES // n_frames)
    buffer = np.empty((min(step, n_pixels), n_frames), row_dtype(frames.dtype))
    for tile in tiles(frames, validity, step):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        ranks = centred_ranks(rows, frames.dtype, tile.usable, blocks.place)
        dropped = _dropped_blocks(ranks, tile.usable, blocks, limits)
        n_dropped[tile.where] = np.count_nonzero(dropped, axis=1)
        _store(band, tile, rows, dropped, blocks)
    moments = band.moments()
    return replace(
        moments,
        dropped=np.where(moments.kept > 0, n_dropped.reshape(moments.kept.shape), np.int32(0)),
    )


def _dropped_blocks(
    ranks: Array, usable: NDArray[np.bool_] | None, blocks: FrameBlocks, limits: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return the blocks that the test rejects, (p, b) bool.

    ``ranks`` (n, p) by place, overwritten; ``usable`` (n, p) by frame.
    """
    sizes = np.diff(blocks.begin)
    if usable is not None:
        n_usable = np.count_nonzero(usable, axis=0)
        full, rest = np.flatnonzero(n_usable == len(usable)), np.flatnonzero(n_usable < len(usable))
        dropped: NDArray[np.bool_] = np.empty((len(n_usable), len(sizes)), np.bool_)
        dropped[full] = _dropped_blocks(columns(ranks, full), None, blocks, limits)
        dropped[rest] = _rounds(
            UnequalBlocks(columns(ranks, rest), columns(usable, rest)[blocks.order], blocks.begin),
            limits,
        )
        return dropped
    if (sizes == sizes[0]).all():
        return _rounds(EqualBlocks(ranks, len(sizes)), limits)
    return _rounds(UnequalBlocks(ranks, np.ones(ranks.shape, bool), blocks.begin), limits)


def _rounds(left: EqualBlocks | UnequalBlocks, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the blocks to drop, (p, b) bool: one per round, until the test rejects none.

    ``limits``: critical value by the number of blocks that are left.
    """
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


def _rejected(
    left: EqualBlocks | UnequalBlocks, sums: Array, limits: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return where H exceeds the limit, (p,) bool.

    The comparison is exact: ``(n - 1) * sum(D^2 / k) > limit * sum(s^2)``.
    """
    limit = limits[left.n_blocks]
    statistic = (left.n - 1) * left.between(sums)
    # without ties the sum of squares is (n^3 - n) / 3, with ties less
    rejected = statistic > (1 + CERTAIN) * limit * np.maximum((left.n**3 - left.n) // 3, 1)
    if rejected.all():
        return rejected
    # it is below n^3 / 3
    squares = np.einsum(
        "ij,ij->j", left.ranks, left.ranks, dtype=np.int32 if len(left.ranks) <= 1290 else np.int64
    )
    with np.errstate(invalid="ignore"):  # no limit, times 0 where all values are equal
        bound = limit * squares
    rejected = statistic > bound
    # equal values, as dead and masked pixels have, leave 0 on both sides: no rejection, and no
    # doubt
    doubtful = (np.abs(statistic - bound) <= CERTAIN * bound) & np.isfinite(bound) & (squares > 0)
    for pixel in np.flatnonzero(doubtful):
        n, own_limit, sizes = (
            np.broadcast_to(x, (*x.shape[:-1], len(bound)))[..., pixel]
            for x in (left.n, limit, left.sizes)
        )
        rejected[pixel] = rejects(
            int(n), sums[:, pixel], sizes, int(squares[pixel]), float(own_limit)
        )
    return rejected


def _store(
    band: Band, tile: Tile, rows: Array, dropped: NDArray[np.bool_], blocks: FrameBlocks
) -> None:
    """Store the statistics of the frames left.

    ``rows`` (p, n) values by frame, ``dropped`` (p, b).
    """
    where = places(tile.where)
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
