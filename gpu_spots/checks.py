"""What the background tells about the run: things a crystallographer would want to know before trusting the spots."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Backend
from gpu_spots.model import Array, Background, Morphology, Validity

BLOCK = 32
"""Pixels on a side of the blocks whose median is the smooth background, larger than nearly every spot."""
SAMPLE = 4
"""Every how many-th row and column of a block is looked at."""
CLEARLY = 5.0
"""Standard deviations above the smooth background that make a pixel stand out of it."""


def background_warnings(background: Background, backend: Backend, n_frames: int) -> Iterator[str]:
    """One line for each thing noticed."""
    persistent = persistent_spots(background, backend)
    if len(persistent):
        x, y = persistent[0]
        what = "a spot persists" if len(persistent) == 1 else f"{len(persistent)} spots persist"
        yield (
            f"{what} in the background, {'at' if len(persistent) == 1 else 'the first at'} X {x}, Y {y}: what is at the same place "
            f"on most of the {n_frames} frames cannot be found by comparing frames; see stats/avg, and consider a larger -n"
        )


def persistent_spots(background: Background, backend: Backend) -> NDArray[np.int64]:
    """(n, 2) int64: X and Y of spots in ``avg``: compact bright places in a background that should be smooth.

    The manual: "No spots should be visible on 'avg' array." A pixel counts where ``avg`` is above the medians of the blocks around it by
    `CLEARLY` times their standard deviation over the frames. One erosion must leave something of the spot, so that hot pixels and detector
    lines do not count, and it must be no larger than a block, so that the edge of the beamstop does not.
    """
    threshold = _surroundings(background.avg) + CLEARLY * np.maximum(_surroundings(background.std), 1)
    threshold[~np.isfinite(threshold)] = np.nan
    average = background.avg[None]
    as_one_frame = replace(
        background, max=average[0], threshold=threshold, level=threshold, gaps=False, validity=Validity(background.validity.pixels)
    )
    prepared = backend.prepare(as_one_frame, Morphology(erosions=1, dilations=0, connectivity=2))
    frame = backend.upload(average)
    found = backend.components(backend.find_masks(frame, prepared).filtered, 2)
    peak = backend.measure(frame, found, np.zeros(1, np.int64), prepared).peak
    compact = (found.box[:, 1::2] - found.box[:, ::2]).max(axis=1, initial=0) <= BLOCK
    return np.stack(np.divmod(peak[compact], average.shape[2]), axis=1)


def _surroundings(image: Array) -> NDArray[np.float64]:
    """For each pixel of (n_X, n_Y) the largest median of the block it is in and the eight blocks around: never too low on a slope."""
    n_x, n_y = image.shape
    padded = np.pad(image, ((0, -n_x % BLOCK), (0, -n_y % BLOCK)), mode="symmetric")[SAMPLE // 2 :: SAMPLE, SAMPLE // 2 :: SAMPLE]
    side = BLOCK // SAMPLE
    blocks_x, blocks_y = padded.shape[0] // side, padded.shape[1] // side
    values = padded.reshape(blocks_x, side, blocks_y, side).swapaxes(1, 2).reshape(blocks_x, blocks_y, side * side)
    median = np.pad(np.sort(values, axis=2)[:, :, side * side // 2], 1, mode="edge")
    highest = np.max([median[i : i + blocks_x, j : j + blocks_y] for i in range(3) for j in range(3)], axis=0)
    return highest.astype(np.float64).repeat(BLOCK, axis=0)[:n_x].repeat(BLOCK, axis=1)[:, :n_y]
