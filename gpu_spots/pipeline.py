"""find_spots: the order of events, and nothing else.

First pass, by bands of rows: every frame of a pixel -> its background. Second pass, by batches of frames: masks -> (union ->) components
-> sums -> table. The backend computes; the sink takes what is finished; neither is known here by more than its contract.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots import checks, grouping, levels, plan
from gpu_spots.backend import Backend
from gpu_spots.background import BackgroundMaps, critical_values
from gpu_spots.errors import InputError
from gpu_spots.grouping import Columns, Groups
from gpu_spots.model import (
    FACTOR_BITS,
    MAX_FRAMES,
    Array,
    Background,
    Components,
    FloatMoments,
    FoundMasks,
    IntegerMoments,
    Morphology,
    SpotTable,
    Validity,
)
from gpu_spots.parameters import Parameters
from gpu_spots.spots import SpotTableBuilder, intensities, joined, label_image

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
        """Fill ``into`` (end - begin, n_X, n_Y) with the frames from ``begin`` to ``end``; several threads may.

        Raises `InputError`, which names the frame.
        """

    def check_whole(self) -> None:
        """Raise `InputError` if frames are missing, or are no longer what they were when the stack was opened."""


class Sink(Protocol):
    """Where results go. One thread writes, in the order of these methods, masks and frames ascending; any thread may encode."""

    def write_levels(self, frame_levels: NDArray[np.float64], factors: NDArray[np.int64] | None) -> None:
        """The level of each frame, counts, and the factors in 2^-16 that frames were scaled by; None: they were not."""

    def encode(self, image: Callable[[], Array]) -> Any:
        """Make an image (n_X, n_Y) ready to be written; it is asked for now or when it is written, as the sink prefers."""

    def write_map(self, name: str, encoded: Any) -> None:
        """A map of the background: avg, std, ..."""

    def expect_synced(self, n_masks: int) -> None:
        """There will be that many synced masks, and they are the ones that are labelled."""

    def write_mask(self, kind: str, index: int, encoded: Any) -> None:
        """One mask of a ``kind``: raw, filtered (a frame's) or synced; uint8, 0 or 1."""

    def write_labels(self, index: int, n_spots: int, encoded: Any) -> None:
        """The label image of one mask; uint16, or uint32 where ``n_spots`` asks for it."""

    def write_pixels(self, pixels: NDArray[np.int64]) -> None:
        """Flat indices of the pixels of the next components."""

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
class Rejection:
    """What the Kruskal-Wallis test rejected, over all pixels that are not masked."""

    block_sizes: NDArray[np.int64]
    """(n_blocks,) int64: frames of each block."""
    never: float
    """Share of pixels that lost no block."""
    median: float
    """Median number of blocks dropped from a pixel."""
    most: int
    """Largest number of blocks dropped from a pixel."""
    down_to_two: float
    """Share of pixels that lost all but two blocks."""


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
    """Values that n_removed dropped from a pixel whose values are all valid; 0 for kruskal."""
    rejection: Rejection | None
    """What kruskal rejected; None for n_removed."""
    scales: tuple[float, float] | None
    """Smallest and largest scale of a frame; None where frames were not scaled."""
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
    sample = _sample(stack, parameters, backend, observer)
    if groups.n_unpaired:
        observer.warn(f"{groups.n_unpaired} of {n_frames} frames have no off/on partner at their angle and keep a mask of their own")

    watch = Stopwatch()
    with watch.stage("read"):
        frames = _load(stack, backend.workers, observer)
    with watch.stage("background"):
        source = _Source(frames, backend, validity or Validity())
        frame_levels = source.levels()
        if parameters.normalise == "level":
            source = replace(source, factors=levels.factors(frame_levels, stack.source))
        elif message := levels.drift_warning(frames, frame_levels, source.validity):
            observer.warn(message)
        background = _learn(source, sample, parameters, observer)
        for message in checks.background_warnings(background, n_frames):
            observer.warn(message)
        rejection = _rejection(background, sample.block_sizes)
        if rejection and rejection.down_to_two > 0.25:
            observer.warn(
                f"{rejection.down_to_two:.0%} of the pixels lost all but two of {len(rejection.block_sizes)} blocks: the beam drifts from "
                "block to block, which the test takes for spots; a smaller -A/--alpha rejects less, and -m n_removed does not compare blocks"
            )
    with watch.stage("write"):
        sink.write_levels(frame_levels, source.factors)
        for name, encoded in _in_order(lambda item: (item[0], sink.encode(lambda: item[1])), background.maps(), backend.workers):
            sink.write_map(name, encoded)
    with watch.stage("masks and spots"):
        walk = _SecondPass(source, background, parameters, sink, observer, watch)
        table, counts = walk.frame_by_frame() if parameters.sync == "none" else walk.in_groups(groups)
    with watch.stage("write"):
        sink.write_spots(table, counts)
    return _summary(stack, table, sample.n_removed, rejection, source.factors, watch)


@dataclass(frozen=True, slots=True)
class _Sample:
    """How the background sample of a pixel is chosen."""

    moments: Callable[[Any, Validity], IntegerMoments | FloatMoments]
    """The backend's operation on a band."""
    n_removed: int
    """Values it drops from a pixel whose values are all valid, where that is the same for all pixels."""
    block_sizes: NDArray[np.int64] | None
    """(n_blocks,) int64: frames of each block (kruskal)."""


def _sample(stack: Stack, parameters: Parameters, backend: Backend, observer: Observer) -> _Sample:
    """The method that the parameters ask for; refuse a run that it cannot be applied to."""
    n_frames = stack.shape[0]
    if n_frames > MAX_FRAMES:
        raise InputError(f"{stack.source}: {n_frames} frames, expected at most {MAX_FRAMES}, for which sums are exact")
    if parameters.method == "kruskal":
        blocks = grouping.blocks_to_compare(stack.columns, n_frames, stack.source)
        if blocks.n_masks == 2:
            observer.warn(f"{stack.source}: with two blocks -m kruskal can reject none; the background is that of all frames")
        critical = critical_values(parameters.alpha, blocks.n_masks)
        return _Sample(
            moments=lambda frames, validity: backend.kruskal_moments(frames, blocks.mask_of_frame, critical, validity),
            n_removed=0,
            block_sizes=np.bincount(blocks.mask_of_frame),
        )
    percent = parameters.percent_removed
    n_removed = n_frames * percent // 100
    if n_frames - n_removed < 2:
        raise InputError(
            f"{stack.source}: {n_frames} frame{'s' * (n_frames != 1)} less -n/--n {percent} % leaves {n_frames - n_removed} for the "
            "background, expected at least 2"
        )
    return _Sample(
        moments=lambda frames, validity: backend.trimmed_moments(frames, percent, validity), n_removed=n_removed, block_sizes=None
    )


def _load(stack: Stack, workers: int, observer: Observer) -> Array:
    """The whole stack in memory."""
    frames = stack.resident()
    if frames is not None:
        return frames
    plan.check_fits(int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize, f"{stack.source}: the stack of {stack.shape[0]} frames")
    frames = np.empty(stack.shape, stack.dtype)
    observer.stage("read", len(frames))

    def read(span: tuple[int, int]) -> int:
        begin, end = span
        stack.read(begin, end, frames[begin:end])
        return end - begin

    stack.check_whole()
    for n_done in _in_order(read, plan.spans(len(frames), stack.step), workers):
        observer.advance(n_done)
    stack.check_whole()
    return frames


@dataclass(frozen=True, slots=True)
class _Source:
    """The frames, and how they come to the backend."""

    frames: Array
    """(n_frames, n_X, n_Y), the whole stack."""
    backend: Backend
    """What computes."""
    validity: Validity
    """Which values count, in the frames' own counts."""
    factors: NDArray[np.int64] | None = None
    """(n_frames,) int64, 2^-16: what each frame is scaled by before it is compared with others; None: they are not scaled."""

    def levels(self) -> NDArray[np.float64]:
        """(n_frames,) float64, counts: the level of each frame."""
        one = partial(levels.frame_level, validity=self.validity)
        return np.array(list(_in_order(one, self.frames, self.backend.workers)))

    def scaled_validity(self) -> Validity:
        """Which values count in scaled frames."""
        return self.validity if self.factors is None else self.validity.of_scaled(self.frames.dtype)

    def scaled(self, on_device: Any, begin: int, end: int) -> Any:
        """Frames from ``begin`` to ``end``, or a band of rows of them, at the run's level."""
        return on_device if self.factors is None else self.backend.scaled(on_device, self.factors[begin:end], self.validity)


def _learn(source: _Source, sample: _Sample, parameters: Parameters, observer: Observer) -> Background:
    """First pass: the background, band by band."""
    n_frames, n_rows, n_columns = source.frames.shape
    maps = BackgroundMaps((n_rows, n_columns), source.frames.dtype, parameters.cutoff, varies=sample.block_sizes is not None)
    validity = source.scaled_validity()

    def learn_band(band: tuple[int, int]) -> int:
        begin, end = band
        on_device = source.scaled(source.backend.upload(source.frames[:, begin:end]), 0, n_frames)
        maps.fill(begin, sample.moments(on_device, validity.rows(begin, end)))
        return end - begin

    observer.stage("background", n_rows)
    step = plan.rows_per_band(n_columns) if source.factors is None else plan.rows_per_copied_band(n_columns, n_frames)
    for n_done in _in_order(learn_band, plan.spans(n_rows, step), source.backend.workers):
        observer.advance(n_done)
    return maps.finish(validity)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Images of consecutive masks, ready for the sink."""

    masks: dict[str, list[Any]]
    labels: list[Any]


class _SecondPass:
    """Masks, components and sums, batch by batch. Workers compute and encode; this thread alone writes, in order."""

    def __init__(
        self, source: _Source, background: Background, parameters: Parameters, sink: Sink, observer: Observer, watch: Stopwatch
    ) -> None:
        self.source = source
        self.frames = source.frames
        self.connectivity = parameters.connectivity
        self.level = background.level
        self.backend = source.backend
        self.prepared = self.backend.prepare(background, Morphology(parameters.erosions, parameters.dilations, parameters.connectivity))
        self.sink = sink
        self.observer = observer
        self.watch = watch
        self.table = SpotTableBuilder(self.frames.shape[2])
        self.step = plan.frames_per_batch(self.frames[0].size)

    def frame_by_frame(self) -> tuple[SpotTable, NDArray[np.int32]]:
        """Every frame's filtered mask is labelled and measured on that frame, while it is at hand."""

        def one_batch(begin: int, end: int) -> tuple[Any, ...]:
            on_device = self.backend.upload(self.frames[begin:end])
            masks = self._find_masks(on_device, begin, end)
            found = self.backend.components(masks.filtered, self.connectivity)
            encoded = self._encode({"raw": masks.raw, "filtered": masks.filtered}, found)
            return encoded, found, self._measure(on_device, found, np.arange(end - begin), begin, end)

        for begin, end, (encoded, found, (intensity, peak)) in self._walk("masks and spots", len(self.frames), one_batch):
            self._write(begin, encoded, found)
            self.table.add_measurements(intensity, peak, np.arange(begin, end))
        return self.table.table(), self.table.counts

    def in_groups(self, groups: Groups) -> tuple[SpotTable, NDArray[np.int32]]:
        """The union of a group's masks is labelled, and measured on each of its frames in a second walk."""
        self.sink.expect_synced(groups.n_masks)
        found = self._label(self._synced_masks(groups))

        def one_batch(begin: int, end: int) -> tuple[Any, ...]:
            on_device = self.backend.upload(self.frames[begin:end])
            return self._measure(on_device, found, groups.mask_of_frame[begin:end], begin, end)

        for begin, end, (intensity, peak) in self._walk("spots", len(self.frames), one_batch):
            self.table.add_measurements(intensity, peak, groups.mask_of_frame[begin:end])
        return self.table.table(), self.table.counts

    def _synced_masks(self, groups: Groups) -> Any:
        """Masks of all frames, ORed over each group, less the pixels that are invalid on any of its frames."""
        shape = (self.frames.shape[1], self.frames.shape[2])
        synced, invalid = self.backend.empty_masks(groups.n_masks, shape), None

        def one_batch(begin: int, end: int) -> tuple[Any, ...]:
            masks = self._find_masks(self.backend.upload(self.frames[begin:end]), begin, end)
            return masks, self._encode({"raw": masks.raw, "filtered": masks.filtered})

        for begin, end, (masks, encoded) in self._walk("masks", len(self.frames), one_batch):
            self._write(begin, encoded)
            mask_of_frame = groups.mask_of_frame[begin:end]
            self.backend.union(synced, masks.filtered, mask_of_frame)
            if masks.invalid is not None:
                invalid = self.backend.empty_masks(groups.n_masks, shape) if invalid is None else invalid
                self.backend.union(invalid, masks.invalid, mask_of_frame)
        return synced if invalid is None else self.backend.without(synced, invalid)

    def _label(self, synced: Any) -> Components:
        """Components of all synced masks."""

        def one_batch(begin: int, end: int) -> tuple[Any, ...]:
            found = self.backend.components(synced[begin:end], self.connectivity)
            return found, self._encode({"synced": synced[begin:end]}, found)

        parts = []
        for begin, _, (found, encoded) in self._walk("labels", len(synced), one_batch):
            self._write(begin, encoded, found)
            parts.append(found)
        return joined(parts)

    def _walk(self, stage: str, total: int, one_batch: Callable[[int, int], Result]) -> Iterator[tuple[int, int, Result]]:
        """Begin, end and result of each batch of ``total`` frames or masks, in order."""
        self.observer.stage(stage, total)
        spans = plan.spans(total, self.step)
        for begin, end, result in _in_order(lambda span: (*span, one_batch(*span)), spans, self.backend.workers):
            yield begin, end, result
            self.observer.advance(end - begin)

    def _find_masks(self, on_device: Any, begin: int, end: int) -> FoundMasks:
        return self.backend.find_masks(self.source.scaled(on_device, begin, end), self.prepared)

    def _measure(
        self, on_device: Any, found: Components, mask_of_frame: NDArray[np.int64], begin: int, end: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Intensity and peak of the spots of the frames from ``begin`` to ``end``, in their own counts."""
        factors = None if self.source.factors is None else self.source.factors[begin:end]
        measured = self.backend.measure(on_device, found, mask_of_frame, self.prepared, factors)
        of_row = None if factors is None else np.repeat(factors, found.counts[mask_of_frame])
        return intensities(measured, self.level, of_row), measured.peak

    def _encode(self, masks: dict[str, Any], found: Components | None = None) -> _Encoded:
        """Images of some masks, and of their labels, ready for the sink."""
        shape = (self.frames.shape[1], self.frames.shape[2])

        def unpacked(packed: Any, i: int) -> Array:
            return self.backend.unpack(packed[i : i + 1])[0]

        return _Encoded(
            masks={kind: [self.sink.encode(partial(unpacked, packed, i)) for i in range(len(packed))] for kind, packed in masks.items()},
            labels=[] if found is None else [self.sink.encode(partial(label_image, found, i, shape)) for i in range(len(found.counts))],
        )

    def _write(self, begin: int, encoded: _Encoded, found: Components | None = None) -> None:
        """Masks from ``begin`` on, and what was found in them."""
        with self.watch.stage("write"):
            for kind, images in encoded.masks.items():
                for i, image in enumerate(images):
                    self.sink.write_mask(kind, begin + i, image)
            if found is not None:
                for i, image in enumerate(encoded.labels):
                    self.sink.write_labels(begin + i, int(found.counts[i]), image)
                self.sink.write_pixels(found.pixels)
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


def _rejection(background: Background, block_sizes: NDArray[np.int64] | None) -> Rejection | None:
    if block_sizes is None or background.dropped is None:
        return None
    good = background.validity.pixels
    dropped = background.dropped if good is None else background.dropped[good]
    if not dropped.size:
        return None
    return Rejection(
        block_sizes=block_sizes,
        never=float((dropped == 0).mean()),
        median=float(np.median(dropped)),
        most=int(dropped.max()),
        down_to_two=float((dropped == len(block_sizes) - 2).mean()) if len(block_sizes) > 2 else 0.0,
    )


def _summary(
    stack: Stack, table: SpotTable, n_removed: int, rejection: Rejection | None, factors: NDArray[np.int64] | None, watch: Stopwatch
) -> Summary:
    per_frame = np.diff(table.frame2spotsBE, axis=1)
    return Summary(
        n_frames=stack.shape[0],
        n_spots=len(table),
        spots_per_frame=(int(per_frame.min()), float(np.median(per_frame)), int(per_frame.max())),
        n_removed=n_removed,
        rejection=rejection,
        scales=None if factors is None else (float(factors.min()) / 2**FACTOR_BITS, float(factors.max()) / 2**FACTOR_BITS),
        seconds=watch.seconds,
        n_bytes=int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize,
    )
