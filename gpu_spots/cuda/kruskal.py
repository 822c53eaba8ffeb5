"""Background of each pixel from the blocks that the Kruskal-Wallis test leaves.

The device ranks, decides in float64, and says of which pixels float64 cannot decide. Of these few
the host counts with exact fractions how many blocks leave, and the device computes them again with
that number. Which block leaves is decided exactly on the device.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.methods import TESTED_FROM, rejects
from gpu_spots.cuda.moments import RankedMoments
from gpu_spots.cuda.ranked import Launch
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, frame_stride
from gpu_spots.cuda.validity import bits_of
from gpu_spots.model import Array, Validity, check_frame_count

THREADS = 256
"""Threads of a block, as in gather.cu."""
AT_ONCE = 1 << 18
"""Values that are fetched at a time for decisions on the host."""


def kruskal_moments(
    toolkit: Toolkit,
    frames: Any,
    block_of_frame: NDArray[np.integer[Any]],
    critical: NDArray[np.float64],
    validity: Validity,
) -> RankedMoments:
    """Return the moments of a band; see ``gpu_spots.cuda.background.moments``."""
    xp, dtype, n_frames, shape = toolkit.xp, np.dtype(frames.dtype), len(frames), frames.shape[1:]
    check_frame_count(n_frames)
    n_pixels = shape[0] * shape[1]
    limits = np.array(critical, np.float64)
    limits[:TESTED_FROM] = np.inf
    found = RankedMoments.empty(toolkit, dtype, n_pixels)
    dropped, doubtful = xp.empty(n_pixels, np.int32), xp.empty(n_pixels, np.uint8)
    blocks, n_blocks = toolkit.to_device(block_of_frame.astype(np.int32)), len(limits) - 1
    limits_there = toolkit.to_device(limits)
    launch = Launch.of(dtype, n_frames, n_blocks)

    def compute(n_listed: int, listed: Any, fixed: Any) -> None:
        before = (blocks, np.int32(n_blocks), limits_there, listed, fixed)
        launch(
            toolkit,
            "kruskal",
            frames,
            validity,
            n_listed,
            before,
            (*found.arguments(), dropped, doubtful),
        )

    compute(n_pixels, None, None)
    undecided = np.flatnonzero(toolkit.to_host(doubtful))
    step = max(1, AT_ONCE // n_frames)
    for begin in range(0, len(undecided), step):
        some = undecided[begin : begin + step]
        listed = toolkit.to_device(some.astype(np.int32))
        columns = toolkit.to_host(_gathered(toolkit, frames, listed))
        usable = validity.allows(columns)
        usable = np.ones(columns.shape, bool) if usable is None else usable
        numbers = [
            _blocks_to_drop(*each, block_of_frame, limits)
            for each in zip(columns.T, usable.T, strict=True)
        ]
        compute(len(some), listed, toolkit.to_device(np.array(numbers, np.int32)))
    return replace(found, maps={**found.maps, "dropped": dropped})


def _gathered(toolkit: Toolkit, frames: Any, listed: Any) -> Any:
    """Return the values of the listed pixels, (n, n_listed) on the device, in the frames' dtype."""
    columns = toolkit.xp.empty((len(frames), len(listed)), frames.dtype)
    toolkit.kernel("gather", "gather", SIZE=frames.dtype.itemsize)(
        (*blocks_for(len(listed), THREADS), len(frames)),
        (THREADS,),
        (
            bits_of(frames),
            np.int64(frame_stride(frames)),
            listed,
            np.int32(len(listed)),
            bits_of(columns),
        ),
    )
    return columns


def _blocks_to_drop(
    values: Array,
    usable: NDArray[np.bool_],
    block_of_frame: NDArray[np.integer[Any]],
    limits: NDArray[np.float64],
) -> int:
    """Return the number of blocks that the test rejects in a pixel, by exact fractions.

    ``ranks`` and ``usable`` have the shape (n,).
    """
    values, block = values[usable], block_of_frame[usable]
    for n_dropped in range(len(limits)):
        blocks, member, sizes = np.unique(block, return_inverse=True, return_counts=True)
        limit = float(limits[len(blocks)])
        if len(blocks) < TESTED_FROM or limit == np.inf:
            return n_dropped
        # twice the rank less n + 1: values that are smaller less values that are larger
        ascending = np.sort(values)
        ranks = (
            np.searchsorted(ascending, values, "left")
            + np.searchsorted(ascending, values, "right")
            - len(values)
        )
        sums = np.zeros(len(blocks), np.int64)
        np.add.at(sums, member, ranks)
        means = [
            Fraction(rank_sum, size)
            for rank_sum, size in zip(sums.tolist(), sizes.tolist(), strict=True)
        ]
        squares = int((ranks.astype(np.int64) ** 2).sum())
        if not rejects(len(values), sums, sizes, squares, limit):
            return n_dropped
        stays = block != blocks[means.index(max(means))]
        values, block = values[stays], block[stays]
    raise AssertionError("more blocks left than there were")
