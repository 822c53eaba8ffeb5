"""Background methods (``-m``): how the background sample of a pixel is chosen from the frames.

A method is a frozen value with all that it needs to know of one run. A backend computes it; its
checks, its memory needs and its words are its own, so nothing else asks which method it is.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Self, get_args

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background import clip, surface_levels
from gpu_spots.background.clipped_levels import ClippedLevelSampler, sample_bytes
from gpu_spots.background.levels import LevelSampler
from gpu_spots.background.surface_levels import SurfaceSampler
from gpu_spots.errors import InputError, given
from gpu_spots.masks import grouping
from gpu_spots.model import (
    FACTOR_BITS,
    MAX_FRAMES,
    Array,
    Background,
    Columns,
    ConstantPart,
    Surface,
    Validity,
    following,
)
from gpu_spots.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a method for a run."""

    summary: str
    """One line for the summary of the run."""
    warning: str | None
    """Line about a suspicious outcome; None: there is nothing to warn of."""


class BackgroundMethod:
    """Background method that keeps all values of a pixel.

    Each method is a frozen dataclass that overrides what differs, and always `name` and `for_run`.
    """

    __slots__ = ()
    name: ClassVar[str]
    """Name of the method, as ``-m`` has it."""
    varies: ClassVar[bool] = False
    """Samples differ in size from pixel to pixel even where all values are valid."""
    bytes_to_complete: ClassVar[int] = 0
    """Bytes of a pixel that the last step of the first pass needs for its maps."""
    scales_frames: ClassVar[bool] = True
    """Frames are multiplied to bring them to a level; False: their background is subtracted."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks of frames that are compared with each other; 0: none are."""
        return 0

    @classmethod
    @abstractmethod
    def for_run(cls, parameters: Parameters, columns: Columns, n_frames: int, source: str) -> Self:
        """Return the method for a run. Raises `InputError` where `check` does."""

    @staticmethod
    def check(parameters: Parameters, columns: Columns, n_frames: int, source: str) -> None:
        """Raise `InputError` for a run whose background cannot be found."""
        if n_frames > MAX_FRAMES:
            raise InputError(
                f"{source}: found {n_frames} frames, expected at most {MAX_FRAMES}; split the run"
            )

    def warnings(self, n_frames: int, source: str) -> list[str]:
        """Return what the user should know before the run starts."""
        return []

    def outcome(self, background: Background) -> Outcome | None:
        """Return what was left out; None: every pixel was treated alike, or is masked."""
        return None

    def record(self, n_frames: int) -> Mapping[str, Any]:
        """Return the attributes that the group ``info`` has of the method."""
        return {"n_removed": 0}

    def n_sampled(self, n_frames: int) -> int:
        """Return the number of values in the largest sample: all valid, and none a spot's."""
        return n_frames

    def saturated(self, largest: Array, mean: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Return the pixels that have the largest value of their type on all frames.

        Args:
            largest: largest value of some pixels, in the type of the frames.
            mean: float64, counts: their backgrounds.

        Returns:
            bool; None: they need no care, as values are those that were read.
        """
        return None

    def unbiased(
        self, n_frames: int, kept: Array, total: Array, avg: Array, std: Array
    ) -> tuple[Array, Array]:
        """Return mean and variance of all values of some pixels, as if those dropped were noise.

        Args:
            n_frames: frames of the run.
            kept: int32: values in the sample of each pixel.
            total: sum of each sample, counts.
            avg: float32, counts: average of each sample.
            std: float32, counts: population standard deviation of each sample.

        Returns:
            float64, counts and counts^2.
        """
        return avg.astype(np.float64), clip.sample_variance(std.astype(np.float64), kept)

    def clipped(self, kept: Array, total: Array, std: Array) -> clip.Samples | None:
        """Return the samples that the maps are made from; None: the maps are those of `kept`."""
        return None

    def sampler(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], validity: Validity
    ) -> LevelSampler:
        """Return what takes the levels of the frames of a stack."""
        return LevelSampler(shape, validity)

    def level_bytes(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
        """Return the bytes that the levels of a stack need beside a few rows."""
        return 0

    def at_levels(
        self,
        levels: NDArray[np.int64],
        surface: Surface | None = None,
        constant_part: ConstantPart | None = None,
    ) -> Self:
        """Return the method for frames of these levels over the run's.

        Args:
            levels: (n_frames,) int64, 2^-16.
            surface: levels of their pixels; None: each frame has one level.
            constant_part: part of the background that does not follow the levels.
        """
        return self

    def below(self, rows: int) -> Self:
        """Return the method for a band that begins so many rows further down."""
        return self


@dataclass(frozen=True, slots=True)
class Trimmed(BackgroundMethod):
    """Drop a percentage of the largest values of each pixel (manual: ``-m n_removed``)."""

    name: ClassVar[str] = "n_removed"

    percent: int
    """Percentage of values to drop: the ``floor(v * percent / 100)`` largest of v valid ones."""

    @classmethod
    def for_run(cls, parameters: Parameters, columns: Columns, n_frames: int, source: str) -> Self:
        """Return the method for a run. Raises `InputError` where `check` does."""
        cls.check(parameters, columns, n_frames, source)
        return cls(parameters.percent_removed)

    @staticmethod
    def check(parameters: Parameters, columns: Columns, n_frames: int, source: str) -> None:
        """Raise `InputError` for a run with too many frames, or too few for the percentage."""
        BackgroundMethod.check(parameters, columns, n_frames, source)
        percent = parameters.percent_removed
        n_left = n_frames - n_frames * percent // 100
        if n_left < 2:
            raise InputError(
                f"{source}: {given('n', percent)} leaves {n_left} of {n_frames} "
                f"frame{'s' * (n_frames != 1)} for the background, expected at least 2"
            )

    def warnings(self, n_frames: int, source: str) -> list[str]:
        """Return what the user should know before the run starts."""
        if self._n_removed(n_frames):
            return []
        return [
            f"{source}: {given('n', self.percent)}: {self.percent} % of {n_frames} frames is less "
            "than one frame; no values are removed, and spots count as background"
        ]

    def record(self, n_frames: int) -> Mapping[str, Any]:
        """Return the attributes that the group ``info`` has of the method."""
        return {"n_removed": self._n_removed(n_frames)}

    def n_sampled(self, n_frames: int) -> int:
        """Return the number of values in the sample of a pixel whose values are all valid."""
        return n_frames - self._n_removed(n_frames)

    def unbiased(
        self, n_frames: int, kept: Array, total: Array, avg: Array, std: Array
    ) -> tuple[Array, Array]:
        """Return mean and variance; see `BackgroundMethod.unbiased`."""
        shift, width = clip.lower_part(self.n_sampled(n_frames) / n_frames)
        sd = std.astype(np.float64) / width
        return avg.astype(np.float64) + shift * sd, clip.sample_variance(sd, kept)

    def _n_removed(self, n_frames: int) -> int:
        """Return the values dropped from a pixel whose values are all valid."""
        return n_frames * self.percent // 100


@dataclass(frozen=True, slots=True, eq=False)
class KruskalWallis(BackgroundMethod):
    """Drop the blocks of frames that the Kruskal-Wallis test rejects (manual: ``-m kruskal``)."""

    name: ClassVar[str] = "kruskal"
    varies: ClassVar[bool] = True

    block_of_frame: NDArray[np.integer]
    """(n_frames,) int: block of each frame, numbered in the order of their first frames."""
    critical: NDArray[np.float64]
    """(n_blocks + 1,) float64: with b blocks left, b >= 3, a block is dropped if H > critical[b].

    The block dropped is the one of largest mean rank; ties: the first in the run.
    """

    @property
    def n_blocks(self) -> int:
        """Number of blocks of frames that are compared with each other."""
        return len(self.critical) - 1

    @classmethod
    def for_run(cls, parameters: Parameters, columns: Columns, n_frames: int, source: str) -> Self:
        """Return the method for a run. Raises `InputError` where `check` does."""
        cls.check(parameters, columns, n_frames, source)
        blocks = grouping.blocks_to_compare(columns, n_frames, source)
        return cls(blocks.mask_of_frame, critical_values(parameters.alpha, blocks.n_masks))

    @staticmethod
    def check(parameters: Parameters, columns: Columns, n_frames: int, source: str) -> None:
        """Raise `InputError` for too many frames, a dark run, or blocks that can't be compared."""
        BackgroundMethod.check(parameters, columns, n_frames, source)
        grouping.blocks_to_compare(columns, n_frames, source)

    def warnings(self, n_frames: int, source: str) -> list[str]:
        """Return what the user should know before the run starts."""
        if self.n_blocks > 2:
            return []
        return [
            f"{source}: found 2 blocks, {given('method', 'kruskal')} needs at least 3 to reject "
            "any; the background is that of all frames"
        ]

    def outcome(self, background: Background) -> Outcome | None:
        """Return what was rejected; None where every pixel is masked."""
        if background.dropped is None:
            return None
        good = background.validity.pixels
        dropped = background.dropped if good is None else background.dropped[good]
        if not dropped.size:
            return None
        summary = (
            f"Kruskal-Wallis: {100 * (dropped == 0).mean():.1f} % of the pixels kept all "
            f"{self.n_blocks} blocks; median dropped {np.median(dropped):g}, at most "
            f"{dropped.max()}"
        )
        down_to_two = (dropped == self.n_blocks - 2).mean() if self.n_blocks > 2 else 0.0
        warning = (
            f"Kruskal-Wallis: {100 * down_to_two:.0f} % of the pixels lost all but two of "
            f"{self.n_blocks} blocks, expected at most {100 * SUSPICIOUS:.0f} %; drift between "
            f"blocks looks like spots; use {given('normalise', 'level')} to remove it, decrease "
            f"{given('alpha')} to reject less, or use {given('method', 'n_removed')}"
        )
        return Outcome(summary, warning if down_to_two > SUSPICIOUS else None)

    def record(self, n_frames: int) -> Mapping[str, Any]:
        """Return the attributes that the group ``info`` has of the method."""
        sizes = np.bincount(self.block_of_frame)
        return {"n_removed": 0, "n_blocks": len(sizes), "frames_per_block": sizes}


@dataclass(frozen=True, slots=True, eq=False)
class Clip(BackgroundMethod):
    """Exclude values, or whole blocks, that stand out above a pixel's background (``-m clip``).

    A run with blocks leaves out blocks, as spots are on all frames of a block.
    """

    name: ClassVar[str] = "clip"
    varies: ClassVar[bool] = True
    bytes_to_complete: ClassVar[int] = 16
    scales_frames: ClassVar[bool] = False

    start: clip.StartTable
    """Samples that the clip of values begins with."""
    block_of_frame: NDArray[np.integer] | None
    """(n_frames,) int: block of each frame, numbered in the order of their first frames; None:
    single values are left out.
    """
    block_shifts: NDArray[np.float64]
    """(n_blocks + 1,) float64: see `clip.block_shifts`."""
    levels: NDArray[np.int64] | None = None
    """Level of each frame over that of the run, (n_frames,) int64, 2^-16; 0: the frame is left out;
    None: frames are not levelled.
    """
    fits_surfaces: bool = False
    """The level of a frame is a surface."""
    surface: Surface | None = None
    """Surfaces of the frames; None: each frame has one level."""
    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the levels; None: there is none."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks of frames that are compared with each other; 0: none are."""
        return len(self.block_shifts) - 1

    @classmethod
    def for_run(cls, parameters: Parameters, columns: Columns, n_frames: int, source: str) -> Self:
        """Return the method for a run. Raises `InputError` where `check` does."""
        cls.check(parameters, columns, n_frames, source)
        blocks = grouping.repeated_blocks(columns, n_frames, source)
        return cls(
            clip.start_table(n_frames, parameters.percent_removed),
            None if blocks is None else blocks.mask_of_frame,
            clip.block_shifts(0 if blocks is None else blocks.n_masks),
            fits_surfaces=parameters.normalise == "surface",
        )

    @staticmethod
    def check(parameters: Parameters, columns: Columns, n_frames: int, source: str) -> None:
        """Raise `InputError` for a run with too many frames, or too few for the percentage."""
        if n_frames < 2:
            raise InputError(
                f"{source}: found 1 frame, expected at least 2; the background of a pixel is made "
                "from several frames, process the frame with others of its detector"
            )
        Trimmed.check(parameters, columns, n_frames, source)

    def warnings(self, n_frames: int, source: str) -> list[str]:
        """Return what the user should know before the run starts."""
        if n_frames >= clip.MIN_FRAMES:
            return []
        return [
            f"{source}: {given('method', 'clip')}: found {n_frames} frames, expected at least "
            f"{clip.MIN_FRAMES}; spots stay in the background of their pixels, so that weak spots "
            "are lost and strong ones come out too weak"
        ]

    def outcome(self, background: Background) -> Outcome | None:
        """Return how much was left out; None where every pixel is masked."""
        good, used = background.validity.pixels, background.n_used
        if used is None or background.flagged is None:
            return None
        used = used if good is None else used[good]
        if not used.size:
            return None
        n_frames = len(self.start.kept) - 1
        what = "values" if self.block_of_frame is None else f"blocks of {self.n_blocks}"
        return Outcome(
            f"clip ({what}): the background of a pixel is the mean of {np.median(used):g} of "
            f"{n_frames} values (median; at least {used.min()}); "
            f"{np.count_nonzero(background.flagged)} pixels differ from their neighbourhood",
            None,
        )

    def record(self, n_frames: int) -> Mapping[str, Any]:
        """Return the attributes that the group ``info`` has of the method."""
        if self.block_of_frame is None:
            return {"n_removed": 0, "n_blocks": 0}
        sizes = np.bincount(self.block_of_frame)
        return {"n_removed": 0, "n_blocks": len(sizes), "frames_per_block": sizes}

    def unbiased(
        self, n_frames: int, kept: Array, total: Array, avg: Array, std: Array
    ) -> tuple[Array, Array]:
        """Return mean and variance of the values without spots."""
        _, mean, variance = self.clipped(kept, total, std).statistics()
        return mean, variance

    def clipped(self, kept: Array, total: Array, std: Array) -> clip.Samples:
        """Return the samples of some pixels, from which the background is made."""
        return clip.Samples(kept, total, std, self.block_of_frame is not None)

    def sampler(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], validity: Validity
    ) -> LevelSampler:
        """Return what takes the levels of the frames of a stack, from clipped counts."""
        kind = SurfaceSampler if self.fits_surfaces else ClippedLevelSampler
        return kind(shape, dtype, validity, self.start)

    def saturated(self, largest: Array, mean: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Return the pixels that have the largest value of their type, or the one below, on all.

        Such as gaps between modules. Their values do not follow the beam: levels of frames would
        make a noise of them, and spots.
        """
        if self.levels is None or largest.dtype.kind == "f":
            return None
        if largest.dtype.itemsize == 4:
            # the levelled values of such marks are beyond those of the type
            return mean >= LARGEST_BACKGROUND
        beam = self.levels[self.levels > 0].tolist()
        above = sum(beam) / (max(1, len(beam)) << FACTOR_BITS) - 1.0
        most = float(np.iinfo(largest.dtype).max)
        follows = float(self.following(np.array([most]))[0])
        levelled = most - above * follows
        return (largest >= most - 1) & (mean >= levelled - ALIKE * most)

    def level_bytes(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
        """Return the bytes that the levels of a stack need beside a few rows."""
        of_surfaces = surface_levels.sample_bytes(shape) if self.fits_surfaces else 0
        return sample_bytes(shape, dtype) + of_surfaces

    def at_levels(
        self,
        levels: NDArray[np.int64],
        surface: Surface | None = None,
        constant_part: ConstantPart | None = None,
    ) -> Self:
        """Return the method for frames as they are, whose levels are known; 0: leave out."""
        return replace(self, levels=levels, surface=surface, constant_part=constant_part)

    def block_levels(self) -> NDArray[np.int64] | None:
        """Return the mean level of the frames of each block, (n_blocks,) int64, 2^-16.

        Rounded down; without frames that are left out. None: a frame has no level, or more than
        one.
        """
        if self.levels is None or self.surface is not None or self.block_of_frame is None:
            return None
        total, size = np.zeros((2, self.n_blocks), np.int64)
        np.add.at(total, self.block_of_frame, self.levels)
        np.add.at(size, self.block_of_frame, self.levels > 0)
        return total // np.maximum(size, 1)

    def following(self, background: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of the background of pixels that follows the levels, float64, counts."""
        return following(background, self.constant_part)

    def below(self, rows: int) -> Self:
        """Return the method for a band that begins so many rows further down."""
        return self if self.surface is None else replace(self, surface=self.surface.below(rows))

    def of_frames(self, frames: NDArray[np.int64]) -> Self:
        """Return the method for some frames, (n,) int64 ascending, of which each has a level."""
        assert self.levels is not None
        levels = self.levels[frames]
        surface = None if self.surface is None else self.surface[frames]
        if self.block_of_frame is None:
            return replace(self, levels=levels, surface=surface)
        left, blocks = np.unique(self.block_of_frame[frames], return_inverse=True)
        return replace(
            self,
            levels=levels,
            surface=surface,
            block_of_frame=blocks,
            block_shifts=self.block_shifts[: len(left) + 1],
        )


Method = Trimmed | KruskalWallis | Clip
"""Any background method."""
METHODS: Mapping[str, type[Method]] = {method.name: method for method in get_args(Method)}
"""Background methods by their names for ``-m``."""
LARGEST_BACKGROUND = 2.0**29
"""Counts from which on the background of a pixel of levelled 32-bit frames is a mark, no number."""
ALIKE = 1 / 32
"""Backgrounds of saturated pixels, at the level of the run, are that close to each other, of the
largest value.
"""
TESTED_FROM = 3
"""Number of blocks below which the Kruskal-Wallis test is not made."""
SUSPICIOUS = 0.25
"""Share of pixels that lost all blocks but two above which rejection can't be due to spots."""


def critical_values(alpha: float, n_blocks: int) -> NDArray[np.float64]:
    """Return what H must exceed for b blocks to be told apart.

    Args:
        alpha: significance level, between 0 and 1.
        n_blocks: number of blocks of the run.

    Returns:
        (n_blocks + 1,) float64, index b: the quantile 1 - alpha of the chi-squared distribution
        with b - 1 degrees of freedom; infinite below `TESTED_FROM` blocks.
    """
    from scipy.special import gammaincinv

    critical = np.full(n_blocks + 1, np.inf)
    blocks = np.arange(TESTED_FROM, n_blocks + 1)
    critical[TESTED_FROM:] = 2 * gammaincinv((blocks - 1) / 2, 1 - alpha)
    return critical


def rejects(n: int, sums: NDArray[np.integer], sizes: Array, squares: int, critical: float) -> bool:
    """Return whether the Kruskal-Wallis test rejects a block of a pixel, in exact fractions.

    With the centred ranks s of n values, and their sum D over each block of k values, the statistic
    is ``H = (n - 1) * sum(D^2 / k) / sum(s^2)``.

    Args:
        n: number of values.
        sums: (b,) int: D of each block.
        sizes: (b,) whole numbers of at least 1: k of each block; any where D is 0.
        squares: sum of s^2.
        critical: finite; the test rejects if H is larger.
    """
    between = sum(
        Fraction(d * d, int(k)) for d, k in zip(sums.tolist(), sizes.tolist(), strict=True)
    )
    return (n - 1) * between > Fraction(critical) * squares
