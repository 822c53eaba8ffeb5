"""Null tests, and the verdict whether a response is seen."""

import math
from collections.abc import Sequence

import numpy as np

from gpu_spots.spots.ratios.error_model import (
    SPOTS_FOR_SCALE,
    divided,
    estimates,
    pair_scales,
    residuals,
    with_noise,
)
from gpu_spots.spots.ratios.pairing import Places, pair_table, same_state_pairs
from gpu_spots.spots.ratios.rejection import reject, reject_outliers, reject_rows
from gpu_spots.spots.ratios.tables import (
    Bools,
    Estimates,
    Floats,
    FrameStates,
    Indices,
    PairTable,
    Rejected,
    SpotRows,
)

CLIP = 4.0
"""Limit of the pulls in the test for a response: one spot cannot decide it."""
SIGNIFICANCE = 0.001
"""Probability of a response where there is none, for each of the two tests."""
FEWEST_ANGLES = 4
"""Smallest number of angles whose scatter is used in the test for a response."""


def verdict(different: float, common: Sequence[dict[str, float]], scale: str) -> str:
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


def null_pulls(
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
    table = with_noise(pair_table(spots, frames, places, chosen)[0], noise)
    table = reject_rows(table, spots, keep_saturated=keep_saturated)
    table = reject(table, zingers[table.off] | zingers[table.on], Rejected.ZINGER)
    if scale == "pairs":
        factors = pair_scales(table, len(chosen))
        table = divided(table, np.where(np.isfinite(factors), factors, 1.0))
    return estimates(reject_outliers(table, error), error).pulls


def pair_pulls(table: PairTable, found: Estimates, error: float) -> Floats:
    """Return the distance of each pair from the ratio of its reflection, in sigma.

    It is widened by the pair's own part in the ratio. (n,) float64; NaN where a reflection has no
    other pair.

    Args:
        table: Pairs.
        found: Ratios of the reflections.
        error: Relative error of a pair.
    """
    with np.errstate(all="ignore"):
        widened = np.sqrt(found.n / (found.n - 1.0))[table.ratio]
        pulls = residuals(table, found.R, found.I_off, error) * widened
    pulls[~table.used | (found.n[table.ratio] < 2)] = np.nan
    return pulls


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
    result |= dict(zip(("correlation", "slope"), correlation(first, second, weight), strict=True))
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


def correlation(first: Floats, second: Floats, weight: Floats) -> tuple[float, float]:
    """Return the weighted correlation of two columns, and the slope of the second on the first.

    NaN if one of them is constant.
    """
    a, b = (each - np.average(each, weights=weight) for each in (first, second))
    ab, aa, bb = (float((weight * x * y).sum()) for x, y in ((a, b), (a, a), (b, b)))
    return (ab / math.sqrt(aa * bb), ab / aa) if aa > 0 and bb > 0 else (math.nan, math.nan)


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
