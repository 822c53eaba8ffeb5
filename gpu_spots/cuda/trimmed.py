"""Trimmed statistics of each pixel, by bit planes or from sorted values.

Bit planes are for short values of not too many frames.
"""

from typing import Any

from gpu_spots.cuda.moments import PlaneMoments, RankedMoments
from gpu_spots.cuda.planes import is_possible, plane_moments
from gpu_spots.cuda.ranked import ranked_moments
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Validity, check_frame_count


def trimmed_moments(
    toolkit: Toolkit, frames: Any, percent: int, validity: Validity
) -> PlaneMoments | RankedMoments:
    """Return the moments of a band; see ``gpu_spots.cuda.background.moments``."""
    check_frame_count(len(frames))
    return (plane_moments if is_possible(frames) else ranked_moments)(
        toolkit, frames, percent, validity
    )
