"""Pairs that are not used: unknown and saturated values, zingers, outliers."""

import math
from dataclasses import replace

import numpy as np

from gpu_spots.columns import Flag
from gpu_spots.spots.ratios.error_model import fitted_error
from gpu_spots.spots.ratios.pairing import Places
from gpu_spots.spots.ratios.tables import (
    Bools,
    FrameStates,
    Indices,
    PairTable,
    Rejected,
    SpotRows,
)

OUTLIER = 5.0
"""Distance of a pair from the other pairs of its reflection, in sigma, that rejects it."""
ZINGER = 8.0
"""Excess of the largest value of a spot, in sigma, that makes it a zinger."""
FEWEST = 3
"""Smallest number of pairs, or of frames in the same laser state, of which one can be rejected."""


def reject(table: PairTable, bad: Bools, why: Rejected) -> PairTable:
    """Reject pairs that are not rejected yet."""
    return replace(table, rejected=np.where(table.used & bad, np.uint8(why), table.rejected))


def reject_rows(table: PairTable, spots: SpotRows, *, keep_saturated: bool) -> PairTable:
    """Reject pairs without a value, and unless they are kept those with a saturated spot."""
    values = (table.I_off, table.I_on, table.var_off, table.var_on)
    is_known = np.isfinite(np.stack(values)).all(axis=0) & (table.var_off + table.var_on > 0)
    table = reject(table, ~is_known, Rejected.UNKNOWN)
    if keep_saturated:
        return table
    full = (spots.flags & int(Flag.OVERLOADED)) > 0
    return reject(table, full[table.off] | full[table.on], Rejected.SATURATED)


def zinger_rows(spots: SpotRows, frames: FrameStates, places: Places, error: float) -> Bools:
    """Return spots on frames with a pixel that is far above the other frames, (n_spots,) bool.

    The frames compared have the same mask, laser state and delay. If a mask has too few of them,
    as with ``-S pairs``, those of all masks with the reflection are compared. The intensity of the
    spot must be higher too, by at least half of the pixel's excess: spots that move are no zingers.

    Args:
        spots: Spots on frames.
        frames: Metadata of the frames.
        places: Spots of masks, and the reflections that they are.
        error: Relative scatter of the intensities from pair to pair.
    """
    found = np.zeros(len(spots.frame), bool)
    code = _compared(spots, frames, places)
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


def _compared(spots: SpotRows, frames: FrameStates, places: Places) -> Indices:
    """Return a number for each spot on a frame, equal for those that zingers are found among."""
    delay = np.where(np.isfinite(frames.delay), frames.delay, -math.inf)
    keys = np.stack([frames.laser_on, np.unique(delay, return_inverse=True)[1]])
    states, state = np.unique(keys, axis=1, return_inverse=True)
    n_states, state = states.shape[1], state.reshape(-1)[spots.frame]
    code = places.of_row * n_states + state
    is_few = np.bincount(code)[code] < FEWEST
    n_codes = len(places.mask) * n_states
    elsewhere = n_codes + places.reference[places.of_row] * n_states + state
    return np.where(is_few, elsewhere, code)


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


def without_outliers(table: PairTable) -> tuple[PairTable, float, bool]:
    """Return the table without outliers, the relative error of a pair, and if it was fitted."""
    error, _ = fitted_error(table, robust=True)
    table = reject_outliers(table, error)
    error, is_fitted = fitted_error(table, robust=False)
    return table, error, is_fitted
