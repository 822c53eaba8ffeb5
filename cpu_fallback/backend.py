"""CpuBackend: the operations of ``gpu_spots.backend`` in the order of the contract."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpu_fallback import memory
from cpu_fallback.background import background
from cpu_fallback.components import components
from cpu_fallback.masks import (
    PackedMasks,
    Rules,
    empty_masks,
    fetch,
    find_masks,
    rules,
    union,
    without,
)
from cpu_fallback.measure import measure
from cpu_fallback.scale import scaled
from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Method
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FoundMasks,
    IntegerLevel,
    Measurements,
    Morphology,
    PackedImages,
    Validity,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the second pass needs of the background."""

    rules: Rules
    levels: IntegerLevel | NDArray[np.float64]
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


class CpuBackend:
    """NumPy on the CPU's cores. ``threads``: how many to use."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        self.workers = threads
        self.device = (
            f"{_processor()}, {threads} thread{'s' * (threads > 1)}, NumPy {np.__version__}"
        )

    def free_bytes(self) -> None:
        """Return None: it computes in the host's memory."""

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype, method: Method) -> int:
        """Count tiles and their sorted values, and what is known of each pixel of the band."""
        return memory.band_bytes(n_frames, n_pixels, dtype, method)

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype) -> int:
        """Count masks as bytes and as words, and the set pixels."""
        return memory.batch_bytes(n_frames, n_pixels, dtype)

    def hold(self, shape: tuple[int, int, int], dtype: np.dtype, shared: bool = False) -> Array:
        """Return an array."""
        return np.empty(shape, dtype)

    @contextmanager
    def staging(
        self, held: Array, begin: int, end: int, shuffled_rows: int | None = None
    ) -> Iterator[Array]:
        """Give the frames' own place; they are never shuffled in the host's memory."""
        assert shuffled_rows is None
        yield held[begin:end]

    def upload(self, frames: Array) -> Array:
        """Return the frames, which are already where this backend computes."""
        return frames

    def release(self) -> None:
        """Do nothing, as nothing is kept."""

    def scaled(self, frames: Array, factors: NDArray[np.integer], validity: Validity) -> Array:
        """Look values of 8 and 16 bits up in a table: `cpu_fallback.scale`."""
        return scaled(frames, factors, validity)

    def hold_background(self, shape: tuple[int, int, int], dtype: np.dtype, method: Method) -> None:
        """Return None: the background is where this backend computes."""

    def background(
        self, frames: Array, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Sort tile by tile, or rank and drop blocks: `cpu_fallback.background`."""
        return background(frames, method, validity, into)

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> Prepared:
        """Turn the threshold into a map of the frames' own type."""
        return Prepared(rules(background, morphology), background.level, saturation)

    def find_masks(self, frames: Array, prepared: Prepared) -> FoundMasks[PackedMasks]:
        """Compare frame by frame, then clean the packed masks: `cpu_fallback.masks`."""
        return find_masks(frames, prepared.rules)

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> PackedMasks:
        """Return words of zeros."""
        return empty_masks(n_masks, shape)

    def union(
        self, onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]
    ) -> None:
        """OR mask by mask."""
        union(onto, masks, mask_of_frame)

    def without(self, masks: PackedMasks, invalid: PackedMasks) -> PackedMasks:
        """AND NOT."""
        return without(masks, invalid)

    def fetch(self, masks: Sequence[PackedMasks]) -> list[PackedImages]:
        """Return the same words as bytes."""
        return fetch(masks)

    def components(self, masks: PackedMasks, connectivity: int) -> Components:
        """Join runs of set pixels: `cpu_fallback.components`."""
        return components(masks, connectivity)

    def measure(
        self,
        frames: Array,
        components: Components,
        mask_of_frame: NDArray[np.integer],
        prepared: Prepared,
        factors: NDArray[np.integer] | None,
    ) -> Measurements:
        """Sum with reduceat: `cpu_fallback.measure`."""
        return measure(
            frames, components, mask_of_frame, prepared.levels, prepared.saturation, factors
        )


def _processor() -> str:
    """Return the processor's name, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
