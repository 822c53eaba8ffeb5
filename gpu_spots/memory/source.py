"""The frames of a run as the two passes ask for them: bands of rows of all frames, then batches of whole frames.

They are in memory or on the device as a whole, or are read in parts, from the file or from a
scratch file: the plan says which.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Backend
from gpu_spots.background.levels import relative_levels, rows_of_shuffled
from gpu_spots.background.methods import Method
from gpu_spots.memory.plan import Place, Plan, arrives_shuffled, frames_of_piece, spans
from gpu_spots.memory.workers import Span, in_order
from gpu_spots.protocols import Observer, Spool, Stack

OpenSpool = Callable[[tuple[int, int, int], "np.dtype[Any]"], AbstractContextManager[Spool]]
"""Makes room on disk for decoded frames of some shape and type."""


class Source:
    """Frames, and how they come to the backend; several threads may ask for them."""

    def __init__(self, stack: Stack, backend: Backend, plan: Plan, method: Method) -> None:
        """The frames of ``stack``, which are still where they are."""
        self._scales = method.scales_frames
        self.shape, self.dtype = stack.shape, stack.dtype
        self.backend = backend
        self.plan = plan
        self.validity = stack.validity
        """Which values count, in the frames' own counts."""
        self.saturation = stack.saturation
        """The smallest saturated value, in the frames' own counts; None: unknown."""
        self.sampler = method.sampler(stack.shape, stack.dtype, stack.validity)
        self.factors: NDArray[np.int64] | None = None
        """(n_frames,) int64, 2^-16: what each frame is scaled by before it is compared with others;
        None: they are not scaled.
        """
        self.whole: Any = stack.resident()
        """All frames, in memory or on the device; None where they are read in parts."""
        self.reader: Stack | Spool = stack
        """Where parts are read from."""
        self._shuffled = arrives_shuffled(stack, backend, plan.place)
        self._own = threading.local()

    @property
    def scaled_validity(self) -> Any:
        """Which values count in the frames that the background is learnt from."""
        is_scaled = self.factors is not None and self._scales
        return self.validity.of_scaled(self.dtype) if is_scaled else self.validity

    @property
    def relative_levels(self) -> NDArray[np.int64] | None:
        """(n_frames,) int64, 2^-16: level of each frame over the run's; None: not asked for."""
        return None if self.factors is None else relative_levels(self.factors)

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
        (begin, end), (first, last), shuffled = frames, rows, self._shuffled
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
        """Room for a band or a batch: this thread's last one, if it fits, as fresh memory costs more time than reading into it."""
        room = getattr(self._own, "room", None)
        if room is None or room.shape != shape:
            self._own.room = None
            self._own.room = room = self.backend.hold(shape, self.dtype)
        return room

    def at_level(self, frames: Any, begin: int, end: int, prepared: Any) -> Any:
        """A batch at the run's level; ``prepared``: the background, as the backend prepared it."""
        if self.factors is None or self._scales:
            return self._scaled(frames, slice(begin, end))
        levels = relative_levels(self.factors[begin:end])
        return self.backend.levelled(frames, levels, self.validity, prepared)

    def _scaled(self, frames: Any, which: slice) -> Any:
        return (
            frames
            if self.factors is None or not self._scales
            else self.backend.scaled(frames, self.factors[which], self.validity)
        )


@contextmanager
def open_source(
    stack: Stack,
    backend: Backend,
    plan: Plan,
    method: Method,
    open_spool: OpenSpool | None,
    observer: Observer,
) -> Iterator[Source]:
    """Bring the frames to the place that the plan names, and look at the level of each on the way.

    Raises `InputError`, which names the frame, and `OutputError` where a scratch file cannot be
    written.
    """
    source = Source(stack, backend, plan, method)
    stack.check_whole()
    with ExitStack() as opened:
        if source.whole is not None:
            _sample(source, observer, lambda frame: source.whole[frame, source.sampler.rows])
        elif plan.place == Place.SCRATCH:
            assert open_spool is not None  # or the plan would be another
            source.reader = opened.enter_context(open_spool(source.shape, source.dtype))
            _copy_to_scratch(stack, source, observer)
        elif plan.place == Place.FILE:
            _sample(source, observer, lambda frame: _some_rows(stack, source, frame))
        else:
            _read_all(stack, source, observer)
        stack.check_whole()
        source.sampler.finish()
        yield source
        stack.check_whole()


def _read_all(stack: Stack, source: Source, observer: Observer) -> None:
    """All frames, to the device or into memory."""
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
    source.whole = whole


def _copy_to_scratch(stack: Stack, source: Source, observer: Observer) -> None:
    """All frames, decoded, to the scratch file."""
    spool = source.reader

    def copy(begin: int, end: int) -> None:
        frames = np.empty((end - begin, *stack.shape[1:]), stack.dtype)
        stack.read(begin, end, frames)
        source.see(begin, frames)
        spool.write(begin, frames)  # type: ignore[union-attr]

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
