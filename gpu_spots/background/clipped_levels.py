"""Levels of frames from clipped counts: defined for photon counters too (``-m clip``).

The level of a frame is the sum of the counts of its pixels divided by the sum of their backgrounds,
over the pixels whose count is not above the limit of the clip, times the mean background.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.clip import MOST_OF_POISSON, StartTable, limit
from gpu_spots.background.levels import (
    LARGE_SCATTER,
    LARGEST,
    LEAST_SURE,
    SIGNIFICANT,
    LevelSampler,
    middle,
    remedy,
    run_level,
    usable,
)
from gpu_spots.model import Array, ConstantPart, Validity

MOST_VALUES = 1 << 23
"""Values of the sample, of all frames together."""
STEPS = 4
"""Times that the level of a frame is taken anew, each time with a limit at the level before."""
DENSE_STEP = 4
"""One in so many sampled pixels is used where frames have a count per pixel or more."""
CLIPS = 2
"""Times that the values of a pixel are clipped before."""
OUTLIER = 8.0
"""A pixel tells nothing of the level if its background is so many times the mean background: what
hot pixels count does not follow the beam.
"""
TRIMMED = 50
"""One in so many pixels is left out at either end of this mean."""
FEWEST = 4
"""Frames from which on it is fitted how pixels follow the level."""
FRACTION = 2.0**16
"""Rounding of backgrounds: multiples of 1 / FRACTION have exact sums."""
FLOAT_BITS = 40
"""Values of float frames are rounded to that many bits below the largest."""
AT_ONCE = 1 << 18
"""Values that are sorted at a time."""
CLIPPING = 48
"""Bytes of each of them for copies and sums."""

Floats = NDArray[np.float64]


def sample_bytes(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    """Return the bytes that the sample of a stack and its levels take, at most."""
    n_values = min(shape[0] * (1 << 16), 2 * MOST_VALUES + shape[0] * shape[2])
    copies = 3 if dtype.kind == "f" else 1
    return n_values * (copies * dtype.itemsize + 1) + CLIPPING * AT_ONCE


class ClippedLevelSampler(LevelSampler):
    """Samples of frames, from which `finish` makes the levels of the frames."""

    rounds: ClassVar[int] = 3
    """Times that backgrounds and levels are made anew with a part that does not follow the beam."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        validity: Validity,
        start: StartTable,
    ) -> None:
        """Prepare levels for a stack of that shape.

        ``start``: `gpu_spots.background.clip.start_table` of its frames.
        """
        super().__init__(shape, validity)
        n_frames, n_rows, n_columns = shape
        n_sampled = len(range(*self.rows.indices(n_rows)))
        self._columns = slice(
            0, n_columns, max(1, -(-n_frames * n_sampled * n_columns // MOST_VALUES))
        )
        n_columns = len(range(*self._columns.indices(n_columns)))
        self._is_float = dtype.kind == "f"
        self._sample: Array | None = np.empty((n_frames, n_sampled, n_columns), dtype)
        self._start = start
        self._expected = math.inf
        """Relative scatter of the levels by chance."""
        self._noise = math.inf
        """Noise of a pixel, counts."""

    def see(self, frame: int, rows: Array) -> None:
        """Look at the sampled rows of a frame: (rows, n_Y), counts."""
        super().see(frame, rows)
        assert self._sample is not None
        self._sample[frame] = rows[:, self._columns]

    def finish(self) -> None:
        """Replace the levels by those of clipped counts, if the background is above 0."""
        assert self._sample is not None
        sample, self._sample = self._sample, None
        validity = self._validity
        if validity.pixels is not None:
            validity = replace(validity, pixels=validity.pixels[:, self._columns])
        good = usable(sample, validity).reshape(len(sample), -1)
        sample, first = sample.reshape(len(sample), -1), self.levels.copy()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._finish(sample, good)
            dark = self._are_dark()
            if dark.any():
                # what they have is the bias of the detector
                self.levels, self.constant_part = np.where(dark, 0.0, first), None
                self._finish(sample, good)
                self.levels[dark] = 0.0

    def _are_dark(self) -> NDArray[np.bool_]:
        """Return which frames have no beam, though they have counts, (n,) bool."""
        if self.constant_part is None:
            return np.zeros(len(self.levels), bool)
        # the light is what follows the level
        above = self.levels / run_level(self.levels) - 1.0
        return 1.0 + above * (1.0 + self.constant_part.contrast) < 1 / LARGEST

    def _finish(self, sample: Array, good: NDArray[np.bool_]) -> None:
        quantum = 0.0 if sample.dtype.kind == "f" else 1.0
        run = run_level(self.levels)
        if run >= 1:
            # where there are counts, fewer pixels tell as much
            sample, good = sample[:, ::DENSE_STEP], good[:, ::DENSE_STEP]
        ratios = self.levels / run if run >= 1 else np.ones(len(sample))
        ratios = np.where(np.isfinite(ratios) & (ratios > 0), ratios, 1.0)
        beam = (
            (ratios >= 1 / LARGEST) & (ratios <= LARGEST) & (self.levels > 0 if run >= 1 else True)
        )
        mean, variance = self._backgrounds(
            sample, good, beam, quantum, lambda values, _: values / ratios[beam, None]
        )
        known = np.isfinite(mean) & np.isfinite(variance)
        if quantum:
            # gaps between modules, and others that are saturated on all frames
            known &= (sample < np.iinfo(sample.dtype).max - 1).any(axis=0)
        known &= _follows_the_beam(mean, variance, known, quantum)
        highest = limit(mean, variance, quantum)
        fixed = np.rint(np.where(known, mean, 0.0) * FRACTION).astype(np.int64)
        largest = float(np.abs(np.where(good, sample, 0)).max(initial=0)) if not quantum else 1.0
        unit = 1.0 if quantum else math.ldexp(1.0, math.frexp(largest)[1] - FLOAT_BITS)
        levels = np.full(len(sample), np.nan)
        for frame, (values, is_good) in enumerate(zip(sample, good, strict=True)):
            ratio = float(ratios[frame])
            for _ in range(STEPS):
                kept = is_good & known & (values <= ratio * highest)
                below = int(fixed[kept].sum()) / FRACTION
                above = np.rint(values[kept] / unit).astype(np.int64).sum() * unit
                if not below > 0:
                    return
                ratio = float(above) / below
            levels[frame] = ratio
        n_known = max(1, int(np.count_nonzero(known)))
        level = float(fixed.sum()) / FRACTION / n_known
        if level > 0:
            self._noise = math.sqrt(float(np.median(np.maximum(variance, mean * quantum)[known])))
            total = math.fsum(np.maximum(variance, mean * quantum)[known].data)
            self._expected = math.sqrt(total) / (level * n_known)
            if quantum:
                levels = self._with_constant_part(sample, good, known, beam, mean, variance, levels)
            self.levels = levels * level

    def _backgrounds(
        self,
        sample: Array,
        good: NDArray[np.bool_],
        beam: NDArray[np.bool_],
        quantum: float,
        levelled: Callable[[Floats, slice], Floats],
    ) -> tuple[Floats, Floats]:
        """Return mean and variance of the pixels of a sample (n, p), from the frames with beam.

        ``levelled`` brings the values of some pixels to the level of the run.
        """
        mean, variance = np.zeros(sample.shape[1]), np.zeros(sample.shape[1])
        step = max(1, AT_ONCE // len(sample))
        for begin in range(0, sample.shape[1], step):
            part = slice(begin, begin + step)
            values = levelled(sample[beam, part].astype(np.float64), part)
            mean[part], variance[part] = background_of_sample(
                values, good[beam, part], self._start, quantum
            )
        return mean, variance

    def _with_constant_part(
        self,
        sample: Array,
        good: NDArray[np.bool_],
        known: NDArray[np.bool_],
        beam: NDArray[np.bool_],
        mean: Floats,
        variance: Floats,
        ratios: Floats,
    ) -> Floats:
        """Find the part of the background that does not follow the beam; integer frames.

        Backgrounds and levels are made anew with it, as they were in proportion before.

        Args:
            sample: (n, p) values.
            good: (n, p) bool: values that are valid.
            known: (p,) bool: pixels that have a background and follow the beam.
            beam: (n,) bool: frames with beam.
            mean: (p,) float64, counts: background.
            variance: (p,) float64, counts^2.
            ratios: (n,) float64: levels of the frames, relative.

        Returns:
            (n,) float64: the levels, relative.
        """
        usable, part = known & good.all(axis=0), None
        for time in range(self.rounds + 1):
            part = _constant_part(sample[:, usable], mean[usable], variance[usable], ratios, part)
            if part is None or time == self.rounds:
                break
            run = run_level(ratios)
            above = ratios / run - 1.0
            follows = part.following(mean)

            def levelled(
                values: Floats,
                of: slice,
                above: Floats = above[beam, None],
                follows: Floats = follows,
            ) -> Floats:
                return values - above * follows[of]

            mean, variance = self._backgrounds(sample, good, beam, 1.0, levelled)
            ratios = run * (1.0 + _above_run(sample, good & known, mean, variance, above, part))
        self.constant_part = part
        return ratios

    def can_scale(self) -> bool:
        """Return whether the level of the run is told from 0, by the error of a level.

        With frames far below 0, it is the difference of two backgrounds.
        """
        run = run_level(self.levels)
        if not run > 0 or np.nanmin(self.levels) < -run / LARGEST:
            return False
        return self._expected <= LEAST_SURE if self._expected < math.inf else super().can_scale()

    def drift_warning(self) -> str | None:
        """Return one line if the beam drifts so much that masks suffer, else None.

        The levels scatter by more than the noise of a pixel, or by `LARGE_SCATTER`.
        """
        run = middle(self.levels)
        if not (run > 0 and self._expected < math.inf):
            return super().drift_warning()
        scatter = float(np.std(self.levels)) / run
        if not scatter > max(SIGNIFICANT * self._expected, min(LARGE_SCATTER, self._noise / run)):
            return None
        return (
            f"frame levels: found a scatter of {scatter * run:.3g} counts ({100 * scatter:.1f} %), "
            f"expected {100 * self._expected:.2g} % by chance; the beam drifts or exposures "
            "differ, "
            f"which hides weak spots and causes false ones; {remedy()}"
        )


def _follows_the_beam(
    mean: Floats, variance: Floats, known: NDArray[np.bool_], quantum: float
) -> NDArray[np.bool_]:
    """Return which pixels have a background like most: hot and dead ones have not."""
    ascending = np.sort(mean[known])
    ends = len(ascending) // TRIMMED
    inner = ascending[ends : len(ascending) - ends].tolist()
    if not inner:
        return known
    typical = math.fsum(inner) / len(inner)
    spread = np.array([np.median(variance[known])])
    furthest = limit(np.array([OUTLIER * abs(typical)]), spread, quantum)
    return np.abs(mean) <= furthest


def _constant_part(
    sample: Array, mean: Floats, variance: Floats, levels: Floats, before: ConstantPart | None
) -> ConstantPart | None:
    """Fit how pixels (n, p) follow the levels (n,); None: not told from proportion.

    The slope of a pixel's values over the level is ``B + u (B - centre)``: a line through the
    pixels, weighted by their variances. ``before``: what was found the time before.
    """
    levels = levels / run_level(levels)
    frames = np.flatnonzero((levels >= 1 / LARGEST) & (levels <= LARGEST))
    # photon counters have no bias
    if len(frames) < FEWEST or not len(mean) or np.median(mean) < MOST_OF_POISSON:
        return None
    average = math.fsum(levels[frames].tolist()) / len(frames)
    change = levels[frames] - average
    spread = math.fsum((change * change).tolist())
    follows = mean if before is None else before.following(mean)
    slope = np.zeros(len(mean))
    for frame, by in zip(frames.tolist(), change.tolist(), strict=True):
        level = float(levels[frame])
        here = mean + (level - 1.0) * follows
        slope += by * np.minimum(sample[frame], limit(here, level * variance, 1.0))
    weight = np.divide(1.0, variance, out=np.zeros_like(mean), where=variance > 0)
    total = math.fsum(weight.tolist())
    if not (total > 0 and spread > 0):
        return None
    more = slope / spread - mean
    x0, y0 = (math.fsum((weight * each).tolist()) / total for each in (mean, more))
    apart = mean - x0
    known = math.fsum((weight * apart * apart).tolist())
    if not known > 0:
        return None
    contrast = math.fsum((weight * apart * (more - y0)).tolist()) / known
    if not abs(contrast) > SIGNIFICANT / math.sqrt(known * spread):
        return None
    return ConstantPart(contrast, x0 - y0 / contrast)


def _above_run(
    sample: Array,
    good: NDArray[np.bool_],
    mean: Floats,
    variance: Floats,
    above: Floats,
    part: ConstantPart,
) -> Floats:
    """Return the level of each frame over that of the run, less 1, from clipped counts.

    ``above``: the same before, (n,); it stays where a frame has no beam or no good pixels.
    """
    background = np.where(good.any(axis=0), mean, 0.0)
    follows = part.following(background)
    if not follows.any():
        return above
    # so that the level is that of all counts
    follows *= math.fsum(background.data) / math.fsum(follows.data)
    fixed, following = (np.rint(each * FRACTION).astype(np.int64) for each in (background, follows))
    found = above.copy()
    for frame, (values, is_good) in enumerate(zip(sample, good, strict=True)):
        if not 1 / LARGEST <= 1 + above[frame] <= LARGEST:
            continue
        for _ in range(STEPS):
            here = background + found[frame] * follows
            kept = is_good & (values <= limit(here, (1.0 + found[frame]) * variance, 1.0))
            below = int(following[kept].sum()) / FRACTION
            if not below > 0:
                break
            counts = int(values[kept].astype(np.int64).sum())
            found[frame] = (counts - int(fixed[kept].sum()) / FRACTION) / below
    return found


def background_of_sample(
    values: Floats, good: NDArray[np.bool_], start: StartTable, quantum: float
) -> tuple[Floats, Floats]:
    """Return mean and variance of pixels (n, p) at the level of the run, after the clip.

    NaN where a pixel has too few values.
    """
    values = np.sort(np.where(good, values, np.inf).T, axis=1)
    n = np.count_nonzero(good, axis=0)
    exact = np.where(np.arange(values.shape[1]) < n[:, None], values, 0.0)
    sums, squares = (np.cumsum(each, axis=1) for each in (exact, exact * exact))
    pixels, m = np.arange(len(n)), np.maximum(start.kept[n], 1)

    def statistics() -> tuple[Floats, Floats]:
        mean = sums[pixels, m - 1] / m
        return mean, np.maximum(squares[pixels, m - 1] / m - mean * mean, 0.0)

    mean, variance = statistics()
    sd = np.sqrt(variance) / start.width[n]
    mean, variance = mean + start.shift[n] * sd, sd * sd
    for _ in range(CLIPS):
        m = np.count_nonzero(values <= limit(mean, variance, quantum)[:, None], axis=1)
        m = np.clip(m, 1, np.maximum(n, 1))
        mean, variance = statistics()
    known = start.kept[n] >= 2
    return np.where(known, mean, np.nan), np.where(known, variance, np.nan)
