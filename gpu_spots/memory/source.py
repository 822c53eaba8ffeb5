"""Frames of a run: bands of rows of all frames, then batches of whole frames.

They are in memory or on the device as a whole, or are read in parts, from the file or from a
scratch file: the plan says which.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import BackendOf, Prepared
from gpu_spots.background.levels import LevelSampler, relative_levels
from gpu_spots.background.methods import Method
from gpu_spots.memory.needs import Place, frames_of_piece, spans
from gpu_spots.memory.plan import Plan
from gpu_spots.memory.shuffled import Transfer, rows_of_frame
from gpu_spots.memory.workers import Item, Result, Workers, in_order
from gpu_spots.model import Array, ConstantPart, Frames, Masks, Surface, Validity
from gpu_spots.protocols import Observer, OpenSpool, Spool, Stack


@dataclass(frozen=True, slots=True)
class Source(Generic[Frames, Masks, Prepared]):
    """Frames and their transfer to the backend; safe for several threads."""

    shape: tuple[int, int, int]
    """n_frames, n_X, n_Y."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    backend: BackendOf[Frames, Masks, Prepared]
    """Backend that the frames go to."""
    plan: Plan
    """Plan of the run."""
    workers: Workers
    """Threads of the run."""
    validity: Validity
    """Valid values, in the counts of the frames."""
    saturation: float | None
    """The smallest saturated value, in the frames' own counts; None: unknown."""
    sampler: LevelSampler
    """Level of each frame, counts."""
    transfer: Transfer[Frames]
    """Reader of parts."""
    whole: Frames | Array | None = None
    """All frames, in memory or on the device; None: they are read in parts."""
    scales_frames: bool = True
    """True: frames are scaled to the level of the run; False: their background is subtracted."""
    factors: NDArray[np.int64] | None = None
    """(n_frames,) int64, 2^-16: scale factor of each frame; None: frames are not scaled."""
    left_out: NDArray[np.bool_] | None = None
    """(n_frames,) bool: frames without beam, which have no spots; None: there are none."""
    surface: Surface | None = None
    """Levels of the pixels of frames; None: each frame has one level."""
    buffers: dict[int, Frames] = field(default_factory=dict)
    """Last band or batch of each thread, by `threading.get_ident`. A pass uses its memory again:
    fresh memory costs more time than reading into it.
    """

    def scaled_by(
        self, factors: NDArray[np.int64], left_out: NDArray[np.bool_] | None = None
    ) -> "Source[Frames, Masks, Prepared]":
        """Return the same frames, scaled by ``factors`` except those that are ``left_out``."""
        return replace(self, factors=factors, left_out=left_out, surface=self.sampler.surface)

    @property
    def scaled_validity(self) -> Validity:
        """Valid values of the frames from which the background is calculated."""
        is_scaled = self.factors is not None and self.scales_frames
        return self.validity.of_scaled(self.dtype) if is_scaled else self.validity

    @property
    def relative_levels(self) -> NDArray[np.int64] | None:
        """Level of each frame over that of the run, (n_frames,) int64, 2^-16.

        None if frames are not levelled.
        """
        return None if self.factors is None else relative_levels(self.factors)

    @property
    def background_levels(self) -> NDArray[np.int64] | Surface | None:
        """Surfaces, or else levels `relative_levels`, if frames are not scaled; else None."""
        if self.scales_frames:
            return None
        return self.relative_levels if self.surface is None else self.surface

    @property
    def constant_part(self) -> ConstantPart | None:
        """Part of the background that does not follow the levels of the frames.

        None: there is none, or the background is not multiplied by levels.
        """
        return None if self.background_levels is None else self.sampler.constant_part

    @property
    def surface_of_spots(self) -> Surface | None:
        """Levels of the pixels under spots.

        None: the background of a frame is in proportion to its level.
        """
        levels = self.background_levels
        if self.constant_part is None or levels is None or isinstance(levels, Surface):
            return self.surface
        return Surface.flat(levels, self.shape[1:])

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[Result, None, None]:
        """Yield the results of ``function``, which reads bands or batches.

        Their memory is free afterwards.
        """
        try:
            yield from in_order(function, items, self.workers)
        finally:
            self.buffers.clear()

    def band(self, begin: int, end: int) -> Frames:
        """Return rows ``begin`` to ``end`` of all frames, at the level of the run.

        They are where the backend computes, and are valid until the next band of the thread.
        """
        if self.whole is not None:
            return self._scaled(self.backend.upload(self.whole[:, begin:end]), slice(None))
        n_frames, _, n_columns = self.shape
        held = self._buffer((n_frames, end - begin, n_columns))
        for piece in spans(
            n_frames, frames_of_piece((end - begin) * n_columns, self.dtype.itemsize)
        ):
            self.transfer.fill(held, piece[0], piece, (begin, end))
        return self._scaled(held, slice(None))

    def batch(self, begin: int, end: int) -> Frames:
        """Return frames ``begin`` to ``end``, in their own counts.

        They are where the backend computes, and are valid until the next batch of the thread.
        """
        if self.whole is not None:
            return self.backend.upload(self.whole[begin:end])
        held = self._buffer((end - begin, *self.shape[1:]))
        self.transfer.fill(held, 0, (begin, end), (0, self.shape[1]))
        return held

    def see(self, begin: int, frames: Array) -> None:
        """Take the levels of some frames."""
        for frame, image in enumerate(frames, begin):
            self.sampler.see(frame, image[self.sampler.rows])

    def _buffer(self, shape: tuple[int, int, int]) -> Frames:
        """Return memory for a band or a batch: this thread's last one, if it fits."""
        thread = threading.get_ident()
        buffer = self.buffers.get(thread)
        if buffer is None or buffer.shape != shape:
            buffer = None
            self.buffers.pop(thread, None)
            self.buffers[thread] = buffer = self.backend.allocate(shape, self.dtype)
        return buffer

    def at_level(self, frames: Frames, begin: int, end: int, prepared: Prepared) -> Frames:
        """Return a batch at the level of the run.

        ``prepared``: background as the backend prepared it.
        """
        levels = self.background_levels
        if levels is None:
            return self._scaled(frames, slice(begin, end))
        return self.backend.levelled(frames, levels[begin:end], self.validity, prepared)

    def _scaled(self, frames: Frames, which: slice) -> Frames:
        return (
            frames
            if self.factors is None or not self.scales_frames
            else self.backend.scaled(frames, self.factors[which], self.validity)
        )


@contextmanager
def open_source(
    stack: Stack,
    backend: BackendOf[Frames, Masks, Prepared],
    plan: Plan,
    method: Method,
    open_spool: OpenSpool | None,
    observer: Observer,
) -> Iterator[Source[Frames, Masks, Prepared]]:
    """Bring the frames to the place that the plan names, and take their levels on the way.

    Raises:
        InputError: a frame cannot be read; the text names it.
        OutputError: a scratch file cannot be written.
    """
    workers = Workers(plan.threads, kept=backend.keeps_threads)
    source = Source(
        shape=stack.shape,
        dtype=stack.dtype,
        backend=backend,
        plan=plan,
        workers=workers,
        validity=stack.validity,
        saturation=stack.saturation,
        sampler=method.sampler(stack.shape, stack.dtype, stack.validity),
        transfer=Transfer.of(stack, backend, is_direct=plan.place.is_direct),
        whole=stack.resident(),
        scales_frames=method.scales_frames,
    )
    stack.check_whole()
    with workers, ExitStack() as opened:
        if (frames := stack.resident()) is not None:
            _sample(source, observer, lambda frame: frames[frame, source.sampler.rows])
        elif plan.place == Place.SCRATCH:
            assert open_spool is not None  # or the plan would be another
            spool = opened.enter_context(open_spool(source.shape, source.dtype))
            _copy_to_scratch(stack, source, spool, observer)
            source = replace(source, transfer=replace(source.transfer, reader=spool))
        elif plan.place == Place.FILE:
            rows = source.sampler.rows
            _sample(source, observer, lambda frame: rows_of_frame(stack, frame, rows))
        elif plan.place == Place.DEVICE:
            source = replace(source, whole=_read_to_device(stack, source, observer))
        else:
            source = replace(source, whole=_read_to_memory(stack, source, observer))
        stack.check_whole()
        source.sampler.finish()
        yield source
        stack.check_whole()


def _read_to_device(
    stack: Stack, source: Source[Frames, Masks, Prepared], observer: Observer
) -> Frames:
    """Return all frames on the device."""
    held = source.backend.allocate(stack.shape, stack.dtype, shared=True)

    def read(begin: int, end: int) -> None:
        source.transfer.fill(held, begin, (begin, end), (0, stack.shape[1]), source.sampler)

    _read_all("read", source, stack.step, observer, read)
    return held


def _read_to_memory(
    stack: Stack, source: Source[Frames, Masks, Prepared], observer: Observer
) -> Array:
    """Return all frames in the host's memory."""
    frames = np.empty(stack.shape, stack.dtype)

    def read(begin: int, end: int) -> None:
        stack.read(begin, end, frames[begin:end])
        source.see(begin, frames[begin:end])

    _read_all("read", source, stack.step, observer, read)
    return frames


def _copy_to_scratch(
    stack: Stack, source: Source[Frames, Masks, Prepared], spool: Spool, observer: Observer
) -> None:
    """Copy all frames, decoded, to the scratch file."""

    def copy(begin: int, end: int) -> None:
        frames = np.empty((end - begin, *stack.shape[1:]), stack.dtype)
        stack.read(begin, end, frames)
        source.see(begin, frames)
        spool.write(begin, frames)

    _read_all("read", source, stack.step, observer, copy)


def _sample(
    source: Source[Frames, Masks, Prepared], observer: Observer, rows_of: Callable[[int], Array]
) -> None:
    """Read only the rows from which the level of a frame is calculated."""
    _read_all(
        "levels", source, 1, observer, lambda begin, _: source.sampler.see(begin, rows_of(begin))
    )


def _read_all(
    stage: str,
    source: Source[Frames, Masks, Prepared],
    step: int,
    observer: Observer,
    work: Callable[[int, int], None],
) -> None:
    """Call ``work`` for all frames, some at a time, in threads."""

    def one(span: tuple[int, int]) -> int:
        work(*span)
        return span[1] - span[0]

    observer.stage(stage, source.shape[0], "frames")
    for n_done in in_order(one, spans(source.shape[0], step), source.workers):
        observer.advance(n_done)
