"""First pass: band by band of rows, every pixel's background is learnt from all frames."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots import grouping, plan
from gpu_spots.backend import Backend
from gpu_spots.background import BackgroundMaps, critical_values
from gpu_spots.errors import InputError
from gpu_spots.model import MAX_FRAMES, Background, BackgroundRows, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Stack
from gpu_spots.source import Source
from gpu_spots.workers import Span, at_last, in_halves, in_order


@dataclass(frozen=True, slots=True)
class Sample:
    """How the background sample of a pixel is chosen."""

    background: Callable[[Any, Validity, BackgroundRows], bool]
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
            background=lambda frames, validity, into: backend.kruskal_background(frames, blocks.mask_of_frame, critical, validity, into),
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
        background=lambda frames, validity, into: backend.trimmed_background(frames, percent, validity, into),
        n_removed=n_removed,
        block_sizes=None,
    )


def learn(source: Source, sample: Sample, parameters: Parameters, observer: Observer) -> Background:
    """First pass: the background, band by band."""
    _, n_rows, n_columns = source.shape
    backend = source.backend
    held = at_last(lambda: backend.hold_background(source.shape, source.dtype, parameters.method), backend.release)
    maps = BackgroundMaps((n_rows, n_columns), source.dtype, parameters.cutoff, varies=sample.block_sizes is not None, held=held)
    validity = source.scaled_validity

    def learn_rows(begin: int, end: int) -> None:
        if sample.background(source.band(begin, end), validity.rows(begin, end), maps.rows(begin, end)):
            maps.gaps = True

    def learn_band(band: Span) -> int:
        in_halves(learn_rows, band, backend.release)
        return band[1] - band[0]

    observer.stage("background", n_rows, "rows")
    for n_done in in_order(learn_band, plan.spans(n_rows, source.plan.band_rows), source.plan.threads):
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
