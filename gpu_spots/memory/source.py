"""The frames of a run as the two passes ask for them: bands of rows of all frames, then batches of whole frames.

They are in memory or on the device as a whole, or are read in parts, from the file or from a
scratch file: the plan says which.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Backend
from gpu_spots.background.levels import LevelSampler, rows_of_shuffled
from gpu_spots.memory.plan import Place, Plan, arrives_shuffled, frames_of_piece, spans
from gpu_spots.memory.workers import Span, in_order
from gpu_spots.model import Validity
from gpu_spots.protocols import Observer, OpenSpool, Shuffled, Spool, Stack


@dataclass(frozen=True, slots=True)
class Source:
    """Frames, and how they come to the backend; several threads may ask for them."""

    shape: tuple[int, int, int]
    """n_frames, n_X, n_Y."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    backend: Backend
    """Backend that the frames go to."""
    plan: Plan
    """Plan of the run."""
    validity: Validity
    """Which values count, in the frames' own counts."""
    saturation: float | None
    """The smallest saturated value, in the frames' own counts; None: unknown."""
    sampler: LevelSampler
    """Level of each frame, counts."""
    reader: Stack | Spool
    """Where parts are read from."""
    shuffled: Shuffled | None
    """Reader of frames that arrive shuffled; None: they arrive in order."""
    whole: Any = None
    """All frames, in memory or on the device; None where they are read in parts."""
    factors: NDArray[np.int64] | None = None
    """(n_frames,) int64, 2^-16: what each frame is scaled by before it is compared with others;
    None: they are not scaled.
    """
    buffers: threading.local = field(default_factory=threading.local)
    """Last band or batch of each thread. Its memory is used again: fresh memory costs more time
    than reading into it.
    """

    def scaled_by(self, factors: NDArray[np.int64]) -> "Source":
        """Return the same frames, scaled by ``factors``."""
        return replace(self, factors=factors)

    @property
    def scaled_validity(self) -> Any:
        """Which values count in scaled frames."""
        return self.validity if self.factors is None else self.validity.of_scaled(self.dtype)

    def band(self, begin: int, end: int) -> Any:
        """The rows from ``begin`` to ``end`` of all frames, where the backend computes, at the run's level; until the thread's next."""
        if self.whole is not None:
            return self._scaled(self.backend.upload(self.whole[:, begin:end]), slice(None))
        n_frames, _, n_columns = self.shape
        held = self._room((n_frames, end - begin, n_columns))
        for piece in spans(
            n_frames, frames_of_piece((end - begin) * n_columns, self.dtype.itemsize)
        ):
            self.bring(held, piece[0], piece, (begin, end))
        return self._scaled(held, slice(None))

    def batch(self, begin: int, end: int) -> Any:
        """The frames from ``begin`` to ``end``, where the backend computes, in their own counts; until the thread's next."""
        if self.whole is not None:
            return self.backend.upload(self.whole[begin:end])
        held = self._room((end - begin, *self.shape[1:]))
        self.bring(held, 0, (begin, end), (0, self.shape[1]))
        return held

    def bring(self, held: Any, to: int, frames: Span, rows: Span, *, look: bool = False) -> None:
        """Read some rows of some frames into ``held``, from its frame ``to`` on; ``look`` at the level of each frame on the way."""
        (begin, end), (first, last), shuffled = frames, rows, self.shuffled
        if shuffled is None or first % shuffled.rows or last % shuffled.rows:
            with self.backend.staging(held, to, to + end - begin) as into:
                self.reader.read_rows(begin, end, first, last, into)
                if look:
                    self.see(begin, into)
            return
        assert self.backend.staging_shuffled is not None  # or they would come in order
        with self.backend.staging_shuffled(held, to, to + end - begin, shuffled.rows) as into:
            shuffled.read(begin, end, first, last, into)
            if look:
                for frame, stretches in enumerate(into, begin):
                    self.sampler.see(
                        frame, rows_of_shuffled(stretches, self.sampler.rows, self.dtype)
                    )

    def see(self, begin: int, frames: Any) -> None:
        """Look at the level of each of some frames."""
        for frame, image in enumerate(frames, begin):
            self.sampler.see(frame, image[self.sampler.rows])

    def _room(self, shape: tuple[int, int, int]) -> Any:
        """Return room for a band or a batch: this thread's last one, if it fits."""
        room = getattr(self.buffers, "room", None)
        if room is None or room.shape != shape:
            self.buffers.room = None
            self.buffers.room = room = self.backend.hold(shape, self.dtype)
        return room

    def at_level(self, frames: Any, begin: int, end: int) -> Any:
        """A batch at the run's level."""
        return self._scaled(frames, slice(begin, end))

    def _scaled(self, frames: Any, which: slice) -> Any:
        return (
            frames
            if self.factors is None
            else self.backend.scaled(frames, self.factors[which], self.validity)
        )


@contextmanager
def open_source(
    stack: Stack, backend: Backend, plan: Plan, open_spool: OpenSpool | None, observer: Observer
) -> Iterator[Source]:
    """Bring the frames to the place that the plan names, and look at the level of each on the way.

    Raises `InputError`, which names the frame, and `OutputError` where a scratch file cannot be
    written.
    """
    source = Source(
        shape=stack.shape,
        dtype=stack.dtype,
        backend=backend,
        plan=plan,
        validity=stack.validity,
        saturation=stack.saturation,
        sampler=LevelSampler(stack.shape, stack.validity),
        reader=stack,
        shuffled=arrives_shuffled(stack, backend, plan.place),
        whole=stack.resident(),
    )
    stack.check_whole()
    with ExitStack() as opened:
        if source.whole is not None:
            _sample(source, observer, lambda frame: source.whole[frame, source.sampler.rows])
        elif plan.place == Place.SCRATCH:
            assert open_spool is not None  # or the plan would be another
            spool = opened.enter_context(open_spool(source.shape, source.dtype))
            _copy_to_scratch(stack, source, spool, observer)
            source = replace(source, reader=spool)
        elif plan.place == Place.FILE:
            _sample(source, observer, lambda frame: _some_rows(stack, source, frame))
        else:
            source = replace(source, whole=_read_all(stack, source, observer))
        stack.check_whole()
        yield source
        stack.check_whole()


def _read_all(stack: Stack, source: Source, observer: Observer) -> Any:
    """Return all frames, on the device or in memory."""
    on_device = source.plan.place == Place.DEVICE
    whole: Any = (
        source.backend.hold(stack.shape, stack.dtype, shared=True)
        if on_device
        else np.empty(stack.shape, stack.dtype)
    )

    def read(begin: int, end: int) -> None:
        if on_device:
            source.bring(whole, begin, (begin, end), (0, stack.shape[1]), look=True)
        else:
            stack.read(begin, end, whole[begin:end])
            source.see(begin, whole[begin:end])

    _walk("read", source, stack.step, observer, read)
    return whole


def _copy_to_scratch(stack: Stack, source: Source, spool: Spool, observer: Observer) -> None:
    """Copy all frames, decoded, to the scratch file."""

    def copy(begin: int, end: int) -> None:
        frames = np.empty((end - begin, *stack.shape[1:]), stack.dtype)
        stack.read(begin, end, frames)
        source.see(begin, frames)
        spool.write(begin, frames)

    _walk("read", source, stack.step, observer, copy)


def _sample(source: Source, observer: Observer, rows_of: Callable[[int], Any]) -> None:
    """Only the rows that tell a frame's level."""
    _walk("levels", source, 1, observer, lambda begin, _: source.sampler.see(begin, rows_of(begin)))


def _some_rows(stack: Stack, source: Source, frame: int) -> Any:
    """The sampled rows of a frame, from the file; where they have to be decoded, once, with all that is stored with them."""
    n_rows, n_columns = stack.shape[1:]
    if stack.shuffled is not None:
        of_stretch = stack.dtype.itemsize, stack.shuffled.rows, n_columns
        stretches = np.empty((1, n_rows // stack.shuffled.rows, *of_stretch), np.uint8)
        stack.shuffled.read(frame, frame + 1, 0, n_rows, stretches)
        return rows_of_shuffled(stretches[0], source.sampler.rows, stack.dtype)
    if not stack.is_decoded:
        whole = np.empty((1, *stack.shape[1:]), stack.dtype)
        stack.read(frame, frame + 1, whole)
        return whole[0, source.sampler.rows]
    rows = range(*source.sampler.rows.indices(n_rows))
    found = np.empty((len(rows), n_columns), source.dtype)
    for i, row in enumerate(rows):
        stack.read_rows(frame, frame + 1, row, row + 1, found[i : i + 1][None])
    return found


def _walk(
    stage: str, source: Source, step: int, observer: Observer, work: Callable[[int, int], None]
) -> None:
    """Do something with all frames, some at a time, in threads."""

    def one(span: tuple[int, int]) -> int:
        work(*span)
        return span[1] - span[0]

    observer.stage(stage, source.shape[0], "frames")
    for n_done in in_order(one, spans(source.shape[0], step), source.plan.threads):
        observer.advance(n_done)
