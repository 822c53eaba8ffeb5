"""Ratios of several runs as one: weighted means, and how well the runs agree."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError
from gpu_spots.spots.ratios.null_tests import correlation
from gpu_spots.spots.ratios.pairing import MATCH_DISTANCE, nearest
from gpu_spots.spots.ratios.tables import Bools, Floats, Indices, Table

BY = ("hkl", "position")
"""Values of ``by``."""
ANGLE = 1e-3
"""Largest difference of equal angles, degrees."""
DIGITS = 9
"""Significant digits in which equal delays agree."""
FEWEST = 3
"""Smallest number of common reflections that a correlation is made of."""
CHANCE = 2.0
"""Factor by which more positions must agree than by chance."""


@dataclass(frozen=True, slots=True)
class RunRatios:
    """Ratios of a run."""

    name: str
    """Name of the file, for messages."""
    columns: Table
    """Table of the group ``ratios``, (n,) each."""

    @property
    def is_known(self) -> Bools:
        """(n,) bool: rows with a ratio and its error."""
        R, sigma = self.columns["R"], self.columns["sigma_R"]
        return np.asarray(np.isfinite(R) & np.isfinite(sigma) & (sigma > 0), bool)


@dataclass(frozen=True, slots=True)
class Members:
    """Ratios of runs that are merged, (m,) each, by merged row, then run."""

    merged: Indices
    """Row of the merged table."""
    run: Indices
    """Index of the run."""
    row: Indices
    """Row of the ratio in its run."""
    distance: Floats
    """Pixels: distance from the first run with the reflection; NaN by hkl."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Merged ratios."""

    merged: Table
    """Table with one row per reflection and delay; see docs/ratios.md."""
    members: Table
    """Table with one row per ratio of a run."""
    comparison: Table
    """Table with one row per pair of runs."""
    runs: list[str]
    """Names of the files."""
    figures: dict[str, Any]
    """Numbers of runs and reflections, chi squared."""
    notes: list[str] = field(default_factory=list)
    """Lines on ratios that were left out."""


def merge_runs(runs: Sequence[RunRatios], by: str) -> MergeResult:
    """Return the weighted means of the ratios of several runs.

    Args:
        runs: At least two runs.
        by: ``"hkl"``: reflections with the same Miller indices and delay, at all angles.
            ``"position"``: those of the same angle, delay and place on the detector, within 3
            pixels.

    Raises:
        InputError: The runs have no reflection in common, or positions agree by chance only.
    """
    known = [np.flatnonzero(run.is_known) for run in runs]
    notes = [
        f"{run.name}: {len(run.columns['R']) - len(rows)} ratios without a value or an error are "
        "left out"
        for run, rows in zip(runs, known, strict=True)
        if len(rows) < len(run.columns["R"])
    ]
    if by == "hkl":
        members, unknown = _by_hkl(runs, known)
        notes += [
            f"{run.name}: {n} ratios without Miller indices are left out"
            for run, n in zip(runs, unknown, strict=True)
            if n
        ]
    else:
        members = _by_position(runs, known)
    n = int(members.merged.max(initial=-1)) + 1
    n_runs = _count_runs(members, n)
    if not (n_runs > 1).any():
        raise InputError(f"{runs[0].name}: {_nothing_common(runs, by)}")
    if by == "position":
        _check_chance(runs, known, int((n_runs > 1).sum()))
    merged, chi2, freedom = _merged_columns(runs, members, n, n_runs, by)
    return MergeResult(
        merged=merged,
        members={
            "merged": members.merged.astype(np.int32),
            "run": members.run.astype(np.int32),
            "ratio": members.row.astype(np.int32),
            "R": _gathered(runs, members, "R"),
            "sigma_R": _gathered(runs, members, "sigma_R"),
            "distance": members.distance,
        },
        comparison=_comparison(runs, members, n),
        runs=[run.name for run in runs],
        figures={
            "by": by,
            "reflections": n,
            "in several runs": int((n_runs > 1).sum()),
            "chi2": chi2,
            "degrees of freedom": freedom,
        },
        notes=notes,
    )


def _by_hkl(runs: Sequence[RunRatios], known: Sequence[Indices]) -> tuple[Members, list[int]]:
    """Return the members by Miller indices, and the number of ratios without them per run."""
    rows, unknown = [], []
    for run, found in zip(runs, known, strict=True):
        has = np.any([run.columns[name][found] != 0 for name in "hkl"], axis=0)
        rows.append(found[has])
        unknown.append(int((~has).sum()))
    keys = [
        np.stack([*(run.columns[name][found] for name in "hkl"), delay[found]], axis=1)
        for run, found, delay in zip(runs, rows, _delay_codes(runs), strict=True)
    ]
    merged = np.unique(np.concatenate(keys), axis=0, return_inverse=True)[1].reshape(-1)
    return _members(merged, rows, np.full(len(merged), np.nan)), unknown


def _by_position(runs: Sequence[RunRatios], known: Sequence[Indices]) -> Members:
    """Return the members by angle, delay and position."""
    places, groups = _places(runs, known)
    seen: dict[tuple[int, int], tuple[Floats, Indices]] = {}
    n, merged, distances = 0, [], []
    for position, group in zip(places, groups, strict=True):
        index, distance = np.full(len(position), -1), np.zeros(len(position))
        for key, here in _parts(group):
            first, of_first = seen.get(key, (np.zeros((0, 2)), np.zeros(0, np.int64)))
            to, away = _matched(first, position[here])
            found = to >= 0
            index[here[found]], distance[here[found]] = of_first[to[found]], away[found]
            new = here[~found]
            index[new] = n + np.arange(len(new))
            n += len(new)
            seen[key] = (
                np.concatenate([first, position[new]]),
                np.concatenate([of_first, index[new]]),
            )
        merged.append(index)
        distances.append(distance)
    return _members(np.concatenate(merged), known, np.concatenate(distances))


def _places(
    runs: Sequence[RunRatios], known: Sequence[Indices]
) -> tuple[list[Floats], list[Indices]]:
    """Return the positions of the known rows of each run, and their angles and delays as codes."""
    places, groups = [], []
    for run, rows, delay in zip(runs, known, _delay_codes(runs), strict=True):
        columns = run.columns
        places.append(np.stack([columns["X"][rows], columns["Y"][rows]], axis=1))
        angle = np.round(columns["angle"][rows] / ANGLE).astype(np.int64)
        groups.append(np.stack([angle, delay[rows]], axis=1))
    return places, groups


def _matched(first: Floats, second: Floats) -> tuple[Indices, Floats]:
    """Return the place of each of others that is its nearest in both directions, and how far it is.

    -1 and 0 where there is none within `MATCH_DISTANCE`.
    """
    none = np.full(len(second), -1), np.zeros(len(second))
    if not len(first) or not len(second):
        return none
    ahead, to = nearest(first, second)
    _, back = nearest(second, first)
    both = (ahead <= MATCH_DISTANCE) & (back[to] == np.arange(len(second)))
    return np.where(both, to, -1), np.where(both, ahead, 0.0)


def _parts(group: Indices) -> Iterator[tuple[tuple[int, int], Indices]]:
    """Yield each angle and delay, and its rows in ascending order."""
    keys, of_row = np.unique(group, axis=0, return_inverse=True)
    order = np.argsort(of_row.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(of_row.reshape(-1), minlength=len(keys)))
    pairs = ((angle, delay) for angle, delay in keys.tolist())
    yield from zip(pairs, np.split(order, ends[:-1]), strict=True)


def _delay_codes(runs: Sequence[RunRatios]) -> list[Indices]:
    """Return a number for each delay, the same for all runs; -1: unknown."""
    delays = [np.unique(run.columns["delay"], return_inverse=True) for run in runs]
    texts = [[f"{delay:.{DIGITS}g}" for delay in known.tolist()] for known, _ in delays]
    names = sorted(set(itertools.chain(*texts)) - {"nan"})
    codes = {text: code for code, text in enumerate(names)}
    return [
        np.array([codes.get(text, -1) for text in mine], np.int64)[of_row]
        for mine, (_, of_row) in zip(texts, delays, strict=True)
    ]


def _members(merged: Indices, rows: Sequence[Indices], distance: Floats) -> Members:
    """Return members in the order of the merged rows."""
    run = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    order = np.lexsort([run, merged])
    row = np.concatenate(rows)
    return Members(merged[order], run[order], row[order], distance[order])


def _gathered(runs: Sequence[RunRatios], members: Members, name: str) -> NDArray[Any]:
    """Return a column of the runs for each member."""
    found = np.zeros(len(members.row), runs[0].columns[name].dtype)
    for index, run in enumerate(runs):
        mine = members.run == index
        found[mine] = run.columns[name][members.row[mine]]
    return found


def _count_runs(members: Members, n: int) -> Indices:
    """Return the number of runs of each merged row."""
    pairs = np.unique(np.stack([members.merged, members.run], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=n).astype(np.int64)


def _merged_columns(
    runs: Sequence[RunRatios], members: Members, n: int, n_runs: Indices, by: str
) -> tuple[Table, float, int]:
    """Return the merged table, and chi squared with its degrees of freedom."""
    R, sigma = (_gathered(runs, members, name) for name in ("R", "sigma_R"))
    weight = 1 / sigma**2

    def sums(values: NDArray[Any]) -> Floats:
        return np.bincount(members.merged, values, n).astype(np.float64)

    total, count = sums(weight), sums(np.ones(len(R)))
    mean = sums(weight * R) / total
    chi2 = sums(weight * (R - mean[members.merged]) ** 2)
    several = count > 1
    inner = 1 / np.sqrt(total)
    outer = np.where(several, inner * np.sqrt(chi2 / np.maximum(count - 1, 1)), np.nan)
    first = np.searchsorted(members.merged, np.arange(n))
    names = ("h", "k", "l", "delay") if by == "hkl" else ("angle", "X", "Y", "delay")
    flags = np.zeros(n, np.int64)
    np.bitwise_or.at(flags, members.merged, _gathered(runs, members, "flags").astype(np.int64))
    largest = np.full(n, np.nan)
    if by == "position":
        largest = np.zeros(n)
        np.maximum.at(largest, members.merged, members.distance)
    columns: Table = {name: _gathered(runs, members, name)[first] for name in names}
    columns |= {
        "n_runs": n_runs.astype(np.int32),
        "n_ratios": count.astype(np.int32),
        "n_pairs": sums(_gathered(runs, members, "n_pairs")).astype(np.int32),
        "R": mean,
        "sigma_R": inner,
        "sigma_ext": outer,
        "eta": mean - 1,
        "chi2": np.where(several, chi2, np.nan),
        "distance": largest,
        "flags": flags.astype(np.uint16),
    }
    return columns, float(chi2[several].sum()), int((count[several] - 1).sum())


def _comparison(runs: Sequence[RunRatios], members: Members, n: int) -> Table:
    """Return how well each two runs agree, from the reflections that they have in common."""
    R, sigma = (_gathered(runs, members, name) for name in ("R", "sigma_R"))
    means = []
    for index in range(len(runs)):
        mine = members.run == index
        weight = np.where(mine, 1 / sigma**2, 0.0)
        with np.errstate(all="ignore"):
            total = np.bincount(members.merged, weight, n)
            mean = np.bincount(members.merged, weight * R, n) / total
            means.append((mean, 1 / total))
    rows = []
    for a, b in itertools.combinations(range(len(runs)), 2):
        (first, var_first), (second, var_second) = means[a], means[b]
        both = np.isfinite(first) & np.isfinite(second)
        n_both = int(both.sum())
        row: list[float] = [a, b, n_both, math.nan, math.nan, math.nan, math.nan]
        if n_both >= FEWEST:
            x, y, variance = first[both], second[both], (var_first + var_second)[both]
            row[3:5] = correlation(x - 1, y - 1, 1 / variance)
            row[5] = float(((x - y) ** 2 / variance).sum())
            row[6] = float(np.median(y / x))
        rows.append(row)
    found = np.array(rows, np.float64).T
    names = ("run_1", "run_2", "n", "correlation", "slope", "chi2", "scale")
    types = (np.int32,) * 3 + (np.float64,) * 4
    return {
        name: values.astype(dtype) for name, values, dtype in zip(names, found, types, strict=True)
    }


def _nothing_common(runs: Sequence[RunRatios], by: str) -> str:
    """Return why runs cannot be merged."""
    if by == "hkl":
        return (
            "no reflection with the same Miller indices and delay is in another run, expected "
            "runs of one crystal structure; check the tables given with --hkl"
        )
    ranges = [
        f"{np.min(run.columns['angle']):g} to {np.max(run.columns['angle']):g}"
        for run in runs
        if len(run.columns["angle"])
    ]
    return (
        "no reflection at the same angle, delay and position is in another run, found angles of "
        f"{' and '.join(ranges)} degrees, expected runs of one crystal that was not moved; "
        "merge other runs by hkl"
    )


def _check_chance(runs: Sequence[RunRatios], known: Sequence[Indices], n_found: int) -> None:
    """Raise `InputError` if as many positions would agree by chance.

    They are those that agree when the positions of all runs but the first are mirrored.
    """
    whole = np.concatenate(_places(runs, known)[0])
    ends = whole.min(axis=0) + whole.max(axis=0)
    mirrored = [runs[0]] + [
        RunRatios(
            run.name,
            {**run.columns, "X": ends[0] - run.columns["X"], "Y": ends[1] - run.columns["Y"]},
        )
        for run in runs[1:]
    ]
    members = _by_position(mirrored, known)
    # runs after the first are mirrored in the same way: only agreement with the first is chance
    in_first = np.unique(members.merged[members.run == 0])
    others = np.unique(members.merged[members.run > 0])
    n_chance = len(np.intersect1d(in_first, others))
    if n_found <= CHANCE * n_chance:
        raise InputError(
            f"{runs[0].name}: positions agree with other runs only by chance, found {n_found} "
            f"common reflections, expected many more than {n_chance} for one crystal that was not "
            "moved; merge other runs by hkl"
        )
