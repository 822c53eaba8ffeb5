"""Reading of text files that users give: logs and tables."""

import re
from pathlib import Path

from gpu_spots.errors import InputError
from gpu_spots.files.paths import require_regular_file
from gpu_spots.model import MAX_FRAMES

MAX_BYTES = 2**28
"""Largest text file that is read."""
MAX_LINES = 4 * MAX_FRAMES
"""Maximum number of lines of a file; a run has one or a few for each frame."""
MAX_LINE = 100_000
"""Maximum number of characters of a line."""
MAX_COLUMNS = 2000
"""Maximum number of columns of a line."""
MAX_NAME = 200
"""Maximum number of characters in the name of a column."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""Characters that no line has; TAB is allowed."""


def read_content(path: Path, what: str) -> bytes:
    """Return the bytes of a text file.

    Args:
        path: the file.
        what: what was expected, for messages: "a table".

    Raises:
        InputError: it is missing, is no regular file, is too large, or has NUL bytes or too many
            lines.
    """
    require_regular_file(path, what)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: has {size} bytes, expected {what} of at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    if b"\0" in content:
        raise InputError(f"{path}: is not a text file, expected {what}")
    if (n_lines := content.count(b"\n")) > MAX_LINES:
        raise InputError(f"{path}: has {n_lines} lines, expected {what} of at most {MAX_LINES}")
    return content


def check_line(path: Path, number: int, line: str) -> None:
    """Raise `InputError` for a line that is longer than `MAX_LINE`."""
    if len(line) > MAX_LINE:
        raise InputError(
            f"{path}: line {number} has {len(line)} characters, expected at most {MAX_LINE}"
        )


def check_heading(path: Path, number: int, names: list[str]) -> None:
    """Raise `InputError` for column names that are too many, too long or unprintable."""
    if len(names) > MAX_COLUMNS:
        raise InputError(
            f"{path}: line {number} has {len(names)} columns, expected at most {MAX_COLUMNS}"
        )
    for i, name in enumerate(names, 1):
        if len(name) > MAX_NAME or CONTROL.search(name):
            raise InputError(
                f"{path}: line {number}: the name of column {i} is {name[:40]!r} ({len(name)} "
                "characters), "
                f"expected at most {MAX_NAME} characters and no control characters"
            )
