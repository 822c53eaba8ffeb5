"""Background in the form that the second pass needs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.packed import Words, pack
from gpu_spots.model import Array, Background, FixedPointMean, Morphology, Validity


@dataclass(frozen=True, slots=True)
class Prepared:
    """The background in the form that compares fastest."""

    limits: Array
    """(n_X, n_Y): a value stands out if it is greater than this; the frames' own type where it can
    be, as mixed types compare slowly.
    """
    valid: Words | None
    """(n_X, words): pixels that are not masked; None: all."""
    value_range: Validity | None
    """Valid values; None: all values of pixels that are not masked."""
    morphology: Morphology
    mean: FixedPointMean | NDArray[np.float64]
    """The background to subtract."""
    follows: Array | None
    """(n_X, n_Y): as in `Background`."""
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


def prepare(background: Background, morphology: Morphology, saturation: float | None) -> Prepared:
    """Turn the threshold into a map of the frames' own type, and pack the valid pixels."""
    valid = background.validity.pixels
    return Prepared(
        limits=_limits(background.threshold, background.max.dtype),
        valid=None if valid is None else pack(valid),
        value_range=background.validity if background.gaps else None,
        morphology=morphology,
        mean=background.mean,
        follows=background.follows,
        saturation=saturation,
    )


def _limits(threshold: Array, dtype: np.dtype) -> Array:
    """Return the map ``b`` with ``value > b`` exactly if ``value >= threshold``, for all values."""
    if dtype.kind != "f":
        lowest = np.iinfo(dtype).min
        below = threshold.astype(np.int64) - 1
        # "always", at the type's minimum, has no value below it: keep the wider type there
        return below.astype(dtype) if below.min(initial=lowest) >= lowest else below
    with np.errstate(over="ignore"):
        rounded = threshold.astype(dtype)
        rounded = np.where(rounded < threshold, np.nextafter(rounded, dtype.type(np.inf)), rounded)
        # NaN stays NaN, which nothing is greater than
        return np.nextafter(rounded, dtype.type(-np.inf))
