"""CpuBackend: the operations of ``gpu_spots.backend`` in the order of the contract."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cpu_fallback import background, components, masks, matched, measure, memory, prepared, scale
from cpu_fallback.trimmed import sorting_dtype
from gpu_spots.background.methods import Method
from gpu_spots.model import Array


class CpuBackend:
    """NumPy on the CPU's cores. ``threads``: how many to use."""

    name = "cpu"
    keeps_threads = True

    def __init__(self, threads: int) -> None:
        self.workers = threads
        # measures this machine before its threads are busy
        sorting_dtype(np.dtype(np.uint16))
        self.device = (
            f"{_processor()}, {threads} thread{'s' * (threads > 1)}, NumPy {np.__version__}"
        )

    def free_bytes(self) -> None:
        """Return None: it computes in the host's memory."""

    band_bytes = staticmethod(memory.band_bytes)
    batch_bytes = staticmethod(memory.batch_bytes)

    def allocate(self, shape: tuple[int, int, int], dtype: np.dtype, shared: bool = False) -> Array:
        """Return an array."""
        return np.empty(shape, dtype)

    @contextmanager
    def staging(
        self, held: Array, begin: int, end: int, shuffled_rows: int | None = None
    ) -> Iterator[Array]:
        """Provide the memory of the frames; in the host's memory they are never shuffled."""
        assert shuffled_rows is None
        yield held[begin:end]

    def upload(self, frames: Array) -> Array:
        """Return the frames, which are already where this backend computes."""
        return frames

    def release(self) -> None:
        """Do nothing, as nothing is kept."""

    scaled = staticmethod(scale.scaled)
    levelled = staticmethod(scale.levelled)

    def allocate_background(
        self, shape: tuple[int, int, int], dtype: np.dtype, method: Method
    ) -> None:
        """Return None: the background is where this backend computes."""

    background = staticmethod(background.background)
    prepare = staticmethod(prepared.prepare)
    find_masks = staticmethod(masks.find_masks)
    empty_masks = staticmethod(masks.empty_masks)
    union = staticmethod(masks.union)
    without = staticmethod(masks.without)
    fetch = staticmethod(masks.fetch)
    components = staticmethod(components.components)
    measure = staticmethod(measure.measure)

    prepare_significance = staticmethod(matched.prepare_significance)
    prepare_seeds = staticmethod(matched.prepare_seeds)
    significance = staticmethod(matched.significance)
    empty_sums = staticmethod(matched.empty_sums)
    add_significance = staticmethod(matched.add_significance)
    of_sums = staticmethod(matched.of_sums)
    smoothed_maps = staticmethod(matched.smoothed_maps)
    matched_masks = staticmethod(matched.matched_masks)


def _processor() -> str:
    """Return the processor's name, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
