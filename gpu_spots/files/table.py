"""Table of metadata in a text file: one column per quantity, one row per frame.

Columns are separated by commas, semicolons, tabs or blanks.
"""

import csv
import re
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.text import CONTROL, check_heading, check_line, read_content
from gpu_spots.model import Array, Columns

_UNIT = re.compile(r"\s*[\[(][^\])]*[\])]\s*$")
"""Units in brackets at the end of the name of a column."""


def read_table(path: str | Path) -> Columns:
    """Return the columns of a table by name.

    The first line names the columns. Values are separated by tabs, semicolons, commas or blanks,
    whichever the first line has (looked for in this order); text may stand in double quotes. Empty
    lines are skipped, and so are lines that begin with ``#``; but if what follows them has no
    names, the last of them is taken for the line that has, as NumPy writes it. Names are compared
    in lower case, without
    units: ``Angle [deg]`` is ``angle``.

    Args:
        path: the text file, UTF-8.

    Returns:
        One array a column, (n_rows,): int64 where all values are whole numbers, else float64 where
        all are numbers (an empty one is NaN), else object (str).

    Raises:
        InputError: the file cannot be read, has no rows, a row is longer or shorter than the first
            line, or two columns have one name.
    """
    path = Path(path)
    lines = _lines(path)
    names, rows = _split(lines, path)
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise InputError(f"{path}: two columns are called {repeated!r}, expected different names")
    if not rows:
        raise InputError(f"{path}: has no rows below its first line, expected one for each frame")
    for number, row in rows:
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {number} has {len(row)} values, expected {len(names)}: "
                f"{', '.join(names)}"
            )
    return {name: _column([row[i] for _, row in rows]) for i, name in enumerate(names)}


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return lines that are not empty, with their numbers."""
    try:
        text = read_content(path, "a table such as CSV").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: is not a text file (UTF-8), expected a table such as CSV"
        ) from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in lines:
        check_line(path, number, line)
        if CONTROL.search(line):
            raise InputError(f"{path}: line {number} has control characters, expected text")
    return lines


def _split(
    lines: list[tuple[int, str]], path: Path
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows with the numbers of their lines."""
    comments = [line for line in lines if line[1].lstrip().startswith("#")]
    table = [line for line in lines if not line[1].lstrip().startswith("#")]
    if not table:
        raise InputError(
            f"{path}: has no table in it, expected names of columns and one row for each frame"
        )
    separator = _separator(table[0][1])
    number = table[0][0]
    first = _values(table[0][1], separator)
    if all(_is_number(value) for value in first):
        number, text = comments[-1] if comments else (number, "")
        heading = _values(text.lstrip("# \t"), separator) if text else []
        if len(heading) != len(first) or all(_is_number(name) for name in heading):
            raise InputError(
                f"{path}: line {table[0][0]} has numbers only, expected the names of the columns "
                "first, such as angle,laser_on"
            )
    else:
        heading, table = first, table[1:]
    check_heading(path, number, heading)
    names = [_UNIT.sub("", name).strip().lower().replace(" ", "_") for name in heading]
    if "" in names:
        raise InputError(f"{path}: column {names.index('') + 1} has no name")
    return names, [(number, _values(line, separator)) for number, line in table]


def _separator(line: str) -> str | None:
    """Return the separator of a line; None: blanks."""
    return next((separator for separator in "\t;," if separator in line), None)


def _values(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return next(csv.reader([" ".join(line.split())], delimiter=" "))
    return [
        value.strip()
        for value in next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    ]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return not value
    return True


def _column(values: list[str]) -> Array:
    try:
        return np.array([int(value) for value in values], np.int64)
    except (OverflowError, ValueError):
        pass
    if any(values) and all(_is_number(value) for value in values):
        return np.array([float(value or "nan") for value in values], np.float64)
    return np.array(values, object)
