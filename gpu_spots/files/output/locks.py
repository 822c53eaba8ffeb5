"""Locks on open files, and the removal of a file that is still the one that is open."""

import fcntl
import os
from pathlib import Path


def lock(descriptor: int) -> bool:
    """Lock a file; return False where another process holds it.

    On a file system without locks nobody is known to hold it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file still has that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def remove(path: Path, descriptor: int) -> None:
    """Remove the file if it is still the one that is open."""
    if is_at(descriptor, path):
        path.unlink(missing_ok=True)
