"""What the background tells about the run: things a crystallographer would want to know before trusting the spots.

All of it is looked up in the finished maps, on the host: that costs a few passes over one image, once a run.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, Background

BLOCK = 32
"""Pixels on a side of the blocks that have one level of noise."""
SAMPLE = 4
"""Every how many-th row and column of a block is looked at."""
CELL = 16
"""Pixels on a side of the cells in which one candidate is looked for."""
CLEARLY = 5.0
"""Standard deviations over the frames by which a spot is above what surrounds it."""
SHARE = 0.1
"""A spot that stays is on at least this share of the frames of the sample (with -n 25: on a third of all frames)."""
AROUND = ((8, 0), (6, 6), (0, 8), (-6, 6), (7, 3), (3, 7), (-3, 7), (-7, 3))
"""The surroundings of a pixel are looked up at plus and minus these rows and columns, and at twice as many for long spots."""
QUICKLY = 4
"""How many of them the search for candidates uses."""
SHARP = 1 / 3
"""Smallest ratio of a spot's height above the near surroundings to that above the far ones: 0.9 for a sigma of 4 pixels, 0.5 for one of
7, 0.25 for a smooth hill."""
UNEVEN = 2.0
"""A spot is at least so many times as high as its surroundings are uneven."""
NEAR = 4
"""Rows and columns by which a candidate may miss the highest place."""
REACH = 16
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
    if background.validity.pixels is not None and not background.validity.pixels.any():
        yield "every pixel is masked, as none has two valid values: there is nothing to find spots in"
        return
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
    closed and filled at half of its height, so that module edges, powder rings and the halo of a beamstop are none. Its surroundings are
    even, so that what a steep background has of bumps and corners is none. One that is cut by the edge of the frame or by invalid pixels,
    or that is no higher than its surroundings are uneven, is passed over: a false alarm would cost more than a spot that others tell of.

    Args:
        avg: (n_X, n_Y) float32, counts: average of each pixel's background sample. NaN and infinity are invalid.
        std: (n_X, n_Y) float32, counts: standard deviation of it. NaN and infinity are invalid.
        highest: (n_X, n_Y), the frames' type, counts: maximum over all frames.
        valid: (n_X, n_Y) bool: False pixels are invalid; None: none is.

    Returns:
        (n, 2) int64: X and Y of each spot, the highest first.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # float frames may hold anything
        valid = _telling(avg, std, highest, valid)
        # -inf is below every threshold, so that what follows stops at invalid pixels as it does at the edge
        image = avg if valid.all() else np.where(valid, avg, np.float32(-np.inf))
        level, noise = _block_medians(avg, valid), _block_medians(std, valid)
        noise = np.maximum(noise, 1 if highest.dtype.kind != "f" else CLEARLY * np.finfo(np.float32).eps * np.abs(level))
        x, y = _candidates(image, level, CLEARLY * noise)
        block = x // BLOCK, y // BLOCK
        return _spots_near(image, std, x, y, level[block], CLEARLY * noise[block])


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


def _block_medians(image: Floats, valid: Bools) -> Floats:
    """(blocks in X, blocks in Y) float32: the median of each block's valid pixels, of a sample of them; +inf where there are none."""
    sample = np.where(valid[::SAMPLE, ::SAMPLE], image[::SAMPLE, ::SAMPLE], np.float32(np.inf))
    side = BLOCK // SAMPLE
    sample = np.pad(sample, ((0, -len(sample) % side), (0, -sample.shape[1] % side)), constant_values=np.inf)
    blocks = sample.reshape(len(sample) // side, side, -1, side).swapaxes(1, 2).reshape(len(sample) // side, -1, side * side)
    blocks = np.sort(blocks, axis=2)
    middle = np.count_nonzero(blocks < np.inf, axis=2, keepdims=True) // 2
    return np.take_along_axis(blocks, middle, axis=2)[:, :, 0]


def _candidates(image: Floats, level: Floats, least: Floats) -> tuple[Indices, Indices]:
    """Where to look for spots: the place in each cell that is highest above its surroundings, to 2 pixels.

    Args:
        image: (n_X, n_Y) float32, counts; -inf: invalid.
        level: (blocks in X, blocks in Y) float32, counts: the background where the surroundings cannot tell.
        least: (blocks in X, blocks in Y) float32, counts: by how much a spot is above its surroundings; half of it makes a candidate.

    Returns:
        X and Y, (k,) int64 each, the highest first.
    """
    # the smallest of four pixels: hot pixels do not survive it, what is 3 pixels wide does, and a quarter of the work is left
    n_x, n_y = image.shape[0] // 2, image.shape[1] // 2
    rows = np.minimum(image[: 2 * n_x : 2], image[1 : 2 * n_x : 2])
    small = np.minimum(rows[:, : 2 * n_y : 2], rows[:, 1 : 2 * n_y : 2])
    around = np.full_like(small, -np.inf)
    margin = max(dx for dx, _ in AROUND) // 2
    halves = np.pad(small * np.float32(0.5), margin, constant_values=-np.inf)
    for dx, dy in ((dx // 2, dy // 2) for dx, dy in AROUND[:QUICKLY]):
        plus = halves[margin + dx : margin + dx + n_x, margin + dy : margin + dy + n_y]
        minus = halves[margin - dx : margin - dx + n_x, margin - dy : margin - dy + n_y]
        np.maximum(around, plus + minus, out=around)
    blind = around == -np.inf
    if blind.any():
        np.copyto(around, _by_block(level, BLOCK // 2, small.shape), where=blind)

    side = CELL // 2
    above = np.pad(small - around, ((0, -n_x % side), (0, -n_y % side)), constant_values=-np.inf)
    cells_x, cells_y = above.shape[0] // side, above.shape[1] // side
    cells = above.reshape(cells_x, side, cells_y * side).max(axis=1).reshape(cells_x, cells_y, side).max(axis=2)
    x, y = np.nonzero(cells > _by_block(least * np.float32(0.5), BLOCK // CELL, cells.shape))
    order = np.argsort(-cells[x, y], kind="stable")[:MOST]
    x, y = x[order] * side, y[order] * side
    first = _patches(above, x, y, side).reshape(len(x), side * side).argmax(axis=1)
    return 2 * (x + first // side), 2 * (y + first % side)


def _spots_near(image: Floats, std: Floats, x: Indices, y: Indices, level: Floats, least: Floats) -> Indices:
    """Which of the candidates are spots.

    Args:
        image: (n_X, n_Y) float32, counts; -inf: invalid.
        std: (n_X, n_Y) float32, counts.
        x: (k,) int64: X of each candidate.
        y: (k,) int64: Y of each candidate.
        level: (k,) float32, counts: the background where the surroundings cannot tell.
        least: (k,) float32, counts: by how much a spot is above its surroundings.

    Returns:
        (n, 2) int64: X and Y of each spot, the highest first.
    """
    x, y = _highest_near(image, x, y)
    patches = _patches(image, x - REACH - 1, y - REACH - 1, 2 * REACH + 3)
    far, far_uneven = _flattened(patches, level, 2)
    patches, uneven = _flattened(patches, level, 1)
    height, far_height = _core(patches), _core(far)
    # what is high on a powder ring, or in a corner of the beamstop, has uneven surroundings; a long spot has even ones farther away
    spot = (height > UNEVEN * uneven) | (far_height > UNEVEN * far_uneven)
    spot &= (height > least) & (height > SHARP * far_height)
    # on a share f of the sample, avg rises by f * height and std to sqrt(f * (1 - f)) * height
    spot &= height > std[x, y] * math.sqrt(SHARE / (1 - SHARE))

    x, y, height, patches = x[spot], y[spot], height[spot], patches[spot, 1:-1, 1:-1]
    area = _connected_to_middle(patches > height[:, None, None] / 2)
    spot = _closed_and_filled(area, patches > -np.inf)
    order = np.flatnonzero(spot)[np.argsort(-height[spot], kind="stable")]
    found = np.stack([x[order], y[order]], axis=1)
    return found[_first_in_area(found, area[order])]


def _highest_near(image: Floats, x: Indices, y: Indices) -> tuple[Indices, Indices]:
    """X and Y of the pixel within `NEAR` of each place that is highest above its slope, (k,) int64 each."""
    reach, side = max(dx for dx, _ in AROUND), 2 * NEAR + 1
    patches, _ = _flattened(_patches(image, x - reach, y - reach, 2 * reach + 1), np.zeros(len(x), np.float32), 1)
    near = slice(reach - NEAR - 1, reach + NEAR + 2)
    core = _least_of_nine(patches[:, near, near]).reshape(len(x), side * side)
    # invalid everywhere: it stays, as elsewhere may be outside
    best = np.where(core.max(axis=1) > -np.inf, core.argmax(axis=1), core.shape[1] // 2)
    return x + best // side - NEAR, y + best % side - NEAR


def _flattened(patches: Floats, level: Floats, times: int) -> tuple[Floats, Floats]:
    """Patches without their background and its slope.

    The background is the highest of the means of opposite places `AROUND` the middle, which is exact on a slope and on a straight ridge.

    Args:
        patches: (k, w, w) float32, counts; -inf: invalid.
        level: (k,) float32, counts: the background where the surroundings are invalid.
        times: how much farther away to look than `AROUND`.

    Returns:
        The patches, and how much is left at those places, (k,) float32, counts: about nothing on a slope, much at an edge.
    """
    middle = patches.shape[1] // 2
    offset = np.array(AROUND) * times
    plus, minus = (patches[:, middle + sign * offset[:, 0], middle + sign * offset[:, 1]] for sign in (1, -1))
    mean = plus / 2 + minus / 2
    around = mean.max(axis=1)
    around = np.where(around > -np.inf, around, level)
    # a neighbouring spot is no slope: on a slope, the highest is not farther from the median than the lowest
    both = np.concatenate([plus, minus], axis=1)
    highest = 2 * np.median(both, axis=1, keepdims=True) - both.min(axis=1, keepdims=True)
    rise = np.where(mean > -np.inf, np.fmin(plus, highest) - np.fmin(minus, highest), 0) / 2
    slope = rise @ (offset / (offset**2).sum(axis=0)).astype(np.float32)
    left = both - around[:, None] - slope @ np.concatenate([offset, -offset]).T.astype(np.float32)
    # two of the places may be in a neighbouring spot
    uneven = np.sort(np.where(both > -np.inf, abs(left), 0), axis=1)[:, -3]
    distance = np.arange(-middle, middle + 1, dtype=np.float32)
    below = around[:, None, None] + slope[:, 0, None, None] * distance[:, None] + slope[:, 1, None, None] * distance
    return patches - below, uneven


def _core(patches: Floats) -> Floats:
    """(k,) float32: the smallest of the nine pixels in the middle of each patch: what is less than 3 pixels wide has none."""
    middle = patches.shape[1] // 2
    return np.asarray(patches[:, middle - 1 : middle + 2, middle - 1 : middle + 2].min(axis=(1, 2)))


def _first_in_area(places: Indices, area: Bools) -> Bools:
    """(k,) bool: places (k, 2) that are not in the area (k, w, w) of one before them: several candidates can lead to one spot."""
    apart = places - places[:, None]
    before, after = np.nonzero(np.triu((abs(apart) <= REACH).all(axis=2), 1))
    dx, dy = apart[before, after].T + REACH
    first = np.ones(len(places), bool)
    first[after[area[before, dx, dy]]] = False
    return first


def _closed_and_filled(area: Bools, valid: Bools) -> Bools:
    """(k,) bool: areas of patches (k, w, w) that touch neither the edge nor invalid pixels, and are about as compact as ellipses."""
    cut = area[:, [0, -1]].any(axis=(1, 2)) | area[:, :, [0, -1]].any(axis=(1, 2)) | (_grown(area) & ~valid).any(axis=(1, 2))
    place = np.arange(area.shape[1], dtype=np.float64)
    rows, columns = area.sum(axis=2), area.sum(axis=1)
    n = np.maximum(rows.sum(axis=1), 1)
    mean_x, mean_y = rows @ place / n, columns @ place / n
    # a pixel is a square, not a point: 1/12
    xx, yy = rows @ place**2 / n - mean_x**2 + 1 / 12, columns @ place**2 / n - mean_y**2 + 1 / 12
    xy = (area @ place * place).sum(axis=1) / n - mean_x * mean_y
    filled: Bools = n >= FILLED * 4 * np.pi * np.sqrt(np.maximum(xx * yy - xy**2, 0))
    return filled & ~cut


def _connected_to_middle(above: Bools) -> Bools:
    """(k, w, w) bool: the part of each patch that is connected with its middle."""
    middle = above.shape[1] // 2
    area = np.zeros_like(above)
    area[:, middle, middle] = above[:, middle, middle]
    while True:
        grown = _grown(area)
        grown &= above
        if np.array_equal(grown, area):
            return area
        area = grown


def _by_block(values: Floats, side: int, shape: tuple[int, ...]) -> Floats:
    """One value a block to one value a pixel of (n_X, n_Y), for blocks of ``side`` pixels."""
    return values.repeat(side, axis=0)[: shape[0]].repeat(side, axis=1)[:, : shape[1]]


def _grown(area: Bools) -> Bools:
    """One dilation of each patch (k, w, w) with all eight neighbours."""
    wide = area.copy()
    wide[:, :, 1:] |= area[:, :, :-1]
    wide[:, :, :-1] |= area[:, :, 1:]
    grown = wide.copy()
    grown[:, 1:] |= wide[:, :-1]
    grown[:, :-1] |= wide[:, 1:]
    return grown


def _least_of_nine(patches: Floats) -> Floats:
    """(k, w, w) to (k, w - 2, w - 2): the smallest value of each pixel and its neighbours."""
    least = np.minimum(np.minimum(patches[:, :-2], patches[:, 1:-1]), patches[:, 2:])
    return np.minimum(np.minimum(least[:, :, :-2], least[:, :, 1:-1]), least[:, :, 2:])


def _patches(image: Floats, x: Indices, y: Indices, side: int) -> Floats:
    """(k, side, side): what begins at each X and Y, -inf outside."""
    offset = np.arange(side)
    return _at(image, x[:, None, None] + offset[:, None], y[:, None, None] + offset)


def _at(image: Floats, x: Indices, y: Indices) -> Floats:
    """The values at pixels; -inf outside."""
    n_x, n_y = image.shape
    inside = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
    return np.where(inside, image[x.clip(0, n_x - 1), y.clip(0, n_y - 1)], np.float32(-np.inf))
