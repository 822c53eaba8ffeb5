"""Plan of a run: the place of its frames, the sizes of bands and batches, and their memory.

The plan is made before the run begins. All sizes are whole numbers of bytes. The backend knows the
memory of its operations; this module adds the memory of everything else. If a size depends on the
number of set pixels, one pixel in `SET_PIXELS` counts as set, which is more than in usual masks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from math import ceil, floor
from pathlib import Path

from gpu_spots.backend import Backend
from gpu_spots.background.complete import STRIP_PIXELS
from gpu_spots.background.maps import PIECE
from gpu_spots.background.methods import Method
from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.memory.shuffled import Transfer
from gpu_spots.memory.workers import AHEAD
from gpu_spots.model import FETCH_BYTES
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
SET_PIXELS = 50
"""Number of pixels per set pixel that is planned for."""
SAMPLES = 10 << 16
"""Values of the rows from which the noise of the pixels is estimated."""
OF_MOMENTS = 84
"""Bytes per pixel while moments from a device become maps, `PIECE` pixels at a time."""
OF_SLOT = 48
"""Bytes per pixel of a band for the results of a device, in pinned memory."""
MAP_PIECE = 1 << 22
"""Bytes of a map that are copied to a device at a time."""
PIECE_BYTES = 1 << 25
"""Maximum number of bytes of a band that are read in one call."""
MATCHED_MAPS = 56
"""Bytes of a pixel for the constants of the matched finder, beside two values of a frame."""
MATCHED_FRAME, MATCHED_FRAME_ON_DEVICE = 4, 8
"""Bytes of a pixel of a frame or group for its significance and spots."""
SIGNIFICANCE, SUM = 2, 4
"""Bytes of a pixel of a frame that is added to the sum of its group, and of the sum."""
MATCHED_TILE, MATCHED_ROOM = 1 << 18, 28
"""Pixels of a band of rows that are smoothed at a time, and bytes of each."""
SCALING = 1 << 21
"""Bytes of a table that scales 16-bit values."""
STORING = 16
"""Bytes a pixel for what finished maps are checked with and compressed into."""
COMPLETING, COMPLETING_A_THREAD = 3 << 20, 5 << 18
"""Bytes for what the noise model is fitted to, and for pieces of maps while their noise is made."""
NEIGHBOURHOOD = 110
"""Bytes of a pixel of a strip whose neighbourhoods are added up."""
OUTPUT = {"raw": 0.067, "filtered": 0.007, "synced": 0.007, "labels": 0.009, "pixels": 0.04}
"""Bytes of the output per pixel of each mask, with gzip: measured on a run of `gpu-spots simulate`
with its defaults.
"""
OUTPUT_MAPS = 11
"""Bytes of the output per pixel of a frame for the statistics; from the same run."""
OUTPUT_TABLE = 0.013
"""Bytes of the output per pixel of each frame for the table of spots; from the same run, which has
84 spots of 164 bytes on a frame of 1024 x 1024.
"""


class Place(StrEnum):
    """Place of the frames between the passes."""

    MEMORY = "memory"
    DEVICE = "device"
    FILE = "file"
    SCRATCH = "scratch file"

    @property
    def is_direct(self) -> bool:
        """True if frames are copied to a device directly from the input."""
        return self in (Place.DEVICE, Place.FILE)

    @property
    def words(self) -> str:
        """Description of the place for messages."""
        return {
            Place.MEMORY: "in memory",
            Place.DEVICE: "on the device",
            Place.FILE: "read from the file for each pass",
            Place.SCRATCH: "decoded to a scratch file",
        }[self]


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
class Work:
    """Properties of a run that determine its memory."""

    method: Method
    """Method of the background."""
    scales: bool
    """Frames are scaled to a common level."""
    n_masks: int | None
    """Masks that groups of frames share; None: every frame has its own."""
    is_matched: bool = False
    """Spots are found by the matched finder."""

    @property
    def scales_bands(self) -> bool:
        """True if the first pass has scaled copies of frames."""
        return self.scales and self.method.scales_frames

    @property
    def scales_batches(self) -> bool:
        """True if the second pass has copies of frames, scaled or less a background."""
        return self.scales and (self.method.scales_frames or not self.is_matched)


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


def spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of consecutive ranges of at most ``step``."""
    for begin in range(0, total, step):
        yield begin, min(begin + step, total)


def make_plan(stack: Stack, work: Work, backend: Backend, limits: ResourceLimits) -> Plan:
    """Return the plan that keeps the frames in the fastest place in which they fit.

    Raises:
        InputError: the memory is too small even for one row or one frame at a time.
    """
    return _Planner(stack, work, backend, limits).plan()


def frames_of_piece(n_pixels: int, itemsize: int) -> int:
    """Return how many frames of a band of ``n_pixels`` are read in one call."""
    return max(1, PIECE_BYTES // (n_pixels * itemsize))


class _Planner:
    """Search for the plan of a run."""

    def __init__(self, stack: Stack, work: Work, backend: Backend, limits: ResourceLimits) -> None:
        self.stack, self.work, self.backend, self.limits = stack, work, backend, limits
        self.n_frames, self.n_rows, self.n_columns = stack.shape
        self.n_pixels = self.n_rows * self.n_columns
        self.stack_bytes = self.n_frames * self.n_pixels * stack.dtype.itemsize
        self.threads = backend.workers
        self.on_host = backend.free_bytes() is None
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
        free, least = self.backend.free_bytes(), min(self._host_bytes(*sizes) for sizes in smallest)
        if free is not None and least <= self.memory:
            least = min(self._device_bytes(*sizes) for sizes in smallest)
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
        places = [Place.DEVICE] if self.limits.may_stay and not self.on_host else []
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

    def _piece_frames(self, frames: int) -> int:
        """Return the frames that a thread encodes at a time, so that all threads have work."""
        if self.on_host or self.limits.batch:
            return frames
        return max(1, min(frames, BATCH_PIXELS // self.n_pixels, -(-self.n_frames // self.threads)))

    def _is_band_larger(self, place: Place, rows: int, frames: int) -> bool:
        """Return True if bands need more than batches of the memory that is short."""
        if self._host_bytes(place, rows, frames) <= self.memory:
            return self._band_on_device(place, rows) >= self._batch_on_device(place, frames)
        return self._first_pass(place, rows) >= self._second_pass(place, frames)

    def _fits(self, place: Place, rows: int, frames: int) -> bool:
        free = self.backend.free_bytes()
        return self._host_bytes(place, rows, frames) <= self.memory and (
            free is None or self._device_bytes(place, rows, frames) <= free
        )

    def _host_bytes(self, place: Place, rows: int, frames: int) -> int:
        """Return the peak of the host memory, which is the largest need of any stage."""
        stack = self.stack_bytes if place == Place.MEMORY and self.stack.resident() is None else 0
        stages = (
            self._reading(place),
            self._first_pass(place, rows),
            self._completing(),
            self._storing(),
            self._second_pass(place, frames),
        )
        return stack + max(stages) + (0 if self.on_host else self._slots(place, rows, frames))

    def _slots(self, place: Place, rows: int, frames: int) -> int:
        """Return the pinned memory for copies to and from a device.

        It has one slot per thread, and two more for copies that are not finished.
        """
        frame = self.n_pixels * self.stack.dtype.itemsize
        parts = {Place.DEVICE: self.stack.step * frame, Place.MEMORY: max(frame, PIECE_BYTES)}
        of_maps = max(
            OF_SLOT * rows * self.n_columns + (1 << 12), min(MAP_PIECE, 8 * self.n_pixels)
        )
        # packed masks of some frames, raw and filtered; positions of all set pixels of a batch
        of_masks = max(
            min(max(FETCH_BYTES, self.n_pixels // 4), frames * self.n_pixels // 4),
            4 * frames * self.n_pixels // SET_PIXELS,
        )
        return (self.threads + 2) * max(
            of_maps, of_masks + (1 << 12), parts.get(place, max(frames * frame, PIECE_BYTES))
        )

    def _device_bytes(self, place: Place, rows: int, frames: int) -> int:
        """Return the peak of the device memory, with a band or a batch for each thread."""
        arriving = self._in_transit(place) * self.stack.step * self.n_pixels
        n_batches = -(-self.n_frames // frames)
        passes = (
            self.threads * arriving,
            self.threads * self._band_on_device(place, rows),
            min(self.threads, n_batches) * self._batch_on_device(place, frames),
        )
        stack = self.stack_bytes if place == Place.DEVICE else 0
        return stack + 24 * self.n_pixels + self._matched_maps() + self._synced() + max(passes)

    def _band_on_device(self, place: Place, rows: int) -> int:
        """Return the device memory of one thread in the first pass."""
        n_pixels, itemsize = rows * self.n_columns, self.stack.dtype.itemsize
        needed = self.backend.band_bytes(
            self.n_frames, n_pixels, self.stack.dtype, self.work.method
        )
        piece = 0 if place == Place.DEVICE else self._in_transit(place) * self._piece(rows)
        copies = (place != Place.DEVICE) + self.work.scales_bands
        return copies * n_pixels * self.n_frames * itemsize + max(piece, needed)

    def _batch_on_device(self, place: Place, frames: int) -> int:
        """Return the device memory of one thread in the second pass."""
        n_values, itemsize = frames * self.n_pixels, self.stack.dtype.itemsize
        needed = self.backend.batch_bytes(frames, self.n_pixels, self.stack.dtype)
        needed += self._matched_batch(frames)
        whole = 0 if place == Place.DEVICE else self._in_transit(place) * n_values
        copies = (place != Place.DEVICE) + self.work.scales_batches
        return copies * n_values * itemsize + max(whole, needed)

    def _in_transit(self, place: Place) -> int:
        """Return the bytes per value of the buffer in which frames arrive; 0: no buffer."""
        return Transfer.of(self.stack, self.backend, is_direct=place.is_direct).extra_bytes

    def _piece(self, rows: int) -> int:
        """Return the number of values of a band that are read in one call."""
        return (
            rows
            * self.n_columns
            * min(self.n_frames, frames_of_piece(rows * self.n_columns, self.stack.dtype.itemsize))
        )

    def _reading(self, place: Place) -> int:
        """Return the memory of the frames that threads read and decode at the same time."""
        frames = 0 if self.stack.is_decoded or self.stack.resident() is not None else 3
        decoded = frames * self.stack.step * self.n_pixels * self.stack.dtype.itemsize
        levels = self.work.method.level_bytes(self.stack.shape, self.stack.dtype)
        return self.threads * decoded + levels

    def _maps(self) -> int:
        """Return the memory of the background while it is computed."""
        itemsize, varies = self.stack.dtype.itemsize, 4 * self.work.method.varies
        narrow = self.stack.dtype.kind == "u" and itemsize <= 2
        of_pixel = (
            12 + itemsize + 4 + (4 if itemsize <= 2 else 8) + 4 + (4 if narrow else 8) + varies
        )
        return of_pixel * self.n_pixels + SAMPLES * itemsize

    def _first_pass(self, place: Place, rows: int) -> int:
        """Return the memory of the background, and of the bands that threads work on."""
        dtype = self.stack.dtype
        copies = (place in (Place.FILE, Place.SCRATCH)) + self.work.scales_bands

        def of_band(n_pixels: int) -> int:
            if not self.on_host:
                # where blocks are compared, the host decides any pixel that float64 cannot
                return OF_MOMENTS * (
                    n_pixels
                    if self.work.method.n_blocks
                    else min(n_pixels, max(PIECE, self.n_columns))
                )
            needed = self.backend.band_bytes(self.n_frames, n_pixels, dtype, self.work.method)
            return (
                copies * n_pixels * self.n_frames * dtype.itemsize
                + needed
                + SCALING * self.work.scales_bands
            )

        return self._maps() + sum(
            of_band(n_rows * self.n_columns) for n_rows in self._at_once(self.n_rows, rows)
        )

    def _completing(self) -> int:
        """Return the memory of the background, and of its last step: noise, and clip."""
        of_method = self.work.method.bytes_to_complete
        # the strips of two cells at least, and what is around them
        strip = max(STRIP_PIXELS, 8 * self.n_columns) + 10 * self.n_columns
        a_thread = max(COMPLETING_A_THREAD, NEIGHBOURHOOD * strip if of_method else 0)
        new = (4 + of_method) * self.n_pixels
        return self._maps() + new + COMPLETING + self.threads * a_thread

    def _storing(self) -> int:
        """Return the memory of the background, its checks, and maps that are compressed."""
        return self._maps() + (4 + STORING) * self.n_pixels

    def _second_pass(self, place: Place, frames: int) -> int:
        """Return the host memory of the second pass.

        It holds thresholds and levels, the batches that threads work on, and the synced masks.
        """
        dtype = self.stack.dtype
        copies = (place in (Place.FILE, Place.SCRATCH)) + self.work.scales_batches
        # numbers of 32 bits are scaled as 64, and backgrounds are subtracted as 64
        a_pixel = 24 * (dtype.itemsize == 4) if self.work.method.scales_frames else 32
        wide = a_pixel * self.n_pixels * self.work.scales_batches

        def of_batch(n_frames: int) -> int:
            if not self.on_host:
                return 4 * self.n_pixels + n_frames * self.n_pixels // 2
            return (
                copies * n_frames * self.n_pixels * dtype.itemsize
                + wide
                + self.backend.batch_bytes(n_frames, self.n_pixels, dtype)
                + self._matched_batch(n_frames)
            )

        # thresholds and means, and maps for what is known of each spot
        fixed = (min(8, 2 * dtype.itemsize) + 12 + 10) * self.n_pixels + self._matched_maps()
        if self._piece_frames(frames) < frames:
            # batches whose masks are fetched wait until they are encoded: packed masks and
            # components
            waiting = min(
                self.n_frames, (self.threads + AHEAD) * (frames + self._piece_frames(frames))
            )
            return (
                fixed
                + 4 * self.threads * self.n_pixels
                + waiting * self.n_pixels // 2
                + self._synced()
                + self._profiles()
                + self._spots()
            )
        return (
            fixed
            + sum(of_batch(n) for n in self._at_once(self.n_frames, frames))
            + self._synced()
            + self._profiles()
            + self._spots()
        )

    def _matched_maps(self) -> int:
        """Return the memory of the constants of the matched finder."""
        of_pixel = MATCHED_MAPS + 2 * self.stack.dtype.itemsize
        return of_pixel * self.n_pixels * self.work.is_matched

    def _matched_batch(self, n_frames: int) -> int:
        """Return the memory of significance and spots of a batch of frames or groups."""
        if not self.work.is_matched:
            return 0
        room = MATCHED_ROOM * min(self.n_pixels, MATCHED_TILE) * self.on_host
        of_frame = MATCHED_FRAME if self.on_host else MATCHED_FRAME_ON_DEVICE
        if self.work.n_masks is None:
            return of_frame * n_frames * self.n_pixels + room
        n_groups = min(n_frames, self.work.n_masks)
        of_group = SUM + (0 if self.on_host else MATCHED_FRAME_ON_DEVICE)
        return (SIGNIFICANCE * n_frames + of_group * n_groups) * self.n_pixels + room

    def _at_once(self, total: int, step: int) -> list[int]:
        """Return the sizes of the ranges that threads work on at the same time."""
        return [end - begin for begin, end in islice(spans(total, step), self.threads)]

    def _synced(self) -> int:
        """Return the memory of synced masks, packed, and of the pixels of their components."""
        return (self.work.n_masks or 0) * (self.n_pixels // 8 + 8 * self.n_pixels // SET_PIXELS)

    def _profiles(self) -> int:
        """Return the memory of the values in spots of groups, and of the profiles of one group."""
        if self.work.n_masks is None:
            return 0
        values = self.n_frames * self.stack.dtype.itemsize * self.n_pixels // SET_PIXELS
        return values + 100 * self.n_pixels // SET_PIXELS

    def _spots(self) -> int:
        """Return the memory of the table, with one spot per 10 000 pixels."""
        return 600 * self.n_frames * (self.n_pixels // 10_000 + 1)

    def _plan(self, place: Place, rows: int, frames: int) -> Plan:
        passes = 1 if self.work.n_masks is None else 2
        # the levels are taken from a few rows, which are decoded once more just for that
        decodings = 1 if place != Place.FILE else passes + 1 + (not self.stack.is_decoded)
        return Plan(
            place=place,
            threads=self.threads,
            band_rows=rows,
            batch_frames=frames,
            piece_frames=self._piece_frames(frames),
            n_bands=-(-self.n_rows // rows),
            n_batches=-(-self.n_frames // frames),
            host_bytes=self._host_bytes(place, rows, frames),
            device_bytes=None if self.on_host else self._device_bytes(place, rows, frames),
            scratch_bytes=self.stack_bytes if place == Place.SCRATCH else 0,
            decodings=0 if self.stack.resident() is not None else decodings,
        )


def _memory(limits: ResourceLimits) -> int:
    """Return the bytes of host memory that may be used."""
    if limits.memory is not None:
        return limits.memory
    available = available_memory()
    return 2**62 if available is None else max(0, available - RESERVE)


def in_words(n_bytes: int, rounded: Callable[[float], int] = round) -> str:
    """Return a size with its unit, such as ``1.5 GiB``."""
    if n_bytes >= 2**30:
        return f"{rounded(10 * n_bytes / 2**30) / 10:.1f} GiB"
    return f"{rounded(n_bytes / 2**20)} MiB" if n_bytes >= 2**20 else f"{n_bytes >> 10} KiB"


def output_bytes(shape: tuple[int, int, int], n_masks: int, keep: frozenset[str]) -> int:
    """Return the approximate size of the output with gzip, bytes.

    The estimate is for usual masks. With others, the output can be a few times larger or smaller.
    """
    n_frames, n_rows, n_columns = shape
    images = {
        "raw": n_frames,
        "filtered": n_frames,
        "synced": n_masks if n_masks < n_frames else 0,
        "labels": n_masks,
        "pixels": n_masks,
    }
    return int(
        n_rows
        * n_columns
        * (
            OUTPUT_MAPS
            + OUTPUT_TABLE * n_frames
            + sum(OUTPUT[kind] * n for kind, n in images.items() if kind in keep)
        )
    )


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping; None: unknown.

    The limit of the control group of this process is taken into account.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
