"""Kruskal-Wallis test of the naive reference: exact ranks and fractions."""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from scipy.stats import chi2


def twice_ranks(values: Sequence[float]) -> dict[float, int]:
    """Map every distinct value to twice its average rank (an integer); ranks start at 1."""
    ordered = sorted(values)
    result: dict[float, int] = {}
    begin = 0
    while begin < len(ordered):
        end = begin
        while end < len(ordered) and ordered[end] == ordered[begin]:
            end += 1
        result[ordered[begin]] = (
            begin + 1
        ) + end  # the ranks begin+1 .. end have the average (begin + 1 + end) / 2
        begin = end
    return result


def kruskal_h(groups: Sequence[Sequence[float]]) -> Fraction:
    """Compute the Kruskal-Wallis H with tie correction, exactly. Not all values may be equal."""
    values = [value for group in groups for value in group]
    n = len(values)
    ranks = twice_ranks(values)
    squares = sum(
        (Fraction(sum(ranks[value] for value in group) ** 2, 4 * len(group)) for group in groups),
        Fraction(0),
    )
    h = Fraction(12, n * (n + 1)) * squares - 3 * (n + 1)
    ties = sum(t**3 - t for t in Counter(values).values())
    return h / (1 - Fraction(ties, n**3 - n))


@functools.cache
def critical_value(alpha: float, n_groups: int) -> float:
    """Give the value that H must exceed for a rejection."""
    return float(chi2.ppf(1 - alpha, n_groups - 1))


def kruskal_keep(groups: Sequence[Sequence[float]], alpha: float) -> list[int]:
    """Drop groups until the test passes; return the positions of those left.

    Groups may not be empty.
    """
    left = list(range(len(groups)))
    while len(left) > 2:
        current = [groups[position] for position in left]
        values = [value for group in current for value in group]
        if min(values) == max(values):
            break
        critical = critical_value(alpha, len(left))
        if critical == math.inf or not kruskal_h(current) > Fraction(critical):
            break
        ranks = twice_ranks(values)
        means = [
            Fraction(sum(ranks[value] for value in group), 2 * len(group)) for group in current
        ]
        del left[
            means.index(max(means))
        ]  # index() finds the first of equals: the block that comes first in the run
    return left
