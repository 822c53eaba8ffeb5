"""An output folder that appears under its name only when all its files are complete."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gpu_spots.errors import OutputError, given
from gpu_spots.files.output import locks
from gpu_spots.files.output.new_file import MARK, SUFFIX, uninterrupted

OLD = ".part.old"
"""Ending of a folder that is being replaced."""


def check_output_folder(
    output: Path, sources: Sequence[Path], force: bool, is_ours: Callable[[str], bool]
) -> None:
    """Refuse an output folder that exists (unless ``force``), or that cannot be made.

    Args:
        output: The folder to make.
        sources: Files that are read. They must not be in the folder.
        force: Whether an existing folder is replaced.
        is_ours: Returns whether a file of that name can be one of an earlier export. A folder with
            other files is never replaced.

    Raises:
        OutputError: The folder cannot be made.
    """
    if output.name in ("", ".."):
        raise OutputError(f"{output}: is not the name of a new folder; {_other()}")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output}: is a file or a link, expected a new folder; {_other()}")
    if output.is_dir():
        if not force:
            raise OutputError(
                f"{output}: already exists; use {given('force', True)} to overwrite it"
            )
        inside = {source.resolve() for source in sources if source.exists()}
        for item in output.iterdir():
            if not is_ours(item.name) or not item.is_file() or item.resolve() in inside:
                raise OutputError(
                    f"{output}: has {item.name}, which is not of an earlier export; {_other()}"
                )
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} is missing; {_other()}")


@contextmanager
def complete_folder_or_absent(output: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes ``output`` when the block ends without an error.

    An existing folder is replaced. The temporary folder of a killed run is removed first.

    Raises:
        OutputError: The folder cannot be written, or another run is writing it.
    """
    part = output.with_name(output.name + SUFFIX)
    try:
        with uninterrupted():
            lock = _locked_new_folder(part, output)
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield part
        try:
            for path in part.iterdir():
                _sync(path)
            _sync(part)
            with uninterrupted(too_late=True):
                _replace(part, output)
                with suppress(OSError):
                    output.chmod(stat.S_IMODE(output.stat().st_mode) & ~MARK)
                _sync(output.parent)
        except OSError as error:
            raise _cannot_write(output, error) from error
    except BaseException:
        with uninterrupted():
            shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_new_folder(part: Path, output: Path) -> int:
    """Make the temporary folder, and return a descriptor that keeps other runs away from it."""
    if part.exists():
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if not part.stat().st_mode & MARK:
                raise OutputError(
                    f"{output}: cannot be written: {part} already exists and was not left by this "
                    f"program; move it, or {_other()}"
                )
            if not locks.lock(descriptor):
                raise OutputError(f"{output}: another run is writing it")
            shutil.rmtree(part)
        finally:
            os.close(descriptor)
    part.mkdir()
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    part.chmod(stat.S_IMODE(part.stat().st_mode) | MARK)
    locks.lock(descriptor)
    return descriptor


def _replace(part: Path, output: Path) -> None:
    """Give the folder its name. An old folder of that name is removed afterwards."""
    if not output.is_dir():
        part.rename(output)
        return
    old = output.with_name(output.name + OLD)
    if old.exists():  # a killed run left it
        if not old.stat().st_mode & MARK:
            raise FileExistsError(errno.EEXIST, f"{old} exists; move it")
        shutil.rmtree(old)
    output.chmod(stat.S_IMODE(output.stat().st_mode) | MARK)
    output.rename(old)
    try:
        part.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a file or a folder durable, where the file system allows it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _other() -> str:
    return f"name another output with {given('output')}"


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(f"{output}: cannot be written: {error.strerror or error}; {_other()}")
