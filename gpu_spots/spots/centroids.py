"""Centroids of spots: weighted sums along an axis, and the centre of mass.

A centroid with weights has less noise than the centre of mass of a mask, and of a spot that is
symmetric it has the same place. Spots of real crystals are not quite symmetric. How far their
centres are apart is measured on the spots of a run, and each centroid goes as far from the one to
the other as its noise allows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gpu_spots.spots.turns import summed

CHI_SQUARED_MEDIAN = 0.4549
"""Median of the square of a unit Gaussian."""
PRECISE = 0.01
"""Largest variance of an offset, in units of its spread, of spots that the asymmetry is taken from.
"""
ENOUGH = 100
"""Coordinates that the asymmetry is taken from, at least."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Distances of the centres of mass of spots from their weighted centres."""

    distance: Floats
    """(n, 2) float64, pixels; NaN where there is no centre of mass."""
    variance: Floats
    """(n, 2) float64, pixels^2: variance of the distance by noise."""
    spread: Floats
    """(n, 2) float64, pixels^2: mean square distance of the weights from the centre, times the part
    of the noise that is not that of the spot's own photons. The offset of a spot that is not
    symmetric is about as large as its root, times a number that all spots of a run share.
    """

    def asymmetry(self) -> np.float64:
        """Return the mean square of the offsets without noise, over their spread.

        It is the median over the spots, and 0 if this is not above four times its error, as for
        symmetric spots, or if there are too few.
        """
        with np.errstate(all="ignore"):
            square = self.distance * self.distance / CHI_SQUARED_MEDIAN
            each = ((square - self.variance) / self.spread)[self.variance < PRECISE * self.spread]
        ascending = np.sort(each[np.isfinite(each)])
        n = len(ascending)
        # this value is the median less four times its error
        if n < ENOUGH or not ascending[n // 2 - 2 * math.isqrt(n)] > 0:
            return np.float64(0.0)
        return np.float64(ascending[n // 2])

    def columns(self, centroid: Floats, sigma: Floats) -> tuple[Floats, Floats]:
        """Return centroids and their standard errors, with the part of the offsets that is known.

        Args:
            centroid: (n, 2) float64, pixels: weighted centre.
            sigma: (n, 2) float64, pixels: its standard error.
        """
        expected = self.asymmetry() * self.spread
        with np.errstate(all="ignore"):
            share = expected / (expected + self.variance)
            is_known = (share > 0) & np.isfinite(share * self.distance)
            moved = np.where(is_known, share * self.distance, 0.0)
            more = np.where(is_known, share * self.variance, 0.0)
        return centroid + moved, np.sqrt(sigma * sigma + more)

    @classmethod
    def joined(cls, parts: Sequence["Offsets"]) -> "Offsets":
        """Return those of consecutive frames, at least one, as those of one."""
        return cls(
            *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls))
        )

    @classmethod
    def along(cls, x: "Offsets", y: "Offsets") -> "Offsets":
        """Return offsets along X and Y, (n,) each, as one."""
        return cls(
            *(np.stack([getattr(x, one.name), getattr(y, one.name)], axis=1) for one in fields(cls))
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """Weights of the pixels of a mask times their distance from the centre of the profile."""

    centre: Floats
    """(c,) float64, pixels: weighted centre of the profile, from the begin of the box."""
    moment: Floats
    """(t, c) float64: weight times distance of each pixel."""
    square: Floats
    """(t, c) float64: its square."""
    noise: Floats
    """(c,) float64: sum of ``square`` times variance."""
    background: Floats
    """(c,) float64: sum of ``square`` times background."""

    @classmethod
    def of(
        cls,
        place: Floats,
        weight: Floats,
        of_profile: Floats,
        total: Floats,
        variance: Floats,
        background: Floats,
    ) -> "Axis":
        """Return the weights along an axis. Pixels of c spots are in `gpu_spots.spots.turns.Turns`.

        Args:
            place: (t, c) float64, pixels: from the begin of the box.
            weight: (t, c) float64: weight of each pixel.
            of_profile: (t, c) float64: weight times profile.
            total: (c,) float64: sums of it.
            variance: (t, c) float64, counts^2: noise of a value.
            background: (t, c) float64, counts.
        """
        with np.errstate(all="ignore"):
            centre = summed(of_profile * place) / total
        moment = weight * (place - centre)
        square = moment * moment
        of_maps = (summed(square * values) for values in (variance, background))
        return cls(centre, moment, square, *of_maps)

    def added(self, more: Floats, background: Floats) -> Floats:
        """Return the sum of ``square`` times the variance that the level of a frame adds, (c,).

        Args:
            more: (c,) or (t, c) float64: variance over background, counts, of all pixels or of
                each.
            background: (t, c) float64, counts.
        """
        if more.ndim > 1:
            return summed(self.square * (more * background))
        return more * self.background

    def on_frame(
        self,
        difference: Floats,
        total: Floats,
        more: Floats,
        gain: float,
        factor: Floats,
        step: Floats,
        *,
        moves: bool,
    ) -> tuple[Floats, Floats]:
        """Return centroid, from the begin of the box, and its error, (c,) float64, pixels.

        Args:
            difference: (t, c) float64, counts: values less the background.
            total: (c,) float64, counts: weighted sum of each spot.
            more: (c,) float64: `added`.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
            step: (c,) float64: what a centre with weights moves by, for a move of 1 of the spot.
            moves: False: the frame is the profile, so that its centre is that of the profile.
        """
        second = summed(self.square * difference)
        of_noise = self.noise + more
        spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(second, 0.0))
        with np.errstate(all="ignore"):
            known = np.where(total > 0, total, np.nan)
            error = step * (np.sqrt(spread) / known)
            if not moves:
                return np.where(total > 0, self.centre, np.nan), error
            first = summed(self.moment * difference)
            return self.centre + step * (first / known), error

    def offset(
        self,
        place: Floats,
        profile: Floats,
        expected: Floats,
        masses: tuple[Floats, Floats, Floats],
        noise: Floats,
        gain: float,
        factor: Floats,
        step: Floats,
    ) -> Offsets:
        """Return the offsets of the centres of mass of the profiles, (c,) each.

        Args:
            place: (t, c) float64, pixels: from the begin of the box.
            profile: (t, c) float64, counts: sum over the frames of the mask.
            expected: (t, c) float64: weight times smoothed profile.
            masses: (c,) float64 each: sums of the profile, of it with weights, and of ``expected``.
            noise: (t, c) float64, counts^2: variance of the profile without the spot.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
            step: (c,) float64: as in `on_frame`.
        """
        mass, total, all_expected = masses
        with np.errstate(all="ignore"):
            mass = np.where(mass > 0, mass, np.nan)
            middle = summed(place * profile) / mass
            gained = (place - middle) / mass
            gained = gained - (step / total) * self.moment
            square = gained * gained
            of_noise, of_light = (summed(square * each) for each in (noise, profile))
            away = place - self.centre
            width = summed(expected * (away * away)) / all_expected
            return Offsets(
                middle - self.centre,
                factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(of_light, 0.0)),
                width * (2 - 2 / step),
            )
