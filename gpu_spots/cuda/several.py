"""SeveralGpus: the contract on several CUDA devices, by a `GpuBackend` on each.

Experimental: it has run on emulated devices only, never on two real ones.

A thread works with one device: its bands are of some rows, its batches of some frames. A stack that
stays on the devices is on all of them. What was made on a device is worked on there; only packed
masks go from one to another, through the host. See docs/decisions/a-thread-has-a-device.md.
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
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FoundMasks,
    Measurements,
    Morphology,
    PackedImages,
    Validity,
)

HOME = 0
"""Index of the device that has the masks of groups of frames."""


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames on one device, or the same on several."""

    on: dict[int, Any]
    """By index of the device: (n, n_X, n_Y)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, n_X, n_Y)."""
        return next(iter(self.on.values())).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return next(iter(self.on.values())).dtype

    def __len__(self) -> int:
        """Number of frames."""
        return self.shape[0]

    def __getitem__(self, part: Any) -> "_Frames":
        """Some of the frames or rows, as views."""
        return _Frames({device: frames[part] for device, frames in self.on.items()})


@dataclass(frozen=True, slots=True)
class _Masks:
    """A batch of masks on a device."""

    device: int
    """Its index."""
    packed: PackedMasks

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.packed)

    def __getitem__(self, masks: slice) -> "_Masks":
        """Some of the masks, as a view."""
        return _Masks(self.device, self.packed[masks])


class SeveralGpus:
    """CUDA kernels on several devices. ``backends``: one a device.

    ``workers``: host threads of all together, at least one a device.
    """

    name = "gpu"

    def __init__(self, backends: Sequence[GpuBackend], workers: int) -> None:
        self.workers = max(workers, len(backends))
        self.device = " and ".join(backend.device for backend in backends)
        self.backends = tuple(backends)
        self._threads = Assignment(len(backends))

    def free_bytes(self) -> int:
        """Of the device that has least: each must have room for what any of them may get."""
        return min(backend.free_bytes() for backend in self.backends)

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
        """On the thread's device."""
        return self.backends[HOME].band_bytes(n_frames, n_pixels, dtype, method)

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
        """On the thread's device."""
        return self.backends[HOME].batch_bytes(n_frames, n_pixels, dtype)

    def hold(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False
    ) -> _Frames:
        """On the thread's device, or if they are for all threads on every device."""
        devices = range(len(self.backends)) if shared else [self._threads.device()]
        return _Frames({device: self.backends[device].hold(shape, dtype) for device in devices})

    @contextmanager
    def staging(
        self, held: _Frames, begin: int, end: int, shuffled_rows: int | None = None
    ) -> Iterator[Array]:
        """Provide pinned memory, which is copied to all devices that have the frames."""
        parts = [
            (self.backends[device].toolkit, frames) for device, frames in held[begin:end].on.items()
        ]
        with memory.staging(parts, shuffled_rows) as slot:
            yield slot

    def upload(self, frames: Any) -> _Frames:
        """To the thread's device. Of frames that are on several, the thread's are taken."""
        if isinstance(frames, _Frames):
            return _Frames(dict([self._here(frames)]))
        device = self._threads.device()
        return _Frames({device: self.backends[device].upload(frames)})

    def release(self) -> None:
        """On all devices: another thread's masks may have been what was too much."""
        for backend in self.backends:
            backend.release()

    def scaled(self, frames: _Frames, factors: NDArray[np.integer], validity: Validity) -> _Frames:
        """Where they are."""
        device, found = self._here(frames)
        return _Frames({device: self.backends[device].scaled(found, factors, validity)})

    def levelled(
        self,
        frames: _Frames,
        levels: NDArray[np.int64],
        validity: Validity,
        prepared: tuple[Prepared, ...],
    ) -> _Frames:
        """Where they are."""
        device, found = self._here(frames)
        backend = self.backends[device]
        return _Frames({device: backend.levelled(found, levels, validity, prepared[device])})

    def hold_background(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
    ) -> None:
        """Each device makes rows of it, and needs all: they come from the host."""

    def background(
        self, frames: _Frames, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Where the band is."""
        device, band = self._here(frames)
        return self.backends[device].background(band, method, validity, into)

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> tuple[Prepared, ...]:
        """On every device."""
        return tuple(
            backend.prepare(background, morphology, saturation) for backend in self.backends
        )

    def find_masks(self, frames: _Frames, prepared: tuple[Prepared, ...]) -> FoundMasks[_Masks]:
        """Where the batch is."""
        device, batch = self._here(frames)
        found = self.backends[device].find_masks(batch, prepared[device])
        return FoundMasks(
            raw=_Masks(device, found.raw),
            filtered=_Masks(device, found.filtered),
            invalid=None if found.invalid is None else _Masks(device, found.invalid),
        )

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> _Masks:
        """At home: masks from all devices are united in them."""
        return _Masks(HOME, self.backends[HOME].empty_masks(n_masks, shape))

    def union(self, onto: _Masks, masks: _Masks, mask_of_frame: NDArray[np.integer]) -> None:
        """Where ``onto`` is; ``masks`` go there first."""
        self.backends[onto.device].union(
            onto.packed, self._moved(masks, onto.device), mask_of_frame
        )

    def without(self, masks: _Masks, invalid: _Masks) -> _Masks:
        """Where ``masks`` are; ``invalid`` goes there first."""
        return _Masks(
            masks.device,
            self.backends[masks.device].without(masks.packed, self._moved(invalid, masks.device)),
        )

    def fetch(self, masks: Sequence[_Masks]) -> list[PackedImages]:
        """Copy each from where it is; those of a batch are on one device."""
        if len({each.device for each in masks}) > 1:
            return [self.fetch([each])[0] for each in masks]
        device = masks[0].device if masks else HOME
        return self.backends[device].fetch([each.packed for each in masks])

    def components(self, masks: _Masks, connectivity: int) -> Components:
        """On the thread's device: masks of groups leave home for it, so that all devices share the work."""
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
        """Where the batch is."""
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

    def _here(self, frames: _Frames) -> tuple[int, Any]:
        """The device that works on the frames, and its own: the only one that has them, or the thread's."""
        device = next(iter(frames.on)) if len(frames.on) == 1 else self._threads.device()
        return device, frames.on[device]

    def _moved(self, masks: _Masks, device: int) -> PackedMasks:
        """Masks on another device: a bit a pixel, through the host, mask by mask."""
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
    """Which device a thread works with, as long as it lives: the one that fewest living threads had when it first asked."""

    def __init__(self, n_devices: int) -> None:
        self._n_devices = n_devices
        self._lock = threading.Lock()
        self._device_of: dict[threading.Thread, int] = {}

    def device(self) -> int:
        """Index of the calling thread's device."""
        thread = threading.current_thread()
        with self._lock:
            if thread not in self._device_of:
                # pools of threads end with each walk; the next one must find all devices free
                self._device_of = {
                    other: device for other, device in self._device_of.items() if other.is_alive()
                }
                taken = Counter(self._device_of.values())
                self._device_of[thread] = min(range(self._n_devices), key=taken.__getitem__)
            return self._device_of[thread]
