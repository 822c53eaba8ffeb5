"""On/off ratios of spots, their errors, and tests whether they can be believed.

A ratio is a sum over laser-on frames divided by a sum over laser-off frames, so it is defined for
intensities that are zero or negative. Arrays only: no file is read or written here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import Flag

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

SCALES = ("none", "pairs")
"""Values of ``scale``."""
MATCH_DISTANCE = 3.0
"""Largest distance, pixels, of a spot at an angle from the same spot in another mask."""
STRONG = 20.0
"""Smallest mean of ``I_off`` over its sigma of reflections that the run-wide error is fitted to."""
STRONG_FOR_SCALE = 10.0
"""Smallest ``I_off`` over its sigma of spots that the scale of a pair is taken from."""
SPOTS_FOR_SCALE = 5
"""Smallest number of them."""
NORMAL_MEDIAN = 0.45494
"""Median of the square of a normal variable."""
NOISE_FREEDOM = 100
"""Smallest number of degrees of freedom to fit the factor of the noise."""
ERROR_FREEDOM = 10
"""Smallest number of degrees of freedom to fit the run-wide error."""
OUTLIER = 5.0
"""Distance of a pair from the other pairs of its reflection, in sigma, that rejects it."""
ZINGER = 8.0
"""Excess of the largest value of a spot, in sigma, that makes it a zinger."""
FEWEST = 3
"""Smallest number of pairs, or of frames in the same laser state, of which one can be rejected."""
CLIP = 4.0
"""Limit of the pulls in the test for a response: one spot cannot decide it."""
SIGNIFICANCE = 0.001
"""Probability of a response where there is none, for each of the two tests."""
FEWEST_ANGLES = 4
"""Smallest number of angles whose scatter is used in the test for a response."""


class Rejected(IntEnum):
    """Why a pair is not used: ``pairs/rejected``."""

    USED = 0
    """The pair is used."""
    UNKNOWN = 1
    """An intensity or its sigma is not a finite number."""
    SATURATED = 2
    """The spot is saturated on one of the frames."""
    ZINGER = 3
    """A single pixel of the spot is far above the other frames in the same laser state."""
    OUTLIER = 4
    """The pair is far from the other pairs of its reflection."""


@dataclass(frozen=True, slots=True)
class FrameStates:
    """Metadata of the frames of a run, (n_frames,) each."""

    mask: Indices
    """Mask of the frame."""
    laser_on: Indices
    """1 with laser, 0 without, -1 if unknown."""
    angle: Floats
    """Degrees; NaN if unknown."""
    block: Indices
    """Index of the angle; -1 if unknown."""
    delay: Floats
    """Seconds; NaN if unknown."""
    partner: Indices
    """Other frame of the off/on pair; -1 if there is none."""


@dataclass(frozen=True, slots=True)
class SpotRows:
    """Spots on frames, (n_spots,) each, by frame, then label."""

    frame: Indices
    """Index of the frame."""
    label: Indices
    """Label in the mask of the frame."""
    position: Floats
    """(n_spots, 2), pixels: X and Y."""
    intensity: Floats
    """Counts."""
    sigma: Floats
    """Counts: standard error of the intensity, background included."""
    shared: Floats
    """Counts^2: part of the variance from the background, the same error on all frames."""
    flags: Indices
    """Bits of `Flag`."""
    total: Floats
    """Counts: unweighted intensity."""
    largest: Floats
    """Counts: largest value of the spot."""
    floor: Floats
    """Counts: background at the pixel of the largest value."""
    noise: Floats
    """Counts: noise of a value there."""
    gain: float
    """Variance per count of signal."""


@dataclass(frozen=True, slots=True)
class FramePairs:
    """Pairs of frames of the same mask."""

    first: Indices
    """(n,) int64: laser-off frame of each pair."""
    second: Indices
    """(n,) int64: laser-on frame of each pair."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs of intensities, (n,) each, ordered by reflection, then frame."""

    ratio: Indices
    """Row of the reflection."""
    pair: Indices
    """Index of the pair of frames."""
    rank: Indices
    """Number of the pair in its reflection, from 0."""
    off: Indices
    """Row of the laser-off spot in the table of spots."""
    on: Indices
    """Row of the laser-on spot in the table of spots."""
    distance: Floats
    """Pixels: distance of the spot from where the reflection is in its first mask."""
    I_off: Floats
    """Counts."""
    I_on: Floats
    """Counts, divided by the scale of the pair."""
    var_off: Floats
    """Counts^2: variance of ``I_off`` without the shared background."""
    var_on: Floats
    """Counts^2: variance of ``I_on`` without the shared background."""
    shared: Floats
    """Counts^2: variance of the shared background."""
    rejected: NDArray[np.uint8]
    """`Rejected`."""
    n_ratios: int
    """Number of reflections."""

    @property
    def used(self) -> Bools:
        """(n,) bool: pairs that are not rejected."""
        return self.rejected == Rejected.USED

    def sums(self, values: Floats, used: Bools) -> Floats:
        """(n_ratios,) float64: sums of some pairs' values over each reflection."""
        found = np.bincount(self.ratio[used], values[used], self.n_ratios)
        return found.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Estimates:
    """Ratio of each reflection, (n_ratios,) each."""

    n: Indices
    """Number of pairs."""
    I_off: Floats
    """Counts: mean over the pairs."""
    I_on: Floats
    """Counts: mean over the pairs."""
    sigma_off: Floats
    """Counts."""
    sigma_on: Floats
    """Counts."""
    R: Floats
    """Ratio of sums; NaN where that of I_off is not above 0."""
    sigma_R: Floats
    """Its standard error."""
    pulls: Floats
    """``I_on - I_off`` in units of its sigma if the ratio is 1; NaN without a pair. Unlike eta
    divided by its sigma, it is symmetric for weak spots.
    """


@dataclass(frozen=True, slots=True)
class Keys:
    """Columns that identify a reflection, (n_ratios,) each."""

    mask: Indices
    """First mask with the reflection."""
    label: Indices
    """Label in that mask."""
    delay: Floats
    """Seconds; NaN if unknown."""
    block: Indices
    """Index of the angle."""
    angle: Floats
    """Degrees."""


@dataclass(frozen=True, slots=True)
class RatioResult:
    """On/off ratios of a run, and the tests of them."""

    ratios: dict[str, NDArray[Any]]
    """Columns with one row per reflection; see docs/ratios.md."""
    pairs: dict[str, NDArray[Any]]
    """Columns with one row per reflection and pair of frames."""
    frame_pairs: dict[str, NDArray[Any]]
    """Columns with one row per pair of frames: ``frame_off``, ``frame_on``, ``scale``."""
    null: dict[str, NDArray[Any]]
    """Pulls of the null tests, by name of the test."""
    figures: dict[str, Any]
    """Numbers: counts, error model and null tests."""
    verdict: str
    """Whether a response is seen, in a sentence."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and what is not known."""


def ratios(
    spots: SpotRows, frames: FrameStates, *, scale: str = "none", keep_saturated: bool = False
) -> RatioResult:
    """Return the on/off ratios of a run.

    Args:
        spots: Spots on frames.
        frames: Metadata of the frames.
        scale: ``"pairs"`` divides the laser-on intensities of each pair of frames by the median
            ratio of its strong spots, which also removes a response that all spots share;
            ``"none"`` does not.
        keep_saturated: Whether pairs with saturated spots are used.
    """
    chosen = pair_frames(frames)
    places = matched_places(spots, frames)
    table, keys = pair_table(spots, frames, places, chosen)
    table = _reject_rows(table, spots, keep_saturated=keep_saturated)
    factors = pair_scales(table, len(chosen))
    plain_error = fitted_error(table, robust=True)[0]
    zingers = zinger_rows(spots, frames, plain_error)
    table = _reject(table, zingers[table.off] | zingers[table.on], Rejected.ZINGER)
    noise = noise_factor(table, plain_error)
    table = _with_noise(table, noise)
    known = np.where(np.isfinite(factors), factors, 1.0)
    scaled, scaled_error, scaled_fits = _cleaned(_divided(table, known))
    if scale == "pairs":
        final, error, is_fitted = scaled, scaled_error, scaled_fits
    else:
        final, error, is_fitted = _cleaned(table)
    found = estimates(final, error)
    pulls: dict[str, Floats] = {}
    figures: dict[str, Any] = {"on/off": summary(found.pulls)}
    for how, its_error in ((scale, error), ("pairs", scaled_error)):
        for name, laser_on in (("off/off", 0), ("on/on", 1)):
            null = _null_pulls(
                spots,
                frames,
                places,
                zingers,
                noise,
                laser_on,
                its_error,
                scale=how,
                keep_saturated=keep_saturated,
            )
            pulls.setdefault(name.replace("/", "_"), null)
            figures[name if how == scale else f"{name}, scaled"] = summary(null)
    pulls["on_off"] = found.pulls
    residuals = _residuals(final, found.R, found.I_off, error)
    with np.errstate(all="ignore"):
        of_pairs = residuals * np.sqrt(found.n / (found.n - 1.0))[final.ratio]
    of_pairs[~final.used | (found.n[final.ratio] < 2)] = np.nan
    pulls["pairs"] = of_pairs
    figures["pairs about their reflection"] = summary(of_pairs)
    figures["odd/even"], different = odd_even(scaled, scaled_error, keys.block)
    common = common_change(factors, frames.delay[chosen.second])
    figures["common change"] = common
    figures["error of a pair"] = {"relative": error, "is_fitted": is_fitted}
    figures["noise factor"] = noise
    figures["counts"] = _counts(frames, chosen, final)
    return RatioResult(
        ratios=_ratio_columns(final, found, keys, spots, error),
        pairs=_pair_columns(final, chosen, error),
        frame_pairs={
            "frame_off": chosen.first.astype(np.int32),
            "frame_on": chosen.second.astype(np.int32),
            "scale": factors,
        },
        null=pulls,
        figures=figures,
        verdict=_verdict(different, common, scale),
        notes=_notes(frames, chosen, final, found, factors, scale, is_fitted=is_fitted),
    )


def pair_frames(frames: FrameStates) -> FramePairs:
    """Return pairs of a laser-off and a laser-on frame of the same mask.

    The pairs of the run come first. Frames that it left over, as in bursts (off, off, on, on), are
    paired with those of their mask in the order of the frames. Each frame is in at most one pair.
    """
    index = np.arange(len(frames.mask))
    is_known = (frames.laser_on >= 0) & (frames.block >= 0)
    partner = frames.partner
    mutual = (
        is_known
        & (frames.laser_on == 0)
        & (partner >= 0)
        & (frames.mask[partner] == frames.mask)
        & (frames.laser_on[partner] == 1)
        & is_known[partner]
    )
    first, second = index[mutual].tolist(), partner[mutual].tolist()
    is_left = is_known.copy()
    is_left[first + second] = False
    waiting: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for frame in index[is_left].tolist():
        key = int(frames.mask[frame]), int(frames.block[frame])
        waiting.setdefault(key, ([], []))[int(frames.laser_on[frame])].append(frame)
    for off, on in waiting.values():
        for a, b in zip(off, on, strict=False):
            first.append(a)
            second.append(b)
    order = np.argsort(np.minimum(first, second), kind="stable") if first else np.zeros(0, int)
    return FramePairs(np.array(first, np.int64)[order], np.array(second, np.int64)[order])


def same_state_pairs(frames: FrameStates, laser_on: int) -> FramePairs:
    """Return pairs of consecutive frames of a mask in the same laser state, with the same delay."""
    waiting: dict[tuple[int, int, float], int] = {}
    first, second = [], []
    for frame in np.flatnonzero((frames.laser_on == laser_on) & (frames.block >= 0)).tolist():
        delay = float(frames.delay[frame])
        known = -math.inf if math.isnan(delay) else delay
        key = int(frames.mask[frame]), int(frames.block[frame]), known
        earlier = waiting.pop(key, None)
        if earlier is None:
            waiting[key] = frame
        else:
            first.append(earlier)
            second.append(frame)
    return FramePairs(np.array(first, np.int64), np.array(second, np.int64))


@dataclass(frozen=True, slots=True)
class Places:
    """Spots of masks, and the spots of earlier masks of the same angle that they are."""

    of_row: Indices
    """(n_spots,) int64: index of the spot of the mask, of each spot on a frame."""
    mask: Indices
    """(c,) int64: mask of each spot of a mask."""
    label: Indices
    """(c,) int64: its label."""
    reference: Indices
    """(c,) int64: the same reflection in the first mask of its angle that has it."""
    distance: Floats
    """(c,) float64, pixels: distance from it."""


def matched_places(spots: SpotRows, frames: FrameStates) -> Places:
    """Match the spots of the masks of an angle by their positions."""
    mask = frames.mask[spots.frame]
    n_labels = int(spots.label.max(initial=0)) + 1
    codes, of_row = np.unique(mask * n_labels + spots.label, return_inverse=True)
    n = len(codes)
    counts = np.bincount(of_row, minlength=n)
    centre = np.stack(
        [np.bincount(of_row, spots.position[:, axis], n) / counts for axis in range(2)], axis=1
    )
    mask_of, label_of = np.divmod(codes, n_labels)
    block_of_mask = dict(zip(frames.mask.tolist(), frames.block.tolist(), strict=True))
    reference, distance = np.arange(n), np.zeros(n)
    masks_of: dict[int, list[int]] = {}
    for one, block in sorted(block_of_mask.items()):
        masks_of.setdefault(block, []).append(one)
    for block, masks in masks_of.items():
        if block < 0 or len(masks) < 2:
            continue
        known = np.flatnonzero(mask_of == masks[0])
        for one in masks[1:]:
            new = np.flatnonzero(mask_of == one)
            if len(known) and len(new):
                ahead, to = _nearest(centre[known], centre[new])
                _, back = _nearest(centre[new], centre[known])
                near = np.flatnonzero(ahead <= MATCH_DISTANCE)
                both = near[back[to[near]] == near]
                reference[new[both]] = known[to[both]]
                distance[new[both]] = ahead[both]
            known = np.concatenate([known, new[reference[new] == new]])
    return Places(of_row, mask_of, label_of, reference, distance)


def _nearest(places: Floats, of: Floats) -> tuple[Floats, Indices]:
    """Return distance and index of the nearest of some places, (n, 2), of each of others."""
    from scipy.spatial import cKDTree  # here, as it loads slowly

    distance, index = cKDTree(places).query(of)
    return np.asarray(distance, np.float64), np.asarray(index, np.int64)


def pair_table(
    spots: SpotRows, frames: FrameStates, places: Places, chosen: FramePairs
) -> tuple[PairTable, Keys]:
    """Return the pairs of intensities of some pairs of frames, and the keys of the reflections."""
    begin = np.searchsorted(spots.frame, np.arange(len(frames.mask) + 1))
    n_spots = np.diff(begin)[chosen.first]
    pair = np.repeat(np.arange(len(chosen)), n_spots)
    within = np.arange(len(pair)) - (np.cumsum(n_spots) - n_spots)[pair]
    # the frames of a mask have the same labels, in the same order
    off = begin[chosen.first][pair] + within
    on = begin[chosen.second][pair] + within
    place = places.of_row[off]
    delays, delay = np.unique(frames.delay[chosen.second], return_inverse=True)
    code = places.reference[place] * max(len(delays), 1) + delay[pair]
    codes, ratio = np.unique(code, return_inverse=True)
    order = np.lexsort([pair, ratio])
    ratio, pair, off, on, place = (each[order] for each in (ratio, pair, off, on, place))
    starts = np.searchsorted(ratio, np.arange(len(codes)))
    reference, of_delay = np.divmod(codes, max(len(delays), 1))
    shared = np.minimum(spots.shared[off], spots.shared[on])
    table = PairTable(
        ratio=ratio,
        pair=pair,
        rank=np.arange(len(ratio)) - starts[ratio],
        off=off,
        on=on,
        distance=places.distance[place],
        I_off=spots.intensity[off],
        I_on=spots.intensity[on],
        var_off=np.maximum(spots.sigma[off] ** 2 - shared, 0),
        var_on=np.maximum(spots.sigma[on] ** 2 - shared, 0),
        shared=shared,
        rejected=np.zeros(len(ratio), np.uint8),
        n_ratios=len(codes),
    )
    frame = chosen.first[pair[starts]]
    return table, Keys(
        mask=places.mask[reference],
        label=places.label[reference],
        delay=delays[of_delay],
        block=frames.block[frame],
        angle=frames.angle[frame],
    )


def zinger_rows(spots: SpotRows, frames: FrameStates, error: float) -> Bools:
    """Return spots on frames with a pixel that is far above the other frames, (n_spots,) bool.

    The frames compared have the same mask, laser state and delay. The intensity of the spot must be
    higher too, by at least half of the pixel's excess: spots that move are no zingers.

    Args:
        spots: Spots on frames.
        frames: Metadata of the frames.
        error: Relative scatter of the intensities from pair to pair.
    """
    found = np.zeros(len(spots.frame), bool)
    delay = np.where(np.isfinite(frames.delay), frames.delay, -math.inf)
    keys = np.stack([frames.mask, frames.laser_on, np.unique(delay, return_inverse=True)[1]])
    group = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)[spots.frame]
    code = group * (int(spots.label.max(initial=0)) + 1) + spots.label
    order = np.argsort(code, kind="stable")
    _, starts, sizes = np.unique(code[order], return_index=True, return_counts=True)
    for size in np.unique(sizes[sizes >= FEWEST]).tolist():
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        for one in range(size):
            others = np.delete(rows, one, axis=1)
            row = rows[:, one]
            usual = np.median(spots.largest[others], axis=1)
            signal = np.maximum(usual - spots.floor[row], 0)
            variance = spots.noise[row] ** 2 + spots.gain * signal + (error * signal) ** 2
            excess = spots.largest[row] - usual
            is_high = excess > ZINGER * np.sqrt(variance * (1 + math.pi / 2 / (size - 1)))
            more = spots.total[row] - np.median(spots.total[others], axis=1)
            found[row] = is_high & (more > excess / 2)
    return found


def pair_scales(table: PairTable, n_pairs: int) -> Floats:
    """Return the median ratio of the strong spots of each pair of frames, weighted by 1/variance.

    NaN where there are too few. (n_pairs,) float64.
    """
    scales = np.full(n_pairs, np.nan)
    sigma = np.sqrt(table.var_off + table.shared)
    strong = table.used & (table.I_off > STRONG_FOR_SCALE * sigma) & (sigma > 0)
    with np.errstate(all="ignore"):
        R = table.I_on / table.I_off
        weight = table.I_off**2 / (table.var_on + R * R * table.var_off)
    strong &= np.isfinite(weight) & (R > 0)
    order = np.flatnonzero(strong)
    order = order[np.lexsort([R[order], table.pair[order]])]
    edges = np.searchsorted(table.pair[order], np.arange(n_pairs + 1))
    for one, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        if end - begin >= SPOTS_FOR_SCALE:
            rows = order[begin:end]
            # no single spot has more than a few times the weight of the others
            limited = np.minimum(weight[rows], 4 * np.median(weight[rows]))
            part = np.cumsum(limited)
            scales[one] = R[rows[np.searchsorted(part, part[-1] / 2)]]
    return scales


def estimates(table: PairTable, error: float, used: Bools | None = None) -> Estimates:
    """Return the ratio of each reflection, from all pairs that are used, or from some.

    The variance of R has the noise of the frames, the shared background, whose errors cancel at
    ``R = 1``, and the run-wide relative ``error`` of a pair.
    """
    used = table.used if used is None else used
    n = table.sums(np.ones(len(table.ratio)), used)
    off, on = table.sums(table.I_off, used), table.sums(table.I_on, used)
    var_off, var_on = table.sums(table.var_off, used), table.sums(table.var_on, used)
    with np.errstate(all="ignore"):
        shared = table.sums(table.shared, used) / n
        R = np.where(off > 0, on / off, np.nan)
        noise = var_on + R * R * var_off + n * n * shared * (1 - R) ** 2
        sigma = np.sqrt(noise / off**2 + error**2 * R * R / n)
        level = (off + on) / (2 * n)
        spread = np.sqrt(var_on + var_off + n * (error * level) ** 2)
        return Estimates(
            n=n.astype(np.int64),
            I_off=off / n,
            I_on=on / n,
            sigma_off=np.sqrt(var_off / n**2 + shared),
            sigma_on=np.sqrt(var_on / n**2 + shared),
            R=R,
            sigma_R=sigma,
            pulls=(on - off) / spread,
        )


def _residuals(table: PairTable, R: Floats, I_off: Floats, error: float) -> Floats:
    """Return ``I_on - R I_off`` of each pair in sigma.

    ``R``, ``I_off``: ratio and mean intensity of the reflections.
    """
    ratio, level = R[table.ratio], I_off[table.ratio]
    with np.errstate(all="ignore"):
        variance = table.var_on + ratio**2 * table.var_off + (error * ratio * level) ** 2
        return (table.I_on - ratio * table.I_off) / np.sqrt(variance)


def fitted_error(table: PairTable, *, robust: bool) -> tuple[float, bool]:
    """Return the relative error of a pair that explains the scatter of strong spots.

    Args:
        table: Pairs.
        robust: Whether the median of the squared residuals is explained, not their sum.

    Returns:
        The error, and whether it was fitted; 0 and False if strong spots have too few pairs.
    """
    found = estimates(table, 0.0)
    with np.errstate(all="ignore"):
        snr = found.I_off / np.sqrt(table.sums(table.var_off, table.used) / found.n)
    strong = (found.n >= 2) & (snr > STRONG) & (found.R > 0)
    freedom = int((found.n[strong] - 1).sum())
    if freedom < ERROR_FREEDOM:
        return 0.0, False
    use = table.used & strong[table.ratio]
    widen = (found.n / np.maximum(found.n - 1.0, 1.0))[table.ratio][use]

    def excess(error: float) -> float:
        squares = _residuals(table, found.R, found.I_off, error)[use] ** 2
        if robust:
            return float(np.median(squares * widen)) - NORMAL_MEDIAN
        return float(squares.sum()) - freedom

    low, high = 0.0, 1.0
    if excess(low) <= 0:
        return 0.0, True
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2, True


def noise_factor(table: PairTable, error: float) -> float:
    """Return the factor on all variances that explains the scatter of weak spots.

    It is that of the median of the squared residuals; 1 if weak spots have too few pairs.

    Args:
        table: Pairs.
        error: Relative error of a pair.
    """
    found = estimates(table, error)
    with np.errstate(all="ignore"):
        snr = found.I_off / np.sqrt(table.sums(table.var_off, table.used) / found.n)
    weak = (found.n >= 2) & (snr <= STRONG) & (found.R > 0)
    if int((found.n[weak] - 1).sum()) < NOISE_FREEDOM:
        return 1.0
    use = table.used & weak[table.ratio]
    widen = (found.n / np.maximum(found.n - 1.0, 1.0))[table.ratio][use]
    squares = _residuals(table, found.R, found.I_off, error)[use] ** 2
    return float(np.median(squares * widen)) / NORMAL_MEDIAN


def _with_noise(table: PairTable, factor: float) -> PairTable:
    """Return the table with all variances multiplied by a factor."""
    return replace(
        table,
        var_off=table.var_off * factor,
        var_on=table.var_on * factor,
        shared=table.shared * factor,
    )


def reject_outliers(table: PairTable, error: float) -> PairTable:
    """Reject pairs that are far from the others of their reflection, one at a time."""
    rejected = table.rejected.copy()
    while True:
        table = replace(table, rejected=rejected)
        used = table.used
        n = np.bincount(table.ratio[used], minlength=table.n_ratios)[table.ratio]
        off, on = (table.sums(each, used)[table.ratio] for each in (table.I_off, table.I_on))
        with np.errstate(all="ignore"):
            rest = off - table.I_off
            R = (on - table.I_on) / rest
            level = rest / (n - 1)
            noise = table.var_on + R * R * table.var_off + (error * R * level) ** 2
            away = np.abs(table.I_on - R * table.I_off) / np.sqrt(noise * n / (n - 1))
        away = np.where(used & (n >= FEWEST) & (rest > 0) & np.isfinite(away), away, 0.0)
        furthest = np.zeros(table.n_ratios)
        np.maximum.at(furthest, table.ratio, away)
        bad = (away > OUTLIER) & (away == furthest[table.ratio])
        if not bad.any():
            return table
        rejected = np.where(bad, np.uint8(Rejected.OUTLIER), rejected)


def summary(pulls: Floats) -> dict[str, float]:
    """Return number, width and number beyond 3 of some pulls.

    The width is half of the distance from the 16th to the 84th percentile: 1 if sigmas are right.
    """
    pulls = pulls[np.isfinite(pulls)]
    if not len(pulls):
        return {"n": 0, "width": math.nan, "beyond_3": 0}
    low, high = np.percentile(pulls, [15.865525, 84.134475])
    return {
        "n": len(pulls),
        "width": float(high - low) / 2,
        "beyond_3": int((np.abs(pulls) > 3).sum()),
    }


def odd_even(table: PairTable, error: float, block: Indices) -> tuple[dict[str, float], float]:
    """Compare the ratios from odd with those from even pairs.

    They have no common error, so only a response makes them agree. Their agreement does not depend
    on the error model.

    Args:
        table: Pairs, divided by their scales.
        error: Relative error of a pair.
        block: (n_ratios,) int64: index of the angle of each reflection.

    Returns:
        Number of reflections, correlation and slope of eta, and the probability of this agreement
        without a response; and that probability again, NaN if there is nothing to compare.
    """
    parts = [estimates(table, error, table.used & (table.rank % 2 == odd)) for odd in range(2)]
    pulls = np.stack([part.pulls for part in parts])
    both = (np.isfinite(pulls) & np.isfinite([part.sigma_R for part in parts])).all(axis=0)
    n = int(both.sum())
    result = {"n": n, "correlation": math.nan, "slope": math.nan, "probability": math.nan}
    if n < SPOTS_FOR_SCALE:
        return result, math.nan
    first, second = (part.R[both] - 1 for part in parts)
    weight = 1 / (parts[0].sigma_R[both] ** 2 + parts[1].sigma_R[both] ** 2)
    a, b = (each - np.average(each, weights=weight) for each in (first, second))
    ab, aa, bb = (float((weight * x * y).sum()) for x, y in ((a, b), (a, a), (b, b)))
    if aa > 0 and bb > 0:
        result |= {"correlation": ab / math.sqrt(aa * bb), "slope": ab / aa}
    # errors that the spots of an angle share do not make many spots agree: angles are independent
    products = np.prod(np.clip(pulls[:, both], -CLIP, CLIP), axis=0)
    single = products.sum() / max(math.sqrt((products**2).sum()), 1e-300)
    probability = math.erfc(single / math.sqrt(2)) / 2
    by_angle = np.bincount(np.unique(block[both], return_inverse=True)[1], products).astype(
        np.float64
    )
    if len(by_angle) >= FEWEST_ANGLES:
        probability = max(probability, _student(by_angle)[1] / 2 if by_angle.mean() > 0 else 1.0)
    return result | {"probability": probability}, probability


def common_change(scales: Floats, delay: Floats) -> list[dict[str, float]]:
    """Return the change that all spots share, from the scales of the pairs, for each delay.

    Its probability is that of such a mean without a response, multiplied by the number of delays.
    """
    result = []
    delays = np.unique(delay)
    for one in delays.tolist():
        same = np.isnan(delay) if math.isnan(one) else delay == one
        logs = np.log(scales[same & np.isfinite(scales)])
        if len(logs) < 3:
            continue
        _, probability = _student(logs)
        result.append(
            {
                "delay": one,
                "change": float(np.expm1(logs.mean())),
                "sigma": float(logs.std(ddof=1) / math.sqrt(len(logs))),
                "pairs": len(logs),
                "probability": min(1.0, probability * len(delays)),
            }
        )
    return result


def _student(values: Floats) -> tuple[float, float]:
    """Return Student's t of the mean of some values, at least 2, and its two-sided probability."""
    from scipy.special import stdtr  # here, as it loads slowly

    sigma = float(values.std(ddof=1)) / math.sqrt(len(values))
    if sigma == 0:
        return 0.0, 1.0
    t = float(values.mean()) / sigma
    return t, float(2 * stdtr(len(values) - 1, -abs(t)))


def _reject(table: PairTable, bad: Bools, why: Rejected) -> PairTable:
    """Reject pairs that are not rejected yet."""
    return replace(table, rejected=np.where(table.used & bad, np.uint8(why), table.rejected))


def _reject_rows(table: PairTable, spots: SpotRows, *, keep_saturated: bool) -> PairTable:
    """Reject pairs without a value, and unless they are kept those with a saturated spot."""
    values = (table.I_off, table.I_on, table.var_off, table.var_on)
    is_known = np.isfinite(np.stack(values)).all(axis=0) & (table.var_off + table.var_on > 0)
    table = _reject(table, ~is_known, Rejected.UNKNOWN)
    if keep_saturated:
        return table
    full = (spots.flags & int(Flag.OVERLOADED)) > 0
    return _reject(table, full[table.off] | full[table.on], Rejected.SATURATED)


def _divided(table: PairTable, scales: Floats) -> PairTable:
    """Return the table with laser-on intensities divided by the scale of their pair."""
    by = scales[table.pair]
    return replace(table, I_on=table.I_on / by, var_on=table.var_on / by**2)


def _cleaned(table: PairTable) -> tuple[PairTable, float, bool]:
    """Return the table without outliers, the relative error of a pair, and if it was fitted."""
    error, _ = fitted_error(table, robust=True)
    table = reject_outliers(table, error)
    error, is_fitted = fitted_error(table, robust=False)
    return table, error, is_fitted


def _null_pulls(
    spots: SpotRows,
    frames: FrameStates,
    places: Places,
    zingers: Bools,
    noise: float,
    laser_on: int,
    error: float,
    *,
    scale: str,
    keep_saturated: bool,
) -> Floats:
    """Return the pulls of frames in the same laser state, by the code and the errors of on/off."""
    chosen = same_state_pairs(frames, laser_on)
    table = _with_noise(pair_table(spots, frames, places, chosen)[0], noise)
    table = _reject_rows(table, spots, keep_saturated=keep_saturated)
    table = _reject(table, zingers[table.off] | zingers[table.on], Rejected.ZINGER)
    if scale == "pairs":
        factors = pair_scales(table, len(chosen))
        table = _divided(table, np.where(np.isfinite(factors), factors, 1.0))
    return estimates(reject_outliers(table, error), error).pulls


def _counts(frames: FrameStates, chosen: FramePairs, table: PairTable) -> dict[str, Any]:
    """Return numbers of frames, pairs and rejections."""
    paired = np.zeros(len(frames.mask), bool)
    paired[chosen.first] = paired[chosen.second] = True
    rejected = np.bincount(table.rejected, minlength=len(Rejected)).tolist()
    return {
        "frames": len(frames.mask),
        "frames_unpaired": int((~paired).sum()),
        "frame_pairs": len(chosen),
        "reflections": table.n_ratios,
        "pairs": len(table.ratio),
        "rejected": {why.name.lower(): rejected[why] for why in Rejected if why},
    }


def _ratio_columns(
    table: PairTable, found: Estimates, keys: Keys, spots: SpotRows, error: float
) -> dict[str, NDArray[Any]]:
    """Return the columns of the group ``ratios``."""
    used = table.used
    n_all = np.bincount(table.ratio, minlength=table.n_ratios)
    everything = np.ones(len(table.ratio), bool)
    place = (spots.position[table.off] + spots.position[table.on]) / 2
    with np.errstate(all="ignore"):
        each = table.I_on / table.I_off
        mean = table.sums(each, used) / found.n
        spread = table.sums((each - mean[table.ratio]) ** 2, used) / (found.n - 1.0)
        residuals = _residuals(table, found.R, found.I_off, error)
        chi2 = table.sums(np.where(used, residuals, 0.0) ** 2, used)
    flags = np.zeros(table.n_ratios, np.int64)
    np.bitwise_or.at(flags, table.ratio, spots.flags[table.off] | spots.flags[table.on])
    several = found.n >= 2
    return {
        "mask": keys.mask.astype(np.int32),
        "label": keys.label.astype(np.int32),
        "delay": keys.delay,
        "angle": keys.angle,
        "X": table.sums(place[:, 0], everything) / n_all,
        "Y": table.sums(place[:, 1], everything) / n_all,
        "n_pairs": found.n.astype(np.int32),
        "n_rejected": (n_all - found.n).astype(np.int32),
        "I_off": found.I_off,
        "sigma_I_off": found.sigma_off,
        "I_on": found.I_on,
        "sigma_I_on": found.sigma_on,
        "R": found.R,
        "sigma_R": found.sigma_R,
        "eta": found.R - 1,
        "mean_R": mean,
        "std_R": np.where(several, np.sqrt(spread), np.nan),
        "chi2": np.where(several, chi2, np.nan),
        "flags": flags.astype(np.uint16),
    }


def _pair_columns(table: PairTable, chosen: FramePairs, error: float) -> dict[str, NDArray[Any]]:
    """Return the columns of the group ``pairs``."""
    with np.errstate(all="ignore"):
        R = table.I_on / table.I_off
        variance = table.var_on + R * R * table.var_off + table.shared * (1 - R) ** 2
        sigma = np.sqrt(variance / table.I_off**2 + (error * R) ** 2)
    return {
        "ratio": table.ratio.astype(np.int32),
        "frame_off": chosen.first[table.pair].astype(np.int32),
        "frame_on": chosen.second[table.pair].astype(np.int32),
        "I_off": table.I_off,
        "I_on": table.I_on,
        "sigma_I_off": np.sqrt(table.var_off + table.shared),
        "sigma_I_on": np.sqrt(table.var_on + table.shared),
        "R": R,
        "sigma_R": sigma,
        "distance": table.distance,
        "rejected": table.rejected,
    }


def _verdict(different: float, common: Sequence[dict[str, float]], scale: str) -> str:
    """Return whether a response is seen, in a sentence."""
    clear = [each for each in common if each["probability"] < SIGNIFICANCE]
    parts = []
    if different < SIGNIFICANCE:
        parts.append("spots change by different amounts, the same in odd and even pairs")
    if clear:
        most = max(clear, key=lambda each: abs(each["change"]))
        words = f"all spots change by {100 * most['change']:+.2f} % +- {100 * most['sigma']:.2f} %"
        parts.append(words + (", which --scale pairs removes" if scale == "pairs" else ""))
    if parts:
        return f"response seen: {'; '.join(parts)}"
    if math.isnan(different) and not common:
        return "response not tested: this needs spots with at least two pairs at an angle"
    return "no response seen"


def _notes(
    frames: FrameStates,
    chosen: FramePairs,
    table: PairTable,
    found: Estimates,
    factors: Floats,
    scale: str,
    *,
    is_fitted: bool,
) -> list[str]:
    """Return lines on what was left out, and on what is not known."""
    notes = []
    counts = _counts(frames, chosen, table)
    no_angle = int((frames.block < 0).sum())
    no_state = int((frames.laser_on < 0).sum())
    if no_angle:
        notes.append(f"{no_angle} frames without an angle are left out")
    if no_state:
        notes.append(f"{no_state} frames without a laser state are left out")
    if counts["frames_unpaired"]:
        notes.append(f"{counts['frames_unpaired']} of {counts['frames']} frames are in no pair")
    is_on = frames.laser_on == 1
    have = np.unique(frames.delay[chosen.second])
    notes += [
        f"delay {one:g} s: no laser-on frame is in a pair"
        for one in np.unique(frames.delay[is_on]).tolist()
        if not math.isnan(one) and one not in have
    ]
    for name, number in counts["rejected"].items():
        if number:
            notes.append(f"{number} of {counts['pairs']} spot pairs rejected: {name}")
    if empty := int((found.n == 0).sum()):
        notes.append(f"{empty} reflections have no pair left; their ratio is NaN")
    if dark := int(((found.n > 0) & ~(found.I_off > 0)).sum()):
        notes.append(f"{dark} reflections have no laser-off intensity above 0; their ratio is NaN")
    if scale == "pairs" and (unknown := int(np.isnan(factors).sum())):
        notes.append(f"{unknown} frame pairs have too few strong spots and are not scaled")
    if not is_fitted:
        notes.append(
            "the run-wide error is 0: too few strong spots have two pairs or more to fit it"
        )
    return notes
