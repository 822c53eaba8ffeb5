"""Backend: the contract that every computing backend keeps, and the choice of one.

A backend finds exact integers (for float frames: float64 in a fixed order of operations), and what
is made of them takes correctly rounded operations in one order: so all backends return equal bits.
Its operations are pure, but for those that say what they fill, may be called from several threads
at once, and may be given any band of rows or batch of frames. Frames, masks and prepared objects
live wherever the backend wants them; everything else is NumPy.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Method
from gpu_spots.errors import BackendError, ParameterError
from gpu_spots.masks.matched import SignificanceMaps
from gpu_spots.masks.matched_spots import MatchedMasks
from gpu_spots.masks.seed_levels import SeedLevels
from gpu_spots.memory.workers import Span, default_workers
from gpu_spots.model import (
    Array,
    Background,
    Components,
    FoundMasks,
    Frames,
    Masks,
    Measurements,
    Morphology,
    PackedImages,
    Surface,
    Validity,
)
from gpu_spots.parameters import BACKEND_NAMES

Prepared = TypeVar("Prepared")
"""Background in the form that the second pass of a backend needs."""


class DeviceMemory(Protocol[Frames]):
    """Memory where a backend computes, and transfers of frames to it."""

    def free_bytes(self) -> int | None:
        """Return the bytes that are free; None: the backend computes in the host's memory."""

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
        """Return an upper bound of the memory for the background of a band, without its frames."""

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
        """Return an upper bound of the memory for masks, components and sums of a batch."""

    def allocate(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False
    ) -> Frames:
        """Return memory for frames.

        Args:
            shape: (n, n_X, n_Y).
            dtype: one of `FRAME_DTYPES`.
            shared: other threads than this one work on its parts, which they `upload`; each of
                them may compute on another device.

        Raises:
            OutOfDeviceMemory: there is not enough.
        """

    def staging(
        self, held: Frames, begin: int, end: int, shuffled_rows: int | None = None
    ) -> AbstractContextManager[Array]:
        """Provide a host array, contiguous, for some frames of ``held``.

        When the block ends, they are copied: what any thread asks for afterwards sees them.

        Args:
            held: array that `allocate` returned.
            begin: the first frame.
            end: the one after the last.
            shuffled_rows: None: the array is (end - begin, n_X, n_Y); always where `free_bytes` is
                None. Else its frames are shuffled in stretches of so many rows, which divide n_X
                (`gpu_spots.protocols.Shuffled`): the backend puts them in order, and needs
                as much memory once more until the block has ended.
        """

    def upload(self, frames: Frames | Array) -> Frames:
        """Put frames where the backend computes, unless they are there.

        (n, n_X, n_Y), one of `FRAME_DTYPES`, contiguous inside a frame.
        """

    def release(self) -> None:
        """Give back memory that is kept for later, after `OutOfDeviceMemory`.

        Every operation may raise that.
        """


class Operations(Protocol[Frames, Masks, Prepared]):
    """Operations of the pipeline, in the order in which it calls them."""

    def scaled(self, frames: Frames, factors: NDArray[np.int64], validity: Validity) -> Frames:
        """Return frames times ``factors`` (one a frame, int64, in 2^-16), in their own type.

        For integers that is ``(I * factor + 2^15) >> 16``. Results are limited to the type. Invalid
        values become NaN, or the type's maximum, as ``validity.of_scaled`` says.
        """

    def levelled(
        self,
        frames: Frames,
        levels: NDArray[np.int64] | Surface,
        validity: Validity,
        prepared: Prepared,
    ) -> Frames:
        """Return frames less what their background is above the run's, in their own type.

        Integers: ``I - (((level - 2^16) * follows + 2^19) >> 20)``, with ``levels`` (one a frame,
        int64, or those of a surface, in 2^-16) and `Background.follows` of ``prepared``; floats:
        ``I - ((level - 2^16) / 2^16) * follows`` in float64. Results and invalid values are as
        those of `scaled`.
        """

    def allocate_background(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
    ) -> Any:
        """Return memory for what `prepare` will need; None where it takes all from the host.

        ``shape`` and ``dtype`` are those of the stack. `background` fills it.
        """

    def background(
        self, frames: Frames, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Fill the rows of a band with its background; return whether there are gaps.

        ``into.fill`` does it from moments. A backend that does it otherwise gives the same bits.
        """

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> Prepared:
        """Put what the second pass needs where it computes.

        ``saturation``: the smallest saturated value, of frames as read.
        """

    def find_masks(self, frames: Frames, prepared: Prepared) -> FoundMasks[Masks]:
        """Return raw and filtered masks of each frame."""

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> Masks:
        """Return ``n_masks`` masks with no pixel set."""

    def union(self, onto: Masks, masks: Masks, mask_of_frame: NDArray[np.int64]) -> None:
        """Combine ``masks[i]`` with ``onto[mask_of_frame[i]]`` by OR.

        It changes its argument: one thread at a time.
        """

    def without(self, masks: Masks, invalid: Masks) -> Masks:
        """Return the pixels of ``masks`` that are not in ``invalid``, mask by mask."""

    def fetch(self, masks: Sequence[Masks]) -> list[PackedImages]:
        """Return batches of masks, of the same number and shape, in the host's memory."""

    def components(self, masks: Masks, connectivity: int) -> Components:
        """Return components of each mask, numbered as ``scipy.ndimage.label`` does."""

    def measure(
        self,
        frames: Frames,
        components: Components,
        mask_of_frame: NDArray[np.int64],
        prepared: Prepared,
        factors: NDArray[np.int64] | None,
        *,
        with_values: bool = False,
    ) -> Measurements:
        """Return sums over components for every frame, in the frame's own counts.

        Frame ``i`` has the components of mask ``mask_of_frame[i]``. ``factors`` are those that the
        background's frames were scaled by, None for 1: float frames divide the background by them
        (the sums of integer frames are of the background as it is). ``with_values``: return the
        values of the pixels, too.
        """


class MatchedFinder(Protocol):
    """Operations of the matched finder: `docs/decisions/matched-finder.md` is the rule.

    Frames and masks are those of `Operations`; what is prepared, significance and sums are the
    backend's own. Significance has a length.
    """

    def prepare_significance(self, maps: SignificanceMaps) -> Any:
        """Put the constants of the significance where the backend computes."""

    def prepare_seeds(self, levels: SeedLevels) -> Any:
        """Put the seed levels of groups of a size where the backend computes."""

    def significance(
        self,
        frames: Any,
        prepared: Any,
        levels: NDArray[np.int64] | Surface | None,
        rows: Sequence[Span] | None = None,
    ) -> Any:
        """Return the significance of the pixels of each frame, without zingers.

        Args:
            frames: Frames.
            prepared: What `prepare_significance` returned.
            levels: Level of each frame over that of the run, in 2^-16, or of each pixel, as
                surfaces; None: 1 for all.
            rows: Stretches of rows, ascending and apart, of which `smoothed_maps` are needed, and
                no other result; those of other rows may be anything. None: all rows.
        """

    def empty_sums(self, prepared: Any, n: int, shape: tuple[int, int]) -> Any:
        """Return sums of significance for ``n`` groups of frames, of no frame yet."""

    def add_significance(self, onto: Any, found: Any, which: NDArray[np.int64]) -> None:
        """Add the significance of frame ``i`` to the sum of group ``which[i]``; -1: to none.

        It changes its argument: one thread at a time, and no more than 65535 frames a group.
        """

    def of_sums(self, sums: Any, sizes: Sequence[int]) -> Any:
        """Return the significance of groups, of ``sizes`` frames each."""

    def smoothed_maps(self, found: Any, prepared: Any) -> NDArray[np.int16]:
        """Return the smoothed maps of each frame or group, (n, maps, n_X, n_Y) int16.

        They are on the host.
        """

    def matched_masks(self, found: Any, prepared: Any, levels: Sequence[Any]) -> MatchedMasks[Any]:
        """Return seeds and spots of each frame or group.

        ``levels``: what `prepare_seeds` returned for its size, one of each frame or group.
        """


class BackendOf(
    DeviceMemory[Frames],
    Operations[Frames, Masks, Prepared],
    MatchedFinder,
    Protocol[Frames, Masks, Prepared],
):
    """A backend with its own kinds of frames, masks and prepared backgrounds."""

    name: str
    """Short name: cpu, ..."""
    device: str
    """The device in words, for people."""
    workers: int
    """Number of bands or batches that are best computed at the same time."""
    keeps_threads: bool
    """True: threads may be kept from one pass over the frames to the next."""


Backend: TypeAlias = BackendOf[Any, Any, Any]
"""Any backend."""


def select_backend(
    name: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
) -> Backend:
    """Return the backend of that name; see `choose_backend`."""
    return choose_backend(name, threads, device, device_memory_limit)[0]


def choose_backend(
    name: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
) -> tuple[Backend, str | None]:
    """Return the backend of that name and, if ``auto`` chose the CPU, a note.

    The note is for machines with an NVIDIA driver; otherwise it is None.

    Args:
        name: gpu, cpu, or auto: a GPU where one can be used, else the CPU.
        threads: of the host, at least one a GPU; None: all cores this process may use.
        device: number of the GPU, or of several; None: the first. With a number, ``auto`` means
            ``gpu``.
        device_memory_limit: bytes of its memory (of each) that may be used; None: all that is free.

    Raises:
        BackendError: it cannot be used; the line says what to install or to do.
        ParameterError: a number is outside its range.
    """
    if name not in BACKEND_NAMES:
        raise BackendError(f"backend: {name!r} is not one of {', '.join(BACKEND_NAMES)}")
    devices = None if device is None else _numbers(device)
    for parameter, value in (("threads", threads), ("device_memory_limit", device_memory_limit)):
        if value is not None and (not isinstance(value, SupportsIndex) or value < 1):
            raise ParameterError(parameter, f"{value!r} is not an integer >= 1")
    if name == "cpu":
        for parameter, given in (("device", devices), ("device_memory_limit", device_memory_limit)):
            if given is not None:
                raise ParameterError(parameter, "cannot be used with the CPU backend")
    workers, note = threads or default_workers(), None
    if name != "cpu":
        from gpu_spots.cuda.devices import driver_version, open_backend

        try:
            return open_backend(devices or (0,), device_memory_limit, workers), None
        except BackendError as error:
            if name == "gpu" or device is not None:
                raise BackendError(f"backend gpu: {error}") from error
            if driver_version() is not None:
                note = "no usable GPU; run gpu-spots devices for the reason"
    from cpu_fallback import CpuBackend

    return CpuBackend(workers), note


def _numbers(device: int | Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the requested devices."""
    numbers = tuple(device) if isinstance(device, Iterable) else (device,)
    for number in numbers:
        if not isinstance(number, SupportsIndex) or number < 0:
            raise ParameterError("device", f"{number!r} is not an integer >= 0")
        if numbers.count(number) > 1:
            raise ParameterError("device", f"GPU {number!r} is listed twice")
    if not numbers:
        raise ParameterError("device", "no GPU is listed, expected at least one GPU number")
    return tuple(map(int, numbers))
