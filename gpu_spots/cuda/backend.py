"""GpuBackend: the contract of ``gpu_spots.backend.Backend``, operation by operation, on one CUDA device."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Clip, KruskalWallis, Method, Trimmed
from gpu_spots.cuda import memory
from gpu_spots.cuda.background import HeldBackground, fill
from gpu_spots.cuda.clip import clip_bytes, clip_on_device
from gpu_spots.cuda.components import components
from gpu_spots.cuda.kruskal import kruskal_on_device
from gpu_spots.cuda.masks import (
    PackedMasks,
    Rules,
    empty_masks,
    fetch,
    find_masks,
    rules,
    union,
    unpack,
    without,
)
from gpu_spots.cuda.measure import Levels, levels, measure
from gpu_spots.cuda.moments import moments_bytes, moments_on_device
from gpu_spots.cuda.planes import FRAME_BYTES, PlaneMoments, most_frames
from gpu_spots.cuda.ranked import RankedMoments
from gpu_spots.cuda.scale import levelled, scaled
from gpu_spots.cuda.shuffle import put_in_order, room_for_stretches
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FloatMoments,
    FoundMasks,
    IntegerMoments,
    Measurements,
    Morphology,
    Validity,
)

UPLOAD_BYTES = 1 << 24
"""Bytes of a piece of frames that are uploaded from the host's memory: while one is on its way the
next is copied to its slot.
"""

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the second pass needs, on the device."""

    rules: Rules
    levels: Levels
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


def _on_device(
    method: Callable[Concatenate["GpuBackend", P], Result],
) -> Callable[Concatenate["GpuBackend", P], Result]:
    """Run a method on the device, with its errors translated."""

    @wraps(method)
    def run(self: "GpuBackend", /, *args: P.args, **options: P.kwargs) -> Result:
        return self.toolkit.call(lambda: method(self, *args, **options))

    return run


class GpuBackend:
    """CUDA kernels on one device.

    ``workers``: host threads, which read, unpack and compress while the device computes.
    """

    name = "gpu"

    def __init__(self, toolkit: Toolkit, workers: int) -> None:
        self.workers = workers
        self.device = toolkit.description
        self.toolkit = toolkit
        self._own = threading.local()

    def free_bytes(self) -> int:
        """Of the device, or of the part that may be used."""
        return self.toolkit.free_bytes()

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
        """What is known of each pixel of the band, and what a kernel keeps of its values."""
        if isinstance(method, Clip):
            return clip_bytes(n_frames, n_pixels, dtype, method.n_blocks)
        return moments_bytes(n_frames, n_pixels, dtype, method.n_blocks)

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
        """Packed masks, and the set pixels while they are labelled."""
        return memory.batch_bytes(n_frames, n_pixels, dtype)

    @_on_device
    def hold(self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False) -> Any:
        """An array on the device."""
        return self.toolkit.xp.empty(shape, dtype)

    @contextmanager
    def staging(self, held: Any, begin: int, end: int) -> Iterator[Array]:
        """A slot of pinned memory, which is copied while other slots are filled."""
        with self.toolkit.staging(held[begin:end]) as slot:
            yield slot

    @contextmanager
    def staging_shuffled(self, held: Any, begin: int, end: int, rows: int) -> Iterator[Array]:
        """Through a slot to memory of the device, and from there to their places by a kernel."""
        part = held[begin:end]
        stretches = self.toolkit.call(lambda: room_for_stretches(self.toolkit, part, rows))
        with self.toolkit.staging(stretches) as slot:
            yield slot
        self.toolkit.call(lambda: put_in_order(self.toolkit, stretches, part))

    def upload(self, frames: Any) -> Any:
        """Through pinned slots, some frames at a time: a band of rows becomes contiguous on the way."""
        if not isinstance(frames, np.ndarray):
            return frames
        held = self.hold(frames.shape, frames.dtype.newbyteorder("="))
        step = max(1, UPLOAD_BYTES // max(1, frames[0].nbytes))
        for begin in range(0, len(frames), step):
            end = min(begin + step, len(frames))
            with self.staging(held, begin, end) as slot:
                np.copyto(slot, frames[begin:end])
        return held

    @_on_device
    def release(self) -> None:
        """Memory of arrays that are gone."""
        self._own.last = None
        self.toolkit.release()

    @_on_device
    def scaled(self, frames: Any, factors: NDArray[np.integer], validity: Validity) -> Any:
        """Value by value: `gpu_spots.cuda.scale`."""
        return scaled(self.toolkit, frames, factors, validity)

    @_on_device
    def levelled(
        self, frames: Any, levels: NDArray[np.integer], validity: Validity, prepared: _Prepared
    ) -> Any:
        """Value by value: `gpu_spots.cuda.scale`."""
        return levelled(self.toolkit, frames, levels, prepared.levels, validity)

    @_on_device
    def moments(
        self, frames: Any, method: Method, validity: Validity
    ) -> IntegerMoments | FloatMoments:
        """Compute on the device, and copy to the host."""
        return self._moments(frames, method, validity).to_host(self.toolkit, frames.shape[1:])

    @_on_device
    def hold_background(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
    ) -> HeldBackground | None:
        """Return room for maps that are made on the device: those of `Trimmed`, from bit planes."""
        n_frames, n_rows, n_columns = shape
        made_here = (
            isinstance(method, Trimmed)
            and n_frames <= most_frames(dtype)
            and n_rows * n_columns * dtype.itemsize < FRAME_BYTES
        )
        return HeldBackground.empty(self.toolkit, (n_rows, n_columns), dtype) if made_here else None

    @_on_device
    def background(
        self, frames: Any, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Fill the rows on the device where it can, else on the host: `gpu_spots.cuda.background`."""
        return fill(self.toolkit, self._moments(frames, method, validity), into)

    def _moments(
        self, frames: Any, method: Method, validity: Validity
    ) -> PlaneMoments | RankedMoments:
        """Select by bit planes or from sorted values (`Trimmed`), or sort and drop blocks or values."""
        match method:
            case Trimmed(percent):
                return moments_on_device(self.toolkit, frames, percent, validity)
            case KruskalWallis():
                return kruskal_on_device(
                    self.toolkit, frames, method.block_of_frame, method.critical, validity
                )
            case Clip():
                return clip_on_device(self.toolkit, frames, method, validity)

    @_on_device
    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> _Prepared:
        """The threshold as a map of the frames' own type: it is on the device already where the background was made there."""
        return _Prepared(
            rules(self.toolkit, background, morphology),
            levels(self.toolkit, background),
            saturation,
        )

    @_on_device
    def find_masks(self, frames: Any, prepared: _Prepared) -> FoundMasks:
        """In one kernel: `gpu_spots.cuda.masks`."""
        return find_masks(self.toolkit, frames, prepared.rules)

    @_on_device
    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> PackedMasks:
        """Words of zeros."""
        return empty_masks(self.toolkit, n_masks, shape)

    @_on_device
    def union(
        self, onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]
    ) -> None:
        """Word by word."""
        union(self.toolkit, onto, masks, mask_of_frame)

    @_on_device
    def without(self, masks: PackedMasks, invalid: PackedMasks) -> PackedMasks:
        """AND NOT."""
        return without(self.toolkit, masks, invalid)

    @_on_device
    def fetch(self, masks: Sequence[PackedMasks]) -> list[PackedMasks]:
        """Packed, all kinds of some frames in one transfer."""
        return fetch(self.toolkit, masks)

    def unpack(self, masks: PackedMasks) -> NDArray[np.uint8]:
        """A byte a pixel."""
        return unpack(masks if isinstance(masks.words, np.ndarray) else self.fetch([masks])[0])

    @_on_device
    def components(self, masks: PackedMasks, connectivity: int) -> Components:
        """By union-find: `gpu_spots.cuda.components`."""
        self._own.last = None
        labelled = components(self.toolkit, masks, connectivity)
        # most often this thread measures them next
        self._own.last = weakref.ref(labelled.found.pixels), labelled.on_device
        return labelled.found

    @_on_device
    def measure(
        self,
        frames: Any,
        components: Components,
        mask_of_frame: NDArray[np.integer],
        prepared: _Prepared,
        factors: NDArray[np.integer] | None,
    ) -> Measurements:
        """A warp a spot: `gpu_spots.cuda.measure`."""
        pixels, on_device = getattr(self._own, "last", None) or (None, None)
        if pixels is None or pixels() is not components.pixels:
            on_device = None
        self._own.last = None
        return measure(
            self.toolkit,
            frames,
            components,
            mask_of_frame,
            prepared.levels,
            prepared.saturation,
            factors,
            on_device,
        )
