"""The background of a band of rows.

For frames of 8 and 16 bits the device makes the maps itself (kernels/background.cu), to the bits of
`gpu_spots.background.maps`. The host only puts the rows in their places, and what masks and sums
need stays on the device. Moments of the other kinds go to the host, and become maps there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Clip, KruskalWallis, Method, Trimmed
from gpu_spots.cuda.clip import clip_moments
from gpu_spots.cuda.kruskal import kruskal_moments
from gpu_spots.cuda.moments import PlaneMoments, RankedMoments
from gpu_spots.cuda.planes import FRAME_BYTES, most_frames
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type
from gpu_spots.cuda.trimmed import trimmed_moments
from gpu_spots.model import Validity

THREADS = 256


@dataclass(frozen=True, slots=True)
class HeldBackground:
    """Maps that the second pass needs, on the device; written band by band."""

    below: Any
    """(n_X, n_Y), the frames' dtype, counts: the threshold less 1, which values must be above."""
    total: Any
    """(n_X, n_Y) uint32, counts: the sum of the sample, modulo 2^32."""

    @classmethod
    def empty(
        cls, toolkit: Toolkit, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> "HeldBackground":
        """Return arrays for the background of frames of ``shape`` and ``dtype``."""
        return cls(toolkit.xp.empty(shape, dtype), toolkit.xp.empty(shape, np.uint32))


@dataclass(frozen=True, slots=True)
class DeviceMaps:
    """Maps of a band on the device, flat, as ``gpu_spots.model.Background`` describes them."""

    avg: Any
    """float32."""
    std: Any
    """float32."""
    iqr: Any
    """float32."""
    threshold: Any
    """int32."""


def allocate_background(
    toolkit: Toolkit, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
) -> HeldBackground | None:
    """Return memory for maps that are made on the device: those of `Trimmed`, from bit planes."""
    n_frames, n_rows, n_columns = shape
    is_made_here = (
        isinstance(method, Trimmed)
        and n_frames <= most_frames(dtype)
        and n_rows * n_columns * dtype.itemsize < FRAME_BYTES
    )
    return HeldBackground.empty(toolkit, (n_rows, n_columns), dtype) if is_made_here else None


def background(
    toolkit: Toolkit, frames: Any, method: Method, validity: Validity, into: BackgroundRows
) -> bool:
    """Fill rows of the maps; see ``gpu_spots.backend.Operations.background``."""
    return fill(toolkit, moments(toolkit, frames, method, validity), into)


def moments(
    toolkit: Toolkit, frames: Any, method: Method, validity: Validity
) -> PlaneMoments | RankedMoments:
    """Return the moments of each pixel's background sample, in the kernels' own types.

    They are those of ``cpu_fallback.background.moments`` once on the host. ``frames``: (n, n_X,
    n_Y) on the device, contiguous inside a frame. Raises ValueError above `MAX_FRAMES` frames.
    """
    match method:
        case Trimmed(percent):
            return trimmed_moments(toolkit, frames, percent, validity)
        case KruskalWallis():
            return kruskal_moments(
                toolkit, frames, method.block_of_frame, method.critical, validity
            )
        case Clip():
            return clip_moments(toolkit, frames, method, validity)


def fill(toolkit: Toolkit, moments: PlaneMoments | RankedMoments, into: BackgroundRows) -> bool:
    """Fill rows of the maps, and of what is held of them; returns whether there were gaps."""
    if isinstance(moments, RankedMoments):
        assert into.held is None  # it would not be filled
        with moments.on_host(toolkit, into.avg.shape) as on_host:
            return into.fill(on_host)
    maps = evaluated(toolkit, moments, into.cutoff, into.held, into.begin * into.avg.shape[1])
    on_device = (
        maps.avg,
        maps.std,
        maps.iqr,
        maps.threshold,
        moments.max,
        moments.arg,
        moments.kept,
        moments.total,
        moments.gaps,
    )
    with toolkit.host_copies(on_device) as (
        avg,
        std,
        iqr,
        threshold,
        largest,
        arg,
        kept,
        total,
        gaps,
    ):
        sums = total.view(np.int32) if largest.dtype.kind == "i" else total
        for rows, values in (
            *((into.avg, avg), (into.std, std), (into.iqr, iqr), (into.threshold, threshold)),
            *((into.max, largest), (into.arg, arg), (into.kept, kept), (into.sums, sums)),
        ):
            np.copyto(rows, values.reshape(rows.shape))
        return bool(gaps[0])


def evaluated(
    toolkit: Toolkit,
    moments: PlaneMoments,
    cutoff: float,
    held: HeldBackground | None = None,
    first: int = 0,
) -> DeviceMaps:
    """Return avg, std, iqr and threshold of a band's moments.

    They are also stored in ``held``, from flat pixel ``first`` on.
    """
    xp, limits, n_pixels = toolkit.xp, np.iinfo(moments.max.dtype), len(moments.kept)
    maps = DeviceMaps(
        *(xp.empty(n_pixels, kind) for kind in (np.float32, np.float32, np.float32, np.int32))
    )
    pixels = slice(first, first + n_pixels)
    toolkit.kernel("background", "background", FRAME=c_type(moments.max.dtype))(
        blocks_for(n_pixels, THREADS),
        (THREADS,),
        (
            *(
                moments.kept,
                moments.total,
                moments.scatter,
                moments.iqr4,
                np.int32(n_pixels),
                np.int32(limits.min < 0),
            ),
            *(
                np.float64(cutoff),
                np.float64(limits.max + 1),
                maps.avg,
                maps.std,
                maps.iqr,
                maps.threshold,
            ),
            *(
                (None, None)
                if held is None
                else (held.below.reshape(-1)[pixels], held.total.reshape(-1)[pixels])
            ),
        ),
    )
    return maps
