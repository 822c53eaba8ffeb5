"""Ratios with their errors: noise, shared background, run-wide error, scale of the frames."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpu_spots.spots.ratios.tables import Bools, Estimates, Floats, PairTable

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


def residuals(table: PairTable, R: Floats, I_off: Floats, error: float) -> Floats:
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
        squares = residuals(table, found.R, found.I_off, error)[use] ** 2
        if robust:
            return float(np.median(squares * widen)) - NORMAL_MEDIAN
        return float(squares.sum()) - freedom

    return bisected(excess, 1.0), True


def bisected(excess: Callable[[float], float], high: float) -> float:
    """Return where a falling function is 0, from 0 to ``high``; 0 if it is not above 0 there."""
    low = 0.0
    if excess(low) <= 0:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


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
    squares = residuals(table, found.R, found.I_off, error)[use] ** 2
    return float(np.median(squares * widen)) / NORMAL_MEDIAN


def with_noise(table: PairTable, factor: float) -> PairTable:
    """Return the table with all variances multiplied by a factor."""
    return replace(
        table,
        var_off=table.var_off * factor,
        var_on=table.var_on * factor,
        shared=table.shared * factor,
    )


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


def divided(table: PairTable, scales: Floats) -> PairTable:
    """Return the table with laser-on intensities divided by the scale of their pair."""
    by = scales[table.pair]
    return replace(table, I_on=table.I_on / by, var_on=table.var_on / by**2)
