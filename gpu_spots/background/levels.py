"""Drift of the beam: level and factor of each frame, and a warning if the drift matters.

A frame's level is the interquartile mean of a fixed sample of its pixels: spots, shadows and dead
corners are outside of the quartiles, and unlike a median it moves smoothly where a pixel holds a
few counts only. A factor is a whole number of 1/65536, so that scaled frames are exact and equal on
every backend.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.correlation import Correlation, Deviations, correlation, deviations
from gpu_spots.errors import InputError, given
from gpu_spots.model import FACTOR_BITS, Array, ConstantPart, Surface, Validity

LARGEST = 16
"""A frame whose level is further from the run's than this ratio cannot be brought to it in a useful
way.
"""
SAMPLE_PIXELS = 1 << 15
"""Pixels that a level is taken from, where there are as many: it is then known to about 1/100 of a
pixel's noise.
"""
PAIRS = 5
"""Neighbouring frames that the pixel noise is taken from."""
LARGE_SCATTER = 0.2
"""Relative scatter of the levels that is worth a warning, even where it is smaller than the noise
of a pixel.
"""
ENOUGH_FRAMES = 3
"""Bright frames from which on the others are without beam, even if they are the majority."""
LEAST_SURE = 0.1
"""Relative error of a level above which frames are not scaled."""
MOST_NAMED = 10
"""Frames that a warning names."""
SIGNIFICANT = 4.0
"""Such a scatter is that many times the scatter expected from counting statistics."""

Floats = NDArray[np.float64]


class LevelSampler:
    """Levels of frames, which are added in any order and by several threads."""

    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the level; None: unknown, or there is none."""
    surface: Surface | None = None
    """Surfaces of the frames, once all were seen; None: each frame has one level."""
    sample_pixels = SAMPLE_PIXELS
    """Pixels of a frame that are looked at, where there are as many."""

    def __init__(self, shape: tuple[int, int, int], validity: Validity) -> None:
        """Prepare sampling for a stack of that shape."""
        n_frames, n_rows, n_columns = shape
        self.rows = slice(0, n_rows, max(1, n_rows * n_columns // self.sample_pixels))
        """The rows of a frame that are looked at."""
        self.levels = np.empty(n_frames)
        """(n_frames,) float64, counts: the level of each frame that was seen; NaN where it has no
        valid value.
        """
        self._shares = np.zeros(n_frames)
        """(n_frames,) float64: share of the sampled valid pixels above 0. It is a level on photon
        counters, where most pixels are 0.
        """
        self._validity = replace(
            validity, pixels=None if validity.pixels is None else validity.pixels[self.rows]
        )
        pixels = self._validity.pixels
        self._n_pixels = max(
            1,
            len(range(*self.rows.indices(n_rows))) * n_columns
            if pixels is None
            else np.count_nonzero(pixels),
        )
        self._first_of_pairs = (
            sorted({int(i) for i in np.linspace(0, n_frames - 2, PAIRS)}) if n_frames > 1 else []
        )
        self._kept: dict[int, Array] = {}

    def see(self, frame: int, rows: Array) -> None:
        """Look at the sampled rows of a frame: (rows, n_Y), counts."""
        self.levels[frame] = frame_level(rows, self._validity)
        if not self.levels[frame] >= 1:
            values = rows[usable(rows, self._validity)]
            self._shares[frame] = np.count_nonzero(values > 0) / max(1, len(values))
        if frame in self._first_of_pairs or frame - 1 in self._first_of_pairs:
            self._kept[frame] = rows.copy()

    def finish(self) -> None:
        """Make the levels final, once every frame was seen."""

    def can_scale(self) -> bool:
        """Return whether the level of the run is told from 0."""
        return run_level(self.levels) >= 1

    def drift_warning(self) -> str | None:
        """Return one line if the beam drifts so much that masks suffer, else None.

        The levels scatter by more than the noise of a pixel, or by `LARGE_SCATTER`; on a photon
        counter, the numbers of pixels with counts do.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            scatter, run = float(np.std(self.levels)), middle(self.levels)
            noise = self._pixel_noise()
        if run < 1:
            return self._sparse_warning()
        certain = SIGNIFICANT * noise / np.sqrt(self._n_pixels)
        if not scatter > min(noise, max(LARGE_SCATTER * run, certain)):
            return None
        if scatter <= noise:
            return (
                f"frame levels: found a scatter of {scatter:.3g} counts "
                f"({100 * scatter / run:.1f} %), expected at most {100 * LARGE_SCATTER:.0f} %; "
                f"masks of bright frames have many false spots; {remedy()}"
            )
        return (
            f"frame levels: found a scatter of {scatter:.3g} counts "
            f"({100 * scatter / run:.1f} %), expected less than the noise of a pixel, "
            f"{noise:.3g} counts; drift hides weak spots and causes false ones; {remedy()}"
        )

    def _sparse_warning(self) -> str | None:
        """Return the warning for frames of which most pixels are 0."""
        run = float(np.median(self._shares))
        if not run > 0:
            return None
        scatter = float(np.std(self._shares)) / run
        by_chance = np.sqrt((1 - run) / (run * self._n_pixels))
        if not scatter > max(LARGE_SCATTER, SIGNIFICANT * by_chance):
            return None
        return (
            "frame levels: found a scatter of the number of pixels with counts of "
            f"{100 * scatter:.0f} %, expected {100 * by_chance:.1f} % by chance; the beam drifts "
            "or "
            "exposures differ, and masks of bright frames have many false spots; process frames "
            f"of equal exposure together, or increase {given('cutoff')} "
            f"({given('normalise', 'level')} needs at least one count per pixel)"
        )

    def correlation(self, background: Floats, noise: Floats, gain: float) -> Correlation:
        """Return the correlation of the noise: `correlation` of some frames.

        Args:
            background: (rows, n_Y) float64, counts: background of the sampled rows.
            noise: (rows, n_Y) float64, counts: noise of a value; 0 where a pixel is masked.
            gain: counts per counted unit.
        """
        run = run_level(self.levels)

        def of(frame: int) -> Deviations:
            rows = self._kept[frame]
            level = float(self.levels[frame]) / run if run > 0 else 1.0
            level = level if level > 0 else 1.0
            with np.errstate(over="ignore", invalid="ignore"):
                here = background * level
                if self.constant_part is not None:
                    here = background + (level - 1.0) * self.constant_part.following(background)
            return deviations(rows, usable(rows, self._validity), here, noise, gain)

        def has_beam(frame: int) -> bool:
            return run / LARGEST < float(self.levels[frame]) <= run * LARGEST

        pairs = [(first, first + 1) for first in self._first_of_pairs]
        beam = [next(filter(has_beam, pair)) for pair in pairs if any(map(has_beam, pair))]
        return correlation(of(frame) for frame in beam or self._first_of_pairs)

    def _pixel_noise(self) -> float:
        """Return the noise of a pixel without drift, counts.

        It is the median size of the differences between neighbouring frames.
        """
        sizes = []
        for i in self._first_of_pairs:
            before, after = self._kept[i], self._kept[i + 1]
            good = usable(before, self._validity) & usable(after, self._validity)
            if good.any():
                change = (
                    after[good].astype(np.float64)
                    - before[good]
                    - (self.levels[i + 1] - self.levels[i])
                )
                sizes.append(np.median(np.abs(change)))
        # the median size of a normal difference of two is 0.6745 * sqrt(2) of one's standard
        # deviation
        return float(np.median(sizes)) / 0.9539 if sizes else np.inf


def frame_level(rows: Array, validity: Validity) -> float:
    """Return the interquartile mean of the valid values of some rows of a frame, counts.

    NaN if there are no valid values.
    """
    values = rows[usable(rows, validity)]
    quarter = len(values) // 4
    last = len(values) - quarter
    if not len(values):
        return np.nan
    if values.dtype.kind == "u" and values.itemsize <= 2:
        # how many of each value are in the middle: five times as fast as to sort them
        up_to = np.clip(np.cumsum(np.bincount(values)), quarter, last)
        inside = up_to - np.append(quarter, up_to[:-1])
        return float(inside @ np.arange(len(inside))) / (last - quarter)
    middle = np.sort(values)[quarter:last]
    if middle.dtype.kind != "f":
        return float(middle.sum(dtype=np.int64)) / len(middle)
    with np.errstate(over="ignore"):  # huge values have an infinite level
        # accumulate adds one value after the other
        return float(np.add.accumulate(middle, dtype=np.float64)[-1]) / len(middle)


def factors(
    levels: NDArray[np.float64], source: str, normalise: str = "level"
) -> NDArray[np.int64]:
    """Return the factor that scales each frame to the median level: (n_frames,) int64, 2^-16.

    ``normalise``: the normalisation that errors name.

    Raises `InputError` where the run's level is not above 0, and for a frame whose level is not
    above 0 or more than `LARGEST` times off.
    """
    known = levels[np.isfinite(levels)]
    run = middle(known) if len(known) else np.nan
    if run <= 0:
        raise InputError(
            f"{source}: {given('normalise', normalise)}: found a level of {run:.4g} counts (median "
            "over the frames), expected more than 0; frames without counts in most pixels, as of "
            f"photon counters, cannot be scaled; use {given('normalise', 'none')}"
        )
    ratios = np.divide(run, levels, out=np.full(len(levels), np.nan), where=levels > 0)
    bad = np.flatnonzero(~((ratios <= LARGEST) & (ratios >= 1 / LARGEST)))
    if len(bad):
        raise InputError(
            f"{source}: {given('normalise', normalise)}: frame {bad[0]} has a level of "
            f"{levels[bad[0]]:.4g} counts and the run {run:.4g}, expected a ratio from "
            f"1/{LARGEST} to {LARGEST}; remove the frame or use {given('normalise', 'none')}"
        )
    return np.rint(ratios * 2**FACTOR_BITS).astype(np.int64)


def middle(levels: NDArray[np.float64]) -> float:
    """Return the median; infinite for the largest numbers of all."""
    with np.errstate(over="ignore"):
        return float(np.median(levels))


def run_level(levels: NDArray[np.float64]) -> float:
    """Return the level of a run, counts: the median over frames with beam; NaN: there are none.

    Frames have beam if their level is above 1/`LARGEST` of that of the brightest frames. These are
    taken from the upper tenth, so that a few flashes do not matter.
    """
    known = np.sort(levels[np.isfinite(levels)])
    if not len(known):
        return math.nan
    bright = known[known > known[len(known) - 1 - len(known) // 10] / LARGEST]
    run = middle(known)
    if len(bright) >= ENOUGH_FRAMES or (len(bright) and not run > 0):
        return middle(bright)
    return run


def factors_with_beam(
    levels: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return factors as `factors` does, and the frames that cannot be scaled.

    Frames without beam, or with levels more than `LARGEST` times off, are left out.

    Args:
        levels: (n_frames,) float64, counts; `run_level` is above 0.

    Returns:
        (n_frames,) int64, 2^-16: factors, 1 for frames that are left out; (n_frames,) bool: these.
    """
    ratios = np.divide(
        run_level(levels), levels, out=np.full(len(levels), np.nan), where=levels > 0
    )
    left_out = ~((ratios <= LARGEST) & (ratios >= 1 / LARGEST))
    return np.rint(np.where(left_out, 1.0, ratios) * 2**FACTOR_BITS).astype(np.int64), left_out


def left_out_warning(levels: NDArray[np.float64], left_out: NDArray[np.bool_]) -> str:
    """Return the warning that names the frames that are left out."""
    frames = np.flatnonzero(left_out).tolist()
    named = ", ".join(map(str, frames[:MOST_NAMED])) + (", ..." if frames[MOST_NAMED:] else "")
    plural = len(frames) > 1
    return (
        f"frame levels: found {len(frames)} of {len(levels)} frames without beam or with a level "
        f"that cannot be scaled, frame{'s' if plural else ''} {named}, expected levels from "
        f"1/{LARGEST} to {LARGEST} times the {run_level(levels):.4g} counts of the run; "
        f"{'they are' if plural else 'it is'} left out and ha{'ve' if plural else 's'} no spots; "
        f"use {given('normalise', 'none')} to process all frames as they are"
    )


def unscaled_warning(level: float) -> str:
    """Return the warning that frames are not scaled, as their levels mean nothing."""
    found = "no valid value" if math.isnan(level) else f"a level of {level:.4g} counts"
    return (
        f"frame levels: found {found} (median over the frames), which cannot be told from 0, "
        "expected more; the frames have no beam or no background, and are not scaled; "
        f"{given('normalise', 'none')} has the same result"
    )


def no_surface_warning() -> str:
    """Return the warning that each frame has one level, as its shape is not known."""
    return (
        "frame levels: the shape of the background of single frames is unknown, found no noise "
        "or fewer than two frames with beam, expected both; each frame has one level, and "
        f"{given('normalise', 'level')} has the same result"
    )


def relative_levels(factors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the level of each frame over the run's, in 2^-16, from the factors of the frames."""
    return np.rint(2.0 ** (2 * FACTOR_BITS) / factors).astype(np.int64)


def remedy() -> str:
    """Return what helps against drift."""
    return f"use {given('normalise', 'level')} to scale the frames to a common background level"


def usable(rows: Array, validity: Validity) -> NDArray[np.bool_]:
    """Return which values of some rows are valid; ``validity`` is that of these rows."""
    usable = validity.allows(rows)
    usable = np.ones(rows.shape, bool) if usable is None else usable
    return usable if validity.pixels is None else usable & validity.pixels
