"""CpuBackend: the contract of ``gpu_spots.backend.Backend``, operation by operation."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpu_fallback import bits, memory
from cpu_fallback.bits import PackedMasks
from cpu_fallback.clip import clip_moments
from cpu_fallback.components import components
from cpu_fallback.kruskal import kruskal_moments
from cpu_fallback.measure import measure
from cpu_fallback.scale import levelled, scaled
from cpu_fallback.trimmed import TrimmedStatistics
from cpu_fallback.validity import valid_values
from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Clip, KruskalWallis, Method, Trimmed
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FloatMoments,
    FoundMasks,
    IntegerLevel,
    IntegerMoments,
    Measurements,
    Morphology,
    Validity,
)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the second pass needs of the background, in the form that compares fastest."""

    below: Array
    """(n_X, n_Y): a value stands out if it is greater than this; the frames' own type where it can
    be, as mixed types compare slowly.
    """
    valid: NDArray[np.uint64] | None
    """(n_X, words) packed: pixels that are not masked; None: all."""
    value_range: Validity | None
    """Which values count; None: all values of all pixels that are not masked do."""
    level: IntegerLevel | NDArray[np.float64]
    morphology: Morphology
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


class CpuBackend:
    """NumPy on the CPU's cores. ``threads``: how many to use."""

    name = "cpu"
    staging_shuffled = None

    def __init__(self, threads: int) -> None:
        self.workers = threads
        self.device = f"{_processor()}, {self.workers} thread{'s' * (self.workers > 1)}, NumPy {np.__version__}"
        self._trimmed = TrimmedStatistics()

    def free_bytes(self) -> None:
        """It computes in the host's memory."""

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype, method: Method) -> int:
        """Tiles and their sorted values, and what is known of each pixel of the band."""
        return memory.band_bytes(n_frames, n_pixels, dtype, method)

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype) -> int:
        """Masks as bytes and as words, and the set pixels."""
        return memory.batch_bytes(n_frames, n_pixels, dtype)

    def hold(self, shape: tuple[int, int, int], dtype: np.dtype, shared: bool = False) -> Array:
        """An array."""
        return np.empty(shape, dtype)

    @contextmanager
    def staging(self, held: Array, begin: int, end: int) -> Iterator[Array]:
        """The frames' own place."""
        yield held[begin:end]

    def upload(self, frames: Array) -> Array:
        """Frames are already where this backend computes."""
        return frames

    def release(self) -> None:
        """Nothing is kept."""

    def scaled(self, frames: Array, factors: NDArray[np.integer], validity: Validity) -> Array:
        """By a table where values have 16 bits: `cpu_fallback.scale`."""
        return scaled(frames, factors, validity)

    def levelled(
        self,
        frames: Array,
        levels: NDArray[np.integer],
        validity: Validity,
        prepared: _Prepared,
    ) -> Array:
        """Frame by frame: `cpu_fallback.scale`."""
        return levelled(frames, levels, validity, prepared.level)

    def moments(
        self, frames: Array, method: Method, validity: Validity
    ) -> IntegerMoments | FloatMoments:
        """Sort tile by tile (`cpu_fallback.trimmed`), or rank and drop blocks (`cpu_fallback.kruskal`)."""
        match method:
            case Trimmed(percent):
                return self._trimmed.moments(frames, percent, validity)
            case KruskalWallis():
                return kruskal_moments(frames, method.block_of_frame, method.critical, validity)
            case Clip():
                return clip_moments(
                    frames, method, validity, self._trimmed.sorting_dtype(frames.dtype)
                )

    def hold_background(self, shape: tuple[int, int, int], dtype: np.dtype, method: Method) -> None:
        """Return None: the background is where this backend computes."""

    def background(
        self, frames: Array, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Fill the rows from the moments."""
        return into.fill(self.moments(frames, method, validity))

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> _Prepared:
        """Turn the threshold into a map of the frames' own type."""
        valid = background.validity.pixels
        return _Prepared(
            below=_greatest_below(background.threshold, background.max.dtype),
            valid=None if valid is None else bits.pack(valid),
            value_range=background.validity if background.gaps else None,
            level=background.level,
            morphology=morphology,
            saturation=saturation,
        )

    def find_masks(self, frames: Array, prepared: _Prepared) -> FoundMasks:
        """Compare frame by frame, then clean the packed masks."""
        n_frames, n_x, n_columns = frames.shape
        raw = np.empty((n_frames, n_x, bits.words_for(n_columns)), np.uint64)
        invalid = None if prepared.value_range is None else np.zeros_like(raw)
        above = np.empty((n_x, n_columns), bool)
        for i, frame in enumerate(frames):
            np.greater(frame, prepared.below, out=above)
            usable = (
                None if prepared.value_range is None else valid_values(frame, prepared.value_range)
            )
            if invalid is not None and usable is not None:
                above &= usable
                invalid[i] = bits.pack(~usable)
            raw[i] = bits.pack(above)
        morphology = prepared.morphology
        filtered = _repeated(
            lambda words: bits.erode(words, morphology.connectivity), raw, morphology.erosions
        )
        filtered = _repeated(
            lambda words: bits.dilate(words, morphology.connectivity, n_columns),
            filtered,
            morphology.dilations,
        )
        if prepared.valid is not None:
            filtered = filtered & prepared.valid
        if invalid is not None:
            filtered = filtered & ~invalid
        return FoundMasks(
            raw=PackedMasks(raw, n_columns),
            filtered=PackedMasks(filtered, n_columns),
            invalid=None if invalid is None else PackedMasks(invalid, n_columns),
        )

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> PackedMasks:
        """Words of zeros."""
        return PackedMasks(
            np.zeros((n_masks, shape[0], bits.words_for(shape[1])), np.uint64), shape[1]
        )

    def union(
        self, onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]
    ) -> None:
        """OR frame by frame, as frames of one mask may follow each other."""
        for words, mask in zip(masks.words, mask_of_frame, strict=True):
            onto.words[mask] |= words

    def without(self, masks: PackedMasks, invalid: PackedMasks) -> PackedMasks:
        """AND NOT."""
        return PackedMasks(masks.words & ~invalid.words, masks.n_columns)

    def fetch(self, masks: Sequence[PackedMasks]) -> list[PackedMasks]:
        """Return them as they are."""
        return list(masks)

    def unpack(self, masks: PackedMasks) -> NDArray[np.uint8]:
        """A byte a pixel."""
        return bits.unpack(masks.words, masks.n_columns)

    def components(self, masks: PackedMasks, connectivity: int) -> Components:
        """By runs: `cpu_fallback.components`."""
        return components(masks, connectivity)

    def measure(
        self,
        frames: Array,
        components: Components,
        mask_of_frame: NDArray[np.integer],
        prepared: _Prepared,
        factors: NDArray[np.integer] | None,
    ) -> Measurements:
        """By reduceat: `cpu_fallback.measure`."""
        return measure(
            frames, components, mask_of_frame, prepared.level, factors, prepared.saturation
        )


def _repeated(
    step: Callable[[bits.Words], bits.Words], words: bits.Words, times: int
) -> bits.Words:
    """The step so many times; what it no longer changes, it never will."""
    for _ in range(times):
        before, words = words, step(words)
        if np.array_equal(before, words):
            break
    return words


def _greatest_below(threshold: Array, dtype: np.dtype) -> Array:
    """The map ``b`` of frames' type for which ``value > b`` is ``value >= threshold``, for every value of that type."""
    if dtype.kind != "f":
        lowest = np.iinfo(dtype).min
        below = threshold.astype(np.int64) - 1
        # "always", at the type's minimum, has no value below it: keep the wider type there
        return below.astype(dtype) if below.min(initial=lowest) >= lowest else below
    with np.errstate(over="ignore"):
        rounded = threshold.astype(dtype)
        rounded = np.where(rounded < threshold, np.nextafter(rounded, dtype.type(np.inf)), rounded)
        # NaN stays NaN, which nothing is greater than
        return np.nextafter(rounded, dtype.type(-np.inf))


def _processor() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
