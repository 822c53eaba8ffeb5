"""Regions of a frame that are left out: rectangles, discs and a border, as LaueProc has them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, ParameterError, given

KINDS = {"rect": ("X0,X1,Y0,Y1", 4), "disc": ("X,Y,R", 3), "border": ("N", 1)}
"""Form of each kind of region, and the number of its numbers."""
LARGEST = 1e9
"""Largest number of pixels. Larger ones are mistakes, and their squares could overflow."""


@dataclass(frozen=True, slots=True)
class Region:
    """Region of a frame that is left out."""

    kind: str
    """Shape: rect, disc or border."""
    numbers: tuple[float, ...]
    """rect: X begin, X end, Y begin, Y end, ends exclusive; disc: X and Y of the centre, radius;
    border: width. Pixels.
    """

    def __str__(self) -> str:
        """Return the region as the user writes it."""
        return f"{self.kind}:{','.join(f'{number:.15g}' for number in self.numbers)}"

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of the region, (n_X, n_Y) bool.

        Raises `InputError` where it has no pixel in frames of that shape.
        """
        n_x, n_y = shape
        inside = np.zeros(shape, bool)
        if self.kind == "rect":
            x0, x1, y0, y1 = map(int, self.numbers)
            inside[x0:x1, y0:y1] = True
        elif self.kind == "disc":
            x, y, radius = self.numbers
            # a whole number is the middle of a pixel
            inside |= (np.arange(n_x)[:, None] - x) ** 2 + (
                np.arange(n_y)[None, :] - y
            ) ** 2 <= radius**2
        else:
            width = int(self.numbers[0])
            inside[...] = True
            inside[width : max(n_x - width, 0), width : max(n_y - width, 0)] = False
        if not inside.any():
            raise InputError(
                f"{given('reject', str(self))}: has no pixel in frames of {n_x} x {n_y}, "
                f"expected X from 0 to {n_x - 1} and Y from 0 to {n_y - 1}"
            )
        return inside


def region(text: str) -> Region:
    """Return a region from its text: ``rect:X0,X1,Y0,Y1``, ``disc:X,Y,R`` or ``border:N``.

    Raises `ParameterError`.
    """
    kind, _, rest = str(text).partition(":")
    if kind not in KINDS:
        forms = ", ".join(f"{name}:{form}" for name, (form, _) in KINDS.items())
        raise ParameterError("reject", f"{text!r} is not one of {forms}")
    form, count = KINDS[kind]
    try:
        numbers = tuple(float(part) if kind == "disc" else int(part) for part in rest.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(-LARGEST <= number <= LARGEST for number in numbers):
        what = "numbers" if kind == "disc" else "a whole number" if count == 1 else "whole numbers"
        raise ParameterError("reject", f"{text!r} is not {kind}:{form} with {what} of pixels")
    problem = _problem(kind, numbers)
    if problem:
        raise ParameterError("reject", f"{text!r}: {problem}")
    return Region(kind, numbers)


def _problem(kind: str, numbers: tuple[float, ...]) -> str | None:
    """Return why a region is impossible, in a few words."""
    if kind == "rect":
        x0, x1, y0, y1 = numbers
        if min(numbers) < 0:
            return "expected coordinates of at least 0"
        return (
            None
            if x0 < x1 and y0 < y1
            else "is empty, expected X0 < X1 and Y0 < Y1 (ends are exclusive)"
        )
    if kind == "disc":
        return None if numbers[2] >= 0 else "expected a radius of at least 0"
    return None if numbers[0] >= 1 else "expected a width of at least 1"


def in_any(regions: tuple[Region, ...], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of all regions, (n_X, n_Y) bool.

    Raises `InputError` for a region without a pixel in the frame.
    """
    inside = np.zeros(shape, bool)
    for one in regions:
        inside |= one.pixels(shape)
    return inside
