"""HDF5's shuffle filter undone on the device."""

from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, blocks_for, frame_stride
from gpu_spots.cuda.validity import bits_of

THREADS = 256
MOST_CHUNKS = 65535
"""Chunks of one launch, limited by the second dimension of a grid."""


def unshuffle(toolkit: Toolkit, chunks: Any, into: Any) -> None:
    """Put the bytes of shuffled ``chunks`` in order.

    ``chunks``: (k, b) uint8 on the device, contiguous, b bytes each. ``into``: (k, ...), values of
    1, 2, 4 or 8 bytes in the machine's byte order, b bytes for each chunk, on the device,
    contiguous inside of each.

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
            (
                chunks[begin : begin + MOST_CHUNKS],
                np.int64(n_values),
                np.int64(frame_stride(some)),
                bits_of(some),
            ),
        )


def stretch_buffer(toolkit: Toolkit, frames: Any, rows: int) -> Any:
    """Return an array on the device for shuffled frames.

    ``frames`` has the shape (n, n_X, n_Y). ``rows``, which divides n_X, is the number of rows of a
    stretch that is shuffled.

    (n, stretches, bytes of a value, rows, n_Y) uint8.
    """
    n_frames, n_rows, n_columns = frames.shape
    return toolkit.xp.empty(
        (n_frames, n_rows // rows, frames.dtype.itemsize, rows, n_columns), np.uint8
    )


def put_in_order(toolkit: Toolkit, stretches: Any, frames: Any) -> None:
    """Fill ``frames``, contiguous, from shuffled ``stretches``; see `stretch_buffer`."""
    *_, size, rows, n_columns = stretches.shape
    unshuffle(
        toolkit, stretches.reshape(-1, size * rows * n_columns), frames.reshape(-1, rows, n_columns)
    )
