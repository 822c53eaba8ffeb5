"""On/off ratios of spots, their errors, and tests whether they can be believed.

A ratio is a sum over laser-on frames divided by a sum over laser-off frames, so it is defined for
intensities that are zero or negative. Arrays only: no file is read or written here. `calculation`
has the order of the steps.
"""

from gpu_spots.spots.ratios.calculation import SCALES, ratios
from gpu_spots.spots.ratios.pairing import pair_frames, same_state_pairs
from gpu_spots.spots.ratios.tables import FrameStates, RatioResult, Rejected, SpotRows

__all__ = [
    "SCALES",
    "FrameStates",
    "RatioResult",
    "Rejected",
    "SpotRows",
    "pair_frames",
    "ratios",
    "same_state_pairs",
]
