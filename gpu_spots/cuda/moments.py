"""Trimmed statistics of each pixel: by bit planes where values are short and frames not too many, else from sorted values."""

from typing import Any

import numpy as np

from gpu_spots.cuda.planes import PlaneMoments, is_possible, most_frames, plane_moments
from gpu_spots.cuda.ranked import Launch, RankedMoments, ranked_moments
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Validity, check_frame_count


def moments_on_device(
    toolkit: Toolkit, frames: Any, percent: int, validity: Validity
) -> PlaneMoments | RankedMoments:
    """Return the moments of a band, on the device and in the kernels' own types; see ``gpu_spots.backend.Backend.moments``.

    ``frames``: (n, n_X, n_Y) on the device, contiguous inside a frame. Raises ValueError above
    `MAX_FRAMES` frames.
    """
    check_frame_count(len(frames))
    return (plane_moments if is_possible(frames) else ranked_moments)(
        toolkit, frames, percent, validity
    )


def moments_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], n_blocks: int = 0) -> int:
    """Device memory that the moments of a band and its maps take beside its frames, at most.

    ``n_blocks``: of the Kruskal-Wallis test; 0: n_removed.
    """
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
