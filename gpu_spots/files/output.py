"""An output file that appears under its name only when it is complete."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_spots.errors import OutputError

SUFFIX = ".part"


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """Refuse an output that is the input, that exists (unless ``force``), or that cannot be made. Raises `OutputError`."""
    if source is not None and output.exists() and source.exists() and os.path.samefile(output, source):
        raise OutputError(f"{output}: the output is the input file; name another with -o")
    if output.exists() and not output.is_file():
        raise OutputError(f"{output}: is a {'folder' if output.is_dir() else 'device'}, expected the name of a file")
    if os.path.lexists(output) and not force:
        raise OutputError(f"{output}: exists already; --force overwrites it")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: no folder {output.parent}")


@contextmanager
def complete_or_absent(output: Path) -> Iterator[Path]:
    """The path to write to; when the block ends well it becomes ``output`` at once, else it is removed.

    What a killed run left there is removed first. Raises `OutputError` where another run is writing the same output.
    """
    part = output.with_name(output.name + SUFFIX)
    lock = _lock(part, output)
    try:
        yield part
        try:
            os.fsync(lock)
            os.replace(part, output)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
        _sync_folder(output.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def _lock(part: Path, output: Path) -> int:
    """A descriptor of an empty ``part`` that this process alone holds; the lock of a killed process is gone with it."""
    while True:
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"{output}: another run is writing it") from None
        # between open and lock the other run may have finished and renamed the file
        if part.exists() and os.path.samestat(os.fstat(descriptor), part.stat()):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system lets us."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
