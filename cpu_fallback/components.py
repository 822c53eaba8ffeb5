"""Connected components of packed masks, by runs of set pixels in a row.

Runs are joined if they touch a run in the row above.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.packed import PackedMasks, set_pixels
from gpu_spots.model import Components


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of a batch of masks, in raster order; rows are counted through all masks."""

    row: NDArray[np.int64]
    """Number of the row: mask * n_X + X."""
    begin: NDArray[np.int64]
    """First column."""
    end: NDArray[np.int64]
    """Last column, inclusive."""

    def __len__(self) -> int:
        return len(self.row)


def components(masks: PackedMasks, connectivity: int) -> Components:
    """Return the components of each mask; see ``gpu_spots.backend.Operations.components``."""
    n_masks, n_rows = masks.words.shape[:2]
    pixels = set_pixels(masks.words, masks.n_columns)
    if not len(pixels):
        nothing = np.zeros(0, np.int64)
        return Components(
            nothing,
            np.zeros(1, np.int64),
            np.zeros((0, 4), np.int32),
            np.zeros(n_masks + 1, np.int64),
        )
    runs = _runs(pixels, masks.n_columns)
    component = _join(runs, n_rows, masks.n_columns, connectivity)

    by_component = np.argsort(component, kind="stable")
    row, begin, end = runs.row[by_component], runs.begin[by_component], runs.end[by_component]
    of_run = component[by_component]
    first_run = np.flatnonzero(np.diff(of_run, prepend=-1))
    mask = row[first_run] // n_rows
    x = row - mask[of_run] * n_rows
    sides = (
        x[first_run],
        np.maximum.reduceat(x, first_run) + 1,
        np.minimum.reduceat(begin, first_run),
        np.maximum.reduceat(end, first_run) + 1,
    )
    box = np.stack(sides, axis=1).astype(np.int32)

    length = end - begin + 1
    position = np.cumsum(length) - length
    in_frame = x * masks.n_columns + begin
    grouped = np.arange(len(pixels))
    grouped += np.repeat(in_frame - position, length)
    return Components(
        pixels=grouped,
        begin=np.append(position[first_run], len(pixels)),
        box=box,
        first=np.searchsorted(mask, np.arange(n_masks + 1)),
    )


def _runs(pixels: NDArray[np.int64], n_columns: int) -> _Runs:
    """Group ascending flat indices into runs."""
    gap = np.diff(pixels) != 1
    gap |= pixels[1:] % n_columns == 0
    begin = np.flatnonzero(np.concatenate([[True], gap]))
    first, last = pixels[begin], pixels[np.append(begin[1:], len(pixels)) - 1]
    row = first // n_columns
    return _Runs(row, first - row * n_columns, last - row * n_columns)


def _join(runs: _Runs, n_rows: int, n_columns: int, connectivity: int) -> NDArray[np.int64]:
    """Return the component of each run, numbered in raster order of their first pixels."""
    # a run touches those of the row above whose columns overlap its own, widened by one where
    # corners count
    reach = 1 if connectivity == 2 else 0
    above = (runs.row - 1) * n_columns
    flat_begin, flat_end = runs.row * n_columns + runs.begin, runs.row * n_columns + runs.end
    lower = np.searchsorted(flat_end, above + np.maximum(runs.begin - reach, 0), side="left")
    upper = np.searchsorted(
        flat_begin, above + np.minimum(runs.end + reach, n_columns - 1), side="right"
    )
    touching = upper - lower
    touching[runs.row % n_rows == 0] = 0  # the row above is another mask's
    run = np.repeat(np.arange(len(runs)), touching)
    other = np.arange(len(run)) + np.repeat(lower - (np.cumsum(touching) - touching), touching)
    first_run = _smallest_connected(len(runs), run, other)
    return (np.cumsum(first_run == np.arange(len(runs))) - 1)[first_run]


def _smallest_connected(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each of ``n`` nodes the smallest connected node, (n,) int64.

    ``a[i]`` and ``b[i]`` are connected, for every i.

    Each round hangs the larger one of two touching groups below the smaller, a few rounds in all.
    SciPy's connected_components takes as long, and a fifth of a second to import:
    docs/decisions/components-by-numpy.md.
    """
    smallest = np.arange(n)
    while len(a):
        of_a, of_b = smallest[a], smallest[b]
        apart = of_a != of_b
        a, b, of_a, of_b = a[apart], b[apart], of_a[apart], of_b[apart]
        np.minimum.at(smallest, np.maximum(of_a, of_b), np.minimum(of_a, of_b))
        while not np.array_equal(smallest, nearer := smallest[smallest]):
            smallest = nearer
    return smallest
