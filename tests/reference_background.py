"""Background of one pixel in the naive reference: exact integers or IEEE double precision."""

import math
from typing import NamedTuple

import numpy as np


class Background(NamedTuple):
    """The background of one pixel, in double precision or exact integers."""

    m: int
    total: float  # the sum of the kept values: an exact int for integer frames
    avg: float
    std: float
    iqr: float
    threshold: float  # an int for integer frames


def integer_background(kept: list[int], cutoff: float, type_min: int, type_max: int) -> Background:
    """Compute the background of one pixel of integer frames; `kept` ascends."""
    m = len(kept)
    total = sum(kept)
    squares = sum(value * value for value in kept)
    avg = float(total) / float(m)
    std = math.sqrt(float(m * squares - total * total)) / float(m)
    iqr = float(four_quantile(kept, 3) - four_quantile(kept, 1)) / 4.0
    above_avg = total // m + 1
    level = avg + float(cutoff) * std
    threshold = type_max + 1 if level == math.inf else max(math.ceil(level), above_avg)
    return Background(m, total, avg, std, iqr, min(max(threshold, type_min), type_max + 1))


def four_quantile(kept: list[int], quarter: int) -> int:
    """Compute four times the quartile with linear interpolation, an integer.

    `kept` ascends and has 2 values or more.
    """
    below, fourths = divmod(quarter * (len(kept) - 1), 4)
    return (4 - fourths) * kept[below] + fourths * kept[below + 1]


def float_background(kept: list[float], cutoff: float) -> Background:
    """Compute the background of one pixel of float frames; `kept` ascends.

    Python's floats are IEEE doubles without fused operations.
    """
    m = len(kept)
    total = kept[0]
    for value in kept[1:]:
        total = total + value
    if kept[0] == kept[-1]:
        avg, std = kept[0], 0.0
    else:
        avg = total / float(m)
        deviations = 0.0
        for value in kept:
            difference = value - avg
            deviations = deviations + difference * difference
        std = math.sqrt(deviations / float(m))
    iqr = float(np.percentile(np.array(kept), 75)) - float(np.percentile(np.array(kept), 25))
    threshold = avg + float(cutoff) * std
    if threshold <= avg:
        threshold = math.nextafter(avg, math.inf)
    return Background(m, total, avg, std, iqr, threshold)
