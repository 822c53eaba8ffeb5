"""Transfer of frames from a stack to a backend's memory, shuffled if that saves time.

Nothing else in the pipeline knows of shuffled frames: `Stack.shuffled` reads them, and
`DeviceMemory.staging` puts them in order. See docs/decisions/shuffled-to-the-device.md.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from gpu_spots.background.levels import LevelSampler
from gpu_spots.memory.workers import Span
from gpu_spots.model import Array, Frames
from gpu_spots.protocols import Shuffled, Spool, Stack

if TYPE_CHECKING:
    from gpu_spots.backend import DeviceMemory


@dataclass(frozen=True, slots=True)
class Transfer(Generic[Frames]):
    """Reader of frames into a backend's memory, for several threads."""

    reader: Stack | Spool
    """Source of the frames."""
    memory: "DeviceMemory[Frames]"
    """Memory of the backend that receives the frames."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    shuffled: Shuffled | None
    """Reader of shuffled frames, which the backend unshuffles; None: frames are read unshuffled."""

    @classmethod
    def of(
        cls, stack: Stack, memory: "DeviceMemory[Frames]", *, is_direct: bool
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


def rows_of_frame(stack: Stack, frame: int, rows: slice) -> Array:
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
