"""The background of frames of 8 and 16 bits without leaving the device: what `gpu_spots.background` makes of moments on the host."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.cuda.planes import PlaneMoments
from gpu_spots.cuda.toolkit import Toolkit, blocks_for

THREADS = 256


@dataclass(frozen=True, slots=True)
class DeviceBackground:
    """Maps on the device, flat, as ``gpu_spots.model.Background`` describes them; with the moments they are of."""

    moments: PlaneMoments
    avg: Any
    """float32."""
    std: Any
    """float32."""
    iqr: Any
    """float32."""
    threshold: Any
    """int32."""


def background(toolkit: Toolkit, moments: PlaneMoments, cutoff: float) -> DeviceBackground:
    """avg, std, iqr and threshold of a band's moments, to the bit as `gpu_spots.background.BackgroundMaps` computes them."""
    xp, limits, n_pixels = toolkit.xp, np.iinfo(moments.max.dtype), len(moments.kept)
    avg, std, iqr = (xp.empty(n_pixels, np.float32) for _ in range(3))
    threshold = xp.empty(n_pixels, np.int32)
    toolkit.kernel("background", "background")(
        blocks_for(n_pixels, THREADS),
        (THREADS,),
        (
            moments.kept,
            moments.total,
            moments.scatter,
            moments.iqr4,
            np.int32(n_pixels),
            np.int32(limits.min < 0),
            np.float64(cutoff),
            np.float64(limits.min),
            np.float64(limits.max + 1),
            avg,
            std,
            iqr,
            threshold,
        ),
    )
    return DeviceBackground(moments, avg, std, iqr, threshold)
