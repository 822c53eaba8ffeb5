"""The frames of a run as the two passes ask for them: bands of rows of all frames, then batches of whole frames.

They are in memory or on the device as a whole, or are read in parts, from the file or from a
scratch file: the plan says which.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import BackendOf, Prepared
from gpu_spots.background.levels import LevelSampler
from gpu_spots.memory.plan import Place, Plan, frames_of_piece, spans
from gpu_spots.memory.shuffled import Transfer, rows_of_frame
from gpu_spots.memory.workers import in_order
from gpu_spots.model import Array, Frames, Masks, Validity
from gpu_spots.protocols import Observer, Spool, Stack

OpenSpool = Callable[[tuple[int, int, int], "np.dtype[Any]"], AbstractContextManager[Spool]]
"""Makes room on disk for decoded frames of some shape and type."""


class Source(Generic[Frames, Masks, Prepared]):
    """Frames, and how they come to the backend; several threads may ask for them."""

    def __init__(
        self, stack: Stack, backend: BackendOf[Frames, Masks, Prepared], plan: Plan
    ) -> None:
        """The frames of ``stack``, which are still where they are."""
        self.shape, self.dtype = stack.shape, stack.dtype
        self.backend = backend
        self.plan = plan
        self.validity = stack.validity
        """Which values count, in the frames' own counts."""
        self.saturation = stack.saturation
        """The smallest saturated value, in the frames' own counts; None: unknown."""
        self.sampler = LevelSampler(stack.shape, stack.validity)
        self.factors: NDArray[np.int64] | None = None
        """(n_frames,) int64, 2^-16: what each frame is scaled by before it is compared with others;
        None: they are not scaled.
        """
        self.whole: Frames | Array | None = stack.resident()
        """All frames, in memory or on the device; None where they are read in parts."""
        self.transfer = Transfer(stack, backend, is_direct=plan.place.is_direct)
        """How parts are read."""
        self._own = threading.local()

    @property
    def scaled_validity(self) -> Validity:
        """Which values count in scaled frames."""
        return self.validity if self.factors is None else self.validity.of_scaled(self.dtype)

    def band(self, begin: int, end: int) -> Frames:
        """The rows from ``begin`` to ``end`` of all frames, where the backend computes, at the run's level; until the thread's next."""
        if self.whole is not None:
            return self._scaled(self.backend.upload(self.whole[:, begin:end]), slice(None))
        n_frames, _, n_columns = self.shape
        held = self._room((n_frames, end - begin, n_columns))
        for piece in spans(
            n_frames, frames_of_piece((end - begin) * n_columns, self.dtype.itemsize)
        ):
            self.transfer.fill(held, piece[0], piece, (begin, end))
        return self._scaled(held, slice(None))

    def batch(self, begin: int, end: int) -> Frames:
        """The frames from ``begin`` to ``end``, where the backend computes, in their own counts; until the thread's next."""
        if self.whole is not None:
            return self.backend.upload(self.whole[begin:end])
        held = self._room((end - begin, *self.shape[1:]))
        self.transfer.fill(held, 0, (begin, end), (0, self.shape[1]))
        return held

    def see(self, begin: int, frames: Array) -> None:
        """Look at the level of each of some frames."""
        for frame, image in enumerate(frames, begin):
            self.sampler.see(frame, image[self.sampler.rows])

    def _room(self, shape: tuple[int, int, int]) -> Frames:
        """Room for a band or a batch: this thread's last one, if it fits, as fresh memory costs more time than reading into it."""
        room: Frames | None = getattr(self._own, "room", None)
        if room is None or room.shape != shape:
            self._own.room = None
            self._own.room = room = self.backend.hold(shape, self.dtype)
        return room

    def at_level(self, frames: Frames, begin: int, end: int) -> Frames:
        """A batch at the run's level."""
        return self._scaled(frames, slice(begin, end))

    def _scaled(self, frames: Frames, which: slice) -> Frames:
        return (
            frames
            if self.factors is None
            else self.backend.scaled(frames, self.factors[which], self.validity)
        )


@contextmanager
def open_source(
    stack: Stack,
    backend: BackendOf[Frames, Masks, Prepared],
    plan: Plan,
    open_spool: OpenSpool | None,
    observer: Observer,
) -> Iterator[Source[Frames, Masks, Prepared]]:
    """Bring the frames to the place that the plan names, and look at the level of each on the way.

    Raises `InputError`, which names the frame, and `OutputError` where a scratch file cannot be
    written.
    """
    source = Source(stack, backend, plan)
    stack.check_whole()
    with ExitStack() as opened:
        if (frames := stack.resident()) is not None:
            _sample(source, observer, lambda frame: frames[frame, source.sampler.rows])
        elif plan.place == Place.SCRATCH:
            assert open_spool is not None  # or the plan would be another
            spool = opened.enter_context(open_spool(source.shape, source.dtype))
            _copy_to_scratch(stack, source, spool, observer)
            source.transfer.reader = spool
        elif plan.place == Place.FILE:
            _sample(
                source, observer, lambda frame: rows_of_frame(stack, frame, source.sampler.rows)
            )
        elif plan.place == Place.DEVICE:
            _read_to_device(stack, source, observer)
        else:
            _read_to_memory(stack, source, observer)
        stack.check_whole()
        yield source
        stack.check_whole()


def _read_to_device(
    stack: Stack, source: Source[Frames, Masks, Prepared], observer: Observer
) -> None:
    held = source.backend.hold(stack.shape, stack.dtype, shared=True)

    def read(begin: int, end: int) -> None:
        source.transfer.fill(held, begin, (begin, end), (0, stack.shape[1]), source.sampler)

    _walk("read", source, stack.step, observer, read)
    source.whole = held


def _read_to_memory(
    stack: Stack, source: Source[Frames, Masks, Prepared], observer: Observer
) -> None:
    frames = np.empty(stack.shape, stack.dtype)

    def read(begin: int, end: int) -> None:
        stack.read(begin, end, frames[begin:end])
        source.see(begin, frames[begin:end])

    _walk("read", source, stack.step, observer, read)
    source.whole = frames


def _copy_to_scratch(
    stack: Stack, source: Source[Frames, Masks, Prepared], spool: Spool, observer: Observer
) -> None:
    """All frames, decoded, to the scratch file."""

    def copy(begin: int, end: int) -> None:
        frames = np.empty((end - begin, *stack.shape[1:]), stack.dtype)
        stack.read(begin, end, frames)
        source.see(begin, frames)
        spool.write(begin, frames)

    _walk("read", source, stack.step, observer, copy)


def _sample(
    source: Source[Frames, Masks, Prepared], observer: Observer, rows_of: Callable[[int], Array]
) -> None:
    """Only the rows that tell a frame's level."""
    _walk("levels", source, 1, observer, lambda begin, _: source.sampler.see(begin, rows_of(begin)))


def _walk(
    stage: str,
    source: Source[Frames, Masks, Prepared],
    step: int,
    observer: Observer,
    work: Callable[[int, int], None],
) -> None:
    """Do something with all frames, some at a time, in threads."""

    def one(span: tuple[int, int]) -> int:
        work(*span)
        return span[1] - span[0]

    observer.stage(stage, source.shape[0], "frames")
    for n_done in in_order(one, spans(source.shape[0], step), source.plan.threads):
        observer.advance(n_done)
