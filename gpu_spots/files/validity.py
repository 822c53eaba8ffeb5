"""Valid pixels and values: what the file says of its detector, and what the user says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.files.layouts.detector import DetectorFacts, ignore_mask
from gpu_spots.files.pixel_masks import read_mask
from gpu_spots.inputs import Inputs
from gpu_spots.model import Validity
from gpu_spots.regions import in_any

SUSPICIOUS = 0.5
"""A mask that leaves out more of the pixels is likely to be taken the wrong way round."""


@dataclass(frozen=True, slots=True)
class ValidRange:
    """Valid pixels and values, and their origin."""

    validity: Validity
    """Valid pixels and values, for the pipeline."""
    saturation: float | None
    """The smallest saturated value, counts; None: unknown."""
    record: Mapping[str, Any]
    """Attributes of ``info``, by name."""
    notes: tuple[str, ...]
    """Lines for the user."""


def valid_values(
    source: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    facts: DetectorFacts,
    options: Inputs,
) -> ValidRange:
    """Combine what the file and the user say.

    Args:
        source: the file, for messages.
        shape: n_X and n_Y.
        dtype: type of the frames.
        facts: what the file says.
        options: what the user says; a range or a saturation given there takes the place of the
            file's.

    Raises:
        InputError: a mask or a region does not fit the frames, or the file's range of valid values
            is empty.
        ParameterError: it is not known what marks a good pixel in a mask, or a saturation is none
            that a valid value can reach.
    """
    record: dict[str, Any] = {}
    good: list[NDArray[np.bool_]] = []
    notes = []
    if facts.mask is not None:
        good.append(facts.mask)
        record |= {"file_mask": facts.mask_path, "file_mask_pixels": _n_bad(facts.mask)}
        notes += _wrong_way_round(
            f"{source}: the mask {facts.mask_path}", facts.mask, ignore_mask()
        )
    elif facts.unused_mask and options.file_mask and options.mask is None:
        notes.append(
            f"{source}: {facts.unused_mask} may be a mask and is not used, as the file does not "
            "say "
            f"which value marks a good pixel; use {given('mask')} and {given('mask_good')} to use "
            f"it, or {given('file_mask', False)} to ignore it"
        )
    if options.mask is not None:
        good.append(read_mask(options.mask, options.mask_good, shape))
        record |= {"mask": options.mask, "mask_pixels": _n_bad(good[-1])}
        record |= {} if options.mask_good is None else {"mask_good": options.mask_good}
        notes += _wrong_way_round(
            f"the mask {options.mask}", good[-1], f"check {given('mask_good')}"
        )
    if options.reject:
        good.append(~in_any(options.reject, shape))
        record |= {
            "reject": [str(one) for one in options.reject],
            "reject_pixels": _n_bad(good[-1]),
        }
    if options.valid_pixels is not None:
        if options.valid_pixels.shape != shape:
            raise InputError(
                f"valid_pixels has shape {options.valid_pixels.shape}, "
                f"expected that of a frame, {shape}"
            )
        good.append(options.valid_pixels)
    pixels = np.logical_and.reduce(good) if good else None
    if pixels is not None:
        record["masked_pixels"] = _n_bad(pixels)

    if facts.note and options.valid_range is None:
        notes.append(f"{source}: {facts.note}")
    low, high = _bounds(source, dtype, facts, options)
    for name, bound, origin in (
        ("valid_low", low, facts.low_from),
        ("valid_high", high, facts.high_from),
    ):
        if bound is not None:
            record |= {
                name: bound,
                f"{name}_from": origin if options.valid_range is None else "--valid-range",
            }
    saturation, saturation_from = _saturation(dtype, high, facts, options)
    if saturation is not None:
        record["saturation_from"] = saturation_from
    return ValidRange(Validity(pixels, low, high), saturation, record, tuple(notes))


def _n_bad(good: NDArray[np.bool_]) -> int:
    return int(good.size - np.count_nonzero(good))


def _wrong_way_round(what: str, good: NDArray[np.bool_], remedy: str) -> list[str]:
    share = _n_bad(good) / good.size
    if share <= SUSPICIOUS:
        return []
    return [
        f"{what} excludes {100 * share:.0f} % of the pixels, "
        f"expected at most {100 * SUSPICIOUS:.0f} %; {remedy}"
    ]


def _bounds(
    source: str, dtype: np.dtype[Any], facts: DetectorFacts, options: Inputs
) -> tuple[float | None, float | None]:
    """Return the smallest and largest valid value; None: the type has no other values."""
    low, high = (facts.low, facts.high) if options.valid_range is None else options.valid_range
    if low is not None and high is not None and low > high:
        raise InputError(
            f"{source}: no value is valid: the smallest is {low:g} ({facts.low_from}), the largest "
            f"{high:g} ({facts.high_from}); {_other_bounds()}"
        )
    if dtype.kind == "f":
        return low, high
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    low = None if low is None or low <= least else math.ceil(low)
    high = None if high is None or high >= most else math.floor(high)
    problem = None
    if low is not None and low > most:
        problem = f"found {low} as the smallest valid value, expected at most {most}"
    elif high is not None and high < least:
        problem = f"found {high} as the largest valid value, expected at least {least}"
    if problem and options.valid_range is not None:
        raise ParameterError("valid_range", f"{problem} for {dtype} frames")
    if problem:
        raise InputError(f"{source}: {problem} for {dtype} frames; {_other_bounds()}")
    return low, high


def _other_bounds() -> str:
    return f"use {given('valid_range')} to set other bounds"


def _saturation(
    dtype: np.dtype[Any], high: float | None, facts: DetectorFacts, options: Inputs
) -> tuple[float | None, str]:
    """Return the smallest saturated value and its origin."""
    most = high if high is not None else None if dtype.kind == "f" else int(np.iinfo(dtype).max)
    if options.saturation is not None:
        if most is not None and options.saturation > most:
            raise ParameterError(
                "saturation",
                f"found {options.saturation:g}, expected at most {most:g}, the largest valid value"
                + (
                    f" ({facts.high_from}); {_other_bounds()}"
                    if options.valid_range is None and high is not None
                    else ""
                ),
            )
        return options.saturation if dtype.kind == "f" else math.ceil(
            options.saturation
        ), "--saturation"
    if facts.saturation is not None and (most is None or facts.saturation <= most):
        return facts.saturation if dtype.kind == "f" else math.ceil(
            facts.saturation
        ), facts.saturation_from
    return most, "the largest valid value" if high is not None else f"the largest value of {dtype}"
