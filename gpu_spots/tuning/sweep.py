"""Numbers of spots and of expected false spots for several values of the finder's option."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from gpu_spots.masks.grouping import Groups
from gpu_spots.parameters import Parameters
from gpu_spots.tuning.tuner import Tuner

OPTION_OF_FINDER = {"threshold": "cutoff", "matched": "significance"}
"""Option that decides what each finder finds."""
DEFAULT_VALUES = {
    "threshold": tuple(float(value) for value in np.arange(2, 6.1, 0.5)),
    "matched": tuple(float(value) for value in np.arange(4, 8.1, 0.5)),
}
"""Values of these options that are tried."""
MOST_FALSE = 0.01
"""Largest share of false spots that is recommended."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Spots that one value finds on the chosen frames."""

    value: float
    """Value of the option."""
    n_spots: int
    """Spots found."""
    n_false: int
    """Spots found in the noise of the frames: as many of the spots are expected to be false."""

    @property
    def share(self) -> float:
        """Expected share of false spots, 0 to 1; NaN without spots."""
        return min(1.0, self.n_false / self.n_spots) if self.n_spots else float("nan")


def chosen_frames(groups: Groups, number: int) -> list[int]:
    """Return frames that are spread over a run, of different groups; at most ``number``."""
    firsts = np.unique(groups.mask_of_frame, return_index=True)[1]
    firsts.sort()
    places = np.linspace(0, len(firsts) - 1, min(number, len(firsts)))
    return [int(frame) for frame in firsts[np.unique(places.astype(np.int64))]]


def with_value(parameters: Parameters, value: float) -> Parameters:
    """Return options with another value of the option that decides what their finder finds."""
    if OPTION_OF_FINDER[parameters.finder] == "cutoff":
        return replace(parameters, cutoff=value)
    return replace(parameters, significance=value)


def sweep(
    tuner: Tuner,
    parameters: Parameters,
    frames: Sequence[int],
    values: Sequence[float],
    advance: Callable[[int], None] = lambda _: None,
) -> list[Tried]:
    """Return what values of the option of the finder find.

    Args:
        tuner: Finds the masks.
        parameters: Other options.
        frames: Indices of the frames.
        values: Values, ascending.
        advance: Called with 1 after each frame at each value.

    Raises:
        ParameterError: A value is out of range.
        InputError: A frame cannot be read.
    """
    each = [with_value(parameters, value) for value in values]
    found = np.zeros((2, len(each)), np.int64)
    steps = list(product(range(len(each)), frames))
    if OPTION_OF_FINDER[parameters.finder] == "cutoff":
        steps.sort(key=lambda step: frames.index(step[1]))  # frames take longer than thresholds
    for i, frame in steps:
        for side, noise_only in enumerate((False, True)):
            found[side, i] += tuner.find(frame, each[i], noise_only=noise_only).n_spots
        advance(1)
    return [
        Tried(value, int(n_spots), int(n_false))
        for value, n_spots, n_false in zip(values, *found, strict=True)
    ]


def recommended(tried: Sequence[Tried], most_false: float = MOST_FALSE) -> tuple[Tried | None, str]:
    """Return the value that finds most spots with few false ones, and the reason.

    Args:
        tried: Values, ascending.
        most_false: Largest share of false spots.

    Returns:
        None if no value is good enough, and a line of text.

    Examples:
        >>> good, why = recommended([Tried(4.0, 99, 12), Tried(4.5, 90, 0)])
        >>> good.value
        4.5
        >>> print(why)
        at 4.5, 0 of 90 spots are expected to be false (0.0 %), expected at most 1 %; at 4, 12 of 99
    """
    limit = f"expected at most {100 * most_false:g} %"
    if not any(one.n_spots for one in tried):
        return None, "no spots were found at any value; choose smaller values or other frames"
    good = None
    for one in reversed(tried):
        if not one.n_spots:
            continue
        if one.share > most_false:
            break
        good = one
    if good is None:
        worst = next(one for one in reversed(tried) if one.n_spots)
        return None, (
            f"at {worst.value:g}, {worst.n_false} of {worst.n_spots} spots are expected to be "
            f"false ({100 * worst.share:.1f} %), {limit}; choose larger values"
        )
    verb = "is" if good.n_false == 1 else "are"
    why = (
        f"at {good.value:g}, {good.n_false} of {good.n_spots} spots {verb} expected to be false "
        f"({100 * good.share:.1f} %), {limit}"
    )
    below = [one for one in tried if one.value < good.value]
    if below:
        why += f"; at {below[-1].value:g}, {below[-1].n_false} of {below[-1].n_spots}"
    else:
        why += "; it is the smallest value that was tried, smaller ones may find more"
    return good, why
