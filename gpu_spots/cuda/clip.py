"""Clip of a pixel's values, or of its blocks of frames, on the device (kernels/clip.cu)."""

from typing import Any

import numpy as np

from gpu_spots.background import clip
from gpu_spots.background.methods import Clip
from gpu_spots.cuda.moments import RankedMoments
from gpu_spots.cuda.ranked import Launch
from gpu_spots.cuda.scale import surface_on_device
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import ConstantPart, Validity, check_frame_count

BLOCK_BYTES = 32
"""Bytes that a team keeps of a block of frames: mean, scatter, sum, and two numbers."""
DEFINES: dict[str, int | str] = {
    "STEPS": clip.STEPS,
    "BLOCK_STEPS": clip.BLOCK_STEPS,
    "WIDTH": repr(clip.WIDTH),
    "MARGIN": repr(clip.MARGIN),
    "BLOCK_MARGIN": repr(clip.BLOCK_MARGIN),
    "MOST_OF_POISSON": repr(clip.MOST_OF_POISSON),
    "CLIPPED_SD": repr(clip.CLIPPED_SD),
    "CLIPPED_MEAN": repr(clip.CLIPPED_MEAN),
    "SPARSE": repr(clip.SPARSE),
    "LEAST_LEVEL": repr(clip.LEAST_LEVEL),
}
"""Macros of the kernels."""
FILE = "ranked+clip"
"""Files of the kernels."""


def clip_moments(toolkit: Toolkit, frames: Any, method: Clip, validity: Validity) -> RankedMoments:
    """Return the moments of a band, on the device; see ``gpu_spots.cuda.background.moments``.

    ``frames``: (n, n_X, n_Y) on the device, contiguous inside a frame. Raises ValueError above
    `MAX_FRAMES` frames.
    """
    check_frame_count(len(frames))
    dtype, n_pixels = np.dtype(frames.dtype), frames[0].size
    found = RankedMoments.empty(toolkit, dtype, n_pixels)
    levels, defines = None, DEFINES
    if method.levels is not None:
        levels, defines = toolkit.to_device(method.levels.astype(np.int32)), DEFINES | {"LEVELS": 1}
        if not method.levels.all():
            defines = defines | {"LEAVES_OUT": 1}
    surface = None
    if method.surface is not None:
        surface = surface_on_device(toolkit, method.surface, frames.shape[2])
        defines = defines | {"SURFACE": 1, "LEVELLINGS": clip.LEVELLINGS}
    # without a constant part, all of the background follows the levels
    part = method.constant_part or ConstantPart(0.0, 0.0)
    of_levels = levels, surface, np.float64(part.contrast), np.float64(part.centre)
    launch = launch_of(dtype, len(frames), method.n_blocks, levelled=levels is not None)
    before: tuple[Any, ...]
    if method.block_of_frame is None:
        name, start = "clip", method.start
        tables = (start.kept, start.shift, start.width)
        before = (*(toolkit.to_device(table) for table in tables), *of_levels)
    else:
        name, block_levels = "clip_blocks", method.block_levels()
        before = (
            toolkit.to_device(method.block_of_frame.astype(np.int32)),
            np.int32(method.n_blocks),
            toolkit.to_device(method.block_shifts),
            *of_levels,
            None if block_levels is None else toolkit.to_device(block_levels.astype(np.int32)),
        )
    launch(toolkit, name, frames, validity, n_pixels, before, found.arguments(), defines, FILE)
    return found


def launch_of(dtype: np.dtype[Any], n_frames: int, n_blocks: int, *, levelled: bool) -> Launch:
    """Return how the kernels work on a band; ``n_blocks`` 0: single values are left out.

    ``levelled``: values are less a part of their background, and may be beyond the type.
    """
    entry = 8 if levelled and dtype.kind != "f" else None
    return Launch.of(dtype, n_frames, beside=BLOCK_BYTES * n_blocks, entry=entry)


def clip_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], n_blocks: int) -> int:
    """Return the device memory that the moments of a band take beside its frames, at most."""
    a_pixel = 4 + dtype.itemsize + 4 + (24 if dtype.kind == "f" else 32)
    scratch = max(
        launch_of(dtype, n_frames, n_blocks, levelled=levelled).scratch_bytes(n_pixels)
        for levelled in (False, True)
    )
    return (a_pixel + 1) * n_pixels + scratch + 28 * (n_frames + 1) + 12 * n_blocks + (1 << 12)
