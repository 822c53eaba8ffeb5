"""Memory that a run needs, for a place of its frames and sizes of bands and batches.

All sizes are whole numbers of bytes. The backend knows the memory of its operations; this module
adds the memory of everything else. If a size depends on the number of set pixels, one pixel in
`SET_PIXELS` counts as set, which is more than in usual masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from gpu_spots.backend import Backend
from gpu_spots.background.complete import STRIP_PIXELS
from gpu_spots.background.maps import PIECE
from gpu_spots.background.methods import Method
from gpu_spots.masks.matched import grown_at_once
from gpu_spots.memory.shuffled import Transfer
from gpu_spots.memory.workers import AHEAD
from gpu_spots.model import FETCH_BYTES
from gpu_spots.protocols import Stack
from gpu_spots.spots.turns import PIECE as PIXELS_AT_ONCE

SET_PIXELS = 50
"""Number of pixels per set pixel that is planned for."""
SPOT_PIXELS, OF_SPOT = 10_000, 600
"""Number of pixels per spot that is planned for, and bytes of a spot in the table."""
SUMMING = 48 * PIXELS_AT_ONCE
"""Bytes of a thread for the pixels of spots whose sums are made, beside those of a batch."""
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
MATCHED_FRAME = 3
"""Bytes of a pixel of a frame or group for its significance and spots, in addition to the backend's
`batch_bytes`.

They are the significance with its margins, 2.2; seeds, masks and invalid pixels as bits, 0.4; and
while the spots of a batch are listed, 81 bytes of each pixel of a spot, which are its frame, place
and spot (24), and what they are sorted with. With one pixel in `SET_PIXELS` these are 1.6, of which
`batch_bytes` has 1.2.
"""
GROWN = 26
"""Bytes of a pixel near a seed, of the frames whose spots grow together on the host.

Near are the 24 columns and 13 rows about it: few pixels of usual frames. But all pixels are planned
for, as one scattered seed in 200 pixels reaches nearly all of them.
"""
MATCHED_FRAME_ON_DEVICE = 8
"""The same on a device."""
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


def spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of consecutive ranges of at most ``step``."""
    for begin in range(0, total, step):
        yield begin, min(begin + step, total)


def frames_of_piece(n_pixels: int, itemsize: int) -> int:
    """Return how many frames of a band of ``n_pixels`` are read in one call."""
    return max(1, PIECE_BYTES // (n_pixels * itemsize))


class Needs:
    """Memory of a run in each of its stages."""

    def __init__(
        self, stack: Stack, work: Work, backend: Backend, piece_pixels: int | None
    ) -> None:
        """Prepare the sums.

        Args:
            stack: frames.
            work: properties of the run.
            backend: backend that computes.
            piece_pixels: pixels of a part of a batch that a thread encodes at a time; None: of the
                whole batch.
        """
        self.stack, self.work, self.backend = stack, work, backend
        self.piece_pixels = piece_pixels
        self.n_frames, self.n_rows, self.n_columns = stack.shape
        self.n_pixels = self.n_rows * self.n_columns
        self.stack_bytes = self.n_frames * self.n_pixels * stack.dtype.itemsize
        self.threads = backend.workers
        self.on_host = backend.free_bytes() is None

    def piece_frames(self, frames: int) -> int:
        """Return the frames that a thread encodes at a time, so that all threads have work."""
        if self.on_host or self.piece_pixels is None:
            return frames
        return max(
            1, min(frames, self.piece_pixels // self.n_pixels, -(-self.n_frames // self.threads))
        )

    def host_bytes(self, place: Place, rows: int, frames: int) -> int:
        """Return the peak of the host memory, which is the largest need of any stage."""
        stack = self.stack_bytes if place == Place.MEMORY and self.stack.resident() is None else 0
        stages = (
            self._reading(place),
            self.first_pass(place, rows),
            self._completing(),
            self._storing(),
            self.second_pass(place, frames),
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

    def device_bytes(self, place: Place, rows: int, frames: int) -> int:
        """Return the peak of the device memory, with a band or a batch for each thread."""
        arriving = self._in_transit(place) * self.stack.step * self.n_pixels
        n_batches = -(-self.n_frames // frames)
        passes = (
            self.threads * arriving,
            self.threads * self.band_on_device(place, rows),
            min(self.threads, n_batches) * self.batch_on_device(place, frames),
        )
        stack = self.stack_bytes if place == Place.DEVICE else 0
        maps = 24 * self.n_pixels + self._matched_maps() + self._levelling()
        return stack + maps + self._synced() + max(passes)

    def band_on_device(self, place: Place, rows: int) -> int:
        """Return the device memory of one thread in the first pass."""
        n_pixels, itemsize = rows * self.n_columns, self.stack.dtype.itemsize
        needed = self.backend.band_bytes(
            self.n_frames, n_pixels, self.stack.dtype, self.work.method
        )
        piece = 0 if place == Place.DEVICE else self._in_transit(place) * self._piece(rows)
        copies = (place != Place.DEVICE) + self.work.scales_bands
        return copies * n_pixels * self.n_frames * itemsize + max(piece, needed)

    def batch_on_device(self, place: Place, frames: int) -> int:
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

    def first_pass(self, place: Place, rows: int) -> int:
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

    def second_pass(self, place: Place, frames: int) -> int:
        """Return the host memory of the second pass.

        It holds thresholds and levels, the batches that threads work on, and the synced masks.
        """
        dtype = self.stack.dtype
        copies = (place in (Place.FILE, Place.SCRATCH)) + self.work.scales_batches
        # numbers of 32 bits are scaled as 64, and backgrounds are subtracted as 64
        a_pixel = 24 * (dtype.itemsize == 4) if self.work.method.scales_frames else 24
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
        fixed += self._levelling() + self.threads * SUMMING
        if self.piece_frames(frames) < frames:
            # batches whose masks are fetched wait until they are encoded: packed masks and
            # components
            waiting = min(
                self.n_frames, (self.threads + AHEAD) * (frames + self.piece_frames(frames))
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

    def _levelling(self) -> int:
        """Return the memory of the part of the background that follows the levels of frames."""
        levels = self.work.scales_batches and not self.work.method.scales_frames
        return 8 * self.n_pixels * levels

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
        n_groups = min(n_frames, self.work.n_masks or n_frames)
        if self.on_host:
            room += GROWN * self.n_pixels * grown_at_once(n_groups, self.n_pixels)
        if self.work.n_masks is None:
            return of_frame * n_frames * self.n_pixels + room
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
        """Return the memory of the table."""
        return OF_SPOT * self.n_frames * (self.n_pixels // SPOT_PIXELS + 1)
