"""Parameters of the spot search, validated once and frozen, and the two sets of defaults."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from gpu_spots.errors import ParameterError, given

METHOD_NAMES = ("n_removed", "kruskal", "clip")
NORMALISATIONS = ("none", "level", "surface")
SURFACE_METHODS = ("clip",)
"""Methods that the normalisation ``surface`` can be used with."""
SYNCS = ("none", "pairs", "blocks")
FINDERS = ("threshold", "matched")
BACKEND_NAMES = ("auto", "gpu", "cpu")
"""Values of ``--backend``; auto: a GPU if one can be used, else the CPU."""
STACK_NAMES = ("raw", "filtered", "synced", "labels", "pixels")
"""Names of optional results: masks of each kind, label images, and pixels of spots."""
DEFAULT_PERCENT = 25
MANUAL_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"method": "n_removed", "finder": "threshold", "normalise": "none"}
)
"""Defaults of the manual, for ``lu_hdf2spots`` and ``gpu-spots find --manual``, where they differ
from those of `Parameters`.
"""
USED_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "n": ("method", ("n_removed", "clip")),
        "alpha": ("method", ("kruskal",)),
        **dict.fromkeys(
            ("cutoff", "erosions", "dilations", "structure"), ("finder", ("threshold",))
        ),
        **dict.fromkeys(("significance", "streaks"), ("finder", ("matched",))),
    }
)
"""Parameters that only some methods or finders use: the other parameter, and its values."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of the spot search, with the defaults of ``gpu-spots find``.

    `Parameters.manual` has those of the manual. The range of every value is checked, even if the
    method does not use it.

    Raises:
        ParameterError: A value is out of range. The text gives the name, the value and the range.

    Examples:
        >>> Parameters(sync="blocks", significance=6).finder
        'matched'
    """

    method: str = "clip"
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
    normalise: str = "level"
    """Scaling of each frame to a common background level: none, level, or surface, whose level
    changes smoothly across the frame and which needs clip (``--normalise``).
    """

    finder: str = "matched"
    """Method that finds spots: matched (significance of smoothed frames) or threshold (of pixels,
    then erosions and dilations, as in the manual) (``--finder``).
    """
    significance: float = 5.5
    """Standard deviations above the background from which on matched finds a spot, 3 to 12
    (``--significance``).
    """
    streaks: bool = False
    """True: matched looks for lines too (``--streaks``)."""

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
        if self.normalise == "surface" and self.method not in SURFACE_METHODS:
            choices = " or ".join(given("method", name) for name in SURFACE_METHODS)
            raise ParameterError(
                "normalise",
                f"{self.normalise!r} can only be used with {choices}, found "
                f"{given('method', self.method)}; use {given('normalise', 'level')}",
            )
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

    @classmethod
    def manual(cls, **changes: Any) -> "Parameters":
        """Return the defaults of the manual, with some changes.

        Args:
            changes: Parameters that have another value.

        Raises:
            ParameterError: A value is out of range.
            TypeError: There is no parameter of a name.

        Examples:
            >>> parameters = Parameters.manual(cutoff=4)
            >>> parameters.method, parameters.finder, parameters.cutoff
            ('n_removed', 'threshold', 4.0)
        """
        return cls(**{**MANUAL_DEFAULTS, **changes})

    def check_used(self, names: Iterable[str] | None = None) -> None:
        """Check that parameters have an effect with this method and this finder.

        Args:
            names: Parameters to check. None: those that differ from their defaults.

        Raises:
            ParameterError: A parameter has no effect. The text says what it can be used with.

        Examples:
            >>> Parameters.manual(cutoff=4).check_used()
            >>> Parameters.manual(significance=6).check_used()
            Traceback (most recent call last):
            ...
            gpu_spots.errors.ParameterError: significance: can only be used with finder='matched'
        """
        if names is None:
            names = [
                field.name for field in fields(self) if getattr(self, field.name) != field.default
            ]
        chosen = {"method": self.method, "finder": self.finder}
        for name in names:
            if not has_effect(name, chosen):
                other, values = USED_WITH[name]
                choices = " or ".join(given(other, value) for value in values)
                remedy = f"; use that, or {given('Parameters.manual')}"
                is_manual = MANUAL_DEFAULTS["finder"] in values
                raise ParameterError(name, f"can only be used with {choices}{remedy * is_manual}")

    @property
    def percent_removed(self) -> int:
        """Percentage that n_removed drops: ``n``, or the manual's 25 for 0."""
        return self.n or DEFAULT_PERCENT

    @property
    def connectivity(self) -> int:
        """Connectivity: 1: the four neighbours that share an edge; 2: the corners too."""
        return self.structure[1]


def has_effect(name: str, chosen: Mapping[str, Any]) -> bool:
    """Return whether a parameter has an effect beside some chosen values.

    Args:
        name: Name of a parameter.
        chosen: Values of ``method`` and ``finder``, by name; a missing one uses everything.

    Examples:
        >>> has_effect("cutoff", {"finder": "matched"})
        False
    """
    other, values = USED_WITH.get(name, ("", ()))
    return chosen.get(other) in (None, *values)


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
