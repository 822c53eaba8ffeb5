"""Output files that appear under their names when they are complete.

Failures are errors, not crashes.
"""

import os
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import h5py

from gpu_spots import watchdog
from gpu_spots.errors import OutputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.output import locks

SUFFIX = ".part"
MARK = stat.S_ISVTX
"""Mode bit of unfinished files. It means nothing on files, so nobody else's file has it."""


def check_output(output: Path, sources: Sequence[Path], force: bool) -> None:
    """Refuse an output that is an input, that exists (unless ``force``), or that cannot be made.

    Raises `OutputError`.
    """
    if output.name in ("", ".."):
        raise OutputError(f"{output}: is a folder, expected the name of a file; {_other()}")
    refuse_inputs(output, sources)
    if output.exists() and not output.is_file():
        raise OutputError(
            f"{output}: is a {'folder' if output.is_dir() else 'device'}, expected the name of a "
            "file"
        )
    _refuse_link(output)
    if output.exists() and not force:
        raise OutputError(f"{output}: already exists; use {given('force', True)} to overwrite it")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} is missing; {_other()}")


def refuse_inputs(output: Path, sources: Sequence[Path]) -> None:
    """Raise `OutputError` for an output that is one of the files that are read."""
    for path, what in ((output, "output"), (_part(output), "output's unfinished file")):
        if path.exists() and any(
            source.exists() and os.path.samefile(path, source) for source in sources
        ):
            raise OutputError(f"{path}: the {what} is the input file; {_other()}")


@contextmanager
def new_output(
    output: Path, sources: Sequence[Path] = (), *, force: bool = False
) -> Iterator["NewFile"]:
    """Yield a new HDF5 file that becomes ``output`` at once when the block ends well.

    If the block fails, nothing new is left on disk.

    Args:
        output: path of the file.
        sources: files that are read, which must not be overwritten.
        force: replace a file that exists.

    Raises:
        OutputError: the output is one of the sources, exists, or cannot be written.
    """
    check_output(output, sources, force)
    with complete_or_absent(output) as part, new_file(part, str(output)) as file:
        yield file


@contextmanager
def writing(file: h5py.File, name: Path | str) -> Iterator[None]:
    """Delay signals until the end of a block that writes to an HDF5 file.

    Datasets that are opened in the block should be closed at its end, so that the file is
    consistent when a signal is handled.

    Args:
        file: a `NewFile`, or a file in memory.
        name: name of the file in messages.

    Raises:
        OutputError: a write failed.
    """
    with uninterrupted():
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{name}: cannot be written: {hdf5_reason(error)}") from error
        if isinstance(file, NewFile):
            file.check()


@contextmanager
def complete_or_absent(output: Path) -> Iterator[Path]:
    """Provide the path to write to, which becomes ``output`` when the block ends well.

    After an error it is removed.

    What a killed run left there is removed first. Raises `OutputError` where another run is writing
    the same output.
    """
    part = _part(output)
    lock: int | None = None
    was_there = os.path.lexists(output)
    try:
        with uninterrupted():
            lock = _locked_new_file(part, output)
            watchdog.unfinished(part, lock)
        yield part
        try:
            os.fsync(lock)
            if not locks.is_at(lock, part):
                raise OutputError(f"{output}: cannot be written: {part} was replaced meanwhile")
            with uninterrupted(too_late=True):
                _refuse_link(output)
                if os.path.lexists(output) and not was_there:
                    raise OutputError(
                        f"{output}: cannot be written: another program created it meanwhile; "
                        f"{_other()}"
                    )
                os.replace(part, output)
                watchdog.complete(output)
                _unmark(lock)
                _sync_folder(output.parent)
        except OSError as error:
            raise _cannot_write(output, error) from error
    except BaseException:
        if lock is not None:
            with uninterrupted():
                locks.remove(part, lock)
                watchdog.removed()
        raise
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def uninterrupted(*, too_late: bool = False) -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block has ended.

    ``too_late``: then they are not heard any more, as what they would stop is done.

    HDF5 needs this: an exception out of a signal in the midst of its work leaves it in a state in
    which it crashes. Python handles signals in the main thread, so in others there is nothing to
    do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    before = {
        number: handler
        for number in watchdog.SIGNALS
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived and not too_late:
            signal.raise_signal(arrived[0])


class NewFile(h5py.File):  # type: ignore[misc]
    """A new HDF5 file that old readers open too.

    Whether it could be written to is not HDF5's to say: ask `check`.

    HDF5 crashes, at the latest when the process ends, if its writes fail, as on a full disk
    (https://github.com/h5py/h5py/issues/914). So it writes to an object that takes everything, and
    tells afterwards.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Make the file at ``path``, which messages call ``name``.

        Raises `OutputError` where that cannot be done.
        """
        self._name = name
        try:
            self._disk = _Disk(path)
        except OSError as error:
            raise _cannot_write(name, error) from error
        # HDF5 calls Python to write: an exception out of a signal would be lost there
        with uninterrupted():
            super().__init__(self._disk, "w", libver=("earliest", "v110"))

    def check(self) -> None:
        """Raise `OutputError` if a write has failed."""
        if self._disk.failure is not None:
            raise _cannot_write(self._name, self._disk.failure) from self._disk.failure

    def close(self) -> None:
        """Write what is left and close; whether that went well, `check` tells."""
        with uninterrupted():
            try:
                super().close()
            finally:
                self._disk.close()


@contextmanager
def new_file(path: Path, name: str) -> Iterator[NewFile]:
    """Provide a new HDF5 file; messages call it ``name``.

    Raises `OutputError` where it cannot be made or finished.
    """
    file = NewFile(path, name)
    try:
        yield file
    except BaseException:
        with suppress(OSError, RuntimeError):  # the first error is the one to report
            file.close()
        raise
    file.close()
    file.check()


@contextmanager
def new_binary_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file that is not HDF5 for writing; messages call it ``name``.

    Raises `OutputError` where it cannot be made, written or closed.
    """
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise _cannot_write(name, error) from error


class _Disk:
    """A new file for HDF5 to write to, in which nothing seems to fail.

    What the disk does not take is kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self.failure: OSError | None = None
        self._descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        self._position = self._size = 0
        self._kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes | bytearray | memoryview) -> int:
        rest, position = memoryview(data).cast("B"), self._position
        try:
            while rest and self.failure is None:
                n_written = os.pwrite(self._descriptor, rest, position)
                rest, position = rest[n_written:], position + n_written
        except OSError as error:
            self.failure = error
        if rest:
            self._kept.append((position, bytes(rest)))
        self._position = position + len(rest)
        self._size = max(self._size, self._position)
        return len(data)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        into, begin = memoryview(buffer).cast("B"), self._position
        end = begin + len(into)
        try:
            found = os.pread(self._descriptor, len(into), begin)
        except OSError as error:
            self.failure, found = self.failure or error, b""
        # as HDF5's own driver does: zeros where nothing was written
        into[:] = found.ljust(len(into), b"\0")
        for position, data in self._kept:
            first, last = max(position, begin), min(position + len(data), end)
            if first < last:
                into[first - begin : last - begin] = data[first - position : last - position]
        self._position = end
        return len(into)

    def truncate(self, size: int) -> int:
        if self.failure is None:
            try:
                os.truncate(self._descriptor, size)
            except OSError as error:
                self.failure = error
        self._size = size
        return size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Close the file; some file systems report only now that the disk is full."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            self.failure = self.failure or error


def _part(output: Path) -> Path:
    return output.with_name(output.name + SUFFIX)


def _other() -> str:
    return f"name another output with {given('output')}"


def _cannot_write(output: Path | str, error: OSError) -> OutputError:
    return OutputError(f"{output}: cannot be written: {error.strerror or error}; {_other()}")


def _refuse_link(output: Path) -> None:
    """Raise `OutputError` for a symbolic link: neither it nor the file behind it is replaced."""
    if output.is_symlink():
        raise OutputError(
            f"{output}: is a symbolic link to {os.readlink(output)}; "
            f"name the file itself with {given('output')}"
        )


def _locked_new_file(part: Path, output: Path) -> int:
    """Return a descriptor of a new file that only this process holds.

    The lock of a killed process is released by the system.
    """
    while True:
        try:
            descriptor = os.open(
                part,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o666 | MARK,
            )
        except FileExistsError:
            _clear(part, output)
            continue
        except OSError as error:
            raise _cannot_write(output, error) from error
        # before it was locked, another run may have taken it for a left-over, and have removed it
        if locks.lock(descriptor) and locks.is_at(descriptor, part):
            _mark(descriptor)
            return descriptor
        os.close(descriptor)


def _clear(part: Path, output: Path) -> None:
    """Remove what a killed run left.

    Raises `OutputError` where a run is at it, and for what no run leaves.
    """
    exists = f"{output}: cannot be written: {part} already exists"
    try:
        if not stat.S_ISREG(part.lstat().st_mode):
            raise OutputError(f"{exists} and is not a file; {_other()}")
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{exists}: {error.strerror}; {_other()}") from error
    try:
        if not locks.lock(descriptor):
            raise OutputError(f"{output}: another run is writing it")
        if not os.fstat(descriptor).st_mode & MARK:
            raise OutputError(f"{exists} and was not left by this program; move it, or {_other()}")
        locks.remove(part, descriptor)
    finally:
        os.close(descriptor)


def _mark(descriptor: int) -> None:
    """Mark an unfinished file as ours, on systems where opening it has not done so."""
    mode = os.fstat(descriptor).st_mode
    if not mode & MARK:
        with suppress(OSError):  # then a left-over is not recognised, and left alone
            os.fchmod(descriptor, stat.S_IMODE(mode) | MARK)


def _unmark(descriptor: int) -> None:
    """Give a finished file the permissions of any new file."""
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~MARK)


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
