"""Checks of paths before they are opened: opening a named pipe can block for ever."""

import stat
from pathlib import Path

from gpu_spots.errors import InputError

KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def require_regular_file(path: Path, what: str) -> None:
    """Raise `InputError` where a path is not a regular file.

    Symbolic links are followed; nothing is opened.

    Args:
        path: the path to check.
        what: what is expected there, with its article, for the message: "an HDF5 file".

    Raises:
        InputError: the path does not exist, cannot be looked up, or leads to a folder, a named
            pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a null byte in the name
        raise InputError(f"{path}: cannot be opened: {error}") from error
    if not stat.S_ISREG(mode):
        kind = next((name for holds, name in KINDS if holds(mode)), "special file")
        raise InputError(f"{path}: is a {kind}, expected {what}")
