"""Scratch files: decoded frames on disk, for runs that do not fit in memory.

They have no name, so that nothing of them is ever left.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import InputError, OutputError, given
from gpu_spots.model import Array


class ScratchFile:
    """Frames (n, n_X, n_Y), one after the other, as they are in memory; a spool of the pipeline.

    Several threads may use it.
    """

    def __init__(
        self, descriptor: int, folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        """Take an open file that has space for the frames; messages name its folder."""
        self._descriptor = descriptor
        self._folder = folder
        self._row_bytes = shape[2] * dtype.itemsize
        self._frame_bytes = shape[1] * self._row_bytes

    def write(self, begin: int, frames: Array) -> None:
        """Put frames, contiguous, at their place, the first at ``begin``.

        Raises `OutputError` where the disk does not take them.
        """
        rest, position = frames.reshape(-1).view(np.uint8).data, begin * self._frame_bytes
        try:
            while rest:
                n_written = os.pwrite(self._descriptor, rest, position)
                rest, position = rest[n_written:], position + n_written
        except OSError as error:
            raise _cannot(self._folder, error) from error

    def read(self, begin: int, end: int, into: Array) -> None:
        """Fill ``into``, contiguous, with the frames from ``begin`` to ``end``.

        Raises `InputError`.
        """
        self._fill(into, begin * self._frame_bytes)

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read the rows from ``first`` to ``last`` of the frames."""
        for frame, image in enumerate(into, begin):
            self._fill(image, frame * self._frame_bytes + first * self._row_bytes)

    def _fill(self, out: Array, begin: int) -> None:
        rest = out.reshape(-1).view(np.uint8).data
        try:
            while rest:
                n_read = os.preadv(self._descriptor, [rest], begin)
                if not n_read:
                    raise InputError(f"{self._folder}: the scratch file ends too early")
                rest, begin = rest[n_read:], begin + n_read
        except OSError as error:
            raise InputError(
                f"{self._folder}: the scratch file cannot be read: {error.strerror}"
            ) from error


@contextmanager
def scratch_file(
    folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> Iterator[ScratchFile]:
    """Provide a scratch file for frames of a shape and type, in a folder.

    Raises `OutputError` where there is none.
    """
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    try:
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        if n_bytes > free:
            raise OutputError(
                f"{folder}: a scratch file needs {n_bytes / 2**30:.2f} GiB, "
                f"{free / 2**30:.2f} GiB are free; use {given('scratch')} to name another folder"
            )
        # it loses its name at once: whatever ends this process ends the file
        file = tempfile.TemporaryFile(dir=folder, prefix="gpu_spots-")  # noqa: SIM115
    except OSError as error:
        raise _cannot(folder, error) from error
    with file:
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except AttributeError:  # not on this system
            os.truncate(file.fileno(), n_bytes)
        except OSError as error:
            raise _cannot(folder, error) from error
        yield ScratchFile(file.fileno(), folder, shape, dtype)


def _cannot(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: the scratch file cannot be written: {error.strerror}")
