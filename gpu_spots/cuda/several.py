"""Computing backend for several CUDA devices, with a `GpuBackend` on each of them.

Experimental: it has run on emulated devices only, never on two real ones.

Each thread of the host works with one device, on bands of rows and on batches of frames. Frames
that stay on the devices between the passes are on every device. Results are processed further on
the device that computed them. Only packed masks are copied from one device to another, through the
host. See docs/decisions/a-thread-has-a-device.md.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Method
from gpu_spots.cuda import memory
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.packed import PackedMasks
from gpu_spots.cuda.prepared import Prepared
from gpu_spots.masks.matched import SignificanceMaps
from gpu_spots.masks.matched_spots import MatchedMasks
from gpu_spots.masks.seed_levels import SeedLevels
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FoundMasks,
    Measurements,
    Morphology,
    PackedImages,
    Surface,
    Validity,
)

HOME = 0
"""Index of the device that holds the masks of pairs and blocks."""


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames on one device, or copies of the same frames on several devices."""

    on: dict[int, Any]
    """Frames (n, n_X, n_Y) by the index of their device."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the frames, (n, n_X, n_Y)."""
        return next(iter(self.on.values())).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the frames."""
        return next(iter(self.on.values())).dtype

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.shape[0]

    def __getitem__(self, part: Any) -> "_Frames":
        """Return some of the frames, or of the rows of all, as views."""
        return _Frames({device: frames[part] for device, frames in self.on.items()})


@dataclass(frozen=True, slots=True)
class _Masks:
    """A batch of masks on a device."""

    device: int
    """Index of the device."""
    packed: PackedMasks

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.packed)

    def __getitem__(self, masks: slice) -> "_Masks":
        """Return some of the masks, as a view."""
        return _Masks(self.device, self.packed[masks])


@dataclass(frozen=True, slots=True)
class _Held:
    """Significance, or sums of it, on one device."""

    device: int
    """Index of the device."""
    held: Any

    def __len__(self) -> int:
        """Number of frames or groups."""
        return len(self.held)


class SeveralGpus:
    """Backend that shares the work of one run among several CUDA devices."""

    name = "gpu"
    keeps_threads = False
    """New threads are shared out evenly; of old ones, those on one device might take all."""

    def __init__(self, backends: Sequence[GpuBackend], workers: int) -> None:
        """Combine the backends of the devices.

        Args:
            backends: one backend per device.
            workers: number of host threads; fewer than one per device become one per device.
        """
        self.workers = max(workers, len(backends))
        self.device = " and ".join(backend.device for backend in backends)
        self.backends = tuple(backends)
        self._threads = Assignment(len(backends))

    def free_bytes(self) -> int:
        """Return the free memory of the device that has least, because each may get any part."""
        return min(backend.free_bytes() for backend in self.backends)

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
        """Return the memory that a band needs on the device of its thread."""
        return self.backends[HOME].band_bytes(n_frames, n_pixels, dtype, method)

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
        """Return the memory that a batch needs on the device of its thread."""
        return self.backends[HOME].batch_bytes(n_frames, n_pixels, dtype)

    def allocate(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False
    ) -> _Frames:
        """Allocate frames on the device of the thread, or if ``shared`` on every device."""
        devices = range(len(self.backends)) if shared else [self._threads.device()]
        return _Frames({device: self.backends[device].allocate(shape, dtype) for device in devices})

    @contextmanager
    def staging(
        self, held: _Frames, begin: int, end: int, shuffled_rows: int | None = None
    ) -> Iterator[Array]:
        """Provide pinned memory, which is then copied to all devices that hold the frames."""
        parts = [
            (self.backends[device].toolkit, frames) for device, frames in held[begin:end].on.items()
        ]
        with memory.staging(parts, shuffled_rows) as slot:
            yield slot

    def upload(self, frames: Any) -> _Frames:
        """Copy frames to the device of the thread, or return those that are there already."""
        if isinstance(frames, _Frames):
            return _Frames(dict([self._here(frames)]))
        device = self._threads.device()
        return _Frames({device: self.backends[device].upload(frames)})

    def release(self) -> None:
        """Free unused memory on all devices, as masks of other threads may have filled one."""
        for backend in self.backends:
            backend.release()

    def scaled(self, frames: _Frames, factors: NDArray[np.integer], validity: Validity) -> _Frames:
        """Scale frames on the device that holds them."""
        device, found = self._here(frames)
        return _Frames({device: self.backends[device].scaled(found, factors, validity)})

    def levelled(
        self,
        frames: _Frames,
        levels: NDArray[np.int64] | Surface,
        validity: Validity,
        prepared: tuple[Prepared, ...],
    ) -> _Frames:
        """Calculate on the device where they are."""
        device, found = self._here(frames)
        backend = self.backends[device]
        return _Frames({device: backend.levelled(found, levels, validity, prepared[device])})

    def allocate_background(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
    ) -> None:
        """Hold nothing. Each device computes some rows but needs all, which the host sends."""

    def background(
        self, frames: _Frames, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Calculate the background on the device that holds the band."""
        device, band = self._here(frames)
        return self.backends[device].background(band, method, validity, into)

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> tuple[Prepared, ...]:
        """Prepare the second pass on every device."""
        return tuple(
            backend.prepare(background, morphology, saturation) for backend in self.backends
        )

    def find_masks(self, frames: _Frames, prepared: tuple[Prepared, ...]) -> FoundMasks[_Masks]:
        """Find masks on the device that holds the batch."""
        device, batch = self._here(frames)
        found = self.backends[device].find_masks(batch, prepared[device])
        return FoundMasks(
            raw=_Masks(device, found.raw),
            filtered=_Masks(device, found.filtered),
            invalid=None if found.invalid is None else _Masks(device, found.invalid),
        )

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> _Masks:
        """Return empty masks on device `HOME`, where the masks of all devices are united."""
        return _Masks(HOME, self.backends[HOME].empty_masks(n_masks, shape))

    def union(self, onto: _Masks, masks: _Masks, mask_of_frame: NDArray[np.integer]) -> None:
        """Unite masks on the device of ``onto``, to which ``masks`` are copied first."""
        self.backends[onto.device].union(
            onto.packed, self._moved(masks, onto.device), mask_of_frame
        )

    def without(self, masks: _Masks, invalid: _Masks) -> _Masks:
        """Exclude pixels. ``invalid`` is copied to the device of ``masks`` first."""
        return _Masks(
            masks.device,
            self.backends[masks.device].without(masks.packed, self._moved(invalid, masks.device)),
        )

    def fetch(self, masks: Sequence[_Masks]) -> list[PackedImages]:
        """Copy masks to the host, those of one device together."""
        if len({each.device for each in masks}) > 1:
            return [self.fetch([each])[0] for each in masks]
        device = masks[0].device if masks else HOME
        return self.backends[device].fetch([each.packed for each in masks])

    def components(self, masks: _Masks, connectivity: int) -> Components:
        """Return the components, computed on the device of the thread.

        Masks of pairs and blocks are copied there from device `HOME`, so that all devices share the
        work.
        """
        device = self._threads.device()
        found = self.backends[device].components(self._moved(masks, device), connectivity)
        return replace(found, held=(device, found.held))

    def measure(
        self,
        frames: _Frames,
        components: Components,
        mask_of_frame: NDArray[np.integer],
        prepared: tuple[Prepared, ...],
        factors: NDArray[np.integer] | None,
        *,
        with_values: bool = False,
    ) -> Measurements:
        """Measure spots on the device that holds the batch."""
        device, batch = self._here(frames)
        there, held = components.held or (device, None)
        components = replace(components, held=held if there == device else None)
        return self.backends[device].measure(
            batch,
            components,
            mask_of_frame,
            prepared[device],
            factors,
            with_values=with_values,
        )

    def prepare_significance(self, maps: SignificanceMaps) -> tuple[Any, ...]:
        """Prepare it on every device."""
        return tuple(backend.prepare_significance(maps) for backend in self.backends)

    def prepare_seeds(self, levels: SeedLevels) -> tuple[Any, ...]:
        """Prepare it on every device."""
        return tuple(backend.prepare_seeds(levels) for backend in self.backends)

    def significance(
        self,
        frames: _Frames,
        prepared: tuple[Any, ...],
        levels: NDArray[np.int64] | Surface | None,
        rows: Sequence[tuple[int, int]] | None = None,
    ) -> _Held:
        """Calculate on the device where the batch is."""
        device, batch = self._here(frames)
        found = self.backends[device].significance(batch, prepared[device], levels, rows)
        return _Held(device, found)

    def empty_sums(self, prepared: tuple[Any, ...], n: int, shape: tuple[int, int]) -> _Held:
        """Return sums on the device of the thread."""
        device = self._threads.device()
        return _Held(device, self.backends[device].empty_sums(prepared[device], n, shape))

    def add_significance(self, onto: _Held, found: _Held, which: NDArray[np.int64]) -> None:
        """Add on the device where both are: a thread works with one device."""
        assert onto.device == found.device
        self.backends[onto.device].add_significance(onto.held, found.held, which)

    def of_sums(self, sums: _Held, sizes: Sequence[int]) -> _Held:
        """Calculate on the device where they are."""
        return _Held(sums.device, self.backends[sums.device].of_sums(sums.held, sizes))

    def smoothed_maps(self, found: _Held, prepared: tuple[Any, ...]) -> NDArray[np.int16]:
        """Calculate on the device where it is."""
        device = found.device
        return self.backends[device].smoothed_maps(found.held, prepared[device])

    def matched_masks(
        self, found: _Held, prepared: tuple[Any, ...], levels: Sequence[tuple[Any, ...]]
    ) -> MatchedMasks[_Masks]:
        """Calculate on the device where it is."""
        device = found.device
        of_device = [each[device] for each in levels]
        masks = self.backends[device].matched_masks(found.held, prepared[device], of_device)
        return MatchedMasks(
            raw=_Masks(device, masks.raw),
            filtered=_Masks(device, masks.filtered),
            invalid=None if masks.invalid is None else _Masks(device, masks.invalid),
            spots=masks.spots,
        )

    def _here(self, frames: _Frames) -> tuple[int, Any]:
        """Return the index of the device that processes the frames, and its copy of them.

        This is the only device that holds them, otherwise the device of the thread.
        """
        device = next(iter(frames.on)) if len(frames.on) == 1 else self._threads.device()
        return device, frames.on[device]

    def _moved(self, masks: _Masks, device: int) -> PackedMasks:
        """Return masks on a device, copied there if necessary: through the host, one by one."""
        if masks.device == device:
            return masks.packed
        source, target = self.backends[masks.device].toolkit, self.backends[device].toolkit
        words = masks.packed.words
        moved = target.call(lambda: target.xp.empty(words.shape, words.dtype))
        for i in range(len(words)):
            with target.staging(moved[i : i + 1]) as slot:
                np.copyto(slot, source.call(partial(source.to_host, words[i : i + 1])))
        return PackedMasks(moved, masks.packed.n_columns)


class Assignment:
    """Assignment of each thread to a device, for the life of the thread.

    A new thread gets the device that has the fewest living threads.
    """

    def __init__(self, n_devices: int) -> None:
        self._n_devices = n_devices
        self._lock = threading.Lock()
        self._device_of: dict[threading.Thread, int] = {}

    def device(self) -> int:
        """Return the index of the device of the calling thread."""
        thread = threading.current_thread()
        with self._lock:
            if thread not in self._device_of:
                # the threads of each pass end with it, and must not occupy devices in the next one
                self._device_of = {
                    other: device for other, device in self._device_of.items() if other.is_alive()
                }
                taken = Counter(self._device_of.values())
                self._device_of[thread] = min(range(self._n_devices), key=taken.__getitem__)
            return self._device_of[thread]
