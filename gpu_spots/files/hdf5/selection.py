"""Selections of dataspaces, as products of one set of indices for each dimension.

The mapping of a virtual dataset selects hyperslabs: of each dimension ``n`` runs of ``block``
indices, ``stride`` apart. So a mapping of 10 000 frames is one product, whatever the size of the
frames.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

UNLIMITED = h5py.h5s.UNLIMITED
MAX_CELLS = 2**27
"""Cells of a table of frames and patterns that is made to find what is not covered."""


class Hyperslab(NamedTuple):
    """Indices of one dimension: ``n`` runs of ``block`` indices, which begin ``stride`` apart."""

    start: int
    """First index."""
    stride: int
    """Distance from the beginning of one run to that of the next."""
    n: int
    """Number of runs; `UNLIMITED`: as many as there are."""
    block: int
    """Indices of a run; `UNLIMITED`: as many as there are."""

    @property
    def is_unlimited(self) -> bool:
        """Return True if the indices go on to the end of the dataset."""
        return UNLIMITED in (self.n, self.block)

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.n * self.block

    @property
    def end(self) -> int:
        """Return the index after the last one."""
        return self.start + (self.n - 1) * self.stride + self.block

    @property
    def is_interval(self) -> bool:
        """Return True if no index between the first and the last is left out."""
        return self.n == 1 or self.stride == self.block

    def at(self, i: int) -> int:
        """Return index number ``i``."""
        return self.start + i // self.block * self.stride + i % self.block

    def number_of(self, index: int) -> int:
        """Return how many indices come before ``index``, one of them."""
        run, rest = divmod(index - self.start, self.stride)
        return run * self.block + rest

    def size_below(self, length: int) -> int:
        """Return how many indices there are in a dimension of some length."""
        n = max(0, length - self.start)
        if self.block == UNLIMITED:
            return n
        full, rest = divmod(n, self.stride)
        return full * self.block + min(rest, self.block)

    def first(self, size: int) -> "list[Hyperslab]":
        """Return the first ``size`` indices: whole runs, and a part of one."""
        if self.block == UNLIMITED:
            return [Hyperslab(self.start, 1, 1, size)] if size else []
        full, rest = divmod(size, self.block)
        whole = [Hyperslab(self.start, self.stride, full, self.block)] if full else []
        return whole + ([Hyperslab(self.start + full * self.stride, 1, 1, rest)] if rest else [])

    def mark(self, flags: NDArray[np.bool_]) -> None:
        """Set the flags, (n,) bool, of all indices."""
        if self.is_interval:
            flags[self.start : self.end] = True
        elif self.block <= self.n:
            for i in range(self.start, self.start + self.block):
                flags[i : self.end : self.stride] = True
        else:
            for i in range(self.start, self.end, self.stride):
                flags[i : i + self.block] = True

    def has(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (k,) bool: which of some indices, (k,) int64, are among these."""
        distance = indices - self.start
        inside = (distance >= 0) & (indices < self.end)
        return inside if self.is_interval else inside & (distance % self.stride < self.block)

    def edges(self) -> NDArray[np.int64]:
        """Return (k,) int64: where runs begin, and where they end.

        Raises ValueError for too many runs.
        """
        if self.is_interval:
            return np.array([self.start, self.end])
        if self.n > MAX_CELLS:
            raise ValueError(f"{self.n} parts of a frame are mapped")
        begins = self.start + self.stride * np.arange(self.n)
        return np.concatenate([begins, begins + self.block])


Product = tuple[Hyperslab, ...]
"""Set of indices for each dimension; every combination of them is selected."""


def whole(shape: Sequence[int]) -> Product:
    """Return the selection of everything in a dataset."""
    return tuple(Hyperslab(0, 1, 1, length) for length in shape)


def products(space: h5py.h5s.SpaceID) -> list[Product] | None:
    """Return a selection as products; None: everything, whatever the size of the dataset."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        return None
    if kind == h5py.h5s.SEL_NONE:
        return []
    if space.is_regular_hyperslab():
        return [tuple(map(Hyperslab, *space.get_regular_hyperslab()))]
    boxes = space.get_select_hyper_blocklist()
    return [
        tuple(
            Hyperslab(int(low), 1, 1, int(high) - int(low) + 1)
            for low, high in zip(*box, strict=True)
        )
        for box in boxes
    ]


def size_of(selection: Sequence[Product]) -> int:
    """Return the number of elements of products that do not overlap."""
    return sum(math.prod(runs.n * runs.block for runs in product) for product in selection)


def first_uncovered(shape: Sequence[int], selection: Sequence[Product]) -> tuple[int, ...] | None:
    """Return the first element of a dataset, frame by frame, that no product selects.

    None if there is none.

    Raises ValueError where the selection is too intricate to be looked at.
    """
    patterns: dict[Product, NDArray[np.bool_]] = {}
    for frames, *inside in selection:
        pattern = tuple(inside)
        if pattern not in patterns:
            if (len(patterns) + 1) * shape[0] > MAX_CELLS:
                raise ValueError(
                    f"{len(patterns) + 1} different parts of {shape[0]} frames are mapped"
                )
            patterns[pattern] = np.zeros(shape[0], bool)
        frames.mark(patterns[pattern])
    # frames that are covered by the same patterns have the same holes
    parts = list(patterns)
    for frame, present in _different(list(patterns.values())):
        hole = _uncovered_in_frame(shape[1:], [parts[i] for i in present])
        if hole is not None:
            return (frame, *hole)
    return None


def _different(rows: list[NDArray[np.bool_]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Return the first frame of each kind, and the patterns on it, by ascending frame."""
    if not rows:
        yield 0, np.zeros(0, np.int64)
        return
    table = np.stack(rows, axis=1)
    packed = np.packbits(table, axis=1)
    changes = np.flatnonzero((packed[1:] != packed[:-1]).any(axis=1)) + 1
    seen = set()
    for frame in (0, *changes.tolist()):
        key = packed[frame].tobytes()
        if key not in seen:
            seen.add(key)
            yield frame, np.flatnonzero(table[frame])


def _uncovered_in_frame(
    shape: Sequence[int], patterns: Sequence[Product]
) -> tuple[int, ...] | None:
    if not patterns:
        return (0,) * len(shape)
    if whole(shape) in patterns:
        return None
    edges = []
    for i, length in enumerate(shape):
        found = np.concatenate([[0, length], *(pattern[i].edges() for pattern in patterns)])
        edges.append(np.unique(found[found <= length]))
    lengths = [len(one) - 1 for one in edges]
    if math.prod(lengths) > MAX_CELLS:
        raise ValueError(f"{len(patterns)} parts of a frame are mapped")
    covered = np.zeros(lengths, bool)
    for pattern in patterns:
        covered[
            np.ix_(*(runs.has(edge[:-1]) for runs, edge in zip(pattern, edges, strict=True)))
        ] = True
    holes = np.argwhere(~covered)
    return (
        tuple(int(edge[i]) for edge, i in zip(edges, holes[0], strict=True)) if len(holes) else None
    )
