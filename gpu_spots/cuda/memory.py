"""Device memory: upper bounds of what operations need, and transfers of frames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gpu_spots.background.methods import Clip, Method
from gpu_spots.cuda.clip import clip_bytes
from gpu_spots.cuda.planes import most_frames
from gpu_spots.cuda.ranked import Launch
from gpu_spots.cuda.shuffle import put_in_order, stretch_buffer
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Array

MASKS = 4
"""Packed masks of a batch at the same time: raw, filtered, invalid, and one more while they are
cleaned or labelled (bits a pixel).
"""
PER_SET_PIXEL = 60
"""Bytes of a set pixel while components are found: parent, root, number, component, position, and
what the sort of them needs.
"""
PIXELS_PER_SET_PIXEL = 20
"""Number of pixels per set pixel that is planned for. With more set pixels memory may run out, and
half as many frames are taken.
"""
SLACK = 1 << 20
"""Bytes for rounding and for small arrays."""


def band_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
    """Return what the moments of a band and its maps take, at most."""
    n_blocks = method.n_blocks
    if isinstance(method, Clip):
        return clip_bytes(n_frames, n_pixels, dtype, n_blocks)
    if not n_blocks and n_frames <= most_frames(dtype):
        # with avg, std, iqr and the threshold
        a_pixel = 2 + 4 + 8 + 4 + dtype.itemsize + 2 + 16
        scratch = 0
    else:
        a_pixel = (
            4 + dtype.itemsize + 4 + (24 if dtype.kind == "f" else 32) + (5 if n_blocks else 0)
        )
        scratch = Launch.of(dtype, n_frames, n_blocks).scratch_bytes(n_pixels)
    # with the map of masked pixels, and small change
    return (a_pixel + 1) * n_pixels + scratch + 4 * n_frames + 8 * n_blocks + (1 << 12)


def batch_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
    """Return what the masks, components and sums of a batch take, at most."""
    n_values = n_frames * n_pixels
    return n_values * MASKS // 8 + n_values * PER_SET_PIXEL // PIXELS_PER_SET_PIXEL + SLACK


@contextmanager
def staging(
    parts: Sequence[tuple[Toolkit, Any]], shuffled_rows: int | None = None
) -> Iterator[Array]:
    """Provide pinned memory that is copied to all ``parts``: devices, and frames on each.

    Shuffled frames are copied to a buffer on each device, and a kernel puts them in order; see
    ``gpu_spots.backend.DeviceMemory.staging``.
    """
    sent = list(parts)
    if shuffled_rows is not None:
        sent = [
            (toolkit, toolkit.call(partial(stretch_buffer, toolkit, frames, shuffled_rows)))
            for toolkit, frames in parts
        ]
    (toolkit, first), *others = sent
    with toolkit.staging(first, others) as slot:
        yield slot
    if shuffled_rows is not None:
        for (toolkit, frames), (_, stretches) in zip(parts, sent, strict=True):
            toolkit.call(partial(put_in_order, toolkit, stretches, frames))
