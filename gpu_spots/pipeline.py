"""find_spots: the order of events, and nothing else.

First pass, by bands of rows: every frame of a pixel -> its background. Second pass, by batches of frames: masks -> (union ->) components
-> sums -> table. The backend computes; the sink takes what is finished; neither is known here by more than its contract.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots import checks, grouping, plan
from gpu_spots.background import BackgroundMaps
from gpu_spots.backend import Backend
from gpu_spots.errors import InputError
from gpu_spots.grouping import Columns, Groups
from gpu_spots.model import Array, Background, Components, Morphology, SpotTable, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.spots import SpotTableBuilder, intensities, joined

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stack(Protocol):
    """Where frames come from."""

    source: str
    """Where that is, for messages."""
    shape: tuple[int, int, int]
    """n_frames, n_X, n_Y."""
    dtype: np.dtype[Any]
    """One of `gpu_spots.model.FRAME_DTYPES`."""
    columns: Columns
    """The run's metadata (lauecollect)."""
    step: int
    """How many frames it is best to read at once."""

    def resident(self) -> Array | None:
        """The whole stack if it is in memory already."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Fill ``into`` (end - begin, n_X, n_Y) with the frames from ``begin`` to ``end``. Raises `InputError`, which names the frame."""


class Sink(Protocol):
    """Where results go, in this order; masks and frames in ascending order."""

    def write_background(self, background: Background) -> None:
        """The maps of the first pass."""

    def expect_synced(self, n_masks: int) -> None:
        """There will be that many synced masks, and they are the ones that are labelled."""

    def write_mask(self, kind: str, index: int, mask: NDArray[np.uint8]) -> None:
        """One mask of a ``kind``: raw, filtered (a frame's) or synced. (n_X, n_Y), 0 or 1."""

    def write_components(self, first_mask: int, found: Components) -> None:
        """The components of some masks, the first of which is ``first_mask``."""

    def write_spots(self, table: SpotTable, counts: NDArray[np.int32]) -> None:
        """The table of all spots, and the number of components of each mask."""


class Observer(Protocol):
    """Who is told how far things are."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, steps: int) -> None:
        """That many steps of it are done."""

    def warn(self, message: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to."""

    n_frames: int
    """Frames of the run."""
    n_spots: int
    """Rows of the table of spots."""
    spots_per_frame: tuple[int, float, int]
    """Minimum, median and maximum over the frames."""
    n_removed: int
    """Values dropped from a pixel whose values are all valid."""
    seconds: dict[str, float]
    """Wall time of each stage, in order: read, background, masks and spots, write."""
    n_bytes: int
    """Size of the stack."""


class Stopwatch:
    """Wall time by stage; time inside an inner stage is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for ``name``."""
        self._charge()
        self._stack.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def find_spots(
    stack: Stack, parameters: Parameters, backend: Backend, sink: Sink, observer: Observer, validity: Validity | None = None
) -> Summary:
    """Run both passes over a stack; results go to the sink.

    Raises `InputError` for a run that the parameters do not fit: too few angles, no laser states, too few frames, no room in memory.
    """
    n_frames = stack.shape[0]
    grouping.check_angles(stack.columns, n_frames, parameters.angles, stack.source)
    groups = grouping.group(parameters.sync, stack.columns, n_frames, stack.source)
    n_removed = _check_sample(stack, parameters)
    if groups.n_unpaired:
        observer.warn(f"{groups.n_unpaired} of {n_frames} frames have no off/on partner at their angle and keep a mask of their own")

    watch = Stopwatch()
    with watch.stage("read"):
        frames = _load(stack, observer)
    with watch.stage("background"):
        background = _learn(frames, parameters, backend, observer, validity or Validity())
        for message in checks.background_warnings(background, backend, n_frames):
            observer.warn(message)
    with watch.stage("write"):
        sink.write_background(background)
    with watch.stage("masks and spots"):
        walk = _SecondPass(frames, background, parameters, backend, sink, observer, watch)
        table, counts = walk.frame_by_frame() if parameters.sync == "none" else walk.in_groups(groups)
    with watch.stage("write"):
        sink.write_spots(table, counts)
    return _summary(stack, table, n_removed, watch)


def _check_sample(stack: Stack, parameters: Parameters) -> int:
    """The number of values that n_removed drops from a pixel; refuse a run that leaves fewer than two."""
    n_frames = stack.shape[0]
    if n_frames > 65535:
        raise InputError(f"{stack.source}: {n_frames} frames, expected at most 65535, for which sums are exact")
    n_removed = n_frames * parameters.percent_removed // 100
    if n_frames - n_removed < 2:
        raise InputError(
            f"{stack.source}: {n_frames} frame{'s' * (n_frames != 1)} less -n/--n {parameters.percent_removed} % leaves "
            f"{n_frames - n_removed} for the background, expected at least 2"
        )
    return n_removed


def _load(stack: Stack, observer: Observer) -> Array:
    """The whole stack in memory."""
    frames = stack.resident()
    if frames is not None:
        return frames
    plan.check_fits(int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize, f"{stack.source}: the stack of {stack.shape[0]} frames")
    frames = np.empty(stack.shape, stack.dtype)
    observer.stage("read", len(frames))
    for begin, end in plan.spans(len(frames), stack.step):
        stack.read(begin, end, frames[begin:end])
        observer.advance(end - begin)
    return frames


def _learn(frames: Array, parameters: Parameters, backend: Backend, observer: Observer, validity: Validity) -> Background:
    """First pass: the background, band by band."""
    _, n_rows, n_columns = frames.shape
    maps = BackgroundMaps((n_rows, n_columns), frames.dtype, parameters.cutoff)

    def learn_band(band: tuple[int, int]) -> int:
        begin, end = band
        on_device = backend.upload(frames[:, begin:end])
        maps.fill(begin, backend.trimmed_moments(on_device, parameters.percent_removed, validity.rows(begin, end)))
        return end - begin

    observer.stage("background", n_rows)
    for n_done in _in_order(learn_band, plan.spans(n_rows, plan.rows_per_band(n_columns)), backend.workers):
        observer.advance(n_done)
    return maps.finish(validity)


class _SecondPass:
    """Masks, components and sums, batch by batch. Workers compute; this thread alone writes, in order."""

    def __init__(
        self,
        frames: Array,
        background: Background,
        parameters: Parameters,
        backend: Backend,
        sink: Sink,
        observer: Observer,
        watch: Stopwatch,
    ) -> None:
        self.frames = frames
        self.connectivity = parameters.connectivity
        self.level = background.level
        self.prepared = backend.prepare(background, Morphology(parameters.erosions, parameters.dilations, parameters.connectivity))
        self.backend = backend
        self.sink = sink
        self.observer = observer
        self.watch = watch
        self.table = SpotTableBuilder(frames.shape[2])
        self.step = plan.frames_per_batch(frames[0].size)

    def frame_by_frame(self) -> tuple[SpotTable, NDArray[np.int32]]:
        """Every frame's filtered mask is labelled and measured on that frame, while it is at hand."""

        def one_batch(span: tuple[int, int]) -> tuple[Any, ...]:
            on_device = self.backend.upload(self.frames[slice(*span)])
            masks = self.backend.find_masks(on_device, self.prepared)
            found = self.backend.components(masks.filtered, self.connectivity)
            return span[0], masks, found, self._measure(on_device, found, np.arange(len(masks.filtered)))

        self.observer.stage("masks and spots", len(self.frames))
        for first, masks, found, (intensity, peak) in self._over_frames(one_batch):
            self._write_frame_masks(first, masks)
            self._write_components(first, found)
            self.table.add_measurements(intensity, peak, first + np.arange(len(masks.raw)))
            self.observer.advance(len(masks.raw))
        return self.table.table(), self.table.counts

    def in_groups(self, groups: Groups) -> tuple[SpotTable, NDArray[np.int32]]:
        """The union of a group's masks is labelled, and measured on each of its frames in a second walk."""
        self.sink.expect_synced(groups.n_masks)
        synced = self._synced_masks(groups)
        found = self._label(synced)

        def one_batch(span: tuple[int, int]) -> tuple[Any, ...]:
            on_device = self.backend.upload(self.frames[slice(*span)])
            mask_of_frame = groups.mask_of_frame[slice(*span)]
            return mask_of_frame, self._measure(on_device, found, mask_of_frame)

        self.observer.stage("spots", len(self.frames))
        for mask_of_frame, (intensity, peak) in self._over_frames(one_batch):
            self.table.add_measurements(intensity, peak, mask_of_frame)
            self.observer.advance(len(mask_of_frame))
        return self.table.table(), self.table.counts

    def _synced_masks(self, groups: Groups) -> Any:
        """Masks of all frames, ORed over each group, less the pixels that are invalid on any of its frames."""
        shape = (self.frames.shape[1], self.frames.shape[2])
        synced, invalid = self.backend.empty_masks(groups.n_masks, shape), None

        def one_batch(span: tuple[int, int]) -> tuple[Any, ...]:
            return *span, self.backend.find_masks(self.backend.upload(self.frames[slice(*span)]), self.prepared)

        self.observer.stage("masks", len(self.frames))
        for first, end, masks in self._over_frames(one_batch):
            self._write_frame_masks(first, masks)
            mask_of_frame = groups.mask_of_frame[first:end]
            self.backend.union(synced, masks.filtered, mask_of_frame)
            if masks.invalid is not None:
                invalid = self.backend.empty_masks(groups.n_masks, shape) if invalid is None else invalid
                self.backend.union(invalid, masks.invalid, mask_of_frame)
            self.observer.advance(end - first)
        return synced if invalid is None else self.backend.without(synced, invalid)

    def _label(self, synced: Any) -> Components:
        """Components of all synced masks, written as they come."""

        def one_batch(span: tuple[int, int]) -> tuple[Any, ...]:
            masks = synced[slice(*span)]
            return span[0], masks, self.backend.components(masks, self.connectivity)

        parts = []
        self.observer.stage("labels", len(synced))
        for first, masks, found in _in_order(one_batch, plan.spans(len(synced), self.step), self.backend.workers):
            self._write_masks("synced", first, masks)
            self._write_components(first, found)
            parts.append(found)
            self.observer.advance(len(masks))
        return joined(parts)

    def _measure(self, on_device: Any, found: Components, mask_of_frame: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        measured = self.backend.measure(on_device, found, mask_of_frame, self.prepared)
        return intensities(measured, self.level), measured.peak

    def _over_frames(self, one_batch: Callable[[tuple[int, int]], Result]) -> Iterator[Result]:
        return _in_order(one_batch, plan.spans(len(self.frames), self.step), self.backend.workers)

    def _write_frame_masks(self, first: int, masks: Any) -> None:
        self._write_masks("raw", first, masks.raw)
        self._write_masks("filtered", first, masks.filtered)

    def _write_masks(self, kind: str, first: int, masks: Any) -> None:
        with self.watch.stage("write"):
            for i in range(len(masks)):
                self.sink.write_mask(kind, first + i, self.backend.unpack(masks[i : i + 1])[0])

    def _write_components(self, first: int, found: Components) -> None:
        with self.watch.stage("write"):
            self.sink.write_components(first, found)
        self.table.add_components(found)


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results of ``function`` in the order of ``items``, computed by threads a little ahead of who takes them.

    The first error, or the taker's leaving, stops what has not begun.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="spots")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _summary(stack: Stack, table: SpotTable, n_removed: int, watch: Stopwatch) -> Summary:
    per_frame = np.diff(table.frame2spotsBE, axis=1)
    return Summary(
        n_frames=stack.shape[0],
        n_spots=len(table),
        spots_per_frame=(int(per_frame.min()), float(np.median(per_frame)), int(per_frame.max())),
        n_removed=n_removed,
        seconds=watch.seconds,
        n_bytes=int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize,
    )
