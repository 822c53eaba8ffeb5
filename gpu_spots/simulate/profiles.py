"""Shapes of spots, as images of sum 1."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import ParameterError
from gpu_spots.simulate.design import KINDS

Floats = NDArray[np.float64]
Window = tuple[slice, slice]

REACH = {"gaussian": 5, "flat": 4, "split": 6, "streak": 5, "moffat": 15}
"""Half the size of the window of a spot, in sigmas."""
STREAK = (5.0, 10.0)
"""Smallest and largest ratio of the axes of a streak."""
FLAT_RADIUS, FLAT_EDGE = 1.905, 0.15
"""Radius of a flat top and width of its edge, in sigmas: the second moments are those of a
Gaussian.
"""
SPLIT_DISTANCE, SPLIT_SHARE, SPLIT_SIGMA = 2.4, 0.6, 0.5
"""The two parts of a split spot: distance in sigmas along the major axis, share of the first in
the intensity, and their sigmas in those of the spot.
"""
MOFFAT_BETA = 2.5
"""Exponent of the tails."""
CUT_HALF = 12
"""Half the size of a cut-out, pixels."""
CUT_ABOVE = 10.0
"""Height of the highest pixel of a cut-out above its surroundings, in sigmas of the noise."""
CUT_GROW = 3.0
"""Pixels of a cut-out are connected to the highest, and above this, in sigmas of the noise."""
CUT_LARGEST = 200
"""Cut-outs of an image, at most."""


@dataclass(frozen=True, slots=True)
class CutOut:
    """A spot of a real image."""

    image: Floats
    """(h, w) float64: share of each pixel in the intensity; the sum is 1."""
    centre: tuple[float, float]
    """X and Y of the centroid in ``image``, pixels."""
    sigma: tuple[float, float]
    """Root of the second moments along the major and the minor axis, pixels."""
    orientation: float
    """Direction of the major axis, degrees from +X towards +Y."""


def profile(
    kind: str, size: tuple[int, int], XY: Floats, sigma: Floats, orientation: float
) -> tuple[Window, Floats]:
    """Return the window of the frame that holds a spot, and its share of the intensity there.

    Args:
        kind: one of `KINDS`, but not ``cutouts``.
        size: n_X and n_Y, pixels.
        XY: (2,) float64, centre, pixels.
        sigma: (2,) float64, along the major and the minor axis, pixels.
        orientation: of the major axis, radians from +X towards +Y.
    """
    cos, sin = math.cos(orientation), math.sin(orientation)
    half = REACH[kind] * np.array(
        [math.hypot(sigma[0] * cos, sigma[1] * sin), math.hypot(sigma[0] * sin, sigma[1] * cos)]
    )
    first, last = np.floor(XY - half).astype(int), (np.ceil(XY + half) + 1).astype(int)
    begin, end = np.maximum(first, 0), np.minimum(last, size)
    if kind not in ("gaussian", "streak"):
        begin, end = first, last
    x, y = np.arange(begin[0], end[0])[:, None] - XY[0], np.arange(begin[1], end[1]) - XY[1]
    along, across = (x * cos + y * sin) / sigma[0], (y * cos - x * sin) / sigma[1]
    if kind in ("gaussian", "streak"):
        share = np.exp(-(along**2 + across**2) / 2) / (2 * math.pi * sigma[0] * sigma[1])
        return (slice(begin[0], end[0]), slice(begin[1], end[1])), share
    values = _SHAPES[kind](along, across)
    return cut_to_frame(values / values.sum(), first, size)


def cut_to_frame(
    image: Floats, first: NDArray[np.int_], size: tuple[int, int]
) -> tuple[Window, Floats]:
    """Return the part of an image that is on the frame, and its window there.

    Args:
        image: (h, w) float64.
        first: (2,) int, X and Y of its first pixel; may be outside of the frame.
        size: n_X and n_Y of the frame.
    """
    begin = np.clip(first, 0, size)
    end = np.clip(first + image.shape, 0, size)
    part = tuple(slice(b - f, e - f) for b, e, f in zip(begin, end, first, strict=True))
    return (slice(begin[0], end[0]), slice(begin[1], end[1])), image[part]


def _flat(along: Floats, across: Floats) -> Floats:
    distance = (np.hypot(along, across) - FLAT_RADIUS) / FLAT_EDGE
    return np.asarray(1 / (1 + np.exp(distance.clip(-50, 50))))


def _split(along: Floats, across: Floats) -> Floats:
    parts = np.zeros(np.broadcast_shapes(along.shape, across.shape))
    for share, offset in (
        (SPLIT_SHARE, (1 - SPLIT_SHARE) * SPLIT_DISTANCE),
        (1 - SPLIT_SHARE, -SPLIT_SHARE * SPLIT_DISTANCE),
    ):
        parts += share * np.exp(-((along - offset) ** 2 + across**2) / (2 * SPLIT_SIGMA**2))
    return parts


def _moffat(along: Floats, across: Floats) -> Floats:
    # as wide as the Gaussian at half its height
    alpha2 = 2 * math.log(2) / (2 ** (1 / MOFFAT_BETA) - 1)
    return np.asarray((1 + (along**2 + across**2) / alpha2) ** -MOFFAT_BETA)


_SHAPES = {"flat": _flat, "split": _split, "moffat": _moffat}


def cut_spots(image: NDArray[np.number]) -> tuple[CutOut, ...]:
    """Cut the clear spots out of an image, the highest first.

    The surroundings of a spot are described by the median and the median deviation of the pixels
    at the border of its window. Spots near the border of the image are not taken.

    Args:
        image: (n_X, n_Y), counts.

    Raises:
        ParameterError: the image has no clear spot.
    """
    counts = np.where(np.isfinite(image), image, 0).astype(np.float64)
    found: list[CutOut] = []
    size = 2 * CUT_HALF + 1
    free = np.zeros(counts.shape, bool)
    free[CUT_HALF:-CUT_HALF, CUT_HALF:-CUT_HALF] = True
    order = np.argsort(counts, axis=None, kind="stable")[::-1][: counts.size // 20]
    border = np.ones((size, size), bool)
    border[2:-2, 2:-2] = False
    for flat in order.tolist():
        x, y = divmod(flat, counts.shape[1])
        if not free[x, y]:
            continue
        window = slice(x - CUT_HALF, x + CUT_HALF + 1), slice(y - CUT_HALF, y + CUT_HALF + 1)
        free[window] = False
        cut = counts[window]
        level = np.median(cut[border])
        noise = max(1.4826 * float(np.median(abs(cut[border] - level))), 0.5)
        excess = cut - level
        if excess[CUT_HALF, CUT_HALF] < CUT_ABOVE * noise:
            continue
        spot = _connected(excess > CUT_GROW * noise)
        if (spot & border).any() or spot.sum() < 2:
            continue
        found.append(_cut_out(np.where(spot, excess, 0)))
        if len(found) == CUT_LARGEST:
            break
    if not found:
        raise ParameterError("cutouts", "found no clear spot in the image, expected one or more")
    return tuple(found)


def _connected(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels that are connected to the middle one, by sides or corners."""
    spot = np.zeros_like(above)
    spot[CUT_HALF, CUT_HALF] = True
    while True:
        grown = np.pad(spot, 1)
        grown = grown[:-2] | grown[1:-1] | grown[2:]
        grown = (grown[:, :-2] | grown[:, 1:-1] | grown[:, 2:]) & above
        if (grown == spot).all():
            return spot
        spot = grown


def _cut_out(image: Floats) -> CutOut:
    rows, columns = np.nonzero(image.any(1))[0], np.nonzero(image.any(0))[0]
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = image / image.sum()
    x, y = np.ogrid[: image.shape[0], : image.shape[1]]
    centre = float((x * image).sum()), float((y * image).sum())
    dx, dy = x - centre[0], y - centre[1]
    # a pixel is a square: its own second moment
    xx, yy = ((d**2 * image).sum() + 1 / 12 for d in (dx, dy))
    xy = (dx * dy * image).sum()
    mean, half = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    return CutOut(
        image,
        centre,
        (math.sqrt(mean + half), math.sqrt(max(mean - half, 1 / 12))),
        math.degrees(math.atan2(2 * xy, xx - yy) / 2),
    )


def drawn_kinds(wanted: str, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return the kind of each spot, (n,) int32, an index into `KINDS`."""
    if wanted != "mixed":
        return np.full(n, KINDS.index(wanted), np.int32)
    return rng.integers(0, KINDS.index("cutouts"), n, dtype=np.int32)
