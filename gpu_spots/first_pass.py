"""First pass: the frames are read, and band by band of rows every pixel's background is learnt from all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots import grouping, levels, plan
from gpu_spots.backend import Backend
from gpu_spots.background import BackgroundMaps, critical_values
from gpu_spots.errors import InputError
from gpu_spots.model import MAX_FRAMES, Array, Background, FloatMoments, IntegerMoments, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Stack
from gpu_spots.workers import in_order


@dataclass(frozen=True, slots=True)
class Sample:
    """How the background sample of a pixel is chosen."""

    moments: Callable[[Any, Validity], IntegerMoments | FloatMoments]
    """The backend's operation on a band."""
    n_removed: int
    """Values it drops from a pixel whose values are all valid, where that is the same for all pixels."""
    block_sizes: NDArray[np.int64] | None
    """(n_blocks,) int64: frames of each block (kruskal)."""


def choose_sample(stack: Stack, parameters: Parameters, backend: Backend, observer: Observer) -> Sample:
    """The method that the parameters ask for; refuse a run that it cannot be applied to."""
    n_frames = stack.shape[0]
    if n_frames > MAX_FRAMES:
        raise InputError(f"{stack.source}: {n_frames} frames, expected at most {MAX_FRAMES}, for which sums are exact")
    if parameters.method == "kruskal":
        blocks = grouping.blocks_to_compare(stack.columns, n_frames, stack.source)
        if blocks.n_masks == 2:
            observer.warn(f"{stack.source}: with two blocks -m kruskal can reject none; the background is that of all frames")
        critical = critical_values(parameters.alpha, blocks.n_masks)
        return Sample(
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
    if n_removed == 0:
        observer.warn(f"{percent} % of {n_frames} frames is less than one: nothing is removed, and spots count as background")
    return Sample(
        moments=lambda frames, validity: backend.trimmed_moments(frames, percent, validity), n_removed=n_removed, block_sizes=None
    )


def load(stack: Stack, workers: int, observer: Observer) -> Array:
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
    for n_done in in_order(read, plan.spans(len(frames), stack.step), workers):
        observer.advance(n_done)
    stack.check_whole()
    return frames


@dataclass(frozen=True, slots=True)
class Source:
    """The frames, and how they come to the backend."""

    frames: Array
    """(n_frames, n_X, n_Y), the whole stack."""
    backend: Backend
    """What computes."""
    validity: Validity
    """Which values count, in the frames' own counts."""
    saturation: float | None
    """The smallest saturated value, in the frames' own counts; None: unknown."""
    factors: NDArray[np.int64] | None = None
    """(n_frames,) int64, 2^-16: what each frame is scaled by before it is compared with others; None: they are not scaled."""

    def levels(self) -> NDArray[np.float64]:
        """(n_frames,) float64, counts: the level of each frame."""
        one = partial(levels.frame_level, validity=self.validity)
        return np.array(list(in_order(one, self.frames, self.backend.workers)))

    def scaled_validity(self) -> Validity:
        """Which values count in scaled frames."""
        return self.validity if self.factors is None else self.validity.of_scaled(self.frames.dtype)

    def scaled(self, on_device: Any, begin: int, end: int) -> Any:
        """Frames from ``begin`` to ``end``, or a band of rows of them, at the run's level."""
        return on_device if self.factors is None else self.backend.scaled(on_device, self.factors[begin:end], self.validity)


def learn(source: Source, sample: Sample, parameters: Parameters, observer: Observer) -> Background:
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
    for n_done in in_order(learn_band, plan.spans(n_rows, step), source.backend.workers):
        observer.advance(n_done)
    return maps.finish(validity)


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

    def warning(self) -> str | None:
        """One line where so much was rejected that it cannot have been for spots."""
        if self.down_to_two <= 0.25:
            return None
        return (
            f"{self.down_to_two:.0%} of the pixels lost all but two of {len(self.block_sizes)} blocks: the test takes drift from block to "
            "block for spots; --normalise level takes it out, a smaller -A/--alpha rejects less, -m n_removed does not compare blocks"
        )


def rejected(background: Background, block_sizes: NDArray[np.int64] | None) -> Rejection | None:
    """What the test rejected; None for n_removed, and where every pixel is masked."""
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
