"""Miller indices of spots: text with columns, a DIALS reflection table, or LaueTools' files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.fit_files import read_fits
from gpu_spots.files.reflection_table import SUFFIX, read_reflections
from gpu_spots.files.table import read_table
from gpu_spots.model import Array
from gpu_spots.spots.ratios.assignment import KEYS, HklTable

LARGEST_INDEX = 2**15 - 1
"""Largest Miller index."""
WAVELENGTHS = ("wavelength", "lambda")
"""Names of the column of wavelengths."""


def read_hkl(path: Path, frame_names: Sequence[str] = ()) -> HklTable:
    """Return the indexed spots of a table, or of a folder of LaueTools' ``.fit`` files.

    Text has the columns ``h``, ``k`` and ``l``, and those of one of `KEYS`; ``wavelength``
    (Angstrom) may follow. A DIALS reflection table (``.refl``) has ``miller_index``, and the
    columns ``frame`` and ``label`` that the export of this program puts there. Rows with the
    indices 0, 0, 0 or without indices are not indexed, and are left out.

    Args:
        path: File or folder.
        frame_names: Name of each frame of the run, which ``.fit`` files begin with.

    Raises:
        InputError: The file cannot be read, a column is missing, or a value is out of range.
    """
    columns = _columns(path, frame_names)
    columns = {name.lower(): values for name, values in columns.items()}
    if missing := [name for name in "hkl" if name not in columns]:
        raise InputError(
            f"{path}: has no column {missing[0]}, found {', '.join(sorted(columns))}, expected "
            "h, k, l, and frame,label or frame,X,Y"
        )
    hkl = np.stack([_numbers(path, columns, name) for name in "hkl"], axis=1)
    is_indexed = np.isfinite(hkl).all(axis=1) & hkl.any(axis=1)
    wrong = is_indexed & ((hkl != np.round(hkl)) | (np.abs(hkl) > LARGEST_INDEX)).any(axis=1)
    if wrong.any():
        found = hkl[wrong][0].tolist()
        raise InputError(
            f"{path}: row {int(np.flatnonzero(wrong)[0]) + 1} has the indices {found}, expected "
            f"whole numbers up to {LARGEST_INDEX}"
        )
    keys = next((key for key in KEYS if set(key) <= set(columns)), None)
    if keys is None:
        choices = ", or ".join(",".join(key) for key in KEYS)
        raise InputError(
            f"{path}: nothing says which spot a row is about, found the columns "
            f"{', '.join(sorted(columns))}, expected {choices}"
        )
    values = {name: _numbers(path, columns, name)[is_indexed] for name in keys}
    for name, column in values.items():
        is_position = name in ("x", "y", "angle")
        if not np.isfinite(column).all() or not (is_position or (column == np.round(column)).all()):
            kind = "finite numbers" if is_position else "whole numbers"
            raise InputError(f"{path}: column {name} has other values, expected {kind}")
    wave = next((name for name in WAVELENGTHS if name in columns), None)
    wavelength = np.full(len(hkl), np.nan) if wave is None else _numbers(path, columns, wave)
    wavelength = np.where(wavelength > 0, wavelength, np.nan)[is_indexed]
    return HklTable(str(path), hkl[is_indexed].astype(np.int64), wavelength, values)


def _columns(path: Path, frame_names: Sequence[str]) -> dict[str, Array]:
    """Return the columns of a file or folder, by what it is."""
    if path.is_dir():
        return read_fits(path, frame_names)
    return read_reflections(path) if path.suffix == SUFFIX else dict(read_table(path))


def _numbers(path: Path, columns: dict[str, Array], name: str) -> Array:
    """Return a column as float64. Raises `InputError` if it has text."""
    try:
        return columns[name].astype(np.float64)
    except ValueError:
        text = next(value for value in columns[name].tolist() if not _is_number(value))
        raise InputError(
            f"{path}: column {name} has {str(text)[:40]!r}, expected numbers only"
        ) from None


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
