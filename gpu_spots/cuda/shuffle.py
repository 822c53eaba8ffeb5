"""HDF5's shuffle filter undone on the device."""

from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, blocks_for, frame_stride
from gpu_spots.cuda.validity import bits_of

THREADS = 256
MOST_CHUNKS = 65535
"""In one launch: the most blocks that a grid may have in its second direction."""


def unshuffle(toolkit: Toolkit, chunks: Any, into: Any) -> None:
    """Put the bytes of shuffled ``chunks`` in order.

    ``chunks``: (k, b) uint8 on the device, contiguous, b bytes each. ``into``: (k, ...), values of 1, 2, 4 or 8 bytes in the machine's byte
    order, b bytes for each chunk, on the device, contiguous inside of each.

    Raises ValueError where the sizes do not fit.
    """
    size = into.dtype.itemsize
    n_values = int(np.prod(into.shape[1:], dtype=np.int64))
    if chunks.shape != (len(into), n_values * size):
        raise ValueError(f"chunks of shape {chunks.shape}, expected {(len(into), n_values * size)}")
    kernel = toolkit.kernel("unshuffle", "unshuffle", SIZE=size)
    for begin in range(0, len(into), MOST_CHUNKS):
        some = into[begin : begin + MOST_CHUNKS]
        kernel(
            (*blocks_for(n_values, THREADS), len(some)),
            (THREADS,),
            (chunks[begin : begin + MOST_CHUNKS], np.int64(n_values), np.int64(frame_stride(some)), bits_of(some)),
        )
