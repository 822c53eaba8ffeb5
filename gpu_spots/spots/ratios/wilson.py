"""Photo-Wilson fit: scale and change of the temperature factor from on/off ratios.

``ln R = b + a s^2`` with ``s = sin(theta)/lambda``. A laser that heats the crystal makes
intensities at large angles smaller: ``a = -2 delta B``, and ``exp(b)`` is the scale.
"""

import math
from typing import Any

import numpy as np

from gpu_spots.spots.ratios.error_model import bisected
from gpu_spots.spots.ratios.tables import Bools, Floats, Indices

FEWEST = 10
"""Smallest number of reflections."""
ANGLES = 4
"""Smallest number of angles whose scatter gives the errors."""
LARGEST_ERROR = 0.5
"""Largest relative error of a ratio that is used."""


def photo_wilson(
    s: Floats, R: Floats, sigma: Floats, block: Indices, delay: Floats
) -> list[dict[str, Any]]:
    """Return the fit for each delay.

    The weight of a reflection is ``1 / (sigma_lnR^2 + t^2)``. The scatter ``t`` of the responses is
    the one with which chi squared is its degrees of freedom. Errors are those of the jackknife over
    angles, as the spots of an angle have errors in common; with fewer than four angles, those of
    the weights.

    Args:
        s: sin(theta)/lambda, 1/Angstrom, (n,) float64; NaN if unknown.
        R: Ratios, (n,).
        sigma: Their standard errors, (n,).
        block: (n,) int64: index of the angle.
        delay: Seconds, (n,).

    Returns:
        For each delay with enough reflections its figures: ``n``, slope ``a``, ``ln_scale``,
        ``scale``, ``delta_B`` (Angstrom^2), ``scatter``, and errors as ``sigma_...``.
    """
    with np.errstate(all="ignore"):
        use = np.isfinite(s) & (R > 0) & (sigma > 0) & (sigma < LARGEST_ERROR * R)
    result = []
    for one in np.unique(delay).tolist():
        same = use & (np.isnan(delay) if math.isnan(one) else delay == one)
        if int(same.sum()) < FEWEST or np.ptp(s[same]) == 0:
            continue
        result.append({"delay": one, **_fit(s[same], R[same], sigma[same], block[same])})
    return result


def _fit(s: Floats, R: Floats, sigma: Floats, block: Indices) -> dict[str, Any]:
    """Return the figures of one fit."""
    x, y, variance = s**2, np.log(R), (sigma / R) ** 2
    scatter = _scatter(x, y, variance)
    weight = 1 / (variance + scatter**2)
    a, b = _line(x, y, weight)
    angles = np.unique(block)

    def without(angle: int) -> tuple[float, float] | None:
        kept = block != angle
        is_line = len(np.unique(x[kept])) > 1
        return _line(x[kept], y[kept], weight[kept]) if is_line else None

    parts = [found for angle in angles.tolist() if (found := without(angle)) is not None]
    if len(parts) >= ANGLES:
        spread = np.array(parts) - np.mean(parts, axis=0)
        n = len(parts)
        sigma_a, sigma_b = np.sqrt((n - 1) / n * (spread**2).sum(axis=0)).tolist()
    else:
        mean = np.average(x, weights=weight)
        square = float((weight * (x - mean) ** 2).sum())
        sigma_a = 1 / math.sqrt(square)
        sigma_b = math.sqrt(1 / float(weight.sum()) + float(mean) ** 2 / square)
    return {
        "n": len(x),
        "angles": len(angles),
        "slope": a,
        "sigma_slope": sigma_a,
        "ln_scale": b,
        "scale": math.exp(b),
        "sigma_scale": math.exp(b) * sigma_b,
        "delta_B": -a / 2,
        "sigma_delta_B": sigma_a / 2,
        "scatter": scatter,
    }


def _line(x: Floats, y: Floats, weight: Floats) -> tuple[float, float]:
    """Return slope and constant of a straight line by weighted least squares."""
    x_mean, y_mean = (float(np.average(each, weights=weight)) for each in (x, y))
    square = float((weight * (x - x_mean) ** 2).sum())
    a = float((weight * (x - x_mean) * (y - y_mean)).sum()) / square
    return a, y_mean - a * x_mean


def _scatter(x: Floats, y: Floats, variance: Floats) -> float:
    """Return the scatter with which chi squared of the line is its degrees of freedom."""

    def excess(scatter: float) -> float:
        weight = 1 / (variance + scatter**2)
        a, b = _line(x, y, weight)
        return float((weight * (y - b - a * x) ** 2).sum()) - (len(x) - 2)

    return bisected(excess, 10.0)


def mean_lines(s: Floats, R: Floats, sigma: Floats, n_bins: int) -> tuple[Floats, Floats, Floats]:
    """Return the weighted means of ``ln R`` in bins of ``s^2``, for a plot: s^2, mean, error."""
    with np.errstate(all="ignore"):
        use: Bools = np.isfinite(s) & (R > 0) & (sigma > 0) & (sigma < LARGEST_ERROR * R)
    x, y, weight = s[use] ** 2, np.log(R[use]), (R[use] / sigma[use]) ** 2
    order = np.argsort(x, kind="stable")
    parts = [part for part in np.array_split(order, n_bins) if len(part) > 1]
    rows = []
    for part in parts:
        w = weight[part]
        mean = float(np.average(y[part], weights=w))
        error = math.sqrt(float((w**2 * (y[part] - mean) ** 2).sum())) / float(w.sum())
        rows.append((float(np.average(x[part], weights=w)), mean, error))
    found = np.array(rows, np.float64).reshape(-1, 3)
    return found[:, 0], found[:, 1], found[:, 2]
