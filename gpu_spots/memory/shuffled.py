"""Transfer of frames from a stack to a backend's memory, shuffled if that saves time.

Nothing else in the pipeline knows of shuffled frames: `Stack.shuffled` reads them, and
`DeviceMemory.staging` puts them in order. See docs/decisions/shuffled-to-the-device.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from gpu_spots.background.levels import LevelSampler
from gpu_spots.memory.workers import Span
from gpu_spots.model import Array, Frames

if TYPE_CHECKING:
    from gpu_spots.backend import DeviceMemory
    from gpu_spots.protocols import Spool, Stack


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Frames as they are stored, decoded except for the shuffle filter of HDF5."""

    rows: int
    """Number of rows of a strip. Each strip of a frame is shuffled separately, and a frame consists
    of whole strips.
    """
    read: Callable[[int, int, int, int, Array], None]
    """Function like `Stack.read_rows` for whole strips, which stay shuffled. Its last argument is
    (end - begin, strips, bytes of a value, rows, n_Y) uint8: the first bytes of all values of a
    strip, as in memory, then all second bytes, and so on.
    """

    def has(self, rows: Span) -> bool:
        """Return True if these rows are whole strips."""
        return rows[0] % self.rows == 0 and rows[1] % self.rows == 0

    @staticmethod
    def rows_in_order(stretches: Array, rows: slice, dtype: np.dtype[Any]) -> Array:
        """Return some rows of a frame, unshuffled.

        Args:
            stretches: (strips, bytes of a value, rows of a strip, n_Y) uint8.
            rows: rows of the frame to return.
            dtype: type of the frame.

        Returns:
            (rows, n_Y), counts.
        """
        n_rows = stretches.shape[2]
        stretch, row = np.divmod(np.arange(len(stretches) * n_rows)[rows], n_rows)
        octets = stretches[stretch, :, row]  # (rows, bytes of a value, n_Y)
        return np.ascontiguousarray(octets.swapaxes(1, 2)).view(dtype)[..., 0]


@dataclass(frozen=True, slots=True)
class Transfer(Generic[Frames]):
    """Reader of frames into a backend's memory, for several threads."""

    reader: "Stack | Spool"
    """Source of the frames."""
    memory: "DeviceMemory[Frames]"
    """Memory of the backend that receives the frames."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    shuffled: Shuffled | None
    """Reader of shuffled frames, which the backend unshuffles; None: frames are read unshuffled."""

    @classmethod
    def of(
        cls, stack: "Stack", memory: "DeviceMemory[Frames]", *, is_direct: bool
    ) -> "Transfer[Frames]":
        """Return that of a stack; ``is_direct``: frames come from itself, not from a copy of it."""
        # in the host's memory the reader puts them in order faster
        is_away = is_direct and memory.free_bytes() is not None
        return cls(stack, memory, stack.dtype, stack.shuffled if is_away else None)

    @property
    def extra_bytes(self) -> int:
        """Bytes of device memory per value for the buffer in which shuffled frames arrive."""
        return 0 if self.shuffled is None else self.dtype.itemsize

    def fill(
        self, held: Frames, to: int, frames: Span, rows: Span, sampler: LevelSampler | None = None
    ) -> None:
        """Read some rows of some frames into ``held``, from its frame ``to`` on.

        ``sampler``: looks at each frame on the way; None: its level is known.
        """
        (begin, end), shuffled = frames, self.shuffled
        if shuffled is not None and not shuffled.has(rows):
            shuffled = None
        read = self.reader.read_rows if shuffled is None else shuffled.read
        n_rows = None if shuffled is None else shuffled.rows
        with self.memory.staging(held, to, to + end - begin, n_rows) as into:
            read(begin, end, *rows, into)
            if sampler is None:
                return
            for frame, image in enumerate(into, begin):
                seen = (
                    image[sampler.rows]
                    if shuffled is None
                    else shuffled.rows_in_order(image, sampler.rows, self.dtype)
                )
                sampler.see(frame, seen)


def rows_of_frame(stack: "Stack", frame: int, rows: slice) -> Array:
    """Return some rows of a frame, (rows, n_Y), counts.

    Where they have to be decoded, that is done once, with all that is stored with them.
    """
    n_rows, n_columns = stack.shape[1:]
    if (shuffled := stack.shuffled) is not None:
        of_stretch = stack.dtype.itemsize, shuffled.rows, n_columns
        stretches = np.empty((1, n_rows // shuffled.rows, *of_stretch), np.uint8)
        shuffled.read(frame, frame + 1, 0, n_rows, stretches)
        return shuffled.rows_in_order(stretches[0], rows, stack.dtype)
    if not stack.is_decoded:
        whole = np.empty((1, n_rows, n_columns), stack.dtype)
        stack.read(frame, frame + 1, whole)
        return whole[0, rows]
    wanted = range(*rows.indices(n_rows))
    found = np.empty((len(wanted), n_columns), stack.dtype)
    for i, row in enumerate(wanted):
        stack.read_rows(frame, frame + 1, row, row + 1, found[i : i + 1][None])
    return found
