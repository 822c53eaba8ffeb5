"""The matched finder after ``-m clip``, compared with the reference."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference_matched as reference
from cpu_fallback import CpuBackend
from gpu_spots import first_pass, pipeline
from gpu_spots.backend import Backend
from gpu_spots.model import Background, ConstantPart, FixedPointMean, Validity
from gpu_spots.parameters import Parameters
from helpers import run
from reference_clip import levels_between

SHAPE = (40, 66)
"""Fewer pixels than the widths of maps are measured on."""
ANGLES = np.repeat(np.arange(4.0), 5)
COLUMNS = {"angle": ANGLES, "laser_on": np.arange(len(ANGLES)) % 2}
EXPOSURES = np.random.default_rng(1).uniform(0.6, 1.5, len(ANGLES))


Learnt = tuple[Background, ConstantPart | None]


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[Learnt]:
    """The background of each run, with what is not written."""
    found: list[Learnt] = []

    def compute_background(source: Any, *arguments: Any) -> Background:
        background = first_pass.compute_background(source, *arguments)
        found.append((background, source.sampler.constant_part))
        return background

    monkeypatch.setattr(pipeline, "compute_background", compute_background)
    return found


def series(dtype: str, level: float, photons: float) -> tuple[NDArray[Any], Validity | None]:
    """Frames of different exposures, each angle with its own spots, a hot pixel and a dead one.

    Some values of signed frames are -1, some of float frames are no numbers.
    """
    rng = np.random.default_rng(2)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = []
    for angle, exposure in zip(ANGLES, EXPOSURES, strict=True):
        mean = level * (1 + y / 150)
        for cx, cy in np.random.default_rng(int(angle)).uniform(5, np.array(SHAPE) - 5, (5, 2)):
            mean += photons * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3) / 9.4
        mean[20, 30] += 3 * level + 4
        mean[9, 50] = 0
        frames.append(rng.poisson(mean * exposure))
    made = np.array(frames).astype(dtype)
    missing = rng.random(made.shape) < 0.01
    if dtype == "int32":
        made[missing] = -1
        return made, Validity(None, 0, None)
    if dtype == "float32":
        made[missing] = np.nan
    return made, None


def noise_of(background: Background, part: ConstantPart | None) -> reference.Noise:
    """Return the values of a background that the reference needs."""
    mean = background.mean
    if isinstance(mean, FixedPointMean):
        assert mean.high is not None
        whole = mean.high.astype(object) * 2**32 + mean.low.astype(object)
        mean = (whole / mean.scale).astype(np.float64)
    assert background.noise is not None
    assert background.noise_model is not None
    valid = background.validity.pixels
    return reference.Noise(
        mean,
        background.noise,
        background.noise_model.gain,
        background.noise_model.read_variance,
        np.ones(SHAPE, bool) if valid is None else valid,
        *((part.contrast, part.centre) if part else ()),
    )


@pytest.mark.parametrize(
    ("dtype", "level", "photons", "sync", "normalise"),
    [
        *(
            (*kind, sync, normalise)
            for kind in (("int32", 1.3, 60), ("uint16", 300, 500), ("float32", 40, 180))
            for sync in ("none", "blocks")
            for normalise in ("none", "level")
        ),
        ("uint16", 300, 500, "none", "surface"),
        ("float32", 40, 180, "blocks", "surface"),
    ],
)
def test_equals_reference(
    backend: Backend,
    dtype: str,
    level: float,
    photons: float,
    sync: str,
    normalise: str,
    learnt: list[Learnt],
) -> None:
    frames, validity = series(dtype, level, photons)
    parameters = Parameters(sync=sync, normalise=normalise, angles=0)
    found = run(frames, parameters, backend, COLUMNS, validity)
    ((background, part),) = learnt
    of = noise_of(background, part)
    usable = np.isfinite(frames) if dtype == "float32" else frames >= 0
    levels: Any = [65536] * len(frames)
    if normalise == "level":
        # the level scales the background; frames are as they were read
        levels = [
            round(2**32 / round(65536 * scale)) for scale in found["per_frame/scale"].tolist()
        ]
        assert np.ptp(levels) > 30000
    if normalise == "surface":
        knots = np.rint(found["per_frame/surface"] * 65536).astype(np.int64)
        levels = levels_between(knots, 6, SHAPE)
        assert np.ptp(levels) > 30000
        assert np.ptp(levels, axis=2).any()
    each = [
        reference.without_zingers(reference.plain_significance(frame, of, at, good))
        for frame, at, good in zip(frames, levels, usable, strict=True)
    ]
    allowed = [reference.usable_pixels(of) & good for good in usable]
    size, members = 1, [[i] for i in range(len(frames))]
    if sync == "blocks":
        size, members = 5, [np.flatnonzero(angle == ANGLES).tolist() for angle in range(4)]
        each = [reference.group_significance([each[i] for i in group]) for group in members]
        allowed = [np.all([allowed[i] for i in group], axis=0) for group in members]
    lights = [1.0] * len(members)
    if normalise != "none":
        scales = found["per_frame/scale"].tolist()
        relative = [round(2**32 / round(65536 * scale)) for scale in scales]
        lights = reference.light_of_groups(relative, members, of)
        assert max(lights) > 1 or sync == "blocks"
    is_float = dtype == "float32"
    smoothed = [reference.smoothed(p, streaks=False) for p in each]
    measured = reference.calibration(smoothed, of, size, streaks=False, is_float=is_float)
    seeds = {
        light: reference.levels(
            of, size, 5.5, measured, size, streaks=False, is_float=is_float, light=light
        )
        for light in sorted(set(lights))
    }
    n_spots = 0
    for i, (p, good) in enumerate(zip(each, allowed, strict=True)):
        expected = reference.find(p, seeds[lights[i]], good, streaks=False)
        assert np.array_equal(found["masks_raw"][i], expected.raw)
        assert np.array_equal(found["masks/labels"][i], expected.labels)
        n_spots += int(expected.labels.max())
    assert n_spots >= (4 if normalise == "none" else 12)


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_exposures_make_no_false_spots_on_a_photon_counter(sync: str) -> None:
    """Hot and dead pixels change nothing.

    With the level of each frame, spots are found on all frames.
    """
    frames, validity = series("int32", 0.6, 40)
    parameters = Parameters(sync=sync, angles=0)
    found = run(frames, parameters, CpuBackend(2), COLUMNS, validity)
    begin, end = found["frame2spotsBE"].T
    right, wrong = 0, 0
    for frame, angle in enumerate(ANGLES):
        true = np.random.default_rng(int(angle)).uniform(5, np.array(SHAPE) - 5, (5, 2))
        places = found["spots/XY"][begin[frame] : end[frame]]
        apart = np.hypot(*(places[:, None] - true).transpose(2, 0, 1)).reshape(-1, 5)
        wrong += int(np.count_nonzero(apart.min(axis=1) > 3))
        right += int(np.count_nonzero(apart.min(axis=0, initial=9) <= 3))
    assert right >= 0.75 * 5 * len(ANGLES)
    assert wrong == 0
