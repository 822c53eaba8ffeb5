"""What the background tells about the run: things a crystallographer would want to know before trusting the spots.

All of it is looked up in the finished maps, on the host: that costs a few passes over one image, once a run.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, Background

BLOCK = 32
"""Pixels on a side of the blocks whose median is the smooth background, larger than nearly every spot."""
SAMPLE = 4
"""Every how many-th row and column of a block is looked at."""
CELL = 16
"""Pixels on a side of the cells in which one candidate is looked for."""
CLEARLY = 5.0
"""Standard deviations over the frames by which a spot is above what surrounds it."""
SHARE = 0.1
"""A spot that stays is on at least this share of the frames of the sample (with -n 25: on a third of all frames)."""
NEAR = 4
"""A candidate is the highest place within so many rows and columns."""
RINGS = (12, 16)
"""Radii of the circles that tell the level around a spot, pixels: a spot of the usual size is over there."""
REACH = 20
"""A spot falls to half of its height within so many rows and columns, on every side."""
FILLED = 0.75
"""Smallest ratio of a spot's area to that of the ellipse with the same second moments: a square has 0.95, half a ring 0.65, a ring 0.6."""
MOST = 1000
"""Candidates that are looked at, the highest ones, so that no image takes long."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def background_warnings(background: Background, n_frames: int) -> Iterator[str]:
    """One line for each thing noticed."""
    spots = persistent_spots(background.avg, background.std, background.max, background.validity.pixels)
    if len(spots):
        x, y = spots[0]
        what, where = ("a spot shows", "at") if len(spots) == 1 else (f"{len(spots)} spots show", "the highest at")
        remedy = "-n" if background.dropped is None else "-A"
        yield (
            f"{what} in the background (stats/avg), {where} X {x}, Y {y}: what is at the same place on many of the {n_frames} frames "
            f"counts as background and is missing or too weak in the results; increase {remedy}, or add frames at other angles"
        )


def persistent_spots(avg: Floats, std: Floats, highest: Array, valid: Bools | None = None) -> Indices:
    """Places in ``avg`` that look like spots. The manual: "No spots should be visible on 'avg' array".

    A spot here stands out by `CLEARLY` standard deviations, is at least 3 pixels wide, so that hot pixels and thin lines are none, and is
    closed and filled at half of its height, so that module edges, powder rings and the halo of a beamstop are none. One that is cut by
    the edge of the frame or by invalid pixels is passed over.

    Args:
        avg: (n_X, n_Y) float32, counts: average of each pixel's background sample. NaN and infinity are invalid.
        std: (n_X, n_Y) float32, counts: standard deviation of it. NaN and infinity are invalid.
        highest: (n_X, n_Y), the frames' type, counts: maximum over all frames.
        valid: (n_X, n_Y) bool: False pixels are invalid; None: none is.

    Returns:
        (n, 2) int64: X and Y of each spot, the highest first.
    """
    valid = _telling(avg, std, highest, valid)
    # -inf is below every threshold, so that what follows stops at invalid pixels as it does at the edge
    image = avg if valid.all() else np.where(valid, avg, np.float32(-np.inf))
    level, noise = _block_medians(avg, valid), _block_medians(std, valid)
    noise = np.maximum(noise, 1.0 if highest.dtype.kind != "f" else CLEARLY * np.finfo(np.float32).eps * np.abs(level))

    x, y, value = _candidates(image, level + CLEARLY * noise)
    block = x // BLOCK, y // BLOCK
    around = _level_around(image, x, y, level[block])
    height = value - around
    # on a share f of the sample, avg rises by f * height and std to sqrt(f * (1 - f)) * height
    stays = height >= std[x, y] * math.sqrt(SHARE / (1 - SHARE))
    spot = stays & (height > CLEARLY * noise[block])
    return _compact(image, x[spot], y[spot], (around + height / 2)[spot])


def _telling(avg: Floats, std: Floats, highest: Array, valid: Bools | None) -> Bools:
    """(n_X, n_Y) bool: pixels that are valid, finite and no gap: dark, and the same on all frames.

    Where most of the frame never changes, that is no gap but a background without counts. What is constant and bright stays, as the
    middle of an overexposed spot is.
    """
    telling = np.isfinite(avg) & np.isfinite(std)
    if valid is not None:
        telling &= valid
    constant = (std == 0) & telling
    if 0 < 2 * np.count_nonzero(constant) < np.count_nonzero(telling):
        constant &= avg == highest
        some = tuple(slice(None, None, 1 + n // 256) for n in avg.shape)
        constant &= avg <= np.median(avg[some][telling[some] & ~constant[some]])
        telling &= ~constant
    return telling


def _block_medians(image: Floats, valid: Bools) -> NDArray[np.float64]:
    """(blocks in X, blocks in Y) float64: the median of each block's valid pixels, of a sample of them; +inf where there are none."""
    n_x, n_y = image.shape
    sample = np.where(valid[::SAMPLE, ::SAMPLE], image[::SAMPLE, ::SAMPLE], np.float32(np.inf))
    side = BLOCK // SAMPLE
    sample = np.pad(sample, ((0, -len(sample) % side), (0, -sample.shape[1] % side)), constant_values=np.inf)
    blocks = sample.reshape(len(sample) // side, side, -1, side).swapaxes(1, 2).reshape(len(sample) // side, -1, side * side)
    blocks = np.sort(blocks, axis=2)
    middle = np.count_nonzero(blocks < np.inf, axis=2, keepdims=True) // 2
    return np.take_along_axis(blocks, middle, axis=2)[:, :, 0].astype(np.float64)


def _candidates(image: Floats, threshold: NDArray[np.float64]) -> tuple[Indices, Indices, Floats]:
    """Where a search for spots should look.

    Args:
        image: (n_X, n_Y) float32, counts.
        threshold: (blocks in X, blocks in Y) float64, counts.

    Returns:
        X, Y and the value (k,) of the highest place of each cell, where that is above its block's threshold and no place near is higher;
        the highest first. The value of a place is the smallest of nine pixels: what is less than 3 pixels wide has none.
    """
    n_x, n_y = image.shape
    whole = n_x // CELL * CELL  # reduceat along the first axis would take thirty times as long
    rows = image[:whole].reshape(-1, CELL, n_y).max(axis=1)
    if whole < n_x:
        rows = np.concatenate([rows, image[whole:].max(axis=0, keepdims=True)])
    highest = np.maximum.reduceat(rows, np.arange(0, n_y, CELL), axis=1)
    of_block = np.arange(len(highest))[:, None] * CELL // BLOCK, np.arange(highest.shape[1]) * CELL // BLOCK
    cell_x, cell_y = np.nonzero(highest > threshold[of_block])
    x, y = cell_x * CELL, cell_y * CELL
    first = _least_of_nine(_patches(image, x - 1, y - 1, CELL + 2)).reshape(len(x), CELL * CELL).argmax(axis=1)
    x, y = x + first // CELL, y + first % CELL
    near = _least_of_nine(_patches(image, x - NEAR - 1, y - NEAR - 1, 2 * NEAR + 3))
    value = near[:, NEAR, NEAR]
    top = np.flatnonzero((value > threshold[x // BLOCK, y // BLOCK]) & (value >= near.max(axis=(1, 2), initial=-np.inf)))
    top = top[np.argsort(-value[top], kind="stable")][:MOST]
    return x[top], y[top], value[top]


def _level_around(image: Floats, x: Indices, y: Indices, otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) float64, counts: the median on circles around each place; ``otherwise`` where less than a quarter of them is valid."""
    turn = 2 * np.pi * np.arange(32) / 32
    radius = np.resize(RINGS, 32)
    values = _at(image, x[:, None] + np.rint(radius * np.cos(turn)).astype(int), y[:, None] + np.rint(radius * np.sin(turn)).astype(int))
    values = np.sort(np.where(values == -np.inf, np.inf, values), axis=1).astype(np.float64)
    count = np.count_nonzero(values < np.inf, axis=1)
    middle = np.take_along_axis(values, count[:, None] // 2 % 32, axis=1)[:, 0]
    return np.where(count >= 8, middle, otherwise)


def _compact(image: Floats, x: Indices, y: Indices, half: NDArray[np.float64]) -> Indices:
    """Those places around which what is above half of the height is closed and filled: (k, 2), in order, one for each such area."""
    side = 2 * REACH + 1
    patches = _patches(image, x - REACH - 1, y - REACH - 1, side + 2)
    inner = patches[:, 1:-1, 1:-1]
    area = _connected_to_centre(inner > half[:, None, None])
    cut = area[:, [0, -1]].any(axis=(1, 2)) | area[:, :, [0, -1]].any(axis=(1, 2)) | (_grown(area) & (inner == -np.inf)).any(axis=(1, 2))

    offset = np.arange(-REACH, REACH + 1)
    rows, columns = area.sum(axis=2), area.sum(axis=1)
    n = np.maximum(rows.sum(axis=1), 1)
    mean_x, mean_y = rows @ offset / n, columns @ offset / n
    # a pixel is a square, not a point: 1/12
    xx, yy = rows @ offset**2 / n - mean_x**2 + 1 / 12, columns @ offset**2 / n - mean_y**2 + 1 / 12
    xy = np.einsum("nij,i,j->n", area, offset, offset) / n - mean_x * mean_y
    filled = n >= FILLED * 4 * np.pi * np.sqrt(xx * yy - xy**2)

    highest = np.where(area, _least_of_nine(patches), -np.inf).reshape(len(x), side * side).argmax(axis=1)
    top = np.stack([x + highest // side - REACH, y + highest % side - REACH], axis=1)[filled & ~cut]
    _, first = np.unique(top, axis=0, return_index=True)
    return top[np.sort(first)]


def _connected_to_centre(above: Bools) -> Bools:
    """(n, w, w) bool: the part of each window that is connected with its middle."""
    area = np.zeros_like(above)
    middle = above.shape[1] // 2
    area[:, middle, middle] = above[:, middle, middle]
    while True:
        grown = _grown(area)
        grown &= above
        if np.array_equal(grown, area):
            return area
        area = grown


def _grown(area: Bools) -> Bools:
    """One dilation of each window with all eight neighbours."""
    wide = area.copy()
    wide[:, :, 1:] |= area[:, :, :-1]
    wide[:, :, :-1] |= area[:, :, 1:]
    grown = wide.copy()
    grown[:, 1:] |= wide[:, :-1]
    grown[:, :-1] |= wide[:, 1:]
    return grown


def _least_of_nine(patches: Floats) -> Floats:
    """(n, w, w) to (n, w - 2, w - 2): the smallest value of each pixel and its neighbours."""
    least = np.minimum(np.minimum(patches[:, :-2], patches[:, 1:-1]), patches[:, 2:])
    return np.minimum(np.minimum(least[:, :, :-2], least[:, :, 1:-1]), least[:, :, 2:])


def _patches(image: Floats, x: Indices, y: Indices, side: int) -> Floats:
    """(n, side, side): what begins at each X and Y, -inf outside."""
    offset = np.arange(side)
    return _at(image, x[:, None, None] + offset[:, None], y[:, None, None] + offset)


def _at(image: Floats, x: Indices, y: Indices) -> Floats:
    """The values at pixels; -inf outside."""
    n_x, n_y = image.shape
    inside = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
    return np.where(inside, image[x.clip(0, n_x - 1), y.clip(0, n_y - 1)], np.float32(-np.inf))
