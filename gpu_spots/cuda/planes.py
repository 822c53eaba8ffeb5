"""Trimmed statistics of frames of 8 and 16 bits by bit planes (kernels/trimmed.cu).

The planes are in registers, and frames are read once.
"""

from typing import Any

import numpy as np

from gpu_spots.cuda.moments import PlaneMoments
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.cuda.validity import bits_of, key_bounds, pixels_on_device, sign_bit
from gpu_spots.model import Validity

REGISTERS = 128
"""Registers of a thread that hold planes: 256 frames of 16 bits, 512 of 8."""
MOST_THREADS = 8
"""Threads that may share a pixel."""
FRAME_BYTES = 1 << 32
"""A frame of the stack must be smaller: addresses in it are of 32 bits."""


def is_possible(frames: Any) -> bool:
    """Return True if bit planes can be used for a band (n, n_X, n_Y).

    See `most_frames` and `FRAME_BYTES`.
    """
    return len(frames) <= most_frames(np.dtype(frames.dtype)) and frames.strides[0] < FRAME_BYTES


def most_frames(dtype: np.dtype[Any]) -> int:
    """Return the largest number of frames for bit planes; 0: not for this type."""
    return (
        0
        if dtype.kind == "f" or dtype.itemsize > 2
        else 32 * (REGISTERS // (8 * dtype.itemsize)) * MOST_THREADS
    )


def plane_moments(toolkit: Toolkit, frames: Any, percent: int, validity: Validity) -> PlaneMoments:
    """Return the moments of a band (n, n_X, n_Y); see ``gpu_spots.cuda.background.moments``.

    `is_possible` must be true.
    """
    xp, dtype, n_frames, n_pixels = toolkit.xp, np.dtype(frames.dtype), len(frames), frames[0].size
    low, high = key_bounds(dtype, validity)
    macros = variant(n_frames, dtype, checked=(low, high) != (0, 2 ** (8 * dtype.itemsize) - 1))
    threads, pixels_of_block = macros["SHARERS"], macros["PIXELS"]
    kernel = toolkit.kernel("trimmed", "trimmed", **macros)
    found = PlaneMoments(
        kept=xp.empty(n_pixels, np.uint16),
        total=xp.empty(n_pixels, np.uint32),
        scatter=xp.empty(n_pixels, np.uint64),
        iqr4=xp.empty(n_pixels, np.int32),
        max=xp.empty(n_pixels, dtype),
        arg=xp.empty(n_pixels, np.uint16),
        gaps=xp.zeros(1, np.int32),
    )
    kernel(
        (-(-n_pixels // pixels_of_block),),
        (pixels_of_block, threads),
        (
            bits_of(frames),
            np.uint32(frames.strides[0]),
            np.int32(n_frames),
            np.int32(n_pixels),
            np.int32(percent),
            pixels_on_device(toolkit, validity),
            np.uint32(low),
            np.uint32(high),
            found.kept,
            found.total,
            found.scatter,
            found.iqr4,
            bits_of(found.max),
            found.arg,
            found.gaps,
        ),
    )
    return found


def variant(n_frames: int, dtype: np.dtype[Any], checked: bool) -> dict[str, int]:
    """Return the macros of trimmed.cu for a number of frames.

    ``checked``: values may be invalid.
    """
    bits = 8 * dtype.itemsize
    threads, words = _shares(n_frames, REGISTERS // bits)
    # 128 threads: beyond 1024 frames of 16 bits three such blocks fit, but only one of 256
    pixels = max(16, 128 // threads)
    resident = _blocks(words, bits, threads * pixels)
    return {
        **{"BITS": bits, "BIAS": sign_bit(dtype), "CHECK": int(checked)},
        **{"WORDS": words, "SHARERS": threads, "PIXELS": pixels, "RESIDENT": resident},
    }


def _shares(n_frames: int, most_words: int) -> tuple[int, int]:
    """Return threads per pixel, and words of 32 frames per thread."""
    threads = 1
    while n_frames > 32 * most_words * threads:
        threads *= 2
    return threads, -(-n_frames // (32 * threads))


def _blocks(words: int, bits: int, threads: int) -> int:
    """Return the number of blocks that a multiprocessor should hold.

    Each thread needs registers for its planes, its candidates, and 26 more.
    """
    needed = min(words * bits + words + 26, 255)
    registers = next(number for number in (64, 80, 96, 128, 168, 255) if number >= needed)
    return max(1, 65536 // (registers * threads))
