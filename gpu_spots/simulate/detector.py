"""Detector, light on it and background, which stay the same over a run."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.simulate.design import Design
from gpu_spots.simulate.truth import Floats

Image = NDArray[np.float32]
_SHAPE, _FLICKER = 100, 101
"""Places of random numbers (see `gpu_spots.simulate.run`)."""


@dataclass(frozen=True, slots=True)
class Detector:
    """Detector: what does not change during the run."""

    inside: NDArray[np.bool_]
    """(n_X, n_Y) bool: pixels that count: inside of the round detector and outside of gaps."""
    light: Image
    """(n_X, n_Y) float32: shadow of the beamstop times the pixel's sensitivity, about 1 in the
    open; 0 where no pixel counts.
    """
    background: Image
    """(n_X, n_Y) float32, counts: diffuse scattering above the bias, times ``light``."""
    beam: tuple[float, float]
    """X and Y of the direct beam, pixels."""
    radius: float
    """Radius of the round detector, pixels; its centre is the middle of the frame."""
    stop: float
    """Radius of the beamstop, pixels."""
    arm: float
    """Half the width of its arm, which points to +X, pixels."""
    hot: NDArray[np.int32]
    """(h, 2) int32: X and Y of the hot pixels."""
    hot_counts: Floats
    """(h,) float64, counts: their mean signal."""
    dead: NDArray[np.int32]
    """(d, 2) int32: X and Y of the dead pixels."""
    flickering: NDArray[np.int32]
    """(k, 2) int32: X and Y of the flickering pixels."""
    flickering_counts: Floats
    """(k,) float64, counts: their signal on frames where they are bright."""
    gradient: Image
    """(n_X, n_Y) float32: change of the background's shape at a change of 1, from about -1 to 1;
    of size 0 if the shape does not change.
    """


def make_detector(design: Design, rng: np.random.Generator) -> Detector:
    """Return the detector of a run."""
    n_X, n_Y = design.size
    half = min(n_X, n_Y) / 2
    radius, stop, arm = 0.995 * half, 0.05 * half, 0.012 * half
    middle = (n_X - 1) / 2, (n_Y - 1) / 2
    # A real beam never hits the middle.
    beam = middle[0] + 0.02 * half, middle[1] - 0.015 * half
    X, Y = np.ogrid[:n_X, :n_Y]
    inside = np.hypot(X - middle[0], Y - middle[1]) <= radius
    if not design.detector.round_detector:
        inside = np.ones(design.size, bool)
    if design.detector.modules:
        (rows, columns), (gap_rows, gap_columns) = design.detector.modules, design.detector.gaps
        inside = inside & (X % (rows + gap_rows) < rows) & (Y % (columns + gap_columns) < columns)
    distance = np.hypot(X - beam[0], Y - beam[1])
    edge = max(1.5, 0.008 * half)
    shadow = np.clip((distance - stop) / edge + 0.5, 0, 1)
    beside_arm = np.clip((abs(Y - beam[1]) - arm) / edge + 0.5, 0, 1)
    shadow *= np.where(beam[0] < X, 0.4 + 0.6 * beside_arm, 1)
    sensitivity = rng.normal(1, 0.005, design.size)
    light = np.where(inside, shadow * sensitivity, 0)
    background = design.background * _diffuse(distance / half) * light

    # Not on the rim, so that each of them is one that a search can meet.
    places = np.flatnonzero(np.hypot(X - middle[0], Y - middle[1]) < radius - 2)
    chosen = rng.choice(
        places, min(design.hot_pixels + design.dead_pixels, len(places)), replace=False
    )
    defects = np.column_stack(np.unravel_index(chosen, design.size)).astype(np.int32)
    hot, dead = defects[: design.hot_pixels], defects[design.hot_pixels :]
    hot_counts = log_uniform(rng, 300, 30000, len(hot))

    shape = generator(design.seed, _SHAPE)
    background *= _rings(design, distance / half, shape)
    gradient = np.zeros((0, 0))
    if design.beam.background_change:
        turn = shape.uniform(0, 2 * np.pi)
        gradient = ((X - beam[0]) * np.cos(turn) + (Y - beam[1]) * np.sin(turn)) / half
    flicker = generator(design.seed, _FLICKER)
    n = min(design.faults.flickering_pixels, len(places))
    flickering = np.column_stack(
        np.unravel_index(flicker.choice(places, n, replace=False), design.size)
    ).astype(np.int32)
    return Detector(
        inside,
        light.astype(np.float32),
        background.astype(np.float32),
        beam,
        radius,
        stop,
        arm,
        hot,
        hot_counts,
        dead,
        flickering,
        log_uniform(flicker, 50, 5000, n),
        gradient.astype(np.float32),
    )


def _diffuse(r: Floats) -> Floats:
    """Diffuse scattering at ``r`` detector radii from the beam, 1 at the liquid ring.

    It has a part near the beam (air), the ring, and a broad rest.
    """
    profile = (
        0.10
        + 0.45 * np.exp(-r / 0.7)
        + 0.5 * np.exp(-(((r - 0.4) / 0.11) ** 2) / 2)
        + 3.0 * np.exp(-r / 0.1)
    )
    return np.asarray(profile / 0.91, np.float64)


def _rings(design: Design, r: Floats, rng: np.random.Generator) -> Floats:
    """Factor of the background by powder rings, which are about 3 pixels wide."""
    factor = np.ones_like(r)
    width = 3 / min(design.size)
    for radius in rng.uniform(0.2, 0.9, design.beam.rings):
        factor += design.beam.ring_strength / 100 * np.exp(-(((r - radius) / width) ** 2) / 2)
    return factor


def log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Floats:
    """Return ``n`` numbers whose logarithms are uniform."""
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def generator(seed: int, *place: int) -> np.random.Generator:
    """Return the random numbers of one place in the run.

    It is what `numpy.random.SeedSequence.spawn` gives, without spawning those before it.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))
