"""Frames of a run that were read last, and their mirror images about the background."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, Array, Surface, Validity
from gpu_spots.protocols import Stack

CACHE_BYTES = 2**29
"""Bytes of frames that are kept, unless one frame is larger."""


class FrameCache:
    """Frames of a run, of which those read last are kept; several threads may ask for them."""

    def __init__(self, stack: Stack, n_bytes: int = CACHE_BYTES) -> None:
        """Keep frames of a stack, of at most ``n_bytes``, but at least one."""
        self.stack = stack
        self.frame_bytes = stack.shape[1] * stack.shape[2] * stack.dtype.itemsize
        """Bytes of one frame."""
        self._most = max(1, n_bytes // self.frame_bytes)
        self._kept: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, frame: int) -> Array:
        """Return a frame, (n_X, n_Y), read-only. Raises `InputError` if it cannot be read."""
        with self._lock:
            if frame in self._kept:
                self._kept.move_to_end(frame)
                return self._kept[frame]
        image = np.empty((1, *self.stack.shape[1:]), self.stack.dtype)
        self.stack.read(frame, frame + 1, image)
        with self._lock:
            self._kept[frame] = image[0]
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return image[0]


class Mirror:
    """Frames mirrored about the background: ``2 B - I``, which has the noise but not the spots.

    Values that are not valid stay as they are.
    """

    def __init__(
        self,
        frames: Callable[[int], Array],
        center: NDArray[np.float64],
        values: Validity,
        factors: NDArray[np.int64] | None,
        surface: Surface | None = None,
    ) -> None:
        """Mirror frames.

        Args:
            frames: Returns a frame by its index.
            center: (n_X, n_Y) float64, counts: mean of the noise, of the scaled frames.
            values: Which values of the frames are valid.
            factors: (n_frames,) int64, 2^-16: what each frame is multiplied by to scale it.
            surface: Levels of the pixels of frames; None: each frame has one level.
        """
        self._frames, self._center = frames, center
        self._values, self._factors, self._surface = values, factors, surface

    def __getitem__(self, frame: int) -> Array:
        """Return the mirror image of a frame, (n_X, n_Y), of the frame's type."""
        image = self._frames(frame)
        level = 1.0 if self._factors is None else 2.0**FACTOR_BITS / float(self._factors[frame])
        double = (2.0 * level) * self._center
        if self._surface is not None:
            rows = slice(0, len(self._center))
            more = self._surface.of_rows(frame, rows, self._center.shape[1]) / 2.0**FACTOR_BITS
            double = 2.0 * (self._center + (more - 1.0) * self._surface.following(self._center))
        low, high = self._values.bounds(image.dtype)
        usable = self._values.allows(image)
        with np.errstate(invalid="ignore", over="ignore"):
            if image.dtype.kind != "f":
                mirrored: Any = np.clip(np.rint(double) - image, low, high).astype(image.dtype)
            else:
                mirrored = np.clip(double - image, low, high).astype(image.dtype)
        return mirrored if usable is None else np.where(usable, mirrored, image)
