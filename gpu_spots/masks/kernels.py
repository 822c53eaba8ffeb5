"""Kernels of the smoothed maps of the matched finder: weights, and sums about each pixel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.matched import UNIT
from gpu_spots.masks.poisson import WeightedSum


@dataclass(frozen=True, eq=False)
class Kernel:
    """Kernel of a smoothed map."""

    name: str
    """Name, for messages."""
    weights: NDArray[np.int64]
    """(k, k) int64, k odd: its weights."""
    profile: NDArray[np.int64] | None
    """(k,) int64: ``weights`` are the products of this along both axes; None: they are not."""
    divisor: int
    """The map is the sum of weights times significance, over this."""

    @property
    def reach(self) -> int:
        """Number of pixels that the kernel extends to each side."""
        return len(self.weights) // 2

    @cached_property
    def sum_of_counts(self) -> WeightedSum:
        """Distribution of the map on a background of counts."""
        return WeightedSum(tuple(int(w) for w in self.weights.ravel() if w))

    @property
    def unit(self) -> float:
        """Units of the map in ``sqrt(sum K^2 V / s^2)``."""
        return UNIT / self.divisor

    def squares(self, values: NDArray[np.float64], power: int) -> NDArray[np.float64]:
        """Sum of ``weights**power`` times ``values`` about each pixel, in a fixed order.

        Args:
            values: (n_X + 2 reach, n_Y + 2 reach) float64.
            power: 2 or 3.

        Returns:
            (n_X, n_Y) float64.
        """
        if self.profile is not None:
            taps = self.profile.astype(np.float64) ** power
            return _along(_along(values, taps, 0), taps, 1)
        reach, total = self.reach, None
        n_x, n_y = (length - 2 * reach for length in values.shape)
        for x, y in zip(*np.nonzero(self.weights), strict=True):
            term = values[x : x + n_x, y : y + n_y] * (float(self.weights[x, y]) ** power)
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None
        return total


def _along(values: NDArray[np.float64], taps: NDArray[np.float64], axis: int) -> Any:
    """Return the weighted sum of neighbours along an axis: centre, then pairs outwards."""
    reach = len(taps) // 2
    n = values.shape[axis] - 2 * reach

    def shifted(by: int) -> NDArray[np.float64]:
        part = slice(reach + by, reach + by + n)
        return values[part] if axis == 0 else values[:, part]

    total = shifted(0) * taps[reach]
    for i in range(1, reach + 1):
        pair = shifted(-i) + shifted(i)
        pair *= taps[reach + i]
        total += pair
    return total


def _kernels() -> tuple[Kernel, ...]:
    three, five = np.array([1, 2, 1]), np.array([1, 4, 6, 4, 1])
    apart = np.zeros(9, np.int64)
    apart[::2] = five
    both = np.convolve(five, apart)
    round_ones = [
        Kernel(name, np.outer(profile, profile), profile, divisor)
        for name, profile, divisor in (
            ("M07", three, 1),
            ("M1", five, 16),
            ("M2", both, 4096),
        )
    ]
    lines = []
    for name, (dx, dy) in zip(("L0", "L45", "L90", "L135"), DIRECTIONS, strict=True):
        weights = np.zeros((15, 15), np.int64)
        for i, weight in enumerate(both):
            x, y = 7 + (i - 6) * dx, 7 + (i - 6) * dy
            weights[x - 1 : x + 2, y - 1 : y + 2] += weight * np.outer(three, three)
        lines.append(Kernel(name, weights, None, 256))
    return (*round_ones, *lines)


DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps in X and Y of the lines that streaks are looked for along."""
ALL_KERNELS = _kernels()
"""Kernels of the maps: three round ones, then four lines."""
M1 = 1
"""Index of the kernel that basins and masks are those of."""


def kernels(*, streaks: bool) -> tuple[Kernel, ...]:
    """Return the kernels that are used: three, with ``streaks`` seven."""
    return ALL_KERNELS if streaks else ALL_KERNELS[:3]
