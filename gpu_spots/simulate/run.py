"""A Laue run with known truth, dark or laser, one frame in memory at a time.

The picture of a frame, in counts: ``bias + scale * light * (background + spot_scale * spots)``,
where light is the shadow of the beamstop and its arm times the sensitivity of each pixel. Shot
noise, read noise, hot, dead and flickering pixels and zingers follow; then the value is rounded and
clipped to the type of the frames. Outside of the detector the value is that of gaps.

Where no source is named, the defaults are those of real BioCARS series: 80 to 100 spots a frame on
2048 pixels and more, areas 32, 52, 107, 201 and 454 pixels (5, 25, 50, 75, 95 %), intensities 19,
37, 669, 9.7k and 78k counts (1, 10, 50, 90, 99 %), background noise 9.4 counts at 1185 within
neighbouring frames, 13.9 over a run.

Every random number comes from ``seed`` and the place where it is used (run, block, or frame of a
block): more angles or more frames at each angle leave the blocks and the noise of the others as
they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.simulate.design import Design
from gpu_spots.simulate.detector import Detector, Image, generator, log_uniform, make_detector
from gpu_spots.simulate.placing import block_spots, image_of, static_spots
from gpu_spots.simulate.profiles import CutOut, profile
from gpu_spots.simulate.truth import (
    Conditions,
    Floats,
    Schedule,
    TrueSpots,
    Truth,
    matched_snr,
    noise_kernel,
    smoothed,
)

__all__ = ["Design", "Schedule", "SimulatedRun", "TrueSpots", "Truth", "simulate_run"]

Counts = NDArray[Any]
"""Frames: uint16, int32 or uint32, counts."""
_RUN, _BLOCK, _FRAME, _STATIC, _CHANGES = range(5)
"""Places of random numbers."""
_SHOTS, _FLICKER = range(2)
"""Places of random numbers, after that of the frame."""
_PERIODS = (31.0, 73.0, 179.0)
"""Periods of the slow drift, frames."""
FLICKER_SHARE = 1 / 3
"""Part of the frames on which a flickering pixel is bright."""


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A run whose frames are drawn when they are asked for; see `simulate_run`."""

    design: Design
    """Design of the run."""
    detector: Detector
    """Detector and background, which stay the same."""
    truth: Truth
    """True spots and schedule of the frames."""
    scale: Floats
    """(n_frames,) float64: scale of the whole picture above the bias, 1 on average."""
    spot_scale: Floats
    """(n_frames,) float64: further scale of the spots, 1 on average."""
    bias: Floats
    """(n_frames,) float64, counts: value of a pixel without light."""
    background_change: Floats
    """(n_frames,) float64: factor of `Detector.gradient`, 0 on average."""
    cutouts: Sequence[CutOut]
    """Shapes for the profile ``cutouts``."""
    static: Image
    """(n_X, n_Y) float32, counts: the spots that are on all frames; of size 0 without any."""

    def frame(self, index: int) -> Counts:
        """Return frame ``index``, (n_X, n_Y), counts; the same whichever others are drawn."""
        return self._draw(index, *self._spot_images(*self._scene(index)))

    def frames(self) -> Iterator[Counts]:
        """Yield all frames in order, each (n_X, n_Y), counts, equal to `frame` and faster."""
        scene, images = None, None
        for index in range(len(self.truth.schedule)):
            wanted = self._scene(index)
            if images is None or wanted != scene:
                scene, images = wanted, self._spot_images(*wanted)
            yield self._draw(index, *images)

    def _scene(self, index: int) -> tuple[int, tuple[float, ...]]:
        """Return what the spots of a frame depend on: its block and their displacement."""
        shift = self.truth.conditions.shift[index]
        return int(self.truth.schedule.block[index]), tuple(shift.tolist())

    def _spot_images(self, block: int, shift: tuple[float, ...]) -> tuple[Image, list[Image]]:
        """Return the spots of a block without laser, and what the laser adds at each delay.

        All are images (n_X, n_Y) float32, counts.
        """
        size = self.design.size
        off = np.zeros(size, np.float32)
        added = [np.zeros(size, np.float32) for _ in self.design.delays]
        spots = self.truth.spots
        for i in np.flatnonzero(spots.block == block).tolist():
            window, share = image_of(spots, i, size, np.array(shift), self.cutouts)
            counts = (spots.I[i] * share * self.detector.light[window]).astype(np.float32)
            off[window] += counts
            for image, response in zip(added, spots.responses[i], strict=True):
                image[window] += counts * np.float32(response)
        if self.static.size:
            off += self.static
        return off, added

    def _draw(self, index: int, off: Image, added: list[Image]) -> Counts:
        """Draw the picture with its noise.

        This goes some rows at a time: they stay in the cache, and the temporary arrays stay small.
        """
        d, truth, design = self.detector, self.truth, self.design
        rng = generator(design.seed, _FRAME, *_place_in_run(truth.schedule, index))
        scale, spot_scale = self.scale[index], self.scale[index] * self.spot_scale[index]
        bias, read_noise = float(self.bias[index]), design.detector.read_noise
        delay = int(truth.conditions.delay[index])
        correlated = design.detector.correlation > 0
        kernel = noise_kernel(design.detector.correlation)
        counts = np.zeros(design.size, np.float64 if correlated else design.detector.dtype)
        noise = np.zeros(design.size if correlated else (0, 0))
        for begin in range(0, len(counts), 64):
            rows = slice(begin, begin + 64)
            spots = off[rows] + added[delay][rows] if delay >= 0 else off[rows]
            background = d.background[rows].astype(np.float64)
            if d.gradient.size:
                change = self.background_change[index] * d.gradient[rows].astype(np.float64)
                background *= np.maximum(1 + change, 0)
            expected = scale * background + spot_scale * spots
            light = rng.poisson(expected / design.gain) * float(design.gain)
            if correlated:
                noise[rows] = light - expected
                light = expected
            light += bias + read_noise * rng.standard_normal(light.shape, np.float32)
            counts[rows] = light if correlated else self._counts(light)
        frame = self._counts(counts + smoothed(noise, kernel)) if correlated else counts
        hits = rng.integers(0, design.size, (rng.poisson(design.zingers), 2))
        struck = frame[tuple(hits.T)] + log_uniform(rng, 200, 20000, len(hits))
        frame[tuple(hits.T)] = self._counts(struck)
        # A hot pixel flickers far more than its shot noise.
        frame[tuple(d.hot.T)] = self._counts(
            frame[tuple(d.hot.T)] + d.hot_counts * rng.normal(1, 0.05, len(d.hot))
        )
        self._flicker(frame, index)
        frame[tuple(d.dead.T)] = self._marker(design.detector.dead_value)
        frame[~d.inside] = self._marker(design.detector.gap_value)
        return frame

    def _flicker(self, frame: Counts, index: int) -> None:
        """Add the signal of the flickering pixels that are bright on this frame."""
        d = self.detector
        if not len(d.flickering):
            return
        place = _place_in_run(self.truth.schedule, index)
        rng = generator(self.design.seed, _FRAME, *place, _FLICKER)
        bright = rng.random(len(d.flickering)) < FLICKER_SHARE
        where = tuple(d.flickering[bright].T)
        frame[where] = self._counts(frame[where] + d.flickering_counts[bright])

    def _counts(self, values: Floats) -> Counts:
        """Return values as a detector counts them: rounded, not negative, and saturated."""
        limited = np.clip(np.rint(values), 0, self.design.saturation)
        return limited.astype(self.design.detector.dtype)

    def _marker(self, value: int) -> int:
        """Return the value that marks pixels which do not count; -1 is the largest unsigned one."""
        info = np.iinfo(self.design.detector.dtype)
        return int(info.max) if value < info.min else value


def simulate_run(design: Design, cutouts: Sequence[CutOut] = ()) -> SimulatedRun:
    """Draw the truth of a run; its frames are drawn later, one at a time.

    Args:
        design: what to simulate.
        cutouts: shapes for the profile ``cutouts``, from `gpu_spots.simulate.profiles.cut_spots`.

    Raises:
        ParameterError: the spots do not fit on the frame without touching each other, or the
            profile is ``cutouts`` without any.
    """
    rng = generator(design.seed, _RUN)
    phases = rng.uniform(0, 2 * math.pi, len(_PERIODS))
    detector = make_detector(design, rng)
    schedule, delay = _schedule(design)
    static_XY, *static = static_spots(design, detector, generator(design.seed, _STATIC))
    radii = 3.5 * static[0][:, 0] + 2
    blocks = [
        block_spots(design, detector, block, cutouts, (static_XY, radii))
        for block in range(design.angles)
    ]
    spots = TrueSpots(
        *(np.concatenate([getattr(b, field.name) for b in blocks]) for field in fields(TrueSpots))
    )
    first = np.repeat(np.cumsum([0, *map(len, blocks[:-1])]), [len(b) for b in blocks])
    spots = replace(
        spots, partner=np.where(spots.partner < 0, -1, spots.partner + first).astype(np.int32)
    )
    spots = _seen(design, detector, spots, cutouts)
    scale, spot_scale = _scales(design, schedule, phases)
    changes = generator(design.seed, _CHANGES)
    scale = scale * _jumps(design, changes)
    conditions = Conditions(
        delay,
        scale * spot_scale,
        _slips(design, changes),
        static_XY,
        float(radii.max(initial=0)),
    )
    return SimulatedRun(
        design,
        detector,
        Truth(design.size, schedule, spots, conditions),
        scale,
        spot_scale,
        design.detector.bias + design.faults.bias_drift * _slow(design, changes),
        design.beam.background_change / 100 * _slow(design, changes),
        cutouts,
        _static_image(design, detector, static_XY, static),
    )


def _seen(
    design: Design, detector: Detector, spots: TrueSpots, cutouts: Sequence[CutOut]
) -> TrueSpots:
    """Return the spots with the part of them that is counted, and their matched S/N."""
    kernel = noise_kernel(design.detector.correlation)
    fraction, snr = np.zeros(len(spots)), np.zeros(len(spots))
    for row in range(len(spots)):
        window, share = image_of(spots, row, design.size, np.zeros(2), cutouts)
        counted = share * detector.light[window]
        fraction[row] = counted.sum()
        background = detector.background[window].astype(np.float64)
        snr[row] = matched_snr(
            spots.I[row] * counted, background, design.gain, design.detector.read_noise, kernel
        )
    return replace(spots, fraction=fraction, snr_matched=snr)


def _static_image(design: Design, detector: Detector, XY: Floats, rest: Sequence[Floats]) -> Image:
    if not len(XY):
        return np.zeros((0, 0), np.float32)
    image = np.zeros(design.size, np.float32)
    for centre, sigma, orientation, intensity in zip(XY, *rest, strict=True):
        window, share = profile(
            "gaussian", design.size, centre, sigma, math.radians(float(orientation))
        )
        image[window] += (intensity * share * detector.light[window]).astype(np.float32)
    return image


def _place_in_run(schedule: Schedule, index: int) -> tuple[int, int]:
    """Return the block of frame ``index``, and how many frames of that block come before it."""
    block = schedule.block[index]
    return int(block), int((schedule.block[:index] == block).sum())


def _schedule(design: Design) -> tuple[Schedule, NDArray[np.int32]]:
    """Return the schedule and the index of the delay of each frame, -1 without laser."""
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
    n_delays = len(design.delays)
    repeat = (number // (2 * n_delays) if design.laser else number) + 1
    delay = np.where(on, number // 2 % n_delays, -1).astype(np.int32)
    angle = np.round(block * design.step, 3)
    return (
        Schedule(block.astype(np.int32), angle, on.astype(np.int32), repeat.astype(np.int32)),
        delay,
    )


def _scales(design: Design, schedule: Schedule, phases: Floats) -> tuple[Floats, Floats]:
    """Return the scale of the picture and of the spots on each frame.

    The shots' part is drawn for the frame, so it depends on no other.
    """
    places = (_place_in_run(schedule, index) for index in range(len(schedule)))
    shots = np.array(
        [generator(design.seed, _FRAME, *place, _SHOTS).standard_normal(2) for place in places]
    )
    time = np.arange(len(schedule))[:, None]
    slow = np.sqrt(2 / len(_PERIODS)) * np.sin(
        2 * math.pi * time / np.array(_PERIODS) + phases
    ).sum(1)
    drift = math.sqrt(0.8) * slow + math.sqrt(0.2) * shots[:, 0]
    return np.maximum(1 + design.drift / 100 * drift, 0), np.maximum(
        1 + design.jitter / 100 * shots[:, 1], 0
    )


def _steps(n_frames: int, n_steps: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how many of ``n_steps`` sudden changes come before each frame, (n_frames,)."""
    n_steps = min(n_steps, n_frames - 1)
    at = np.sort(rng.choice(np.arange(1, max(n_frames, 2)), n_steps, replace=False))
    return np.searchsorted(at, np.arange(n_frames), side="right")


def _jumps(design: Design, rng: np.random.Generator) -> Floats:
    """Return the factor of the beam's intensity on each frame, (n_frames,)."""
    n = design.beam.beam_jumps
    levels = np.maximum(1 + design.beam.jump / 100 * rng.standard_normal(n + 1), 0.1)
    levels[0] = 1
    return levels[_steps(design.n_frames, n, rng)]


def _slips(design: Design, rng: np.random.Generator) -> Floats:
    """Return the displacement of all spots on each frame, (n_frames, 2), pixels."""
    n = design.beam.slips
    turns = rng.uniform(0, 2 * math.pi, n)
    steps = design.beam.slip * np.column_stack([np.cos(turns), np.sin(turns)])
    places = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return places[_steps(design.n_frames, n, rng)]


def _slow(design: Design, rng: np.random.Generator) -> Floats:
    """Return a slow change, (n_frames,), of mean 0 and variance 1 over long runs."""
    phases = rng.uniform(0, 2 * math.pi, len(_PERIODS))
    time = np.arange(design.n_frames)[:, None]
    waves = np.sin(2 * math.pi * time / np.array(_PERIODS) + phases)
    return np.asarray(math.sqrt(2 / len(_PERIODS)) * waves.sum(1))
