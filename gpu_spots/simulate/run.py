"""A Laue run with known truth, dark or laser, one frame in memory at a time.

The picture of a frame, in counts: ``bias + scale * light * (background + spot_scale * spots)``,
where light is the shadow of the beamstop and its arm times the sensitivity of each pixel. Shot
noise, read noise, hot and dead pixels and zingers follow; then the value is rounded and clipped to
uint16. Outside of the round detector the value is 0 on every frame.

Where no source is named, the numbers are those of real BioCARS series: 80 to 100 spots a frame on
2048 pixels and more, areas 32, 52, 107, 201 and 454 pixels (5, 25, 50, 75, 95 %), intensities 19,
37, 669, 9.7k and 78k counts (1, 10, 50, 90, 99 %), background noise 9.4 counts at 1185 within
neighbouring frames, 13.9 over a run.

Every random number comes from ``seed`` and the place where it is used (run, block, or frame of a
block): more angles or more frames at each angle leave the blocks and the noise of the others as
they are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import ParameterError

Floats = NDArray[np.float64]
FloatImage = NDArray[np.float32]

BIAS = 10.0
"""Counts of a pixel without light (MarCCD)."""
READ_NOISE = 2.5
"""Counts rms."""
MEDIAN_INTENSITY, INTENSITY_SPREAD = 669.0, 2.1
"""Log-normal intensities: median in counts, and sigma of the natural logarithm."""
MEDIAN_AREA, AREA_SPREAD, SMALLEST_AREA = 120.0, 0.85, 12.0
"""Log-normal spot areas on 2048 pixels: median in pixels, sigma of the natural logarithm, and the
floor. Masks at the default options then have about the real areas."""
AREA_IN_SIGMAS = 4 * math.pi
"""A spot's area is that of its 2-sigma ellipse: this times sigma major times sigma minor."""
ELONGATION = (1.2, 2.8)
"""Smallest and largest ratio of sigma major to sigma minor."""
LARGEST_RESPONSE = 0.1
"""Responses to the laser are uniform between minus and plus this."""
PLAIN_SIZE = 2048
"""Smaller frames (a binned or a smaller detector) have spots that are smaller in proportion, by
area.
"""

_RUN, _BLOCK, _FRAME = range(3)


@dataclass(frozen=True, slots=True)
class Design:
    """What to simulate.

    Raises `ParameterError`, which names the field, the value found and the range.
    """

    laser: bool = True
    """Off/on pairs at each angle; False: a dark run."""
    size: tuple[int, int] = (1024, 1024)
    """n_X (rows) and n_Y (columns), pixels, 32 to 16384 each."""
    angles: int = 10
    """Number of angles, 1 or more."""
    repeats: int = 3
    """Pairs at each angle of a laser run, frames at each angle of a dark one, 1 or more."""
    spots: int = 200
    """Spots on a frame, 0 or more; a bit less than half are strong enough to be found, as many as
    on real frames.
    """
    background: float = 1000.0
    """Counts above the bias at the liquid ring, 0 to 60000."""
    drift: float = 0.0
    """Percent rms of the beam's intensity, 0 to 20: four fifths of the variance are slow (tens of
    frames), the rest is shot to shot.
    """
    jitter: float = 2.0
    """Percent rms from frame to frame that the spots have and the background has not, 0 to 20: how
    well the beam hits the crystal.
    """
    gain: float = 0.07
    """Variance in counts^2 per count of light, above 0 to 100; 0.07 gives the noise of real frames,
    1 is plain Poisson noise.
    """
    step: float = 1.0
    """Degrees from angle to angle, 0.001 to 360."""
    on_first: bool = False
    """The laser-on frame of a pair comes first."""
    interlaced: bool = False
    """The angles are visited in two passes: every second one, then those between."""
    hot_pixels: int = 12
    """Pixels with a large constant signal, 0 or more."""
    dead_pixels: int = 12
    """Pixels that are 0 on every frame, 0 or more."""
    zingers: float = 5.0
    """Single bright pixels on each frame, mean number, 0 to 10000."""
    seed: int = 0
    """Of all random numbers, 0 or more."""

    def __post_init__(self) -> None:
        for size in self.size:
            _check("size", size, 32, 16384)
        for name in ("angles", "repeats"):
            _check(name, getattr(self, name), 1, math.inf)
        for name in ("spots", "hot_pixels", "dead_pixels", "seed"):
            _check(name, getattr(self, name), 0, math.inf)
        _check("background", self.background, 0, 60000)
        _check("drift", self.drift, 0, 20)
        _check("jitter", self.jitter, 0, 20)
        _check("gain", self.gain, 0.001, 100)
        _check("step", self.step, 0.001, 360)
        _check("zingers", self.zingers, 0, 10000)

    @property
    def frames_per_angle(self) -> int:
        """Frames of a block."""
        return self.repeats * (2 if self.laser else 1)

    @property
    def n_frames(self) -> int:
        """Frames of the run."""
        return self.angles * self.frames_per_angle


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each frame is, in the order in which they were taken."""

    block: NDArray[np.int32]
    """(n_frames,) int32: index of the angle, in the order of the angles."""
    angle: Floats
    """(n_frames,) float64, degrees."""
    laser_on: NDArray[np.int32]
    """(n_frames,) int32: 1 with laser, 0 without."""
    repeat: NDArray[np.int32]
    """(n_frames,) int32: number of the pair, or of the frame in a dark run, at its angle, from 1.
    """

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.block)


@dataclass(frozen=True, slots=True)
class TrueSpots:
    """What is there: one row for a spot of a block.

    All frames of a block have the same spots, at the same places.
    """

    XY: Floats
    """(t, 2) float64, pixels: X and Y of the centre; a whole number is the middle of a pixel."""
    block: NDArray[np.int32]
    """(t,) int32: index of the block."""
    angle: Floats
    """(t,) float64, degrees."""
    I: Floats  # noqa: E741 (the manual's name)
    """(t,) float64, counts: total intensity without laser, before the scales of the frame."""
    response: Floats
    """(t,) float64: on/off - 1; 0 in a dark run."""
    sigma: Floats
    """(t, 2) float64, pixels: sigma along the major and the minor axis of the elliptical Gaussian.
    """
    orientation: Floats
    """(t,) float64, degrees: of the major axis, from +X towards +Y; it points away from the beam.
    """
    snr: Floats
    """(t,) float64: see `expected_snr`."""

    def __len__(self) -> int:
        """Number of spots, over all blocks."""
        return len(self.I)


@dataclass(frozen=True, slots=True)
class Truth:
    """What a search can be scored against."""

    shape: tuple[int, int]
    """n_X and n_Y, pixels."""
    schedule: Schedule
    """The frames."""
    spots: TrueSpots
    """The spots."""


@dataclass(frozen=True, slots=True)
class Detector:
    """What stays the same over the run."""

    inside: NDArray[np.bool_]
    """(n_X, n_Y) bool: pixels of the round detector."""
    light: FloatImage
    """(n_X, n_Y) float32: shadow of the beamstop times the pixel's sensitivity, about 1 in the
    open; 0 outside.
    """
    background: FloatImage
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


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A run whose frames are drawn when they are asked for; see `simulate_run`."""

    design: Design
    """What was asked for."""
    detector: Detector
    """What stays the same."""
    truth: Truth
    """What is there."""
    scale: Floats
    """(n_frames,) float64: of the whole picture above the bias, 1 on average."""
    spot_scale: Floats
    """(n_frames,) float64: of the spots on top of that, 1 on average."""

    def frame(self, index: int) -> NDArray[np.uint16]:
        """Frame ``index``, (n_X, n_Y) uint16, counts; the same whichever others are drawn."""
        return self._draw(index, *self._spot_images(int(self.truth.schedule.block[index])))

    def frames(self) -> Iterator[NDArray[np.uint16]]:
        """All frames in order, each (n_X, n_Y) uint16, counts, equal to `frame` and faster."""
        block, images = -1, None
        for index, wanted in enumerate(self.truth.schedule.block.tolist()):
            if images is None or wanted != block:
                block, images = wanted, self._spot_images(wanted)
            yield self._draw(index, *images)

    def _spot_images(self, block: int) -> tuple[FloatImage, FloatImage]:
        """The spots of a block without laser, and what the laser adds: two images (n_X, n_Y) float32, counts."""
        off = np.zeros(self.design.size, np.float32)
        added = np.zeros(self.design.size, np.float32)
        spots = self.truth.spots
        for i in np.flatnonzero(spots.block == block):
            window, profile = _gaussian(
                self.design.size, spots.XY[i], spots.sigma[i], math.radians(spots.orientation[i])
            )
            counts = (spots.I[i] * profile * self.detector.light[window]).astype(np.float32)
            off[window] += counts
            added[window] += counts * np.float32(spots.response[i])
        return off, added

    def _draw(self, index: int, off: FloatImage, added: FloatImage) -> NDArray[np.uint16]:
        """The picture with its noise, some rows at a time: that stays in the cache, and the temporary arrays stay small."""
        d, schedule = self.detector, self.truth.schedule
        rng = _generator(self.design.seed, _FRAME, *_place_in_run(schedule, index))
        scale, spot_scale = self.scale[index], self.scale[index] * self.spot_scale[index]
        frame = np.zeros(self.design.size, np.uint16)
        for begin in range(0, len(frame), 64):
            rows = slice(begin, begin + 64)
            spots = off[rows] + added[rows] if schedule.laser_on[index] else off[rows]
            light = scale * d.background[rows].astype(np.float64) + spot_scale * spots
            light = rng.poisson(light / self.design.gain) * float(self.design.gain)
            light += BIAS + READ_NOISE * rng.standard_normal(light.shape, np.float32)
            frame[rows] = _to_uint16(light)
        hits = rng.integers(0, self.design.size, (rng.poisson(self.design.zingers), 2))
        struck = frame[tuple(hits.T)] + _log_uniform(rng, 200, 20000, len(hits))
        frame[tuple(hits.T)] = _to_uint16(struck)
        # A hot pixel flickers far more than its shot noise.
        frame[tuple(d.hot.T)] = _to_uint16(
            frame[tuple(d.hot.T)] + d.hot_counts * rng.normal(1, 0.05, len(d.hot))
        )
        frame[tuple(d.dead.T)] = 0
        frame[~d.inside] = 0
        return frame


def simulate_run(design: Design) -> SimulatedRun:
    """Draw the truth of a run; its frames are drawn later, one at a time.

    Raises:
        ParameterError: the spots do not fit on the frame without touching each other.
    """
    rng = _generator(design.seed, _RUN)
    phases = rng.uniform(0, 2 * math.pi, len(_PERIODS))
    detector = _detector(design, rng)
    schedule = _schedule(design)
    blocks = [_block_spots(design, detector, block) for block in range(design.angles)]
    spots = TrueSpots(
        *(np.concatenate([getattr(b, field.name) for b in blocks]) for field in fields(TrueSpots))
    )
    scale, spot_scale = _scales(design, schedule, phases)
    return SimulatedRun(design, detector, Truth(design.size, schedule, spots), scale, spot_scale)


def expected_snr(intensity: Floats, area: Floats, background: Floats, gain: float) -> Floats:
    """Expected signal-to-noise of a spot integrated on one frame: ``I / sqrt(gain * I + area * (gain * background + read^2))``.

    Args:
        intensity: I, (t,) float64, counts.
        area: of the 2-sigma ellipse, (t,) float64, pixels.
        background: above the bias at the centre of the spot, (t,) float64, counts.
        gain: variance in counts^2 per count.
    """
    noise = np.sqrt(gain * intensity + area * (gain * background + READ_NOISE**2))
    return np.asarray(intensity / noise, np.float64)


def _place_in_run(schedule: Schedule, index: int) -> tuple[int, int]:
    """The block of frame ``index``, and how many frames of that block come before it."""
    block = schedule.block[index]
    return int(block), int((schedule.block[:index] == block).sum())


def _schedule(design: Design) -> Schedule:
    visits = np.arange(design.angles)
    if design.interlaced:
        visits = np.concatenate([visits[::2], visits[1::2]])
    number = np.tile(np.arange(design.frames_per_angle), design.angles)
    block = np.repeat(visits, design.frames_per_angle)
    on = (
        (number % 2 == (0 if design.on_first else 1))
        if design.laser
        else np.zeros(len(number), bool)
    )
    repeat = (number // 2 if design.laser else number) + 1
    angle = np.round(block * design.step, 3)
    return Schedule(block.astype(np.int32), angle, on.astype(np.int32), repeat.astype(np.int32))


_PERIODS = (31.0, 73.0, 179.0)
"""Of the slow drift, frames."""


def _scales(design: Design, schedule: Schedule, phases: Floats) -> tuple[Floats, Floats]:
    """Scale of the picture and of the spots on each frame: the shots' part is drawn for the frame, so it depends on no other."""
    places = (_place_in_run(schedule, index) for index in range(len(schedule)))
    shots = np.array(
        [_generator(design.seed, _FRAME, *place, 0).standard_normal(2) for place in places]
    )
    time = np.arange(len(schedule))[:, None]
    slow = np.sqrt(2 / len(_PERIODS)) * np.sin(
        2 * math.pi * time / np.array(_PERIODS) + phases
    ).sum(1)
    drift = math.sqrt(0.8) * slow + math.sqrt(0.2) * shots[:, 0]
    return np.maximum(1 + design.drift / 100 * drift, 0), np.maximum(
        1 + design.jitter / 100 * shots[:, 1], 0
    )


def _detector(design: Design, rng: np.random.Generator) -> Detector:
    n_X, n_Y = design.size
    half = min(n_X, n_Y) / 2
    radius, stop, arm = 0.995 * half, 0.05 * half, 0.012 * half
    middle = (n_X - 1) / 2, (n_Y - 1) / 2
    # A real beam never hits the middle.
    beam = middle[0] + 0.02 * half, middle[1] - 0.015 * half
    X, Y = np.ogrid[:n_X, :n_Y]
    inside = np.hypot(X - middle[0], Y - middle[1]) <= radius
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
    hot_counts = _log_uniform(rng, 300, 30000, len(hot))
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
    )


def _diffuse(r: Floats) -> Floats:
    """Diffuse scattering at ``r`` detector radii from the beam, 1 at the liquid ring: air near the beam, the ring, a broad rest."""
    profile = (
        0.10
        + 0.45 * np.exp(-r / 0.7)
        + 0.5 * np.exp(-(((r - 0.4) / 0.11) ** 2) / 2)
        + 3.0 * np.exp(-r / 0.1)
    )
    return np.asarray(profile / 0.91, np.float64)


def _block_spots(design: Design, detector: Detector, block: int) -> TrueSpots:
    rng = _generator(design.seed, _BLOCK, block)
    n = design.spots
    scale = min(1.0, min(design.size) / PLAIN_SIZE)
    area = np.maximum(
        scale * MEDIAN_AREA * np.exp(AREA_SPREAD * rng.standard_normal(n).clip(-2.5, 2.5)),
        SMALLEST_AREA,
    )
    ratio = rng.uniform(*ELONGATION, n)
    minor = np.sqrt(area / AREA_IN_SIGMAS / ratio)
    sigma = np.column_stack([minor * ratio, minor])
    intensity = MEDIAN_INTENSITY * np.exp(INTENSITY_SPREAD * rng.standard_normal(n))
    response = rng.uniform(-LARGEST_RESPONSE, LARGEST_RESPONSE, n) if design.laser else np.zeros(n)
    XY = _places(design, detector, 3.5 * sigma[:, 0] + 2, rng)
    away = XY - detector.beam
    pixel = tuple(np.rint(XY).astype(int).T)
    return TrueSpots(
        XY,
        np.full(n, block, np.int32),
        np.full(n, np.round(block * design.step, 3)),
        intensity,
        response,
        sigma,
        np.degrees(np.arctan2(away[:, 1], away[:, 0])),
        expected_snr(intensity, area, detector.background[pixel].astype(np.float64), design.gain),
    )


def _places(design: Design, detector: Detector, reach: Floats, rng: np.random.Generator) -> Floats:
    """Centres, (t, 2) float64, pixels, such that circles of radius ``reach`` overlap neither each other nor the beamstop, arm and rim.

    The largest are placed first, each at the first of many random places that is free.
    """
    XY = np.zeros((len(reach), 2))
    middle = (np.array(design.size) - 1) / 2
    order = np.argsort(-reach, kind="stable")
    for done, i in enumerate(order):
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
            wanted = f"{design.spots} do not fit on frames of {design.size[0]} x {design.size[1]} without touching each other"
            raise ParameterError(
                "spots", f"{wanted} (place found for {done}); take fewer, or larger frames"
            )
        XY[i] = tries[free[0]]
    return XY


def _in_the_open(detector: Detector, middle: Floats, XY: Floats, reach: float) -> NDArray[np.bool_]:
    """Whether circles of radius ``reach`` around ``XY`` keep clear of the rim, the beamstop and its arm."""
    X, Y = (XY - detector.beam).T
    clear = np.hypot(*(XY - middle).T) < detector.radius - reach
    clear &= np.hypot(X, Y) > detector.stop + reach
    clear &= (-reach > X) | (abs(Y) > detector.arm + reach)
    return np.asarray(clear)


def _gaussian(
    size: tuple[int, int], XY: Floats, sigma: Floats, orientation: float
) -> tuple[tuple[slice, slice], Floats]:
    """An elliptical Gaussian of sum 1 in the window of the frame that holds it out to 5 sigma."""
    cos, sin = math.cos(orientation), math.sin(orientation)
    half = 5 * np.array(
        [math.hypot(sigma[0] * cos, sigma[1] * sin), math.hypot(sigma[0] * sin, sigma[1] * cos)]
    )
    begin = np.maximum(np.floor(XY - half), 0).astype(int)
    end = np.minimum(np.ceil(XY + half) + 1, size).astype(int)
    x, y = np.arange(begin[0], end[0])[:, None] - XY[0], np.arange(begin[1], end[1]) - XY[1]
    along, across = (x * cos + y * sin) / sigma[0], (y * cos - x * sin) / sigma[1]
    profile = np.exp(-(along**2 + across**2) / 2) / (2 * math.pi * sigma[0] * sigma[1])
    return (slice(begin[0], end[0]), slice(begin[1], end[1])), profile


def _to_uint16(counts: Floats) -> NDArray[np.uint16]:
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Floats:
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def _generator(seed: int, *place: int) -> np.random.Generator:
    """The random numbers of one place in the run: what `numpy.random.SeedSequence.spawn` gives, without spawning those before it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also catches NaN
        expected = f"{low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ParameterError(name, f"{value!r}, expected a number, {expected}")
