"""Thresholds of weighted Poisson sums: how high a smoothed map of counts is by chance.

A map of the matched finder is a sum of counts with the weights of a kernel. Without a spot the
counts are Poisson numbers, so the distribution of the sum is known exactly, and so is the level
that background reaches with a given probability. All numbers here are the same on every platform:
the start of each recursion and the probability come from `decimal`, everything else from additions,
multiplications, divisions and square roots of float64 in a fixed order.
"""

import threading
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

STEPS = 8
"""Values of the background in a factor of 2, at which thresholds are tabulated."""
LOWEST, HIGHEST = -10, 8
"""Exponents of 2 of the smallest and of the largest tabulated background, counts per pixel."""
EXACT_COUNTS = 600
"""Counts under a kernel up to which the exact distribution is used; beyond it is close to Gaussian.
"""
MOST_LEVELS = 200
"""A kernel whose largest weight is beyond this is rounded to `LEVELS` steps for the table."""
LEVELS = 24
"""Steps of the largest weight of such a kernel."""
FURTHEST = 66
"""The recursion goes on until what is left has a probability below exp(-FURTHEST - T^2 / 2)."""
DIGITS = 60
"""Digits of the decimal numbers."""
CELLS = (HIGHEST - LOWEST) * STEPS
"""Intervals of the tabulated backgrounds."""
BACKGROUNDS = 2.0 ** (LOWEST + np.arange(CELLS + 1) // STEPS) * (
    1 + (np.arange(CELLS + 1) % STEPS) / STEPS
)
"""Tabulated backgrounds, counts per pixel."""
_one_at_a_time = threading.Lock()
"""Held while an exact table is made, which several threads may ask for."""


@dataclass(frozen=True)
class WeightedSum:
    """Distribution of a sum of Poisson numbers with the weights of a kernel."""

    weights: tuple[int, ...]
    """Weights of the kernel, all positive, in any order."""

    @cached_property
    def moments(self) -> tuple[int, int, int, int]:
        """Sums of the weights to the powers 1, 2, 3 and 4."""
        sums = [sum(weight**power for weight in self.weights) for power in (1, 2, 3, 4)]
        return sums[0], sums[1], sums[2], sums[3]

    @cached_property
    def skewness(self) -> float:
        """Skewness of the sum at one count per pixel: sum K^3 / (sum K^2)^1.5."""
        _, second, third, _ = self.moments
        return third / (second * float(np.sqrt(float(second))))

    @cached_property
    def _levels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return weights for the table, ascending, and the number of pixels of each."""
        weights, largest = np.array(self.weights, np.int64), max(self.weights)
        if largest > MOST_LEVELS:
            weights = (2 * weights * LEVELS + largest) // (2 * largest)
        return np.unique(weights[weights > 0], return_counts=True)

    @cached_property
    def _is_exact(self) -> NDArray[np.bool_]:
        """Return at which of the tabulated backgrounds the exact distribution is used."""
        n_pixels = int(self._levels[1].sum())
        return BACKGROUNDS * n_pixels <= EXACT_COUNTS

    def table(self, significance: float) -> NDArray[np.float64]:
        """Return thresholds at the tabulated backgrounds, in standard deviations of the sum.

        Args:
            significance: T; background exceeds the threshold with the probability Phi(-T).

        Returns:
            (n,) float64: at the background ``2**(LOWEST + i // STEPS) * (1 + i % STEPS / STEPS)``.
        """
        with _one_at_a_time:
            return _table(self, significance)

    def threshold(
        self, background: NDArray[np.float64], significance: float
    ) -> NDArray[np.float64]:
        """Return thresholds in standard deviations of the sum, linear between tabulated values.

        Args:
            background: any shape, float64, counts per pixel, 0 or more; infinite: Gaussian.
            significance: T.

        Returns:
            The same shape, float64.
        """
        bits = np.clip(background, 2.0**LOWEST, 2.0**HIGHEST).view(np.int64)
        # a float64 is its exponent and 52 bits of fraction: the upper three number the cell
        cell = (bits >> 49) - ((1023 + LOWEST) << 3)
        fraction = (bits & ((1 << 49) - 1)) * 2.0**-49
        # where counts are many, the exact part takes a quarter of a second for nothing
        is_needed = bool(cell.min(initial=CELLS) < np.count_nonzero(self._is_exact))
        table = self.table(significance) if is_needed else _gaussian_table(self, significance)
        last = len(table) - 1
        below = table[cell]
        inside = below + fraction * (table[np.minimum(cell + 1, last)] - below)
        high = background > 2.0**HIGHEST
        if high.any():
            inside[high] = self._gaussian(background[high], significance)
        return inside

    def _gaussian(self, background: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Return the threshold of a sum of many counts, by the expansion of Cornish and Fisher."""
        _, second, _, fourth = self.moments
        skewness = self.skewness / np.sqrt(background)
        kurtosis = fourth / (second * second) / background
        square, cube = t * t, t * t * t
        return (
            t
            + skewness * ((square - 1) / 6)
            + kurtosis * ((cube - 3 * t) / 24)
            - skewness * skewness * ((2 * cube - 5 * t) / 36)
        )


@cache
def _gaussian_table(of: WeightedSum, significance: float) -> NDArray[np.float64]:
    """Return the table without its exact part, which is NaN."""
    table = np.full(len(BACKGROUNDS), np.nan)
    table[~of._is_exact] = of._gaussian(BACKGROUNDS[~of._is_exact], significance)
    table.flags.writeable = False
    return table


@cache
def _table(of: WeightedSum, significance: float) -> NDArray[np.float64]:
    weights, pixels = of._levels
    n_pixels = int(pixels.sum())
    first, second = int(weights @ pixels), int((weights * weights) @ pixels)
    table, exact = _gaussian_table(of, significance).copy(), of._is_exact
    some = BACKGROUNDS[exact]

    # Bernstein: P(sum >= mean + x) <= exp(-E) for x = m E / 3 + sqrt((m E / 3)^2 + 2 v E)
    far = FURTHEST + significance * significance / 2
    step = float(weights[-1]) * far / 3
    beyond = step + np.sqrt(step * step + 2 * some[-1] * second * far)
    n_values = int(some[-1] * first + beyond) + 2
    chance = np.zeros((n_values, len(some)))
    chance[0] = [_exp(-Decimal(float(value)) * n_pixels) for value in some]
    products = (weights * pixels).astype(np.float64)[:, None]
    everything, largest = len(weights), int(weights[-1])
    for n in range(1, n_values):
        # Panjer: n P(n) = b sum_j j c_j P(n - j); the terms are added one after the other
        reach = everything if n >= largest else int(np.searchsorted(weights, n, side="right"))
        terms = products[:reach] * chance[n - weights[:reach]]
        chance[n] = np.add.accumulate(terms, axis=0)[-1] * (some / n) if reach else 0.0
    at_least = np.add.accumulate(chance[::-1], axis=0)[::-1]
    smallest = np.count_nonzero(at_least > tail(significance), axis=0)
    table[exact] = (smallest - 0.5 - some * first) / np.sqrt(some * second)
    table.flags.writeable = False
    return table


def _exp(exponent: Decimal) -> float:
    with localcontext() as context:
        context.prec = DIGITS
        return float(exponent.exp())


@cache
def tail(significance: float) -> float:
    """Return Phi(-T), the chance that a Gaussian number exceeds T standard deviations.

    >>> tail(0.0)
    0.5
    """
    with localcontext() as context:
        context.prec = DIGITS + int(significance * significance / 4)
        t = Decimal(significance)
        # Phi(T) = 1/2 + phi(T) (T + T^3 / 3 + T^5 / (3 * 5) + ...)
        term = total = t
        k = 1
        while term > total * Decimal(10) ** -context.prec:
            k += 2
            term = term * t * t / k
            total += term
        density = (-t * t / 2).exp() / (2 * _pi()).sqrt()
        return float(Decimal("0.5") - density * total)


def _pi() -> Decimal:
    """Return pi to the digits of the context, by Machin's formula."""

    def arctangent_of_inverse(n: int) -> Decimal:
        power = total = Decimal(1) / n
        k = 1
        while abs(power) > Decimal(10) ** -(DIGITS + 60):
            power = -power / (n * n)
            k += 2
            total += power / k
        return total

    return 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239))
