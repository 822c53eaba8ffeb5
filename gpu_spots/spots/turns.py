"""Pixels of several components in turns, so that sums over components are added up quickly.

The first pixels of all components come first, then the second ones, and so on: a table with a
column for each component. Each addition is one of two rows, and the pixels of a component keep
their order. Components of about the same size share a table, so that few of its places are empty.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIECE = 1 << 14
"""Pixels that are worked on at a time: what comes in between stays in the cache."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """Pixels of some components, in turns."""

    component: Indices
    """(c,) int64: index of each component."""
    length: Indices
    """(c,) int64: number of its pixels."""
    index: Indices
    """(t, c) int64: place of each pixel in the list of all; in empty places, the component's first.
    """
    empty: NDArray[np.bool_] | None
    """(t, c) bool: empty places; None: there are none."""

    def without_empty(self, values: Floats) -> Floats:
        """Return values, (t, c) float64, which become 0 in empty places."""
        if self.empty is not None:
            np.copyto(values, 0.0, where=self.empty)
        return values


def turns(begin: Indices, components: Indices) -> Iterator[Turns]:
    """Yield all of some components, those of about the same size together.

    Args:
        begin: (n + 1,) int64: begins of components in a list of pixels.
        components: (c,) int64: those that are wanted.
    """
    length = np.diff(begin)[components]
    order = np.argsort(length, kind="stable")
    ascending = length[order]
    end = len(order)
    while end:
        longest = max(1, int(ascending[end - 1]))
        similar = int(np.searchsorted(ascending, longest // 2))
        first = min(max(similar, end - max(1, PIECE // longest)), end - 1)
        some, lengths = components[order[first:end]], ascending[first:end]
        turn = np.arange(longest)[:, None]
        index, empty = begin[some] + turn, None
        if lengths[0] < longest:
            empty = turn >= lengths
            np.copyto(index, begin[some], where=empty)
        yield Turns(some, lengths, index, empty)
        end = first


def summed(values: Floats) -> Floats:
    """Return the sum of each column, (c,) float64, row by row. ``values``: (t, c) float64."""
    if values.shape[1] > 1:
        return np.add.reduce(values, axis=0, initial=0.0)
    # a single column would be added up in pairs
    return np.cumsum(np.append(0.0, values[:, 0]))[-1:]
