"""Log of Lauecollect, the data collection program of BioCARS: one line per frame.

Columns are separated by TABs.

There are two generations. The older has ``date time``, ``file``, ``delay``, ... and then the
variables of the run; the newer has also ``started`` and ``finished``, and ``Laser_on``. Nothing
here depends on which it is, nor on the place of a column: only names count, and names that are not
known are kept as they are. ``laser`` is a column of pulse energies, and says nothing of whether the
laser was on.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.lauecollect import COLUMNS, Column
from gpu_spots.files.text import CONTROL, MAX_NAME, check_heading, check_line, read_content
from gpu_spots.model import Array

TEXT_COLUMNS = ("file", "comment", "comments", "date time", "started", "finished")
"""Columns that stay text, even if they look like numbers."""
DEGREES = ("deg", "degree", "degrees", "°")
HEAD = 1 << 16
"""Bytes of a file that are searched for the header of a log."""

_HEADING = re.compile(r"^(?P<name>.*?)\s*(?:\[(?P<units>[^\[\]]*)\])?$")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf)", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d+")
_DATE = re.compile(r"(\d{1,2})-([A-Za-z]{3})-(\d{4}|\d{2})\s+(\d{1,2}):(\d\d):(\d\d)(\.\d+)?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_STATES = {"0": 0, "1": 1, "off": 0, "on": 1, "false": 0, "true": 1}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that describes no frame."""

    number: int
    """Number of the line in the log, from 1."""
    file: str
    """Name of the image in the line; empty: none."""
    reason: str
    """Reason why the line describes no frame."""


@dataclass(frozen=True, slots=True)
class Log:
    """Content of a log: columns with one value per frame."""

    columns: dict[str, Column]
    """Columns by name. The column ``file`` is always present."""
    lines: list[int]
    """Number of the line of each frame."""
    comments: list[str]
    """Comment lines, without their ``#``."""
    bad: list[BadLine]
    """Lines that were left out."""
    repeated: list[str]
    """Images that have several lines: they were taken again, and the last line counts."""


def read_log(path: Path) -> Log:
    """Read a log.

    Columns are called as in the header, without their units; those that the rest of the program
    looks at (``angle``, ``laser_on``, ``delay``, ``file``) are found whatever their capitals. Of
    columns with the same name the first keeps it, the others are called ``name_2``, ``name_3``.
    Values are int64 where all are whole numbers, float64 where all are numbers, ``-`` or empty
    (then NaN), else text. ``laser_on`` is uint8, 0 or 1. Where ``date time`` holds dates,
    ``timestamp`` has them as ISO 8601.

    Raises:
        InputError: the log cannot be read, has no header with a column ``file``, has no frames, has
            absurdly many lines or columns, or its angles are not in degrees.
    """
    comments: list[str] = []
    bad: list[BadLine] = []
    rows: list[tuple[int, dict[str, str]]] = []
    headings: dict[str, str] = {}
    names: list[str] | None = None
    for number, line in _lines(path):
        fields = _fields(line)
        if _is_header(fields):
            while not fields[-1]:
                fields.pop()
            check_heading(path, number, fields)
            names = _unique(fields)
            headings.update(
                {
                    name: field
                    for name, field in zip(names, fields, strict=True)
                    if name not in headings
                }
            )
        elif line.startswith("#"):
            comments.append(line[1:].strip())
        elif names is None:
            raise InputError(
                f"{path}: line {number} comes before the header, expected first a line with TABs "
                "that names a column 'file'"
            )
        else:
            row = _row(names, fields)
            problem = (
                row
                if isinstance(row, str)
                else "it names no file"
                if row["file"] in ("", "-")
                else None
            )
            if CONTROL.search(line):
                problem = "it has control characters"
            if problem or isinstance(row, str):
                file = fields[names.index("file")] if len(fields) > names.index("file") else ""
                bad.append(BadLine(number, CONTROL.sub("?", file), str(problem)))
            else:
                rows.append((number, row))
    if names is None:
        raise InputError(
            f"{path}: is not a Lauecollect log: no line with TABs names a column 'file'"
        )
    last = {row["file"]: number for number, row in rows}
    kept = [(number, row) for number, row in rows if last[row["file"]] == number]
    if not kept:
        raise InputError(
            f"{path}: has no frames{f'; line {bad[0].number}: {bad[0].reason}' if bad else ''}"
        )
    columns = {
        name: _column(name, heading, [row.get(name, "") for _, row in kept])
        for name, heading in headings.items()
    }
    if (angle := columns.get("angle")) and angle.units and angle.units.lower() not in DEGREES:
        raise InputError(f"{path}: column angle is in {angle.units}, expected degrees")
    _add_timestamps(columns)
    repeated = sorted({row["file"] for number, row in rows if last[row["file"]] != number})
    return Log(columns, [number for number, _ in kept], comments, bad, repeated)


def is_log(path: Path) -> bool:
    """Return whether a file is a Lauecollect log: a line with TABs names a column ``file``."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    lines = head.decode("latin-1").splitlines()
    return b"\0" not in head and any("\t" in line and _is_header(_fields(line)) for line in lines)


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.lstrip("#").split("\t")]


def _is_header(fields: Iterable[str]) -> bool:
    return any(
        field[:4].lower() == "file" and len(field) <= MAX_NAME and _name(field) == "file"
        for field in fields
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Return lines that are not empty, with their numbers."""
    content = read_content(path, "a Lauecollect log")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # which takes everything: degree signs and the like
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line.strip():
            check_line(path, number, line)
            yield number, line


def _name(field: str) -> str:
    """Return the name of a column from its heading, as HDF5 allows it."""
    found = _HEADING.match(field.strip())
    name = found["name"].strip().replace("/", "_") if found else ""
    known = name.lower().replace(" ", "_")
    return known if known in COLUMNS else name if name.strip(".") else "unnamed"


def _unique(fields: list[str]) -> list[str]:
    names: list[str] = []
    for name in map(_name, fields):
        candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(fields) + 2))
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def _row(names: list[str], fields: list[str]) -> dict[str, str] | str:
    """Return the values of a frame by name; or what is wrong with the line.

    A comment at its end may be missing, and may hold TABs.
    """
    ends_in_comment = names[-1].lower().startswith("comment")
    if len(fields) == len(names) - 1 and ends_in_comment:
        fields = [*fields, ""]
    elif len(fields) > len(names) and (ends_in_comment or not any(fields[len(names) :])):
        fields = [*fields[: len(names) - 1], " ".join(fields[len(names) - 1 :]).strip()]
    if len(fields) != len(names):
        return f"it has {len(fields)} values, expected {len(names)} as in the header"
    return dict(zip(names, fields, strict=True))


def _column(name: str, heading: str, values: list[str]) -> Column:
    found = _HEADING.match(heading)
    units = found["units"] if found else None
    attributes = {"heading": heading} if heading != name else None
    return Column(typed(name, values), units or None, attributes)


def typed(name: str, values: list[str]) -> Array:
    """Return the values of a column from their texts, as `read_log` describes."""
    if name == "laser_on":
        return _laser_states(values)
    if name.lower() not in TEXT_COLUMNS:
        if all(_INTEGER.fullmatch(value) and len(value) < 19 for value in values):
            return np.array([int(value) for value in values], np.int64)
        if any(map(_NUMBER.fullmatch, values)) and all(
            value in ("-", "") or _NUMBER.fullmatch(value) for value in values
        ):
            return np.array(
                [np.nan if value in ("-", "") else float(value) for value in values], np.float64
            )
    return np.array(values, object)


def _laser_states(values: list[str]) -> Array:
    states = [_STATES.get(value.lower()) for value in values]
    # those who need the state say which value is none
    return np.array(values, object) if None in states else np.array(states, np.uint8)


def _add_timestamps(columns: dict[str, Column]) -> None:
    if "date time" not in columns or "timestamp" in columns:
        return
    times: list[Any] = [_timestamp(text) for text in columns["date time"].values.tolist()]
    if any(times):
        columns["timestamp"] = Column(
            np.array(times, object),
            None,
            {"description": "date time as ISO 8601, in the clock of the log"},
        )


def _timestamp(text: str) -> str:
    """Return a date as ISO 8601; empty if it is no date."""
    found = _DATE.fullmatch(text.strip())
    try:
        if not found:
            return datetime.fromisoformat(text.strip()).isoformat()
        day, month, year, hour, minute, second, fraction = found.groups()
        full_year = int(year) if len(year) == 4 else 2000 + int(year)
        microseconds = round(float(fraction or 0) * 1e6)
        return datetime(
            full_year,
            _MONTHS.index(month.lower()) + 1,
            int(day),
            int(hour),
            int(minute),
            int(second),
            microseconds,
        ).isoformat(timespec="milliseconds")
    except ValueError:
        return ""
