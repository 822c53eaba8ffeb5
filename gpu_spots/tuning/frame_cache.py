"""Frames of a run that were read last."""

import threading
from collections import OrderedDict

import numpy as np

from gpu_spots.model import Array
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
