"""Checks of file names before files are opened."""

import stat
from pathlib import Path

from gpu_spots.errors import InputError

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def require_regular_file(path: Path, what: str) -> None:
    """Raise `InputError` unless ``path`` is a regular file, or a link to one; nothing is opened.

    Args:
        path: name of the file.
        what: what was expected, for the message: "an image".
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be opened: {reason}") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise InputError(f"{path}: is a {kind}, expected {what}")
