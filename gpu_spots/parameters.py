"""Parameters: every option of lu_hdf2spots, validated once and frozen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from gpu_spots.errors import ParameterError

METHOD_NAMES = ("n_removed", "kruskal", "clip")
NORMALISATIONS = ("none", "level")
SYNCS = ("none", "pairs", "blocks")
FINDERS = ("threshold", "matched")
STACK_NAMES = ("raw", "filtered", "synced", "labels", "pixels")
"""Names of optional results: masks of each kind, label images, and pixels of spots."""
DEFAULT_PERCENT = 25


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of the spot search; names and defaults are the manual's.

    The range of every value is checked, even if the method does not use it.

    Raises:
        ParameterError: A value is out of range. The text gives the name, the value and the range.

    Examples:
        >>> Parameters(sync="blocks", cutoff=4).cutoff
        4.0
    """

    method: str = "n_removed"
    """Method that selects the background sample: n_removed, kruskal or clip (``-m``)."""
    n: int = DEFAULT_PERCENT
    """Percentage of the largest values that n_removed drops, 0 to 99; 0 means 25 (``-n``)."""
    alpha: float = 0.05
    """Significance level of the test of kruskal, between 0 and 1, both exclusive (``-A``)."""
    cutoff: float = 3.0
    """Threshold of the raw mask, standard deviations above the average; 0 or more (``-c``)."""
    erosions: int = 1
    """Binary erosions of the raw masks, 0 or more (``-e``)."""
    dilations: int = 2
    """Binary dilations after the erosions, 0 or more (``-d``)."""
    structure: tuple[int, int] = (2, 2)
    """Rank and connectivity of the structuring element, (2, 1) or (2, 2) (``-s``)."""
    angles: int = 10
    """Minimum number of different angles in the run; 0 switches the check off (``-a``)."""
    sync: str = "none"
    """Frames that share a mask: none, pairs (off/on), or blocks (one angle) (``-S``)."""
    normalise: str = "none"
    """Scaling of each frame to a common background level: none or level (``--normalise``)."""

    finder: str = "threshold"
    """Method that finds spots: threshold (raw, filtered and united masks, as in the manual) or
    matched (significance of smoothed maps) (ours).
    """
    significance: float = 5.5
    """Standard deviations above the background from which on matched finds a spot, 3 to 12 (ours).
    """
    streaks: bool = False
    """Matched looks for lines too (ours)."""

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHOD_NAMES)
        _integer("n", self.n, "an integer from 0 to 99", upper=99)
        _number("alpha", self.alpha, "a number between 0 and 1", lambda alpha: 0 < alpha < 1)
        _number(
            "cutoff",
            self.cutoff,
            "a finite number >= 0",
            lambda cutoff: math.isfinite(cutoff) and cutoff >= 0,
        )
        _integer("erosions", self.erosions, "an integer >= 0")
        _integer("dilations", self.dilations, "an integer >= 0")
        _structure(self.structure)
        _integer("angles", self.angles, "an integer >= 0")
        _one_of("sync", self.sync, SYNCS)
        _one_of("normalise", self.normalise, NORMALISATIONS)
        _one_of("finder", self.finder, FINDERS)
        _number(
            "significance",
            self.significance,
            "a number from 3 to 12",
            lambda significance: 3 <= significance <= 12,
        )
        # NumPy's numbers and lists are welcome, and kept as Python's own
        for name, kind in {
            "n": int,
            "alpha": float,
            "cutoff": float,
            "erosions": int,
            "dilations": int,
            "angles": int,
            "significance": float,
            "streaks": bool,
        }.items():
            object.__setattr__(self, name, kind(getattr(self, name)))
        object.__setattr__(self, "structure", tuple(int(part) for part in self.structure))

    @property
    def percent_removed(self) -> int:
        """Percentage that n_removed drops: ``n``, or the manual's 25 for 0."""
        return self.n or DEFAULT_PERCENT

    @property
    def connectivity(self) -> int:
        """Connectivity: 1: the four neighbours that share an edge; 2: the corners too."""
        return self.structure[1]


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ParameterError(name, f"{value!r} is not one of {', '.join(allowed)}")


def _integer(name: str, value: Any, expected: str, upper: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= upper:
        raise ParameterError(name, f"{value!r} is not {expected}")


def _number(name: str, value: Any, expected: str, is_allowed: Callable[[float], bool]) -> None:
    try:
        allowed = (
            not isinstance(value, bool) and isinstance(value, Real) and is_allowed(float(value))
        )
    except OverflowError:  # an integer of hundreds of digits
        allowed = False
    if not allowed:
        raise ParameterError(name, f"{value!r} is not {expected}")


def _structure(value: Any) -> None:
    parts = tuple(value) if isinstance(value, tuple | list) else value
    if parts not in ((2, 1), (2, 2)):
        text = ",".join(map(str, parts)) if isinstance(parts, tuple) else repr(value)
        raise ParameterError(
            "structure",
            f"{text} is not 2,1 or 2,2 (rank and connectivity of the structuring element)",
        )
