"""Input and result of the calculation of ratios."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Table = dict[str, NDArray[Any]]
"""Columns of equal length by name."""


class Rejected(IntEnum):
    """Why a pair is not used: ``pairs/rejected``."""

    USED = 0
    """The pair is used."""
    UNKNOWN = 1
    """An intensity or its sigma is not a finite number."""
    SATURATED = 2
    """The spot is saturated on one of the frames."""
    ZINGER = 3
    """A single pixel of the spot is far above the other frames in the same laser state."""
    OUTLIER = 4
    """The pair is far from the other pairs of its reflection."""


@dataclass(frozen=True, slots=True)
class FrameStates:
    """Metadata of the frames of a run, (n_frames,) each."""

    mask: Indices
    """Mask of the frame."""
    laser_on: Indices
    """1 with laser, 0 without, -1 if unknown."""
    angle: Floats
    """Degrees; NaN if unknown."""
    block: Indices
    """Index of the angle; -1 if unknown."""
    delay: Floats
    """Seconds; NaN if unknown."""
    partner: Indices
    """Other frame of the off/on pair; -1 if there is none."""


@dataclass(frozen=True, slots=True)
class SpotRows:
    """Spots on frames, (n_spots,) each, by frame, then label."""

    frame: Indices
    """Index of the frame."""
    label: Indices
    """Label in the mask of the frame."""
    position: Floats
    """(n_spots, 2), pixels: X and Y."""
    intensity: Floats
    """Counts."""
    sigma: Floats
    """Counts: standard error of the intensity, background included."""
    shared: Floats
    """Counts^2: part of the variance from the background, the same error on all frames."""
    flags: Indices
    """Bits of `Flag`."""
    total: Floats
    """Counts: unweighted intensity."""
    largest: Floats
    """Counts: largest value of the spot."""
    floor: Floats
    """Counts: background at the pixel of the largest value."""
    noise: Floats
    """Counts: noise of a value there."""
    gain: float
    """Variance per count of signal."""


@dataclass(frozen=True, slots=True)
class FramePairs:
    """Pairs of frames of the same mask."""

    first: Indices
    """(n,) int64: laser-off frame of each pair."""
    second: Indices
    """(n,) int64: laser-on frame of each pair."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs of intensities, (n,) each, ordered by reflection, then frame."""

    ratio: Indices
    """Row of the reflection."""
    pair: Indices
    """Index of the pair of frames."""
    rank: Indices
    """Number of the pair in its reflection, from 0."""
    off: Indices
    """Row of the laser-off spot in the table of spots."""
    on: Indices
    """Row of the laser-on spot in the table of spots."""
    distance: Floats
    """Pixels: distance of the spot from where the reflection is in its first mask."""
    I_off: Floats
    """Counts."""
    I_on: Floats
    """Counts, divided by the scale of the pair."""
    var_off: Floats
    """Counts^2: variance of ``I_off`` without the shared background."""
    var_on: Floats
    """Counts^2: variance of ``I_on`` without the shared background."""
    shared: Floats
    """Counts^2: variance of the shared background."""
    rejected: NDArray[np.uint8]
    """`Rejected`."""
    n_ratios: int
    """Number of reflections."""

    @property
    def used(self) -> Bools:
        """(n,) bool: pairs that are not rejected."""
        return self.rejected == Rejected.USED

    def sums(self, values: Floats, used: Bools) -> Floats:
        """Return (n_ratios,) float64: sums of some pairs' values over each reflection."""
        found = np.bincount(self.ratio[used], values[used], self.n_ratios)
        return found.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Estimates:
    """Ratio of each reflection, (n_ratios,) each."""

    n: Indices
    """Number of pairs."""
    I_off: Floats
    """Counts: mean over the pairs."""
    I_on: Floats
    """Counts: mean over the pairs."""
    sigma_off: Floats
    """Counts."""
    sigma_on: Floats
    """Counts."""
    R: Floats
    """Ratio of sums; NaN where that of I_off is not above 0."""
    sigma_R: Floats
    """Its standard error."""
    pulls: Floats
    """``I_on - I_off`` in units of its sigma if the ratio is 1; NaN without a pair. Unlike eta
    divided by its sigma, it is symmetric for weak spots.
    """


@dataclass(frozen=True, slots=True)
class Keys:
    """Columns that identify a reflection, (n_ratios,) each."""

    mask: Indices
    """First mask with the reflection."""
    label: Indices
    """Label in that mask."""
    delay: Floats
    """Seconds; NaN if unknown."""
    block: Indices
    """Index of the angle."""
    angle: Floats
    """Degrees."""


@dataclass(frozen=True, slots=True)
class RatioResult:
    """On/off ratios of a run, and the tests of them."""

    ratios: Table
    """Columns with one row per reflection; see docs/ratios.md."""
    pairs: Table
    """Columns with one row per reflection and pair of frames."""
    frame_pairs: Table
    """Columns with one row per pair of frames: ``frame_off``, ``frame_on``, ``scale``."""
    null: Table
    """Pulls of the null tests, by name of the test."""
    figures: dict[str, Any]
    """Numbers: counts, error model and null tests."""
    verdict: str
    """Sentence that says if a response is seen."""
    notes: list[str] = field(default_factory=list)
    """Lines on pairs that were left out, and on unknown quantities."""
