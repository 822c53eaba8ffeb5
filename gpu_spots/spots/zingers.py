"""Zingers in the masks of single frames.

A cosmic ray or a decay in the detector makes a pixel bright on one frame: a zinger. The mask of a
spot beside it can contain it, and it would count as light of the spot. A zinger is known by its
place and shape: it stands alone, away from the centre of the spot.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.matched_spots import stretches
from gpu_spots.model import Components, Measurements

TIMES = 4.0
"""Height of a zinger, in that of its highest neighbour."""
SIGMAS = 8.0
"""And above that, in sigmas of the pixel."""
AWAY = 3.0
"""Distance from the centre of the other pixels, along X or Y, pixels: the centre of a sharp spot
stands alone, too, and two peaks that are nearer may be one spot.
"""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def zingers(
    found: Components, n_columns: int, above: Floats, variance: Floats, gain: float
) -> Indices:
    """Return the pixels of spots that are zingers, as numbers in ``found.pixels``.

    (z,) int64, ascending. Every spot has other pixels.

    Args:
        found: Spots of frames, each frame with a mask of its own.
        n_columns: n_Y.
        above: (p,) float64, counts: values of all pixels of the spots less the background.
        variance: (p,) float64, counts^2: their variance without the spot; NaN: not known, and such
            a pixel is none.
        gain: counts per counted unit.
    """
    pixels = found.pixels

    def stands_out(some: Indices, near: Floats) -> NDArray[np.bool_]:
        limit = TIMES * near + SIGMAS * np.sqrt(variance[some] + gain * near)
        return above[some] > limit

    # first a test of the neighbours in the list: few pixels are left
    bright = np.flatnonzero((above > 0) & (above * above > SIGMAS * SIGMAS * variance))
    near = np.zeros(len(bright))
    for step in (-1, 1):
        other = np.clip(bright + step, 0, len(pixels) - 1)
        is_next = pixels[other] == pixels[bright] + step
        np.maximum(near, np.where(is_next, above[other], 0.0), out=near)
    bright = bright[stands_out(bright, near)]
    if not len(bright):
        return bright
    spots, spot = np.unique(
        np.searchsorted(found.begin, bright, side="right") - 1, return_inverse=True
    )
    listed = numbers(found.begin, spots)
    of_listed = np.repeat(np.arange(len(spots)), np.diff(found.begin)[spots])
    # pixels ascend in a spot, so that these keys ascend
    span = int(pixels.max()) + n_columns + 2
    keys = of_listed * span + pixels[listed]
    near = np.zeros(len(bright))
    for step in (1, n_columns - 1, n_columns, n_columns + 1):
        for key in (spot * span + pixels[bright] + step, spot * span + pixels[bright] - step):
            at = np.searchsorted(keys, key).clip(max=len(keys) - 1)
            np.maximum(near, np.where(keys[at] == key, above[listed[at]], 0.0), out=near)
    alone = stands_out(bright, near)
    bright, spot = bright[alone], spot[alone]

    weight = np.maximum(above[listed], 0.0)
    weight[np.searchsorted(listed, bright)] = 0.0
    n = len(spots)
    total = np.bincount(of_listed, weights=weight, minlength=n)
    is_away = np.zeros(len(bright), bool)
    for place, of_pixel in zip(
        np.divmod(pixels[listed], n_columns), np.divmod(pixels[bright], n_columns), strict=True
    ):
        with np.errstate(invalid="ignore"):  # nothing but zingers: nothing is away from NaN
            centre = np.bincount(of_listed, weights=weight * place, minlength=n) / total
        is_away |= np.abs(of_pixel - centre[spot]) >= AWAY
    return bright[is_away]


def numbers(begin: Indices, spots: Indices) -> Indices:
    """Return the numbers of the pixels of some spots: ``begin[i]`` to ``begin[i + 1]`` of each."""
    return stretches(begin[spots], np.diff(begin)[spots])


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Spots of frames without some of their pixels."""

    found: Components
    """All spots. Their labels stay."""
    changed: Components
    """Those that have lost pixels, alone."""
    spots: Indices
    """(c,) int64: numbers of these among all."""
    removed: Indices
    """(z,) int64: numbers of the pixels that are left out, in the list of before."""
    masks: Indices
    """(z,) int64: mask of each of these pixels."""
    pixels: Indices
    """(z,) int64: its flat index in the mask."""

    @classmethod
    def of(cls, found: Components, removed: Indices, n_columns: int) -> "Cleaned":
        """Return spots without pixels ``removed``, of which no spot has lost all."""
        pixels = np.delete(found.pixels, removed)
        begin = found.begin - np.searchsorted(removed, found.begin)
        spot = np.searchsorted(found.begin, removed, side="right") - 1
        spots = np.unique(spot)
        of_changed = pixels[numbers(begin, spots)]
        length = np.diff(begin)[spots]
        at = np.cumsum(length) - length
        x, y = np.divmod(of_changed, n_columns)
        sides = (
            np.minimum.reduceat(x, at),
            np.maximum.reduceat(x, at) + 1,
            np.minimum.reduceat(y, at),
            np.maximum.reduceat(y, at) + 1,
        )
        box = found.box.copy()
        box[spots] = np.stack(sides, axis=1)
        return cls(
            found=replace(found, pixels=pixels, begin=begin, box=box, held=None),
            changed=Components(
                of_changed, np.append(at, len(of_changed)), box[spots],
                np.searchsorted(spots, found.first),
            ),
            spots=spots,
            removed=removed,
            masks=np.searchsorted(found.first, spot, side="right") - 1,
            pixels=found.pixels[removed],
        )  # fmt: skip

    def measured(self, before: Measurements, again: Measurements) -> Measurements:
        """Return the measurements of all spots, from those of before and of the changed ones."""
        columns: dict[str, Any] = {}
        for one in fields(Measurements):
            old, new = getattr(before, one.name), getattr(again, one.name)
            if one.name == "values":
                columns[one.name] = np.delete(old, self.removed)
            elif old is not None:
                columns[one.name] = old.copy()
                columns[one.name][..., self.spots] = new
        return replace(before, **columns)
