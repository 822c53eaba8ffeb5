"""Plan of a run: the place of its frames, and the sizes of bands and batches.

The plan is made before the run begins, from the memory that `gpu_spots.memory.needs` computes.
"""

from dataclasses import dataclass
from math import ceil, floor

from gpu_spots.backend import Backend
from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.memory.amounts import available_memory, in_words
from gpu_spots.memory.needs import Needs, Place, Work
from gpu_spots.protocols import Stack

BAND_PIXELS = 1 << 17
"""Pixels of a band in the first pass: some tens of milliseconds of work, so that Ctrl-C and the
progress bar answer at once.
"""
RESIDENT_PIXELS = 1 << 18
"""Pixels of a band if all frames are on a device. A device is faster, and such a band needs no
memory for frames.
"""
BAND_VALUES = 1 << 26
"""Values of a band, all frames together."""
BATCH_PIXELS = 1 << 25
"""Pixels of a batch in the second pass: enough that threads seldom wait for the interpreter, and
few enough for the memory.
"""
RESIDENT_BATCH = 1 << 27
"""Pixels of a batch if all frames are on a device. With smaller batches, launching the kernels
would take longer than running them.
"""
RESIDENT_BATCHES = 4
"""Minimum number of batches of a run on a device. One batch is computed while the results of
another one are fetched.
"""
MAX_BATCH = 512
"""Maximum number of frames of a batch, for tiny frames."""
RESERVE = 400 * 2**20
"""Bytes of free memory that stay unused if no limit is given."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits that a plan must keep.

    Raises:
        ParameterError: the memory or the batch is less than 1.
    """

    memory: int | None = None
    """Bytes of host memory; None: the free memory less `RESERVE`."""
    batch: int | None = None
    """Frames of a batch; None: the plan chooses."""
    may_spool: bool = False
    """The frames may be decoded to a scratch file."""
    may_stay: bool = True
    """All frames may stay on a device."""

    def __post_init__(self) -> None:
        for name, value in {"memory_limit": self.memory, "batch": self.batch}.items():
            if value is not None and not value >= 1:
                raise ParameterError(name, f"{value!r} is not an integer >= 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """Place of the frames, sizes of bands and batches, and memory of a run."""

    place: Place
    """Place of the frames between the passes."""
    threads: int
    """Threads that read, compute and compress."""
    band_rows: int
    """Rows of a band in the first pass."""
    batch_frames: int
    """Frames of a batch in the second pass."""
    piece_frames: int
    """Frames of a batch that a thread encodes at a time, at most ``batch_frames``."""
    n_bands: int
    """Bands of the first pass."""
    n_batches: int
    """Batches of the second pass."""
    host_bytes: int
    """Upper bound of the host memory, without the interpreter and its libraries."""
    device_bytes: int | None
    """Upper bound of the device memory; None: the backend computes in host memory."""
    scratch_bytes: int
    """Size of the scratch file."""
    decodings: int
    """Number of times the input is read and decoded; 0: it is in memory."""

    def words(self) -> str:
        """Return the plan in one line."""
        return (
            f"frames {self.place.words}; bands of {self.band_rows} rows, "
            f"batches of {self.batch_frames} frames, {self.threads} threads"
        )


def make_plan(stack: Stack, work: Work, backend: Backend, limits: ResourceLimits) -> Plan:
    """Return the plan that keeps the frames in the fastest place in which they fit.

    Raises:
        InputError: the memory is too small even for one row or one frame at a time.
    """
    return _Planner(stack, work, backend, limits).plan()


class _Planner:
    """Search for the plan of a run."""

    def __init__(self, stack: Stack, work: Work, backend: Backend, limits: ResourceLimits) -> None:
        self.stack, self.work, self.backend, self.limits = stack, work, backend, limits
        self.needs = Needs(stack, work, backend, None if limits.batch else BATCH_PIXELS)
        self.n_frames, self.n_rows, self.n_columns = stack.shape
        self.n_pixels, self.threads = self.n_rows * self.n_columns, backend.workers
        self.memory = _memory(limits)

    def plan(self) -> Plan:
        """Return the plan for the first place in which everything fits."""
        for place in self._places():
            found = self._sizes(place)
            if found is not None:
                return self._plan(place, *found)
        raise InputError(
            f"{self.stack.source}: {self.n_frames} frames of {self.n_rows} x {self.n_columns} "
            f"{self._shortage()}"
        )

    def _shortage(self) -> str:
        """Describe the memory that is missing even for single rows and frames, in any place."""
        frames = min(self.limits.batch or 1, self.n_frames)
        smallest = [
            (place, self._row_step() if place == Place.FILE else 1, frames)
            for place in self._places()
        ]
        free, least = (
            self.backend.free_bytes(),
            min(self.needs.host_bytes(*sizes) for sizes in smallest),
        )
        if free is not None and least <= self.memory:
            least = min(self.needs.device_bytes(*sizes) for sizes in smallest)
            return (
                f"need at least {in_words(least, ceil)} of GPU memory, "
                f"{in_words(max(0, free), floor)} are available"
            )
        limit = f"allowed by {given('memory_limit')}" if self.limits.memory else "available"
        return (
            f"need at least {in_words(least, ceil)} of memory, "
            f"{in_words(self.memory, floor)} are {limit}{self._remedy()}"
        )

    def _remedy(self) -> str:
        if self._is_cheap_in_parts() or self.limits.may_spool or self.stack.resident() is not None:
            return ""
        return f"; use {given('scratch')} to name a folder for a scratch file, which saves memory"

    def _places(self) -> list[Place]:
        """Return the possible places of the frames, the best first."""
        if self.stack.resident() is not None:
            return [Place.MEMORY]
        places = [Place.DEVICE] if self.limits.may_stay and not self.needs.on_host else []
        if self._is_cheap_in_parts():
            # uncompressed frames are read as quickly as they are copied: memory would only be
            # filled
            places += [Place.FILE] if self.stack.is_decoded else [Place.MEMORY, Place.FILE]
        else:
            places += [Place.MEMORY, Place.SCRATCH] if self.limits.may_spool else [Place.MEMORY]
        return places

    def _is_cheap_in_parts(self) -> bool:
        """Return True if a band or a batch can be read without decoding more than that."""
        return self.stack.is_decoded or (self.stack.rows_apart is not None and self.stack.step == 1)

    def _row_step(self) -> int:
        """Return the number of which the rows of a band must be a multiple."""
        return min(self.stack.rows_apart or 1, self.n_rows)

    def _sizes(self, place: Place) -> tuple[int, int] | None:
        """Return rows of a band and frames of a batch that fit; None: not even the smallest do."""
        step = self._row_step() if place == Place.FILE else 1
        if place == Place.DEVICE and not self.work.scales_bands:
            rows = max(1, RESIDENT_PIXELS // self.n_columns)
        else:
            rows = max(
                1,
                min(BAND_PIXELS // self.n_columns, BAND_VALUES // (self.n_frames * self.n_columns)),
            )
        rows = min(self.n_rows, -(-rows // step) * step)
        frames = min(self.limits.batch or self._usual_batch(place), self.n_frames)
        while not self._fits(place, rows, frames):
            if rows <= step and (frames == 1 or self.limits.batch):
                return None
            # the larger of both is halved
            smaller_rows = max(step, rows // 2 // step * step)
            if rows > step and (
                self._is_band_larger(place, rows, frames) or frames == 1 or self.limits.batch
            ):
                rows = smaller_rows
            else:
                frames = max(1, frames // 2)
        return rows, frames

    def _usual_batch(self, place: Place) -> int:
        """Return the frames of a batch if there is enough memory."""
        if place == Place.DEVICE and not self.work.scales_batches:
            pixels, least = RESIDENT_BATCH, RESIDENT_BATCHES
        else:
            pixels, least = BATCH_PIXELS, self.threads
        return max(1, min(MAX_BATCH, pixels // self.n_pixels, -(-self.n_frames // least)))

    def _is_band_larger(self, place: Place, rows: int, frames: int) -> bool:
        """Return True if bands need more than batches of the memory that is short."""
        if self.needs.host_bytes(place, rows, frames) <= self.memory:
            return self.needs.band_on_device(place, rows) >= self.needs.batch_on_device(
                place, frames
            )
        return self.needs.first_pass(place, rows) >= self.needs.second_pass(place, frames)

    def _fits(self, place: Place, rows: int, frames: int) -> bool:
        free = self.backend.free_bytes()
        return self.needs.host_bytes(place, rows, frames) <= self.memory and (
            free is None or self.needs.device_bytes(place, rows, frames) <= free
        )

    def _plan(self, place: Place, rows: int, frames: int) -> Plan:
        passes = 1 if self.work.n_masks is None else 2
        # the levels are taken from a few rows, which are decoded once more just for that
        decodings = 1 if place != Place.FILE else passes + 1 + (not self.stack.is_decoded)
        return Plan(
            place=place,
            threads=self.threads,
            band_rows=rows,
            batch_frames=frames,
            piece_frames=self.needs.piece_frames(frames),
            n_bands=-(-self.n_rows // rows),
            n_batches=-(-self.n_frames // frames),
            host_bytes=self.needs.host_bytes(place, rows, frames),
            device_bytes=None
            if self.needs.on_host
            else self.needs.device_bytes(place, rows, frames),
            scratch_bytes=self.needs.stack_bytes if place == Place.SCRATCH else 0,
            decodings=0 if self.stack.resident() is not None else decodings,
        )


def _memory(limits: ResourceLimits) -> int:
    """Return the bytes of host memory that may be used."""
    if limits.memory is not None:
        return limits.memory
    available = available_memory()
    return 2**62 if available is None else max(0, available - RESERVE)
