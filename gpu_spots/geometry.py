"""Geometry of an experiment, as the user gives it: a flat detector across the beam."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import ParameterError, given

Floats = NDArray[np.float64]
NAMES = ("distance", "pixel_size", "beam_centre", "wavelength")
"""Parameters that describe a geometry. All of them are needed."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Place of a detector across the beam, and wavelengths."""

    distance: float
    """Distance of the detector from the crystal, mm."""
    pixel_size: tuple[float, float]
    """Size of a pixel along X (rows) and Y (columns), mm."""
    beam_centre: tuple[float, float]
    """X and Y of the beam on the detector, pixels; a whole number is the middle of a pixel."""
    wavelength: tuple[float, float]
    """Smallest and largest wavelength, Angstrom; equal for one wavelength."""

    def sin_theta(self, X: Floats, Y: Floats) -> Floats:
        """Return sin(theta) of places on the detector; half of their angle from the beam is theta.

        Args:
            X: Rows, pixels.
            Y: Columns, pixels.

        Examples:
            >>> geometry = Geometry(100.0, (0.1, 0.1), (500.0, 500.0), (1.0, 1.1))
            >>> geometry.sin_theta(np.array([500.0]), np.array([1500.0])).round(4)
            array([0.3827])
        """
        away = np.hypot(
            (X - self.beam_centre[0]) * self.pixel_size[0],
            (Y - self.beam_centre[1]) * self.pixel_size[1],
        )
        return np.asarray(np.sin(np.arctan2(away, self.distance) / 2), np.float64)

    @property
    def mean_wavelength(self) -> float:
        """Middle of the wavelengths, Angstrom."""
        return (self.wavelength[0] + self.wavelength[1]) / 2


def geometry_of(
    distance: float | None,
    pixel_size: str | tuple[float, ...] | None,
    beam_centre: str | tuple[float, ...] | None,
    wavelength: str | tuple[float, ...] | None,
) -> Geometry | None:
    """Return the geometry that a user gives, or None if none of its parts is given.

    Args:
        distance: Distance of the detector, mm.
        pixel_size: One or two sizes, mm: ``"0.079"``, or ``"0.079,0.08"`` along X and Y.
        beam_centre: X and Y of the beam, pixels: ``"1024,1020.5"``.
        wavelength: One wavelength, or the smallest and the largest, Angstrom: ``"1.02,1.08"``.

    Raises:
        ParameterError: A part is missing or out of range.

    Examples:
        >>> geometry_of(100, "0.1", "500,500", "1.0,1.1").pixel_size
        (0.1, 0.1)
    """
    values = (distance, pixel_size, beam_centre, wavelength)
    if all(value is None for value in values):
        return None
    for name, value in zip(NAMES, values, strict=True):
        if value is None:
            others = ", ".join(given(other) for other in NAMES if other != name)
            raise ParameterError(name, f"is missing; a geometry needs it with {others}")
    size = _numbers("pixel_size", pixel_size, (1, 2), "one or two sizes in mm, such as 0.079")
    centre = _numbers("beam_centre", beam_centre, (2,), "X and Y in pixels, such as 1024,1020.5")
    waves = _numbers("wavelength", wavelength, (1, 2), "one or two in Angstrom, such as 1.02,1.08")
    assert distance is not None
    far = _numbers("distance", (distance,), (1,), "a distance in mm")
    for name, found in (("distance", far), ("pixel_size", size), ("wavelength", waves)):
        if min(found) <= 0:
            raise ParameterError(name, f"{_text(found)} is not above 0")
    if waves[0] > waves[-1]:
        raise ParameterError("wavelength", f"{_text(waves)}: the smaller one comes first")
    return Geometry(far[0], (size[0], size[-1]), (centre[0], centre[1]), (waves[0], waves[-1]))


def _numbers(
    name: str, value: str | tuple[float, ...] | None, counts: tuple[int, ...], expected: str
) -> tuple[float, ...]:
    """Return the numbers of a text, or raise `ParameterError`."""
    parts = value.split(",") if isinstance(value, str) else tuple(value or ())
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        found = ()
    if len(found) not in counts or not all(map(math.isfinite, found)):
        shown = value if isinstance(value, str) else _text(tuple(parts))
        raise ParameterError(name, f"{shown!r}, expected {expected}")
    return found


def _text(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


@dataclass(frozen=True, slots=True)
class UnitCell:
    """Unit cell of the crystal: lengths in Angstrom, angles in degrees."""

    a: float
    b: float
    c: float
    alpha: float = 90.0
    beta: float = 90.0
    gamma: float = 90.0

    def inverse_d(self, hkl: NDArray[Any]) -> Floats:
        """Return 1/d of reflections, 1/Angstrom, (n,) float64; ``hkl``: (n, 3).

        Examples:
            >>> UnitCell(10, 10, 20).inverse_d(np.array([[1, 0, 0], [0, 0, 2]])).round(3)
            array([0.1, 0.1])
        """
        cos = np.cos(np.radians([self.alpha, self.beta, self.gamma]))
        lengths = np.array([self.a, self.b, self.c])
        metric = np.outer(lengths, lengths) * np.array(
            [[1, cos[2], cos[1]], [cos[2], 1, cos[0]], [cos[1], cos[0], 1]]
        )
        reciprocal = np.linalg.inv(metric)
        indices = np.asarray(hkl, np.float64)
        square = np.einsum("ni,ij,nj->n", indices, reciprocal, indices)
        return np.asarray(np.sqrt(square), np.float64)


def cell_of(text: str | None) -> UnitCell | None:
    """Return the unit cell of a text: ``a,b,c`` or ``a,b,c,alpha,beta,gamma``; None: none given.

    Raises `ParameterError` for anything that is no cell.

    Examples:
        >>> cell_of("10,12,14,90,100,90").beta
        100.0
    """
    if text is None:
        return None
    found = _numbers("cell", text, (3, 6), "a,b,c or a,b,c,alpha,beta,gamma")
    cell = UnitCell(*found)
    if min(found[:3]) <= 0 or not all(0 < angle < 180 for angle in found[3:]):
        raise ParameterError("cell", f"{text!r}: lengths are above 0, angles from 0 to 180 degrees")
    a, b, c = np.cos(np.radians([cell.alpha, cell.beta, cell.gamma])).tolist()
    if 1 - a * a - b * b - c * c + 2 * a * b * c < 1e-6:
        raise ParameterError("cell", f"{text!r}: these angles make no cell")
    return cell
