"""Miller indices of reflections, from a table of what another program has indexed."""

from dataclasses import dataclass

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.spots.ratios.pairing import MATCH_DISTANCE, nearest
from gpu_spots.spots.ratios.tables import Bools, Floats, Indices

KEYS = (
    ("spot",),
    ("frame", "label"),
    ("mask", "label"),
    ("frame", "x", "y"),
    ("angle", "x", "y"),
)
"""Columns that say which spot a row is about; the first of them that a table has are used."""
ANGLE = 1e-3
"""Largest difference of equal angles, degrees."""


@dataclass(frozen=True, slots=True)
class HklTable:
    """Indexed spots, (n,) each."""

    name: str
    """Name of the file, for messages."""
    hkl: Indices
    """(n, 3) int64."""
    wavelength: Floats
    """Angstrom; NaN if unknown."""
    keys: dict[str, Floats]
    """Columns of one of `KEYS` by name."""


@dataclass(frozen=True, slots=True)
class SpotPlaces:
    """Places of the spots of a spots file, (n_spots,) each."""

    frame: Indices
    mask: Indices
    label: Indices
    angle: Floats
    """Degrees."""
    position: Floats
    """(n_spots, 2), pixels: X and Y."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """Miller indices of some spots or reflections, (n,) each."""

    hkl: Indices
    """(n, 3) int64; 0, 0, 0 if unknown."""
    wavelength: Floats
    """Angstrom; NaN if unknown."""
    n_conflicts: int
    """Number of spots or reflections that have different indices, which are unknown therefore."""

    @property
    def is_known(self) -> Bools:
        """(n,) bool: which have indices."""
        return np.asarray(self.hkl.any(axis=1), bool)


def rows_of(table: HklTable, spots: SpotPlaces) -> Indices:
    """Return the row of each indexed spot in the table of spots, (n,) int64; -1: there is none.

    Raises `InputError` if the table is about other spots.
    """
    keys, n_spots = table.keys, len(spots.frame)
    if "spot" in keys:
        row = keys["spot"].astype(np.int64)
        if len(row) and not (row.min() >= 0 and row.max() < n_spots):
            raise InputError(
                f"{table.name}: column spot is {row.min()} to {row.max()}, expected rows of the "
                f"table of spots, 0 to {n_spots - 1}; is it of this run?"
            )
        return row
    if "label" in keys:
        group = "frame" if "frame" in keys else "mask"
        return _found(_code(getattr(spots, group), spots.label), _code(keys[group], keys["label"]))
    position = np.stack([keys["x"], keys["y"]], axis=1)
    if "frame" in keys:
        return _nearest_rows(spots.frame.astype(np.float64), keys["frame"], spots, position)
    known = np.round(spots.angle / ANGLE)
    return _nearest_rows(known, np.round(keys["angle"] / ANGLE), spots, position)


def _code(group: Indices | Floats, label: Indices | Floats) -> Indices:
    return group.astype(np.int64) * 2**32 + label.astype(np.int64)


def _found(known: Indices, wanted: Indices) -> Indices:
    """Return where values are in an array, the first of equal ones; -1: nowhere."""
    if not len(known):
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order][at] == wanted, order[at], -1)


def _nearest_rows(known: Floats, wanted: Floats, spots: SpotPlaces, position: Floats) -> Indices:
    """Return the nearest spot of the same group, of each of some positions; -1: it is too far."""
    row = np.full(len(wanted), -1)
    for group in np.unique(wanted).tolist():
        here, there = np.flatnonzero(known == group), np.flatnonzero(wanted == group)
        if len(here):
            distance, index = nearest(spots.position[here], position[there])
            row[there] = np.where(distance <= MATCH_DISTANCE, here[index], -1)
    return row


def of_spots(table: HklTable, spots: SpotPlaces, rows: Indices) -> Assigned:
    """Return the indices of all spots. The frames of a mask have the same."""
    place = np.unique(_code(spots.mask, spots.label), return_inverse=True)[1]
    use = rows >= 0
    found = _agreed(
        place[rows[use]], table.hkl[use], table.wavelength[use], int(place.max(initial=-1)) + 1
    )
    return Assigned(found.hkl[place], found.wavelength[place], found.n_conflicts)


def of_reflections(spots: Assigned, ratio: Indices, row: Indices, n_ratios: int) -> Assigned:
    """Return the indices of reflections, from those of their spots.

    Args:
        spots: Indices of all spots.
        ratio: (n,) int64: reflection of some spots.
        row: (n,) int64: their rows in the table of spots.
        n_ratios: Number of reflections.
    """
    use = spots.is_known[row]
    return _agreed(ratio[use], spots.hkl[row[use]], spots.wavelength[row[use]], n_ratios)


def _agreed(group: Indices, hkl: Indices, wavelength: Floats, n: int) -> Assigned:
    """Return the indices of groups whose members all have the same."""
    first = np.full(n, -1)
    first[group[::-1]] = np.arange(len(group))[::-1]
    differs = (hkl != hkl[first[group]]).any(axis=1) if len(group) else np.zeros(0, bool)
    is_bad = np.zeros(n, bool)
    is_bad[group[differs]] = True
    use = (first >= 0) & ~is_bad
    result, waves = np.zeros((n, 3), np.int64), np.full(n, np.nan)
    result[use], waves[use] = hkl[first[use]], wavelength[first[use]]
    return Assigned(result, waves, int(is_bad.sum()))
