"""Choice of the folder in which CuPy keeps compiled kernels.

CuPy makes the folder when it is imported, and ends the import with an error where it cannot.
"""

import os
import stat
import tempfile
from pathlib import Path

VARIABLE = "CUPY_CACHE_DIR"


def choose_kernel_cache() -> None:
    """Set ``CUPY_CACHE_DIR`` to a private temporary folder if the default is not writable.

    The variable is left alone if the user has set it. Without any writable folder nothing is set,
    and importing CuPy fails with its own message.
    """
    default = Path(os.path.expanduser("~/.cupy/kernel_cache"))
    # a user without a home leaves the ~ as it is
    if VARIABLE in os.environ or (default.is_absolute() and _is_writable(default)):
        return
    try:
        os.environ[VARIABLE] = str(_private_folder())
    except OSError:
        return


def _is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> Path:
    """Return a folder that only this user can enter: kernels in it will be run.

    It is the same one each time, unless somebody else has taken its name.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"gpu_spots-kernels-{user}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        is_private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
        if not (is_private and found.st_uid == user and _is_writable(folder)):
            return Path(tempfile.mkdtemp(prefix=f"gpu_spots-kernels-{user}-"))
    return folder
