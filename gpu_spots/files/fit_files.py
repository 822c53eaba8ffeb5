"""LaueTools' files of indexed spots (.fit), one per frame and grain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.text import read_content
from gpu_spots.model import Array

TITLE = "#spot_index"
"""Begin of the line with the names of the columns; some files have a second ``#`` before it."""
ENERGIES = ("energy", "energy(kev)")
"""Names of the column of photon energies, keV."""
KEV_ANGSTROM = 12.398419843
"""Wavelength, Angstrom, times photon energy, keV."""


def read_fits(folder: Path, frame_names: Sequence[str]) -> dict[str, Array]:
    """Return the indexed spots of all ``.fit`` files in a folder.

    The name of a file begins with the name of its frame, as in the export for LaueTools:
    ``IMAGE_LT_0.fit`` or ``IMAGE_LT_0_g1.fit``. Positions are made ours: there X is the column, Y
    the row, and both are from 1.

    Args:
        folder: Folder of the files.
        frame_names: Name of each frame.

    Returns:
        Columns ``frame``, ``x``, ``y``, ``h``, ``k``, ``l``, ``wavelength``, (n,) float64 each.

    Raises:
        InputError: There are no such files, one cannot be read, or belongs to no frame.
    """
    paths = sorted(folder.glob("*.fit"))
    if not paths:
        raise InputError(f"{folder}: has no .fit files, expected those of LaueTools")
    order = {name: frame for frame, name in enumerate(frame_names)}
    parts = [_read(path, _frame_of(path, order)) for path in paths]
    names = ("frame", "x", "y", "h", "k", "l", "wavelength")
    return dict(zip(names, np.concatenate(parts).T, strict=True))


def _frame_of(path: Path, order: dict[str, int]) -> int:
    """Return the frame of a file: that with the longest name at the begin of the file's name."""
    parts = path.stem.split("_")
    for n in range(len(parts), 0, -1):
        frame = order.get("_".join(parts[:n]))
        if frame is not None:
            return frame
    example = next(iter(order))
    raise InputError(
        f"{path}: belongs to no frame of the run, expected a name such as {example}_LT_0.fit"
    )


def _read(path: Path, frame: int) -> Array:
    """Return the spots of a file, (n, 7) float64."""
    text = read_content(path, "a .fit file of LaueTools").decode(errors="replace")
    names: dict[str, int] = {}
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith((TITLE, f"#{TITLE}")):
            names = {name.lower(): at for at, name in enumerate(line.lstrip("#").split())}
        elif names and line.strip() and not line.startswith("#"):
            rows.append(_row(path, number, line.split(), names, frame))
    if not names:
        raise InputError(
            f"{path}: has no line that begins with {TITLE}, expected it in a .fit file"
        )
    return np.array(rows, np.float64).reshape(-1, 7)


def _row(
    path: Path, number: int, values: list[str], names: dict[str, int], frame: int
) -> list[float]:
    """Return frame, X, Y, h, k, l and wavelength of a line. Raises `InputError`."""
    try:
        column, row, h, k, l = (  # noqa: E741 (the field's name)
            float(values[names[name]]) for name in ("xexp", "yexp", "h", "k", "l")
        )
        energy = next((float(values[names[name]]) for name in ENERGIES if name in names), 0.0)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: line {number} has not h, k, l, Xexp and Yexp as numbers ({error})"
        ) from error
    wavelength = KEV_ANGSTROM / energy if energy > 0 else float("nan")
    return [frame, row - 1, column - 1, h, k, l, wavelength]
