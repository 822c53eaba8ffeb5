"""Warnings from the background: spots that are in the same place on many frames."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import given
from gpu_spots.model import Array, Background

MIN_NOISE = 2.0
"""Smallest height of a spot, in standard deviations over the frames of the pixels around it."""
MIN_SHARE, MIN_FRAMES, MAX_SHARE = 0.15, 3.5, 0.9
"""Smallest share of the sample's frames with the spot, and smallest number of them, which is at
most `MAX_SHARE` of the sample.
"""
MIN_FALL = 0.45
"""Smallest ratio of the heights above places 8 and 16 pixels away; a smooth hill has 0.25, a round
spot with a sigma of 6 pixels 0.6.
"""
MIN_EVENNESS = 3.25
"""Smallest height of a spot, in steps from the 30th to the 70th percentile of ``avg`` around it."""
MIN_SAMPLE = 3
"""Two frames cannot tell a static spot from one that is on a single frame."""
DIRECTIONS = np.array([(8, 0), (0, 8), (6, 6), (-6, 6), (7, 3), (3, 7), (-3, 7), (-7, 3)])
"""Offsets from a pixel to its surroundings, pixels; each stands for two opposite places."""
REACH = 16
"""A spot falls to half of its height within this distance on every side, pixels."""
NEAR = 2
"""Largest distance from a candidate, found at half resolution, to its peak, pixels."""
CELL = 8
"""Side of the cells with one candidate each, pixels at half resolution."""
MAX_CANDIDATES = 500
"""Number of the highest candidates that are examined. It limits the time."""

LARGE_COVER, LARGE_MATCHED_COVER = 0.1, 0.2
"""Largest share of a frame that a mask of a Laue run covers; those of the matched finder contain
whole spots. Usual masks cover less than 1 %.
"""
REGION = 1 << 12
"""Frames of fewer pixels are regions around a spot, which may cover most of them."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def static_places(background: Background) -> Indices:
    """Return X and Y of each spot in the background, (n, 2) int64, the highest first."""
    valid = background.validity.pixels
    if valid is not None and not valid.any():
        return np.zeros((0, 2), np.int64)
    n_used = background.n_sampled
    if background.n_used is not None:
        n_used = int(np.median(background.n_used[... if valid is None else valid]))
    return persistent_spots(background.avg, background.std, background.max, n_used, valid)


def background_warnings(background: Background, n_frames: int) -> Iterator[str]:
    """Yield one line for each finding."""
    valid = background.validity.pixels
    if valid is not None and not valid.any():
        yield "all pixels are masked: none has two valid values, so no spots can be found"
        return
    spots = background.static
    if len(spots):
        places = ", ".join(f"X {x} Y {y}" for x, y in spots[:3]) + ", ..." * (len(spots) > 3)
        remedy = ""
        if background.flagged is None:
            option = given("n" if background.dropped is None else "alpha")
            remedy = f", or increase {option} if the spot is absent from some frames"
        yield (
            f"stats/avg: found {len(spots)} spot{'s' * (len(spots) > 1)} in the background at "
            f"{places}, expected none; a spot in the same place on many of the {n_frames} frames "
            "counts as background and is missing or too weak in the results; add frames at other "
            f"angles{remedy}"
        )


def is_sparse(background: Background) -> bool:
    """Return True if less than half of the valid pixels have more than half a count.

    This is typical of photon counters.
    """
    if background.max.dtype.kind == "f":
        return False
    valid = background.validity.pixels
    sampled = (
        background.avg[::8, ::8] if valid is None else background.avg[::8, ::8][valid[::8, ::8]]
    )
    return bool(2 * np.count_nonzero(sampled > 0.5) < sampled.size)


def cover_warning(
    covered: Indices,
    n_pixels: int,
    *,
    sparse: bool,
    clipped: bool = False,
    matched: bool = False,
    surface: bool = False,
) -> str | None:
    """Return one line if masks cover an absurd share of the frame, else None.

    Args:
        covered: (n_masks,) int64: number of pixels in each mask.
        n_pixels: number of pixels that can be in a mask.
        sparse: whether most pixels of the background have no counts.
        clipped: whether the background is that of ``-m clip``, which trims no photons.
        matched: whether spots were found by the matched finder, which has no cutoff.
        surface: whether the level of a frame is a surface.
    """
    most = LARGE_MATCHED_COVER if matched else LARGE_COVER
    n_absurd = np.count_nonzero(covered > most * n_pixels)
    if not n_absurd or n_pixels < REGION:
        return None
    if matched:
        remedy = f" use {given('normalise', 'surface')}" + (
            "" if clipped else f" with {given('method', 'clip')}"
        )
        reason = (
            "the background does not fit these frames, whose level or shape changes; check "
            f"frame_level,{'' if surface else remedy + ','} or increase {given('significance')}"
        )
    elif sparse and clipped:
        reason = (
            "the background is below one count; check frame_level for frames of different "
            f"exposure, or increase {given('cutoff')} or {given('erosions')}"
        )
    elif sparse:
        reason = (
            "the background is below one count, so that single photons exceed the threshold; "
            f"decrease {given('n')}, which removes photons from the background, or increase "
            f"{given('cutoff')} or {given('erosions')}"
        )
    else:
        reason = (
            "the background does not fit these frames; check frame_level for drift, which "
            f"{given('normalise', 'level')} corrects, or increase {given('cutoff')}"
        )
    false = "many of these spots may be false" if matched else "most of these spots are false"
    return (
        f"masks: {n_absurd} of {len(covered)} cover more than {100 * most:.0f} % of the "
        f"frame, at most {100 * covered.max() / n_pixels:.0f} % (mask {covered.argmax()}), "
        f"expected less than 1 % in a Laue run; {false}: {reason}"
    )


def persistent_spots(
    avg: Floats, std: Floats, highest: Array, n_used: int, valid: Bools | None = None
) -> Indices:
    """Find spots in ``avg``: compact, higher than their surroundings, and on many frames.

    Hot pixels, lines, rings, edges, and spots that touch invalid pixels or the edge of the frame do
    not count.

    Args:
        avg: (n_X, n_Y) float32, counts: average of the background sample.
        std: (n_X, n_Y) float32, counts: its standard deviation.
        highest: (n_X, n_Y), the frames' type, counts: maximum over all frames.
        n_used: number of frames in the sample.
        valid: (n_X, n_Y) bool, False for invalid pixels; None: all are valid. NaN and infinity are
            invalid.

    Returns:
        (n, 2) int64: X and Y of each spot, the highest first.
    """
    if n_used < MIN_SAMPLE:
        return np.zeros((0, 2), np.int64)
    sample = np.sort(avg[:: 1 + avg.shape[0] // 256, :: 1 + avg.shape[1] // 256], axis=None)
    typical = sample[len(sample) // 2]
    # the smallest step of float32 averages; less than a count is no spot
    floor = 1 if highest.dtype.kind != "f" else 5 * np.finfo(np.float32).eps * abs(typical)

    def at(x: Indices, y: Indices) -> tuple[Floats, Floats]:
        """Return average and variance at pixels; NaN if they are unknown.

        They are unknown outside of the frame, at invalid pixels, and at dark and constant pixels,
        such as gaps between modules.
        """
        inside = (x >= 0) & (x < avg.shape[0]) & (y >= 0) & (y < avg.shape[1])
        place = x.clip(0, avg.shape[0] - 1), y.clip(0, avg.shape[1] - 1)
        value, deviation = avg[place], std[place]
        good = (
            inside
            & np.isfinite(value)
            & np.isfinite(deviation)
            & ((deviation > 0) | (value >= typical))
        )
        if valid is not None:
            good &= valid[place]
        return np.where(good, value, np.float32(np.nan)), np.where(
            good, deviation**2, np.float32(np.nan)
        )

    def height(x: Indices, y: Indices, times: int = 1) -> Floats:
        """Return the median of nine pixels less the highest mean of two opposite places.

        It is exact on slopes and ridges.
        """
        ends = [
            at(x[..., None] + s * DIRECTIONS[:, 0], y[..., None] + s * DIRECTIONS[:, 1])[0]
            for s in (times, -times)
        ]
        level = np.fmax.reduce((ends[0] + ends[1]) / 2, axis=-1)
        square = np.arange(9)
        nine, _ = at(x[..., None] + square // 3 - 1, y[..., None] + square % 3 - 1)
        return _median_of_nine(nine) - np.where(np.isnan(level), typical, level)

    with np.errstate(
        over="ignore", invalid="ignore", divide="ignore"
    ):  # float frames can hold any value
        x, y = _candidates(avg, std, typical, floor)
        near = np.arange((2 * NEAR + 1) ** 2)
        x, y = x[:, None] + near // (2 * NEAR + 1) - NEAR, y[:, None] + near % (2 * NEAR + 1) - NEAR
        best = np.nan_to_num(height(x, y), nan=-np.inf).argmax(axis=1)[:, None]
        x, y = np.take_along_axis(x, best, axis=1)[:, 0], np.take_along_axis(y, best, axis=1)[:, 0]

        peak = height(x, y)
        offset = np.arange(-REACH, REACH + 1)
        patches, variance = at(x[:, None, None] + offset[:, None], y[:, None, None] + offset)
        patches -= _plane(patches)
        radius = np.hypot(offset[:, None], offset)
        annulus = (radius >= 7) & (radius <= 13)
        low, high = _quantiles(patches[:, annulus], 0.3), _quantiles(patches[:, annulus], 0.7)
        noise = _quantiles(variance[:, annulus], 0.5)
        middle = np.s_[:, REACH - 1 : REACH + 2, REACH - 1 : REACH + 2]
        own = _median_of_nine(variance[middle].reshape(-1, 9))
        # on a share f of the sample, avg rises by f * height and the variance by f * (1 - f) *
        # height^2
        share = peak**2 / (peak**2 + np.maximum(own - noise, 0))
        spot = (peak > np.maximum(floor, MIN_NOISE * np.sqrt(noise))) & (
            share > min(max(MIN_SHARE, MIN_FRAMES / n_used), MAX_SHARE)
        )
        # a smooth hill rises as much farther out, and what is on a ring or in a corner has uneven
        # surroundings
        spot &= (peak > MIN_FALL * height(x, y, 2)) & (peak > MIN_EVENNESS * (high - low))
        half = _median_of_nine(patches[middle].reshape(-1, 9)) - peak / 2
        spot[spot] = _is_compact(patches[spot], half[spot])
    order = np.flatnonzero(spot)[np.argsort(-peak[spot], kind="stable")]
    places = np.stack([x, y], axis=1)[order]
    close = abs(places - places[:, None]).max(axis=2) <= CELL
    return places[~np.tril(close, -1).any(axis=1)]


def _candidates(avg: Floats, std: Floats, typical: float, floor: float) -> tuple[Indices, Indices]:
    """Return X and Y, (k,) int64 each, of the highest place of each cell, the highest first.

    Height is measured above the surroundings.
    """
    n_x, n_y = avg.shape[0] // 2 * 2, avg.shape[1] // 2 * 2
    rows = np.minimum(avg[:n_x:2], avg[1:n_x:2])
    small = _padded(np.minimum(rows[:, :n_y:2], rows[:, 1:n_y:2]), CELL)  # without hot pixels
    n_x, n_y = small.shape
    wide = np.pad(small, 4, constant_values=np.nan)
    level = np.full(small.shape, np.nan, np.float32)
    for dx, dy in DIRECTIONS[:4] // 2:
        ends = [wide[4 + s * dx :, 4 + s * dy :][:n_x, :n_y] for s in (1, -1)]
        np.fmax(level, (ends[0] + ends[1]) / 2, out=level)
    np.copyto(level, typical, where=np.isnan(level))
    above = _cells(small - level, CELL)
    best = np.nan_to_num(above, nan=-np.inf).argmax(axis=1)
    above = above[np.arange(len(above)), best]
    noise = _quantiles(
        _cells(_padded(std[: 2 * n_x : 4, : 2 * n_y : 4], CELL // 2), CELL // 2), 0.5
    )
    found = np.flatnonzero(above > np.maximum(floor, MIN_NOISE * noise) / 2)
    found = found[np.argsort(-above[found], kind="stable")[:MAX_CANDIDATES]]
    cell_x, cell_y = np.divmod(found, n_y // CELL)
    return 2 * (cell_x * CELL + best[found] // CELL), 2 * (cell_y * CELL + best[found] % CELL)


def _padded(image: Floats, side: int) -> Floats:
    """Return an image that is extended by NaN to whole cells."""
    return np.pad(image, [(0, -n % side) for n in image.shape], constant_values=np.nan)


def _cells(image: Floats, side: int) -> Floats:
    """Return the pixels of each cell, (cells, side^2), cells in raster order."""
    n_x, n_y = (n // side for n in image.shape)
    return image.reshape(n_x, side, n_y, side).swapaxes(1, 2).reshape(n_x * n_y, side * side)


def _quantiles(values: Floats, share: float) -> Floats:
    """Return a quantile of each row of (k, n), (k,); NaN for rows without numbers."""
    values = np.sort(values, axis=1)
    index = (np.count_nonzero(~np.isnan(values), axis=1) * share).astype(np.int64)
    return values[np.arange(len(values)), index]


def _median_of_nine(values: Floats) -> Floats:
    """Return the median along the last axis; NaN if any of the nine values is NaN."""
    values = np.sort(values, axis=-1)
    return np.where(np.isnan(values[..., 8]), np.float32(np.nan), values[..., 4])


def _plane(patches: Floats) -> Floats:
    """Return the slope of patches, (k, w, w), from the median difference of opposite pixels."""
    offset = np.arange(-REACH, REACH + 1)
    slopes = []
    for turned in (patches, patches.swapaxes(1, 2)):
        far, wide = offset[REACH + 7 :][:7], np.s_[REACH - 4 : REACH + 5]
        rise = turned[:, REACH + far, wide] - turned[:, REACH - far, wide]
        rise = np.asarray(rise / (2 * far[:, None]), np.float32)
        slopes.append(np.nan_to_num(_quantiles(rise.reshape(len(rise), 7 * 9), 0.5))[:, None])
    return slopes[0][..., None] * offset[:, None] + slopes[1][..., None] * offset


def _is_compact(patches: Floats, half: Floats) -> Bools:
    """Return whether the area above ``half`` is a compact spot, (k,) bool.

    The area must be closed inside the patch, without invalid pixels beside it, and contain its own
    centre.
    """
    outside = np.isnan(patches)
    outside[:, [0, -1]] = outside[:, :, [0, -1]] = True
    allowed = outside | (patches > half[:, None, None])
    area = np.zeros_like(outside)
    area[:, REACH, REACH] = True
    for _ in range(REACH):  # a spiral may take more steps, but is no spot
        for axis in (1, 2):
            area |= np.roll(area, 1, axis) | np.roll(area, -1, axis)
        area &= allowed
    n, place = area.sum(axis=(1, 2)), np.arange(2 * REACH + 1)
    x, y = (np.rint(area.sum(axis=other) @ place / n).astype(np.int64) for other in (2, 1))
    return ~(area & outside).any(axis=(1, 2)) & area[np.arange(len(area)), x, y]
