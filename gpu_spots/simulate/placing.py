"""The true spots: their shapes, intensities, responses and places."""

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import ParameterError
from gpu_spots.simulate.design import KINDS, Design
from gpu_spots.simulate.detector import Detector, generator
from gpu_spots.simulate.profiles import (
    STREAK,
    CutOut,
    Window,
    cut_to_frame,
    drawn_kinds,
    profile,
)
from gpu_spots.simulate.truth import Floats, TrueSpots, expected_snr

PLAIN_SIZE = 2048
"""Smaller frames (a binned or a smaller detector) have spots that are smaller in proportion, by
area.
"""
AREA_IN_SIGMAS = 4 * math.pi
"""A spot's area is that of its 2-sigma ellipse: this times sigma major times sigma minor."""
_BLOCK = 1
_DELAYS, _PARTNERS, _KINDS = 1, 2, 3
"""Places of random numbers, after that of the block (see `gpu_spots.simulate.run`)."""


def block_spots(
    design: Design,
    detector: Detector,
    block: int,
    cutouts: Sequence[CutOut],
    taken: tuple[Floats, Floats],
) -> TrueSpots:
    """Return the spots of a block.

    Their matched signal-to-noise ratios and fractions are NaN; partners are rows of the block.

    Args:
        design: what to simulate.
        detector: what stays the same.
        block: index of the block.
        cutouts: shapes for the profile ``cutouts``.
        taken: centres (s, 2) and radii (s,) of circles that the spots keep clear of, pixels.
    """
    rng = generator(design.seed, _BLOCK, block)
    n, shape = design.spots, design.shape
    scale = min(1.0, min(design.size) / PLAIN_SIZE)
    area = np.maximum(
        scale * shape.area * np.exp(shape.area_spread * rng.standard_normal(n).clip(-2.5, 2.5)),
        shape.smallest_area,
    )
    ratio = rng.uniform(*shape.elongation, n)
    minor = np.sqrt(area / AREA_IN_SIGMAS / ratio)
    sigma = np.column_stack([minor * ratio, minor])
    intensity = shape.intensity * np.exp(shape.intensity_spread * rng.standard_normal(n))
    largest = shape.largest_response
    response = rng.uniform(-largest, largest, n) if design.laser else np.zeros(n)
    kinds = drawn_kinds(shape.profile, n, generator(design.seed, _BLOCK, block, _KINDS))
    chosen = generator(design.seed, _BLOCK, block, _KINDS, 1)
    sigma = _shaped(sigma, kinds, cutouts, chosen)
    hosts = np.arange(n) < design.shape.neighbours
    reach = 3.5 * sigma[:, 0] + 2 + np.where(hosts, design.shape.separation / 2 * sigma[:, 0], 0)
    XY = _places(design, detector, reach, rng, taken)
    away = XY - detector.beam
    orientation = np.degrees(np.arctan2(away[:, 1], away[:, 0]))
    if shape.profile == "cutouts":
        orientation = np.array([_cutout(s, cutouts).orientation for s in sigma])
        XY = np.array([_on_pixels(p, _cutout(s, cutouts)) for p, s in zip(XY, sigma, strict=True)])
        XY = XY.reshape(-1, 2)
    pixel = tuple(np.rint(XY).astype(int).T)
    area = AREA_IN_SIGMAS * sigma.prod(1) if len(sigma) and shape.profile != "gaussian" else area
    delays = generator(design.seed, _BLOCK, block, _DELAYS)
    others = delays.uniform(-largest, largest, (n, len(design.delays) - 1))
    spots = TrueSpots(
        XY,
        np.full(n, block, np.int32),
        np.full(n, np.round(block * design.step, 3)),
        intensity,
        response,
        sigma,
        orientation,
        expected_snr(
            intensity,
            area,
            detector.background[pixel].astype(np.float64),
            design.gain,
            design.detector.read_noise,
        ),
        np.column_stack([response, others * design.laser]),
        np.full(n, np.nan),
        np.full(n, np.nan),
        kinds,
        np.full(n, -1, np.int32),
    )
    if not hosts.any():
        return spots
    return _with_partners(design, detector, spots, generator(design.seed, _BLOCK, block, _PARTNERS))


def static_spots(
    design: Design, detector: Detector, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return centres and sigmas (s, 2), orientations and intensities (s,) of static spots."""
    n, shape = design.shape.static_spots, design.shape
    area = np.full(n, max(shape.smallest_area, shape.area * min(1, min(design.size) / PLAIN_SIZE)))
    ratio = rng.uniform(1, 2, n)
    minor = np.sqrt(area / AREA_IN_SIGMAS / ratio)
    sigma = np.column_stack([minor * ratio, minor])
    intensity = shape.intensity * np.exp(rng.uniform(0, shape.intensity_spread, n))
    XY = _places(
        design,
        detector,
        3.5 * sigma[:, 0] + 2,
        rng,
        (np.zeros((0, 2)), np.zeros(0)),
        "static_spots",
    )
    return XY, sigma, rng.uniform(-180, 180, n), intensity


def image_of(
    spots: TrueSpots, row: int, size: tuple[int, int], shift: Floats, cutouts: Sequence[CutOut]
) -> tuple[Window, Floats]:
    """Return the window of a spot and the share of its intensity in each pixel there.

    Args:
        spots: the true spots.
        row: which of them.
        size: n_X and n_Y, pixels.
        shift: (2,) float64, displacement on the frame, pixels.
        cutouts: shapes for the profile ``cutouts``.
    """
    kind = KINDS[spots.profile[row]]
    XY = spots.XY[row] + shift
    if kind == "cutouts":
        cut = _cutout(spots.sigma[row], cutouts)
        first = np.rint(XY - cut.centre).astype(int)
        return cut_to_frame(cut.image, first, size)
    return profile(kind, size, XY, spots.sigma[row], math.radians(spots.orientation[row]))


def _shaped(
    sigma: Floats,
    kinds: NDArray[np.int32],
    cutouts: Sequence[CutOut],
    rng: np.random.Generator,
) -> Floats:
    """Return the sigmas of streaks, at the same area, and of cut-outs; others stay."""
    sigma = sigma.copy()
    streak = kinds == KINDS.index("streak")
    if streak.any():
        side = np.sqrt(sigma.prod(1)[streak])
        ratio = np.sqrt(rng.uniform(*STREAK, streak.sum()))
        sigma[streak] = np.column_stack([side * ratio, side / ratio])
    if (kinds == KINDS.index("cutouts")).any():
        if not cutouts:
            raise ParameterError("cutouts", "no image given, expected one for --profile cutouts")
        sigma = np.array([cut.sigma for cut in cutouts])[rng.integers(0, len(cutouts), len(sigma))]
    return sigma


def _cutout(sigma: Floats, cutouts: Sequence[CutOut]) -> CutOut:
    """Return the cut-out with these sigmas."""
    return next(cut for cut in cutouts if cut.sigma == tuple(sigma.tolist()))


def _on_pixels(XY: Floats, cut: CutOut) -> Floats:
    """Return the nearest centre at which the pixels of the cut-out fall on those of the frame."""
    return np.asarray(np.rint(XY - cut.centre) + cut.centre)


def _with_partners(
    design: Design, detector: Detector, spots: TrueSpots, rng: np.random.Generator
) -> TrueSpots:
    """Return the spots with an equal one beside the first of them.

    Both are at half the distance from where the first would have been.
    """
    n = len(spots)
    hosts = np.arange(min(n, design.shape.neighbours))
    turn = rng.uniform(0, 2 * math.pi, len(hosts))
    orientation, sigma = np.radians(spots.orientation[hosts]), spots.sigma[hosts]
    # the radius of the 1-sigma ellipse in this direction
    radius = 1 / np.hypot(
        np.cos(turn - orientation) / sigma[:, 0], np.sin(turn - orientation) / sigma[:, 1]
    )
    half = (design.shape.separation / 2 * radius)[:, None] * np.column_stack(
        [np.cos(turn), np.sin(turn)]
    )
    columns = {
        one.name: np.concatenate([(column := getattr(spots, one.name)), column[hosts]])
        for one in fields(TrueSpots)
    }
    columns["XY"][hosts] -= half
    columns["XY"][n:] += half
    columns["partner"][hosts] = np.arange(n, n + len(hosts))
    columns["partner"][n:] = hosts
    return TrueSpots(**columns)


def _places(
    design: Design,
    detector: Detector,
    reach: Floats,
    rng: np.random.Generator,
    taken: tuple[Floats, Floats],
    name: str = "spots",
) -> Floats:
    """Return centres, (t, 2) float64, pixels, of circles that overlap nothing.

    They overlap neither each other nor the circles that are taken, the beamstop, its arm and the
    rim. The largest are placed first, each at the first of many random places that is free.
    """
    n_taken = len(taken[0])
    XY = np.concatenate([taken[0], np.zeros((len(reach), 2))])
    reach = np.concatenate([taken[1], reach])
    middle = (np.array(design.size) - 1) / 2
    order = np.argsort(-reach[n_taken:], kind="stable") + n_taken
    order = np.concatenate([np.arange(n_taken), order])
    for done, i in enumerate(order):
        if done < n_taken:
            continue
        others = order[:done]
        for _ in range(60):
            tries = middle + rng.uniform(-detector.radius, detector.radius, (50, 2))
            apart = (
                np.hypot(*(tries - XY[others, None]).transpose(2, 0, 1))
                > reach[others, None] + reach[i]
            )
            free = np.flatnonzero(apart.all(0) & _in_the_open(detector, middle, tries, reach[i]))
            if len(free):
                break
        else:
            wanted = (
                f"{len(reach) - n_taken} do not fit on frames of {design.size[0]} x "
                f"{design.size[1]} without touching each other"
            )
            raise ParameterError(
                name,
                f"{wanted} (place found for {done - n_taken}); take fewer, or larger frames",
            )
        XY[i] = tries[free[0]]
    return XY[n_taken:]


def _in_the_open(detector: Detector, middle: Floats, XY: Floats, reach: float) -> NDArray[np.bool_]:
    """Return whether circles around ``XY`` keep clear of the rim, the beamstop and its arm."""
    X, Y = (XY - detector.beam).T
    clear = np.hypot(*(XY - middle).T) < detector.radius - reach
    clear &= np.hypot(X, Y) > detector.stop + reach
    clear &= (-reach > X) | (abs(Y) > detector.arm + reach)
    return np.asarray(clear)
