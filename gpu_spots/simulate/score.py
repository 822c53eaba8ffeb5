"""Score of a search: true spots against found ones, one to one, frame by frame."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.simulate.truth import Floats, Truth

EDGES = (3.0, 5.0, 7.0, 10.0, 15.0, 30.0, 100.0, math.inf)
"""Edges of the bins of signal-to-noise: at or above the first, below the second."""
CLEAR = 10.0
"""True spots at or above this signal-to-noise make the headline."""
FAINTEST = 1.0
"""A true spot below this signal-to-noise cannot be found but by luck: it is left out altogether."""
REACH = 3.0
"""A found spot belongs to a true one within this distance, or within the true spot's sigma along
its major axis if that is more, pixels.
"""
FRAGMENT_SIGMAS, FRAGMENT_REACH = 3.0, 4.0
"""A found spot without a true one is a fragment within this distance of a true spot: so many sigmas
along its major axis, or so many pixels if that is more.
"""
RESPONSE_FROM = 30.0
"""True spots at or above this signal-to-noise are asked for their response to the laser."""


@dataclass(frozen=True, slots=True)
class Found:
    """The found spots that are scored, of a spots file or of another program."""

    shape: tuple[int, int]
    """n_X and n_Y, pixels."""
    frame2spotsBE: NDArray[np.int64]
    """(n_frames, 2) int64: begin and end of each frame's spots."""
    XY: Floats
    """(n, 2) float64, pixels: centre; a whole number is the middle of a pixel."""
    I: Floats | None = None  # noqa: E741 (the manual's name)
    """(n,) float64, counts: integrated intensity above background; None: unknown."""
    sigma: Floats | None = None
    """(n,) float64, counts: standard deviation of ``I``; None: unknown."""
    pixel_list_BE: NDArray[np.int64] | None = None
    """(n, 2) int64: begin and end of each spot's pixels in ``pixel_list``; None: unknown."""
    pixel_list: NDArray[np.integer] | None = None
    """(p,) int32 or int64: flat pixel index X * n_Y + Y; None: unknown."""
    on_one_frame: NDArray[np.bool_] | None = None
    """(n,) bool: spots that stand out on one frame (`gpu_spots.columns.Flag.ONE_FRAME`); None:
    unknown.
    """


@dataclass(frozen=True, slots=True)
class Bin:
    """The true spots in one range of signal-to-noise, each counted once a frame.

    Errors are those of the found ones; NaN if there are none, or if the program does not tell.
    """

    low: float
    """Smallest signal-to-noise."""
    high: float
    """Smallest signal-to-noise of the next bin; infinity: there is none."""
    true: int
    """Number of true spots."""
    found: int
    """Number of them that were found."""
    position_error: float = math.nan
    """Median distance from the true centre, pixels."""
    intensity_bias: float = math.nan
    """Median of found over true intensity, less 1."""
    intensity_scatter: float = math.nan
    """Half the width of the central 68 % of found over true intensity."""
    pull_mean: float = math.nan
    """Median of (found - true intensity) / sigma."""
    pull_width: float = math.nan
    """Half the width of their central 68 %."""
    covered_68: float = math.nan
    """Part of them between -1 and 1."""
    covered_95: float = math.nan
    """Part of them between -1.96 and 1.96."""

    @property
    def recall(self) -> float:
        """Part of the true spots that was found; NaN without any."""
        return self.found / self.true if self.true else math.nan


@dataclass(frozen=True, slots=True)
class Purity:
    """The found spots in one range of their own signal-to-noise, ``I / sigma``."""

    low: float
    """Smallest signal-to-noise."""
    high: float
    """Smallest signal-to-noise of the next range."""
    found: int
    """Number of found spots."""
    genuine: int
    """Number of them that belong to a true spot."""


@dataclass(frozen=True, slots=True)
class Score:
    """Result of a score. Spots are counted once per frame."""

    n_frames: int
    """Frames of the run."""
    bins: tuple[Bin, ...]
    """True spots by signal-to-noise."""
    clear: Bin
    """All true spots at or above `CLEAR`."""
    n_found: int
    """Found spots."""
    n_fragments: int
    """Found spots near a true spot to which another found spot belongs."""
    n_static: int
    """Found spots at a spot that is on all frames."""
    n_false: int
    """Found spots at no true spot."""
    n_merged: int | None
    """True spots that were not found and lie in a found spot which belongs to another; None:
    the pixels of the found spots are unknown.
    """
    n_pairs: int
    """Pairs of equal neighbours with both above `CLEAR`."""
    n_resolved: int
    """Pairs of which both were found."""
    purity: tuple[Purity, ...]
    """Found spots by their own signal-to-noise; empty if their sigmas are unknown."""
    response_spots: int
    """Clear spots of a laser run that were found with laser and without (`RESPONSE_FROM`), each
    counted once a delay. Frames on which a spot stands out are left out.
    """
    response_correlation: float
    """Pearson's correlation of their on/off ratio with the true one; NaN for fewer than 3, or where
    either is constant.
    """
    response_slope: float
    """Slope of their on/off ratio against the true one, by least squares; NaN as above."""
    response_scatter: float
    """Half the width of the central 68 % of the ratio found less the true one; NaN as above."""

    @property
    def n_genuine(self) -> int:
        """Found spots that belong to a true spot."""
        return self.n_found - self.n_fragments - self.n_static - self.n_false

    @property
    def precision(self) -> float:
        """Part of the found spots that belongs to a true one, those at static spots aside."""
        found = self.n_found - self.n_static
        return self.n_genuine / found if found else math.nan


def score(truth: Truth, found: Found, edges: Sequence[float] = EDGES) -> Score:
    """Compare.

    On each frame, a true and a found spot belong together if they are within `REACH`, or within the
    true spot's sigma along its major axis if that is more. Each belongs to one other at most; the
    nearest come together first. A found spot that belongs to none is at a static spot, a fragment
    (near a true spot), or false.

    Args:
        truth: the true spots.
        found: the found spots.
        edges: of the bins of signal-to-noise, ascending.

    Raises:
        ValueError: ``truth`` and ``found`` differ in the shape or the number of frames.
    """
    n_frames = len(truth.schedule)
    if truth.shape != found.shape or n_frames != len(found.frame2spotsBE):
        ours, theirs = (n_frames, *truth.shape), (len(found.frame2spotsBE), *found.shape)
        raise ValueError(f"the truth is about frames {ours}, the spots about {theirs}")

    spots, conditions = truth.spots, truth.conditions
    rows: list[NDArray[np.int64]] = []  # true spots, on each frame
    owners: list[NDArray[np.int64]] = []  # what was found of each, or -1
    frames: list[NDArray[np.int64]] = []
    distances: list[Floats] = []
    n_fragments = n_static = n_false = n_merged = n_pairs = n_resolved = 0
    owner = np.full(truth.shape[0] * truth.shape[1], -1, np.int64)
    for frame, (begin, end) in enumerate(found.frame2spotsBE.tolist()):
        here = spots.block == truth.schedule.block[frame]
        row = np.flatnonzero(here & (spots.snr_matched >= FAINTEST))
        XY = spots.XY[row] + conditions.shift[frame]
        mine, distance, fragment = match(XY, spots.sigma[row, 0], found.XY[begin:end])
        used = np.zeros(end - begin, bool)
        used[mine[mine >= 0]] = True
        static = ~used & _near(found.XY[begin:end], conditions.static, conditions.static_radius)
        n_static += int(static.sum())
        n_fragments += int((fragment & ~static).sum())
        n_false += int((~used & ~static & ~fragment).sum())
        n_merged += _merged(owner, truth.shape, found, (begin, end), XY, mine)

        hit = np.zeros(len(spots), bool)
        hit[row[mine >= 0]] = True
        first = row[(spots.partner[row] > row) & (spots.snr_matched[row] >= CLEAR)]
        n_pairs += len(first)
        n_resolved += int((hit[first] & hit[spots.partner[first]]).sum())
        rows.append(row)
        owners.append(np.where(mine >= 0, mine + begin, -1))
        frames.append(np.full(len(row), frame))
        distances.append(distance)

    all_rows, all_owners, all_frames = map(np.concatenate, (rows, owners, frames))
    all_distances = np.concatenate(distances)
    hits = all_owners >= 0
    expected = _expected(truth, all_rows, all_frames)
    ratio, pull = _ratios(found, all_owners, expected)
    snr = spots.snr_matched[all_rows]

    def of(low: float, high: float) -> Bin:
        return _bin(low, high, (snr >= low) & (snr < high), hits, all_distances, ratio, pull)

    return Score(
        n_frames,
        tuple(of(*pair) for pair in itertools.pairwise(edges)),
        of(CLEAR, math.inf),
        len(found.XY),
        n_fragments,
        n_static,
        n_false,
        None if found.pixel_list is None else n_merged,
        n_pairs,
        n_resolved,
        _purity(found, all_owners[hits], edges),
        *_responses(truth, found, all_rows[hits], all_owners[hits], all_frames[hits]),
    )


def match(
    true: Floats, sigma: Floats, found: Floats
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Bring true and found spots of one frame together, one to one, the nearest first.

    Args:
        true: (t, 2) float64, centres, pixels.
        sigma: (t,) float64, of the true spots along their major axes, pixels.
        found: (n, 2) float64, centres, pixels.

    Returns:
        (t,) int64, the found spot of each true one, or -1; (t,) float64, their distance, pixels;
        (n,) bool, True for a found spot that belongs to none but is near a true one.

    Examples:
        >>> import numpy as np
        >>> true, found = np.array([[5.0, 5.0], [5.0, 9.0]]), np.array([[5.0, 6.0]])
        >>> match(true, np.ones(2), found)[0].tolist()
        [0, -1]
    """
    mine, nearest = np.full(len(true), -1, np.int64), np.full(len(true), np.nan)
    used = np.zeros(len(found), bool)
    if not len(true) or not len(found):
        return mine, nearest, used
    distance = np.hypot(*(true[:, None] - found).transpose(2, 0, 1))
    i, j = np.nonzero(distance <= np.maximum(REACH, sigma)[:, None])
    for a in np.argsort(distance[i, j], kind="stable").tolist():
        if mine[i[a]] < 0 and not used[j[a]]:
            mine[i[a]], used[j[a]] = j[a], True
            nearest[i[a]] = distance[i[a], j[a]]
    near = distance <= np.maximum(FRAGMENT_REACH, FRAGMENT_SIGMAS * sigma)[:, None]
    return mine, nearest, ~used & near.any(0)


def _near(XY: Floats, centres: Floats, radius: float) -> NDArray[np.bool_]:
    """Return which of the places are within a radius of one of the centres."""
    if not len(centres):
        return np.zeros(len(XY), bool)
    return np.asarray((np.hypot(*(XY[:, None] - centres).transpose(2, 0, 1)) <= radius).any(1))


def _merged(
    owner: NDArray[np.int64],
    shape: tuple[int, int],
    found: Found,
    spots: tuple[int, int],
    XY: Floats,
    mine: NDArray[np.int64],
) -> int:
    """Return how many true spots without a found one have their centre in that of another.

    ``owner`` is -1 for each pixel, before and after.
    """
    if found.pixel_list is None or found.pixel_list_BE is None:
        return 0
    begin, end = spots
    pieces = [found.pixel_list[b:e] for b, e in found.pixel_list_BE[begin:end].tolist()]
    for spot, pixels in enumerate(pieces):
        owner[pixels] = spot
    lost = np.rint(XY[mine < 0]).astype(np.int64)
    lost = lost[((lost >= 0) & (lost < shape)).all(1)]
    at = owner[lost[:, 0] * shape[1] + lost[:, 1]]
    for pixels in pieces:
        owner[pixels] = -1
    return int(np.isin(at, mine[mine >= 0]).sum())


def _expected(truth: Truth, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> Floats:
    """Return the true intensity of spots on frames, counts."""
    spots, conditions = truth.spots, truth.conditions
    delay = conditions.delay[frames]
    response = np.where(delay >= 0, spots.responses[rows, np.maximum(delay, 0)], 0)
    intensity = spots.I[rows] * spots.fraction[rows] * (1 + response)
    return np.asarray(intensity * conditions.spot_scale[frames])


def _ratios(found: Found, owners: NDArray[np.int64], expected: Floats) -> tuple[Floats, Floats]:
    """Return found over true intensity, and their difference over sigma; NaN where unknown."""
    ratio, pull = np.full((2, len(owners)), np.nan)
    hits = owners >= 0
    if found.I is not None:
        ratio[hits] = found.I[owners[hits]] / expected[hits]
        if found.sigma is not None:
            sigma = found.sigma[owners[hits]]
            sigma = np.where(sigma > 0, sigma, np.nan)
            pull[hits] = (found.I[owners[hits]] - expected[hits]) / sigma
    return ratio, pull


def _bin(
    low: float,
    high: float,
    inside: NDArray[np.bool_],
    hits: NDArray[np.bool_],
    distance: Floats,
    ratio: Floats,
    pull: Floats,
) -> Bin:
    which = inside & hits
    bias, scatter = _middle_and_width(ratio[which])
    pulls = pull[which][np.isfinite(pull[which])]
    mean, width = _middle_and_width(pulls)
    return Bin(
        low,
        high,
        int(inside.sum()),
        int(which.sum()),
        float(np.median(distance[which])) if which.any() else math.nan,
        bias - 1,
        scatter,
        mean,
        width,
        float((abs(pulls) <= 1).mean()) if len(pulls) else math.nan,
        float((abs(pulls) <= 1.96).mean()) if len(pulls) else math.nan,
    )


def _middle_and_width(values: Floats) -> tuple[float, float]:
    """Return the median, and half the width of the central 68 %; NaN without values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, middle, high = np.percentile(values, [15.87, 50, 84.13])
    return float(middle), float(high - low) / 2


def _purity(found: Found, genuine: NDArray[np.int64], edges: Sequence[float]) -> tuple[Purity, ...]:
    if found.sigma is None or found.I is None:
        return ()
    snr = np.divide(found.I, found.sigma, out=np.zeros(len(found.I)), where=found.sigma > 0)
    is_genuine = np.zeros(len(snr), bool)
    is_genuine[genuine] = True
    parts = []
    for low, high in itertools.pairwise(edges):
        inside = (snr >= low) & (snr < high)
        parts.append(Purity(low, high, int(inside.sum()), int(is_genuine[inside].sum())))
    return tuple(parts)


def _responses(
    truth: Truth,
    found: Found,
    rows: NDArray[np.int64],
    owners: NDArray[np.int64],
    frames: NDArray[np.int64],
) -> tuple[int, float, float, float]:
    """Return number, correlation, slope and scatter of the on/off ratios of clear spots."""
    if found.I is None:
        return 0, math.nan, math.nan, math.nan
    if found.on_one_frame is not None:
        like_others = ~found.on_one_frame[owners]
        rows, owners, frames = rows[like_others], owners[like_others], frames[like_others]
    n_spots, n_delays = truth.spots.responses.shape
    total, times = np.zeros((n_spots, n_delays + 1)), np.zeros((n_spots, n_delays + 1), np.int64)
    column = truth.conditions.delay[frames] + 1  # 0 without laser
    np.add.at(total, (rows, column), found.I[owners])
    np.add.at(times, (rows, column), 1)
    good = (times > 0) & (total > 0) & (truth.spots.snr_matched >= RESPONSE_FROM)[:, None]
    both = good[:, 1:] & good[:, :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / times
        ratio = (mean[:, 1:] / mean[:, :1])[both] - 1
    wanted = truth.spots.responses[both]
    if len(ratio) < 3 or not np.ptp(ratio) or not np.ptp(wanted):
        return len(ratio), math.nan, math.nan, math.nan
    return (
        len(ratio),
        float(np.corrcoef(ratio, wanted)[0, 1]),
        float(np.polyfit(wanted, ratio, 1)[0]),
        _middle_and_width(ratio - wanted)[1],
    )
