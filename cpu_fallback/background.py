"""The background of a band of rows."""

from cpu_fallback.clip import clip_moments
from cpu_fallback.kruskal import kruskal_moments
from cpu_fallback.trimmed import trimmed_moments
from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Clip, KruskalWallis, Method, Trimmed
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity


def background(frames: Array, method: Method, validity: Validity, into: BackgroundRows) -> bool:
    """Fill rows of the maps; see ``gpu_spots.backend.Operations.background``."""
    return into.fill(moments(frames, method, validity))


def moments(frames: Array, method: Method, validity: Validity) -> IntegerMoments | FloatMoments:
    """Return the moments of each pixel's background sample.

    A pixel with fewer than two values left is masked (``kept`` 0). `KruskalWallis` decides exactly;
    a block without a valid value in a pixel takes no part there.
    """
    match method:
        case Trimmed(percent):
            return trimmed_moments(frames, percent, validity)
        case KruskalWallis():
            return kruskal_moments(frames, method.block_of_frame, method.critical, validity)
        case Clip():
            return clip_moments(frames, method, validity)
