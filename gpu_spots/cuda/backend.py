"""GpuBackend: the operations of ``gpu_spots.backend`` on one CUDA device.

They are in the order of the contract.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from gpu_spots.cuda import (
    background,
    components,
    masks,
    matched,
    measure,
    memory,
    prepared,
    scale,
)
from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Array

UPLOAD_BYTES = 1 << 24
"""Bytes of a piece of frames that are uploaded from the host's memory: while one is on its way the
next is copied to its slot.
"""

P = ParamSpec("P")
Result = TypeVar("Result")


def _on_device(
    function: Callable[Concatenate[Toolkit, P], Result],
) -> Callable[Concatenate["GpuBackend", P], Result]:
    """Return a method that runs ``function`` on the device, with its errors translated."""

    @wraps(function)
    def run(self: "GpuBackend", /, *args: P.args, **options: P.kwargs) -> Result:
        return self.toolkit.call(lambda: function(self.toolkit, *args, **options))

    return run


class GpuBackend:
    """CUDA kernels on one device.

    ``workers``: host threads, which read, unpack and compress while the device computes.
    """

    name = "gpu"
    keeps_threads = True

    def __init__(self, toolkit: Toolkit, workers: int) -> None:
        self.workers = workers
        self.device = toolkit.description
        self.toolkit = toolkit

    def free_bytes(self) -> int:
        """Return those of the device, or of the part that may be used."""
        return self.toolkit.free_bytes()

    band_bytes = staticmethod(memory.band_bytes)
    batch_bytes = staticmethod(memory.batch_bytes)

    def allocate(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False
    ) -> Any:
        """Return an array on the device."""
        return self.toolkit.call(lambda: self.toolkit.xp.empty(shape, dtype))

    @contextmanager
    def staging(
        self, held: Any, begin: int, end: int, shuffled_rows: int | None = None
    ) -> Iterator[Array]:
        """Provide pinned memory, which is copied while other slots are filled."""
        with memory.staging([(self.toolkit, held[begin:end])], shuffled_rows) as slot:
            yield slot

    def upload(self, frames: Any) -> Any:
        """Copy through pinned slots, some frames at a time.

        A band of rows becomes contiguous on the way.
        """
        if not isinstance(frames, np.ndarray):
            return frames
        held = self.allocate(frames.shape, frames.dtype.newbyteorder("="))
        step = max(1, UPLOAD_BYTES // max(1, frames[0].nbytes))
        for begin in range(0, len(frames), step):
            end = min(begin + step, len(frames))
            with self.staging(held, begin, end) as slot:
                np.copyto(slot, frames[begin:end])
        return held

    def release(self) -> None:
        """Give back memory of arrays that are gone."""
        self.toolkit.call(self.toolkit.release)

    scaled = _on_device(scale.scaled)
    levelled = _on_device(scale.levelled)
    allocate_background = _on_device(background.allocate_background)
    background = _on_device(background.background)
    prepare = _on_device(prepared.prepare)
    find_masks = _on_device(masks.find_masks)
    empty_masks = _on_device(masks.empty_masks)
    union = _on_device(masks.union)
    without = _on_device(masks.without)
    fetch = _on_device(masks.fetch)
    components = _on_device(components.components)
    measure = _on_device(measure.measure)

    prepare_significance = _on_device(matched.prepare_significance)
    prepare_seeds = _on_device(matched.prepare_seeds)
    significance = _on_device(matched.significance)
    empty_sums = _on_device(matched.empty_sums)
    add_significance = _on_device(matched.add_significance)
    of_sums = _on_device(matched.of_sums)
    smoothed_maps = _on_device(matched.smoothed_maps)
    matched_masks = _on_device(matched.matched_masks)
