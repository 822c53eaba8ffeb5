"""Inputs: where frames and metadata are, and which pixels and values are valid."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpu_spots.errors import ParameterError, given
from gpu_spots.regions import Region, region

RangeOfValues = tuple[float | None, float | None]
"""Smallest and largest, inclusive; None: no bound."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Options of the input, validated when they are made. Raises `ParameterError`."""

    frames_path: tuple[str, ...] = ()
    """Datasets of the frames, one after the other, or a group that has them; empty: they are looked
    for.
    """
    angles_path: str | None = None
    """Dataset of the angles, degrees; None: the program searches for it."""
    laser_path: str | None = None
    """Dataset of the laser states; None: the program searches for it."""
    table: Path | None = None
    """Table with columns such as angle and laser_on, which replace the file's; None: none."""
    mask: str | None = None
    """Image of good and bad pixels: FILE, or FILE:PATH for an HDF5 dataset; None: none."""
    mask_good: int | None = None
    """Good pixels of ``mask``: 0 (zeros are good) or 1 (non-zeros are good); None: as the format of
    the mask defines it.
    """
    file_mask: bool = True
    """Use the pixel mask in the file of the frames."""
    reject: tuple[Region, ...] = ()
    """Regions whose pixels are excluded."""
    valid_range: RangeOfValues | None = None
    """Range of valid values; None: the range in the file."""
    saturation: float | None = None
    """Smallest saturated value, counts; None: the value in the file, else the type's maximum."""
    columns: Mapping[str, ArrayLike] | None = field(default=None, compare=False)
    """Metadata of frames in memory, one value per frame; None: none."""
    valid_pixels: NDArray[Any] | None = field(default=None, compare=False)
    """(n_X, n_Y) bool: False pixels are invalid on every frame; None: all are valid."""

    def __post_init__(self) -> None:
        if self.mask_good not in (None, 0, 1):
            raise ParameterError("mask_good", f"{self.mask_good!r} is not 0 or 1")
        if self.mask_good is not None and self.mask is None:
            raise ParameterError("mask_good", f"needs a mask; use {given('mask')} to give one")
        if self.saturation is not None and not is_finite(self.saturation):
            raise ParameterError("saturation", f"{self.saturation!r} is not a finite number")
        if self.table is not None and (self.angles_path or self.laser_path):
            name = "angles_path" if self.angles_path else "laser_path"
            raise ParameterError(name, f"cannot be used with {given('table')}; choose one")
        try:
            low, high = self.valid_range or (None, None)
        except (TypeError, ValueError):
            raise ParameterError(
                "valid_range",
                f"{self.valid_range!r} is not two numbers, either of which may be None",
            ) from None
        if not all(bound is None or is_finite(bound) for bound in (low, high)):
            raise ParameterError(
                "valid_range", f"{self.valid_range!r} is not finite; use None for no bound"
            )
        if low is not None and high is not None and low > high:
            raise ParameterError(
                "valid_range", f"{low:g},{high:g} is empty, expected LOW,HIGH with LOW <= HIGH"
            )


def parse_regions(values: Any) -> tuple[Region, ...]:
    """Return regions from their texts, or from one text. Raises `ParameterError`."""
    return tuple(
        value if isinstance(value, Region) else region(value)
        for value in ([values] if isinstance(values, str) else values)
    )


def parse_range(text: str) -> RangeOfValues:
    """Return the range of a text: ``LOW,HIGH``, ``LOW,``, ``,HIGH`` or ``none``.

    Raises `ParameterError`.
    """
    if text.strip().lower() == "none":
        return None, None
    parts = text.split(",")
    try:
        low, high = (number(part) if part.strip() else None for part in parts)
    except ValueError:
        raise ParameterError(
            "valid_range", f"{text!r} is not LOW,HIGH (either may be omitted) or none"
        ) from None
    return low, high


def number(text: str) -> int | float:
    """Return a number as an integer if it is one, so that it is exact. Raises ValueError."""
    try:
        value: int | float = int(text)
    except ValueError:
        value = float(text)
    if not is_finite(value):
        raise ValueError(text)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_finite(value: float) -> bool:
    """Return whether a number is finite and a float can hold it."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
