"""Upper bounds of the device memory that the operations need beside their frames."""

from typing import Any

import numpy as np

MASKS = 4
"""Packed masks of a batch at the same time: raw, filtered, invalid, and one more while they are
cleaned or labelled (bits a pixel).
"""
PER_SET_PIXEL = 60
"""Bytes of a set pixel while components are found: parent, root, number, component, position, and
what the sort of them needs.
"""
SET_PIXELS = 20
"""One pixel in so many may be set; where there are more, memory may run out, and half as many
frames are taken.
"""
SLACK = 1 << 20
"""What is rounded up, and small arrays."""


def batch_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
    """Of the masks, components and sums of a batch."""
    n_values = n_frames * n_pixels
    return n_values * MASKS // 8 + n_values * PER_SET_PIXEL // SET_PIXELS + SLACK
