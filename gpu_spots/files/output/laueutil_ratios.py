"""Files of LaueUtil's ``lu_indexing2ratios``, made of ratios with Miller indices."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import OutputError, ParameterError, given
from gpu_spots.files.output.new_file import (
    check_output,
    complete_or_absent,
    new_binary_file,
    new_file,
    uninterrupted,
)
from gpu_spots.geometry import Geometry
from gpu_spots.spots.ratios import RatioResult, Rejected
from gpu_spots.spots.ratios.tables import Table

ENDINGS = (".txt", ".hkl", ".m91", ".h5")
"""Endings of the names of the files."""
NANO = 1e9
"""Delays are in nanoseconds."""
LARGEST_INT16 = 2**15 - 1


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Used pairs of indexed reflections."""

    columns: Table
    n_left_out: int
    """Number of pairs with an intensity that is not above 0."""


def write_laueutil(
    found: RatioResult,
    places: NDArray[np.int32],
    path: Path,
    sources: list[Path],
    *,
    geometry: Geometry | None,
    force: bool = False,
) -> list[str]:
    """Write ``R.txt``, ``R.hkl``, ``R.m91`` and ``R.h5``, which are complete or absent.

    Only pairs that are used, of reflections with Miller indices, are written, and as in LaueUtil
    only those with two intensities above 0.

    Args:
        found: Ratios with the columns ``h``, ``k`` and ``l``.
        places: (n_spots, 2) int32, pixels: X and Y of the spots of the spots file.
        path: Name of the files without their endings.
        sources: Files that are read, which must not be overwritten.
        geometry: Detector, for sin(theta); None: unknown, written as 0.
        force: Whether existing files are overwritten.

    Returns:
        Lines on what was left out.

    Raises:
        ParameterError: No reflection has Miller indices.
        OutputError: A file exists or cannot be written, or cannot hold a number.
    """
    if "h" not in found.ratios:
        raise ParameterError("laueutil", f"needs Miller indices; give them with {given('hkl')}")
    names = output_names(path)
    for name in names:
        check_output(name, sources, force)
    pairs = _pairs(found, places, geometry, path)
    notes = []
    if pairs.n_left_out:
        notes.append(
            f"{pairs.n_left_out} pairs with an intensity that is not above 0 are not in "
            f"{names[0].name} and {names[3].name}"
        )
    single = _single(found)
    if n_one := int((~single & _indexed(found)).sum()):
        notes.append(f"{n_one} reflections with one pair or none are not in {names[1].name}")
    if (
        not np.isfinite(pairs.columns["sint"]).all()
        or not np.isfinite(pairs.columns["lambda"]).all()
    ):
        notes.append(
            "sin(theta) or wavelengths are unknown, and 0 in "
            f"{names[0].name} and {names[3].name}; "
            f"give a geometry and {given('cell')}"
        )
    with ExitStack() as opened:
        parts = [opened.enter_context(complete_or_absent(name)) for name in names]
        lines = (_text_lines(pairs.columns), _sortav_lines(found, single), _laser_lines(found))
        for part, name, rows in zip(parts, names, lines, strict=False):
            with new_binary_file(part, str(name)) as file:
                file.write("".join(f"{row}\n" for row in rows).encode())
        with new_file(parts[3], str(names[3])) as file, uninterrupted():
            group = file.create_group("I_pairs")
            for name_of, values in pairs.columns.items():
                group[name_of] = np.nan_to_num(values)
    return notes


def output_names(path: Path) -> tuple[Path, ...]:
    """Return the names of the files."""
    return tuple(path.with_name(path.name + ending) for ending in ENDINGS)


def _indexed(found: RatioResult) -> NDArray[np.bool_]:
    is_known: NDArray[np.bool_] = np.any([found.ratios[name] != 0 for name in "hkl"], axis=0)
    return is_known


def _single(found: RatioResult) -> NDArray[np.bool_]:
    """Return the reflections with indices and a standard deviation."""
    return (
        _indexed(found) & np.isfinite(found.ratios["std_R"]) & np.isfinite(found.ratios["mean_R"])
    )


def _pairs(
    found: RatioResult, places: NDArray[np.int32], geometry: Geometry | None, path: Path
) -> _Pairs:
    """Return the columns of ``I_pairs``."""
    ratio = found.pairs["ratio"]
    use = _indexed(found)[ratio] & (found.pairs["rejected"] == Rejected.USED)
    positive = (found.pairs["I_off"] > 0) & (found.pairs["I_on"] > 0)
    rows = np.flatnonzero(use & positive)
    of, pairs = ratio[rows], {name: values[rows] for name, values in found.pairs.items()}
    hkl = np.stack([found.ratios[name] for name in "hkl"], axis=1)[of]
    X, Y = found.ratios["X"][of], found.ratios["Y"][of]
    sint = np.full(len(rows), np.nan) if geometry is None else geometry.sin_theta(X, Y)
    columns: Table = {
        "hkl": _int16(hkl, "a Miller index", path),
        "I1": pairs["I_off"],
        "I2": pairs["I_on"],
        "R": pairs["R"],
        "angle": found.ratios["angle"][of],
        "lambda": found.ratios["wavelength"][of],
        "sint": sint,
        "frame1": _int16(pairs["frame_off"], "the number of a frame", path),
        "frame2": _int16(pairs["frame_on"], "the number of a frame", path),
        "XY1": _int16(places[pairs["spot_off"]], "a position", path),
        "XY2": _int16(places[pairs["spot_on"]], "a position", path),
    }
    delay = found.ratios["delay"][of]
    if np.isfinite(delay).any():
        columns["delay"] = delay * NANO
    return _Pairs(columns, int((use & ~positive).sum()))


def _int16(values: NDArray[Any], what: str, path: Path) -> NDArray[np.int16]:
    """Return numbers as LaueUtil has them. Raises `OutputError` if one is too large."""
    if (largest := int(np.abs(values).max(initial=0))) > LARGEST_INT16:
        raise OutputError(
            f"{path}: {what} is {largest}, expected at most {LARGEST_INT16} in LaueUtil's format; "
            "its files cannot be written"
        )
    return values.astype(np.int16)


def _text_lines(pairs: Table) -> Iterator[str]:
    """Yield the lines of ``R.txt``: one pair of a reflection each."""
    has_delay = "delay" in pairs
    yield (
        " fr1 fr2    h    k    l     phi"
        + ("   delay" if has_delay else "")
        + "   sin_t  lambda      int1      int2     ratio X_fr1 Y_fr1 X_fr2 Y_fr2"
    )
    delay = pairs["delay"] if has_delay else np.zeros(len(pairs["R"]))
    names = ("angle", "sint", "lambda", "I1", "I2", "R")
    numbers = np.nan_to_num(np.stack([*(pairs[name] for name in names), delay], axis=1)).tolist()
    wholes = np.concatenate(
        [
            pairs["frame1"][:, None],
            pairs["frame2"][:, None],
            pairs["hkl"],
            pairs["XY1"],
            pairs["XY2"],
        ],
        axis=1,
    ).tolist()
    for whole, (phi, sint, wave, off, on, R, later) in zip(wholes, numbers, strict=True):
        middle = f"{later:8.3f}" if has_delay else ""
        yield (
            "{:4d}{:4d}{:5d}{:5d}{:5d}".format(*whole[:5])
            + f"{phi:8.3f}{middle}{sint:8.5f}{wave:8.5f}{off:10.3f}{on:10.3f}{R:10.3f}"
            + "{:6d}{:6d}{:6d}{:6d}".format(*whole[5:])
        )


def _sortav_lines(found: RatioResult, use: NDArray[np.bool_]) -> Iterator[str]:
    """Yield the lines of ``R.hkl`` for SORTAV: mean and standard deviation of the pairs' ratios."""
    names = ("h", "k", "l", "mean_R", "std_R")
    for h, k, l, R, std in zip(*(found.ratios[name][use].tolist() for name in names), strict=True):  # noqa: E741
        yield f"{h:5d}{k:5d}{l:5d}{R:15.7f}{std:15.7f}    1"


def _laser_lines(found: RatioResult) -> Iterator[str]:
    """Yield the lines of ``R.m91`` for LASER: intensities, eta and their errors."""
    head = ("h", "k", "l", "Ioff", "sig(Ioff)", "Ion", "sig(Ion)", "eta", "sig(eta)", "bn")
    layout = "{:>4s} {:>3s} {:>3s} {:>14s} {:>14s} {:>14s} {:>14s} {:>11s} {:>11s} {:>4s}"
    yield layout.format(*head)
    use = _indexed(found) & np.isfinite(found.ratios["sigma_R"])
    names = ("h", "k", "l", "I_off", "sigma_I_off", "I_on", "sigma_I_on", "eta", "sigma_R")
    for row in zip(*(found.ratios[name][use].tolist() for name in names), strict=True):
        wholes = [str(value) for value in row[:3]]
        counts = [f"{value:.3f}" for value in row[3:7]]
        yield layout.format(*wholes, *counts, f"{row[7]:.6f}", f"{row[8]:.6f}", "1")
