"""On/off ratios of a run, from its spots to the verdict."""

import math
from typing import Any

import numpy as np

from gpu_spots.spots.ratios.error_model import (
    divided,
    estimates,
    fitted_error,
    noise_factor,
    pair_scales,
    with_noise,
)
from gpu_spots.spots.ratios.null_tests import (
    common_change,
    null_pulls,
    odd_even,
    pair_pulls,
    summary,
    verdict,
)
from gpu_spots.spots.ratios.output_columns import pair_columns, ratio_columns
from gpu_spots.spots.ratios.pairing import matched_places, pair_frames, pair_table
from gpu_spots.spots.ratios.rejection import reject, reject_rows, without_outliers, zinger_rows
from gpu_spots.spots.ratios.tables import (
    Estimates,
    Floats,
    FramePairs,
    FrameStates,
    PairTable,
    RatioResult,
    Rejected,
    SpotRows,
)

SCALES = ("none", "pairs")
"""Values of ``scale``."""


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
    table = reject_rows(table, spots, keep_saturated=keep_saturated)
    factors = pair_scales(table, len(chosen))
    plain_error = fitted_error(table, robust=True)[0]
    zingers = zinger_rows(spots, frames, places, plain_error)
    table = reject(table, zingers[table.off] | zingers[table.on], Rejected.ZINGER)
    noise = noise_factor(table, plain_error)
    table = with_noise(table, noise)
    known = np.where(np.isfinite(factors), factors, 1.0)
    scaled, scaled_error, scaled_fits = without_outliers(divided(table, known))
    if scale == "pairs":
        final, error, is_fitted = scaled, scaled_error, scaled_fits
    else:
        final, error, is_fitted = without_outliers(table)
    found = estimates(final, error)
    pulls: dict[str, Floats] = {}
    figures: dict[str, Any] = {"on/off": summary(found.pulls)}
    for how, its_error in ((scale, error), ("pairs", scaled_error)):
        for name, laser_on in (("off/off", 0), ("on/on", 1)):
            null = null_pulls(
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
    pulls["pairs"] = of_pairs = pair_pulls(final, found, error)
    figures["pairs about their reflection"] = summary(of_pairs)
    figures["odd/even"], different = odd_even(scaled, scaled_error, keys.block)
    common = common_change(factors, frames.delay[chosen.second])
    figures["common change"] = common
    figures["error of a pair"] = {"relative": error, "is_fitted": is_fitted}
    figures["noise factor"] = noise
    figures["counts"] = _counts(frames, chosen, final)
    return RatioResult(
        ratios=ratio_columns(final, found, keys, spots, error),
        pairs=pair_columns(final, chosen, error),
        frame_pairs={
            "frame_off": chosen.first.astype(np.int32),
            "frame_on": chosen.second.astype(np.int32),
            "scale": factors,
        },
        null=pulls,
        figures=figures,
        verdict=verdict(different, common, scale),
        notes=_notes(frames, chosen, final, found, factors, scale, is_fitted=is_fitted),
    )


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
