"""How well a search did: true spots against found ones, frame by frame."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.simulate.truth import Floats, Truth

BINS = ((3.0, 5.0), (5.0, 10.0), (10.0, 30.0), (30.0, 100.0), (100.0, math.inf))
"""Bins of expected signal-to-noise: at or above the first, below the second."""
CLEAR = 10.0
"""True spots at or above this expected signal-to-noise make the headline."""
FAINTEST = 1.0
"""A true spot below this expected signal-to-noise cannot be found but by luck: it is left out
altogether.
"""
REACH = 2
"""A true spot is found if a pixel of a found one is this near to its centre, pixels."""
RESPONSE_FROM = 30.0
"""True spots at or above this expected signal-to-noise are asked for their response to the laser.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The part of a spots file that is scored."""

    shape: tuple[int, int]
    """n_X and n_Y, pixels."""
    frame2spotsBE: NDArray[np.int64]
    """(n_frames, 2) int64: begin and end of each frame's spots."""
    pixel_list_BE: NDArray[np.int64]
    """(n, 2) int64: begin and end of each spot's pixels in ``pixel_list``."""
    pixel_list: NDArray[np.integer]
    """(p,) int32 or int64: flat pixel index X * n_Y + Y."""
    I: Floats  # noqa: E741 (the manual's name)
    """(n,) float64, counts: integrated intensity above background."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The true spots in one range of expected signal-to-noise, each counted once a frame."""

    low: float
    """At or above this."""
    high: float
    """Below this; infinity: no upper end."""
    true: int
    """How many there are."""
    found: int
    """How many of them were found."""


@dataclass(frozen=True, slots=True)
class Score:
    """What came out. Spots are counted once a frame."""

    n_frames: int
    """Frames of the run."""
    bins: tuple[Bin, ...]
    """By expected signal-to-noise, `BINS`."""
    clear: Bin
    """All true spots at or above `CLEAR`."""
    n_found: int
    """Found spots."""
    n_false: int
    """Those of them at no true spot."""
    n_merged: int
    """Those of them at two true spots or more; each of these counts as found."""
    response_spots: int
    """Clear spots of a laser run that were found with laser and without (`RESPONSE_FROM`)."""
    response_correlation: float
    """Pearson's correlation of their on/off ratio with the true one; NaN for fewer than 3, or where
    either is constant.
    """


def score(truth: Truth, found: Found) -> Score:
    """Compare.

    The rule: on its frame, a true spot goes to the found spot that owns the pixel nearest to the
    true centre, out to `REACH` pixels. It is the found spot's pixels that count: one far off
    centre, or a large mask that merely surrounds the place, is no match. A found spot that gets no
    true spot is false. So a second piece of a broken spot is false, and two true spots in one found
    spot are both found, and merged.

    Raises:
        ValueError: ``truth`` and ``found`` differ in the shape or the number of frames.
    """
    n_frames = len(truth.schedule)
    if truth.shape != found.shape or n_frames != len(found.frame2spotsBE):
        ours, theirs = (n_frames, *truth.shape), (len(found.frame2spotsBE), *found.shape)
        raise ValueError(f"the truth is about frames {ours}, the spots about {theirs}")

    visible = truth.spots.snr >= FAINTEST
    owner = np.full(truth.shape[0] * truth.shape[1], -1, np.int64)
    snr: list[Floats] = []
    owners: list[NDArray[np.int64]] = []
    n_false = n_merged = 0
    # Sums of intensity and numbers of frames, without and with laser, of each true spot.
    total, frames = np.zeros((2, len(truth.spots))), np.zeros((2, len(truth.spots)), np.int64)
    for frame, (begin, end) in enumerate(found.frame2spotsBE.tolist()):
        present = np.flatnonzero((truth.spots.block == truth.schedule.block[frame]) & visible)
        pieces = [found.pixel_list[b:e] for b, e in found.pixel_list_BE[begin:end].tolist()]
        for spot, pixels in enumerate(pieces, begin):
            owner[pixels] = spot
        mine = _owners(owner, truth.shape, truth.spots.XY[present])
        for pixels in pieces:
            owner[pixels] = -1

        snr.append(truth.spots.snr[present])
        owners.append(mine)
        hit, times = np.unique(mine[mine >= 0], return_counts=True)
        n_false += end - begin - len(hit)
        n_merged += int((times > 1).sum())
        on = truth.schedule.laser_on[frame]
        total[on, present[mine >= 0]] += found.I[mine[mine >= 0]]
        frames[on, present[mine >= 0]] += 1

    all_snr, is_found = np.concatenate(snr), np.concatenate(owners) >= 0
    bins = tuple(_bin(all_snr, is_found, *limits) for limits in BINS)
    clear = _bin(all_snr, is_found, CLEAR, math.inf)
    strong = (truth.spots.snr >= RESPONSE_FROM) & (frames > 0).all(0) & (total > 0).all(0)
    return Score(
        n_frames,
        bins,
        clear,
        len(found.I),
        n_false,
        n_merged,
        int(strong.sum()),
        _correlation(total, frames, truth.spots.response, strong),
    )


def _owners(owner: NDArray[np.int64], shape: tuple[int, int], XY: Floats) -> NDArray[np.int64]:
    """For each centre, the found spot that owns the nearest pixel, or -1: (t,) int64."""
    offset = np.stack(np.meshgrid(*[np.arange(-REACH, REACH + 1)] * 2, indexing="ij"), -1).reshape(
        -1, 2
    )
    offset = offset[np.argsort((offset**2).sum(1), kind="stable")]
    offset = offset[(offset**2).sum(1) <= REACH**2]
    near = np.rint(XY).astype(np.int64)[:, None] + offset
    in_frame = ((near >= 0) & (near < shape)).all(2)
    owners = np.where(
        in_frame, owner[np.where(in_frame, near[..., 0] * shape[1] + near[..., 1], 0)], -1
    )
    return np.asarray(np.take_along_axis(owners, (owners >= 0).argmax(1)[:, None], 1)[:, 0])


def _bin(snr: Floats, is_found: NDArray[np.bool_], low: float, high: float) -> Bin:
    inside = (snr >= low) & (snr < high)
    return Bin(low, high, int(inside.sum()), int(is_found[inside].sum()))


def _correlation(
    total: Floats, frames: NDArray[np.int64], response: Floats, spots: NDArray[np.bool_]
) -> float:
    """Of the mean on over the mean off intensity with the true response."""
    off, on = total[:, spots] / frames[:, spots]
    ratio, wanted = on / off, response[spots]
    if len(ratio) < 3 or not np.ptp(ratio) or not np.ptp(wanted):
        return math.nan
    return float(np.corrcoef(ratio, wanted)[0, 1])
