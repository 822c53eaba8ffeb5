"""Backend: the contract that every computing backend keeps, and the choice of one.

A backend finds exact integers (for float frames: float64 in a fixed order of operations), and what
is made of them takes correctly rounded operations in one order: so all backends return equal bits.
Its operations are pure, but for those that say what they fill, may be called from several threads
at once, and may be given any band of rows or batch of frames. Frames, masks and prepared objects
live wherever the backend wants them; everything else is NumPy.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Method
from gpu_spots.errors import BackendError, ParameterError
from gpu_spots.memory.workers import default_workers
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

NAMES = ("auto", "gpu", "cpu")
"""What a user may ask for."""


class Backend(Protocol):
    """The operations of the pipeline, in the order in which it calls them."""

    name: str
    """Short name: cpu, ..."""
    device: str
    """The device in words, for people."""
    workers: int
    """How many bands or batches it is worth computing at the same time."""

    def free_bytes(self) -> int | None:
        """Bytes of memory that are free where the backend computes; None: it computes in the host's memory."""

    def band_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
        """Return an upper bound of the memory, there, that the background of a band needs beside its frames."""

    def batch_bytes(self, n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
        """Upper bound of the memory, there, that masks, components and sums of a batch need beside its frames."""

    def hold(self, shape: tuple[int, int, int], dtype: np.dtype[Any], shared: bool = False) -> Any:
        """Room for frames where the backend computes: what `upload` returns, and sliced as NumPy's arrays are, by frames and by rows.

        ``shared``: other threads than this one work on its parts, which they `upload`: where each
        of them computes may be elsewhere. Raises `OutOfDeviceMemory`.
        """

    def staging(self, held: Any, begin: int, end: int) -> AbstractContextManager[Array]:
        """A host array, contiguous, to be filled with the frames from ``begin`` to ``end`` of ``held``.

        When the block ends they are on their way there: what any thread asks for afterwards sees
        them.
        """

    @property
    def staging_shuffled(
        self,
    ) -> Callable[[Any, int, int, int], AbstractContextManager[Array]] | None:
        """``staging_shuffled(held, begin, end, rows)``: `staging` for frames that are still shuffled; None: frames come in order only.

        The array is (end - begin, stretches, bytes of a value, rows, n_Y) uint8, each stretch of
        ``rows`` rows as `gpu_spots.protocols.Shuffled` has it; ``rows`` divides the rows of
        ``held``. It needs as much memory, where the backend computes, as these frames take, until
        the block has ended.
        """

    def upload(self, frames: Any) -> Any:
        """Put frames where the backend computes, unless they are there.

        (n, n_X, n_Y), one of `FRAME_DTYPES`, contiguous inside a frame.
        """

    def release(self) -> None:
        """Give back memory that is kept for later, after `OutOfDeviceMemory`: which every operation may raise."""

    def scaled(self, frames: Any, factors: NDArray[Any], validity: Validity) -> Any:
        """Frames times ``factors`` (one a frame, int64, in 2^-16), in their own type: for integers ``(I * factor + 2^15) >> 16``.

        Results are limited to the type. Invalid values become NaN, or the type's maximum, as
        ``validity.of_scaled`` says.
        """

    def levelled(self, frames: Any, levels: NDArray[Any], validity: Validity, prepared: Any) -> Any:
        """Frames less what their background is above the run's, in their own type.

        Integers: ``I - (((level - 2^16) * floor(16 * background) + 2^19) >> 20)``, with ``levels``
        (one a frame, int64, in 2^-16) and the background of ``prepared``; floats: ``I - ((level -
        2^16) / 2^16) * background`` in float64. Results and invalid values are as those of `scaled`.
        """

    def moments(
        self, frames: Any, method: Method, validity: Validity
    ) -> IntegerMoments | FloatMoments:
        """Return the moments of each pixel's background sample, on the host.

        A pixel with fewer than two values left is masked (``kept`` 0). `KruskalWallis` decides
        exactly; a block without a valid value in a pixel takes no part there.
        """

    def hold_background(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], method: Method
    ) -> Any:
        """Return room for what `prepare` will need of a background; None where `prepare` takes all of it from the host.

        ``shape`` and ``dtype`` are those of the stack. `background` fills it.
        """

    def background(
        self, frames: Any, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        """Fill the rows of a band with its background; return whether there are gaps.

        ``into.fill`` does it from `moments`. A backend that does it otherwise gives the same bits.
        """

    def prepare(
        self, background: Background, morphology: Morphology, saturation: float | None
    ) -> Any:
        """Put what the second pass needs where it computes.

        ``saturation``: the smallest saturated value, of frames as read.
        """

    def find_masks(self, frames: Any, prepared: Any) -> FoundMasks:
        """Raw and filtered masks of each frame."""

    def empty_masks(self, n_masks: int, shape: tuple[int, int]) -> Any:
        """``n_masks`` masks with no pixel set."""

    def union(self, onto: Any, masks: Any, mask_of_frame: NDArray[Any]) -> None:
        """OR ``masks[i]`` onto ``onto[mask_of_frame[i]]``.

        It changes its argument: one thread at a time.
        """

    def without(self, masks: Any, invalid: Any) -> Any:
        """The pixels of ``masks`` that are not in ``invalid``, mask by mask."""

    def fetch(self, masks: Sequence[Any]) -> list[Any]:
        """Return masks of the same number and shape in the host's memory, for `unpack`."""

    def unpack(self, masks: Any) -> NDArray[Any]:
        """(k, n_X, n_Y) uint8, 0 or 1."""

    def components(self, masks: Any, connectivity: int) -> Components:
        """Connected components of each mask, numbered as ``scipy.ndimage.label`` does."""

    def measure(
        self,
        frames: Any,
        components: Components,
        mask_of_frame: NDArray[Any],
        prepared: Any,
        factors: NDArray[Any] | None,
    ) -> Measurements:
        """Sums over the components of mask ``mask_of_frame[i]`` on frame ``i``, for every frame, in the frame's own counts.

        ``factors`` are those that the background's frames were scaled by, None for 1: float frames
        divide the background by them (the sums of integer frames are of the background as it is).
        """


def select_backend(
    name: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
) -> Backend:
    """The backend of that name; see `choose_backend`."""
    return choose_backend(name, threads, device, device_memory_limit)[0]


def choose_backend(
    name: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
) -> tuple[Backend, str | None]:
    """The backend of that name, and for ``auto`` a note if it is the CPU though the machine has an NVIDIA driver.

    Args:
        name: gpu, cpu, or auto: a GPU where one can be used, else the CPU.
        threads: of the host, at least one a GPU; None: all cores this process may use.
        device: number of the GPU, or of several; None: the first. Who names one does not want the
            CPU instead, so ``auto`` is then ``gpu``.
        device_memory_limit: bytes of its memory (of each) that may be used; None: all that is free.

    Raises:
        BackendError: it cannot be used; the line says what to install or to do.
        ParameterError: a number is outside its range.
    """
    if name not in NAMES:
        raise BackendError(f"backend: {name!r} is not one of {', '.join(NAMES)}")
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
                raise BackendError(f"backend {name}: {error}") from error
            if driver_version() is not None:
                note = "no usable GPU; run gpu-spots devices for the reason"
    from cpu_fallback import CpuBackend

    return CpuBackend(workers), note


def _numbers(device: int | Sequence[int]) -> tuple[int, ...]:
    """Of the devices that are asked for."""
    numbers = tuple(device) if isinstance(device, Iterable) else (device,)
    for number in numbers:
        if not isinstance(number, SupportsIndex) or number < 0:
            raise ParameterError("device", f"{number!r} is not an integer >= 0")
        if numbers.count(number) > 1:
            raise ParameterError("device", f"GPU {number!r} is listed twice")
    if not numbers:
        raise ParameterError("device", "no GPU is listed, expected at least one GPU number")
    return tuple(map(int, numbers))
