"""Warnings about spots that stay in the background, and about nothing else."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from gpu_spots.backend import Backend
from gpu_spots.background.static_spots import (
    background_warnings,
    cover_warning,
    persistent_spots,
    static_places,
)
from gpu_spots.columns import Flag
from gpu_spots.model import Background, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.simulate.run import Design, SimulatedRun, simulate_run
from helpers import ROOT, Notes, run

ROIS = ROOT.parent / "shared" / "data" / "ROIs.npy"
NOISE = 10.0


def stats(frames: np.ndarray, percent: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return average, standard deviation and maximum as in the contract.

    Types are float32 and the type of the frames.
    """
    kept = np.sort(frames, axis=0)[: len(frames) - len(frames) * percent // 100]
    with np.errstate(all="ignore"):
        return (
            kept.mean(0, dtype=np.float64).astype(np.float32),
            kept.std(0, dtype=np.float64).astype(np.float32),
            frames.max(0),
        )


def found(frames: np.ndarray, valid: np.ndarray | None = None) -> list[list[int]]:
    """X and Y of the spots noticed in a stack; NumPy may not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return persistent_spots(
            *stats(frames), len(frames) - len(frames) * 25 // 100, valid
        ).tolist()


def noisy(
    background: np.ndarray | float,
    shape: tuple[int, int] = (200, 240),
    n_frames: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Frames of a background, counts, with noise of `NOISE` counts, uint16."""
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(background + rng.normal(0, NOISE, (n_frames, *shape))), 0, 65535).astype(
        np.uint16
    )


def gaussian(
    shape: tuple[int, int],
    x: float,
    y: float,
    height: float,
    sigma: tuple[float, float] = (3, 3),
    turn: float = 0,
) -> np.ndarray:
    """An elliptical spot, counts."""
    dx, dy = np.arange(shape[0])[:, None] - x, np.arange(shape[1]) - y
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return height * np.exp(-((along / sigma[0]) ** 2 + (across / sigma[1]) ** 2) / 2)


def assert_at(spots: list[list[int]], true: Sequence[tuple[float, float]]) -> None:
    """Check the number of spots, each within 2 pixels of a true one."""
    assert len(spots) == len(true), spots
    for x, y in true:
        assert min(max(abs(a - x), abs(b - y)) for a, b in spots) <= 2, (x, y, spots)


@cache
def simulated(size: int, seed: int = 0, **options: Any) -> tuple[SimulatedRun, np.ndarray]:
    """A dark run of 20 angles, and its frames."""
    simulation = simulate_run(
        Design(
            laser=False,
            size=(size, size),
            spots=min(200, size * size // 1000),
            seed=seed,
            **{"angles": 20} | options,
        )
    )
    return simulation, np.stack(list(simulation.frames()))


@pytest.fixture
def rois() -> np.ndarray:
    """A real series: 6561 frames of one region with one spot, which never leaves it."""
    if not ROIS.exists():
        pytest.skip("../shared/data/ROIs.npy is not here")
    return np.load(ROIS).reshape(-1, 12, 12)


def warned(notes: Notes) -> list[str]:
    """The warnings that are about spots."""
    return [line for line in notes.warnings if "in the background" in line]


def test_real_series_with_the_same_spot_on_every_frame(rois: np.ndarray, backend: Backend) -> None:
    # the highest pixel of the average is at X 5, Y 5: seen in the array
    assert found(rois) == [[5, 5]]
    notes = Notes()
    results = run(rois[::10], Parameters.manual(angles=0), backend, notes=notes)
    (line,) = warned(notes)
    assert line.startswith("stats/avg: found 1 spot in the background at X 5 Y 5, expected none; ")
    assert "657 frames" in line
    assert "increase n if" in line
    assert "\n" not in line
    assert results["stats/avg"].argmax() == 5 * 12 + 5


def test_the_remedy_is_the_option_of_the_method() -> None:
    frames = noisy(1000 + gaussian((100, 150), 30, 40, 400), (100, 150))
    avg, std, highest = stats(frames)
    nothing, none = np.zeros((100, 150)), np.zeros((100, 150), np.int32)
    maps = Background(avg, std, std, highest, none, nothing, None, None, False, nothing, Validity())
    maps = replace(maps, n_sampled=15)
    maps = replace(maps, static=static_places(maps))
    assert "increase n " in next(background_warnings(maps, 20))
    assert "increase alpha " in next(background_warnings(replace(maps, dropped=none), 20))


@pytest.mark.parametrize(("n_frames", "is_static"), [(8, False), (9, True)])
def test_the_share_of_a_spot_is_that_of_the_sample(
    backend: Backend, n_frames: int, is_static: bool
) -> None:
    """A place is static with the spot on 3.5 frames of the sample, here 15 of 20 frames.

    Of n frames with the spot, the 5 highest are not in the sample. 3 of the 20 frames of the run
    would be enough.
    """
    frames = noisy(1000.0, (100, 150))
    frames[:n_frames] += gaussian((100, 150), 30, 40, 2000).astype(np.uint16)
    results = run(frames, Parameters.manual(angles=0, cutoff=1.5), backend)
    x, y = (abs(results["spots/XY"] - (30, 40)) <= 3).T
    flags = results["spots/flags"][x & y]
    assert len(flags)
    assert (flags & Flag.STATIC > 0).all() == (flags & Flag.STATIC > 0).any() == is_static


def test_several_spots_are_counted(backend: Backend) -> None:
    shape = (100, 150)
    frames = noisy(1000 + gaussian(shape, 30, 40, 400) + gaussian(shape, 60, 110, 200), shape)
    notes = Notes()
    run(frames, Parameters.manual(angles=0), backend, notes=notes)
    (line,) = warned(notes)
    assert line.startswith(
        "stats/avg: found 2 spots in the background at X 30 Y 40, X 60 Y 110, expected none; "
    )


def test_no_warning_without_spots(backend: Backend) -> None:
    notes = Notes()
    run(noisy(1000, (100, 150)), Parameters.manual(angles=0), backend, notes=notes)
    assert not warned(notes)


@pytest.mark.parametrize("sigma", [(1.5, 1.5), (2, 2), (3, 3), (4, 4), (6, 2.5), (7, 3)])
@pytest.mark.parametrize("height", [10, 100, 3000])
def test_spots_of_usual_sizes(sigma: tuple[float, float], height: float) -> None:
    shape = (200, 240)
    true = [(40.3, 50.6), (100, 31), (150.5, 200.2), (99.7, 120.1)]
    frames = noisy(
        1000 + sum(gaussian(shape, x, y, height * NOISE, sigma, turn=x) for x, y in true), shape
    )
    assert_at(found(frames), true)


@pytest.mark.parametrize("slope", [3, 20])
def test_spots_on_a_slope(slope: float) -> None:
    shape = (200, 240)
    true = [(40, 50), (100, 31), (150, 200)]
    background = 500 + slope * (np.arange(200)[:, None] + 0.5 * np.arange(240))
    assert_at(
        found(noisy(background + sum(gaussian(shape, x, y, 10 * NOISE) for x, y in true), shape)),
        true,
    )


@pytest.mark.parametrize(("size", "seed"), [(400, 4), (512, 5)])
def test_spots_that_stay_in_a_simulated_run(size: int, seed: int) -> None:
    simulation, frames = simulated(size, seed)
    # in the open, away from the steep middle
    true = [
        (size * a, size * b)
        for a, b in ((0.2, 0.35), (0.3, 0.8), (0.77, 0.25), (0.1, 0.5), (0.5, 0.92))
    ]
    sigmas = (2, 2.5, 3, 3.5, 4)
    extra = sum(
        gaussian((size, size), x, y, 10 * 9.4, (s, s))
        for (x, y), s in zip(true, sigmas, strict=True)
    )
    rng = np.random.default_rng(2)
    frames = (frames + rng.poisson(extra, frames.shape) * simulation.detector.inside).astype(
        np.uint16
    )
    assert_at(found(frames), true)


@pytest.mark.parametrize(("height", "share"), [(3, 0.3), (5, 0.65), (10, 0.75), (100, 0.8)])
@pytest.mark.parametrize("n_frames", [5, 20])
def test_most_static_spots_of_a_simulated_run_are_reported(
    height: float, share: float, n_frames: int
) -> None:
    """At least ``share`` of spots of real sizes are reported.

    They are 40 pixels apart, with peaks of ``height`` times the noise.
    """
    design = Design(
        laser=False, size=(512, 512), angles=n_frames, repeats=1, spots=100, hot_pixels=40, seed=3
    )
    simulation = simulate_run(design)
    rng = np.random.default_rng(9)
    true, extra = [], np.zeros((512, 512))
    for x, y in np.argwhere(np.ones((11, 11))) * 40 + 56 + rng.uniform(-5, 5, (121, 2)):
        if not 120 < np.hypot(x - 256, y - 256) < 235:
            continue  # the beamstop, and the edge of the detector
        area, ratio = (
            np.clip(120 * np.exp(0.85 * rng.standard_normal()), 20, 450),
            rng.uniform(1.2, 2.8),
        )
        minor = np.sqrt(area / (4 * np.pi) / ratio)
        extra += gaussian(
            (512, 512), x, y, height * 9.4, (minor * ratio, minor), rng.uniform(0, np.pi)
        )
        true.append((x, y))
    spots = np.array(
        found(
            np.stack(
                [frame + np.rint(rng.poisson(extra / 0.07) * 0.07) for frame in simulation.frames()]
            ).astype(np.uint16)
        )
    )
    distance = np.hypot(*(spots[:, None] - np.array(true)).T)
    assert len(true) > 60
    assert (distance.min(axis=1) < 4).mean() >= share
    assert (distance.min(axis=0) < 8).all(), "what is reported is a static spot"


@pytest.mark.parametrize("n_frames", [2, 3, 4, 5, 7, 10])
@pytest.mark.parametrize("drift", [0.0, 10.0])
def test_no_false_alarm_in_runs_of_few_frames(n_frames: int, drift: float) -> None:
    assert not found(simulated(256, 1, drift=drift, angles=n_frames, repeats=1, hot_pixels=40)[1])


@pytest.mark.parametrize(
    ("size", "seed"), [(64, 0), (128, 1), (256, 2), (256, 3), (400, 4), (512, 5)]
)
def test_moving_spots_of_a_simulated_run_are_none(size: int, seed: int) -> None:
    assert not found(simulated(size, seed)[1])


def test_moving_spots_of_a_drifting_simulated_run_are_none() -> None:
    assert not found(simulated(256, drift=5.0, background=5000.0)[1])


@pytest.mark.parametrize(("share", "expected"), [(0.2, 0), (0.5, 1), (0.9, 1)])
def test_on_how_many_frames_a_spot_stays(share: float, expected: int) -> None:
    shape = (100, 100)
    spot = gaussian(shape, 50, 50, 30 * NOISE)
    frames = noisy(1000 + spot * (np.arange(40) < 40 * share)[:, None, None], shape, 40)
    assert len(found(frames)) == expected


def test_places_where_a_few_frames_have_strong_spots_are_none() -> None:
    # 12 of 40 frames, 10 of which are removed: the average rises by 2/30 of the height, the
    # standard deviation by more
    frames = noisy(1000, (100, 100), 40)
    frames[::4] += gaussian((100, 100), 50, 50, 5000).astype(np.uint16)
    frames[1:20:10] += gaussian((100, 100), 50, 50, 5000).astype(np.uint16)
    assert not found(frames)


def lines(value: float) -> np.ndarray:
    """Bright or dark lines of several widths that cross each other."""
    image = np.full((200, 240), 1000.0)
    image[50:51], image[100:103], image[:, 60:62], image[:, 150:157] = value, value, value, value
    return image


def gaps(shape: tuple[int, int] = (200, 240)) -> np.ndarray:
    """1 where there are modules: gaps between them, a missing one, and small islands of pixels."""
    image = np.ones(shape)
    image[60:77] = 0
    image[:, 100:108] = 0
    image[90:130, 20:90] = 0
    image[150:190, 150:200] = 0
    image[160:170, 170:182] = 1
    return image


def ring(
    shape: tuple[int, int], x: float, y: float, radius: float, width: float, height: float
) -> np.ndarray:
    """A ring, counts: a powder line, or what is left around a beamstop."""
    r = np.hypot(np.arange(shape[0])[:, None] - x, np.arange(shape[1]) - y)
    return height * np.exp(-(((r - radius) / width) ** 2) / 2)


def beamstop(scale: float) -> np.ndarray:
    """Steep scattering around a beamstop with an arm."""
    x, y = np.ogrid[:200, :240]
    r = np.hypot(x - 100, y - 120)
    open_ = (r > 0.5 * scale) & ~((x > 100) & (abs(y - 120) < 0.2 * scale))
    return 300 + 3000 * np.exp(-r / scale) * open_


def corner() -> np.ndarray:
    """A bright corner between a beamstop and its arm, as wide as on a real detector."""
    detector = simulate_run(Design(size=(2048, 2048), angles=1, spots=0)).detector
    return detector.background[1000:1200, 890:1130] + 10.0


SHAPE = (200, 240)


def rings(level: float, width: float, height: float, *radii: float) -> np.ndarray:
    """Powder rings around one centre, on an even background."""
    return np.sum([ring(SHAPE, 100, 120, r, width, height) for r in radii], axis=0) + level


SMOOTH: dict[str, Callable[[], np.ndarray]] = {
    "uniform": lambda: np.full(SHAPE, 1000.0),
    "zero": lambda: np.zeros(SHAPE) - 100,
    "gradient": lambda: 100 + 20.0 * np.arange(200)[:, None] + 3.0 * np.arange(240),
    "steep gradient": lambda: np.minimum(
        200.0 * np.arange(200)[:, None] + 50.0 * np.arange(240), 60000
    ),
    "hill": lambda: 300 + gaussian(SHAPE, 90, 130, 2000, (40, 55)),
    "steep hill": lambda: 300 + gaussian(SHAPE, 90, 130, 20000, (40, 55)),
    "bright lines": lambda: lines(3000),
    "dark lines": lambda: lines(20),
    "modules of different brightness": lambda: (
        500 + 400.0 * (np.arange(200)[:, None] // 50 % 2) + 300.0 * (np.arange(240) // 80 % 2)
    ),
    "gaps": lambda: 2000 * gaps() - 100,
    "small ring": lambda: 1000 + ring(SHAPE, 100, 120, 8, 2, 600),
    "smaller ring": lambda: 1000 + ring(SHAPE, 100, 120, 5.5, 1.5, 600),
    "powder rings": lambda: rings(1000, 2.5, 800, 30, 60, 85),
    "wide rings": lambda: rings(500, 9, 1500, 40, 80),
    "beamstop": lambda: beamstop(60),
    "corner of a beamstop": corner,
    "small beamstop": lambda: beamstop(20),
    "round detector": lambda: np.where(
        np.hypot(np.arange(200)[:, None] - 100, np.arange(240) - 120) < 97, 1000.0, -100.0
    ),
    "hot pixels": lambda: 1000 + 20000.0 * (np.random.default_rng(3).random(SHAPE) < 0.005),
    "pairs of hot pixels": lambda: (
        1000 + 2000.0 * (np.arange(200)[:, None] % 50 // 2 == 10) * (np.arange(240) % 37 // 2 == 9)
    ),
    "uneven pixels": lambda: 1000 + np.random.default_rng(4).normal(0, 2 * NOISE, SHAPE),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_no_spot(name: str) -> None:
    frames = noisy(SMOOTH[name]())
    assert not found(frames)
    assert not found(frames.astype(np.float32) / np.float32(1e4))
    # the same frame over and over: only what it looks like is left
    if name not in ("uneven pixels", "uniform", "zero"):
        assert not found(np.rint(np.maximum(np.stack([SMOOTH[name]()] * 4), 0)).astype(np.int32))


@pytest.mark.parametrize(
    "name", ["gradient", "hill", "bright lines", "dark lines", "gaps", "hot pixels"]
)
def test_a_spot_among_what_is_none(name: str) -> None:
    frames = noisy(SMOOTH[name]() + gaussian(SHAPE, 35, 210, 30 * NOISE, (2.5, 2.5)) * gaps())
    assert_at(found(frames), [(35, 210)])
    assert_at(found(frames.astype(np.float64) / 1e4), [(35, 210)])
    assert_at(
        found(
            np.rint(frames.astype(np.float64) * 1e5 - 1e9)
            .clip(-(2**31), 2**31 - 1)
            .astype(np.int32)
        ),
        [(35, 210)],
    )


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 50), (50, 1), (2, 2), (3, 3), (5, 7), (2, 40), (3, 33), (31, 33), (64, 16)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_small_frames(shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(5)
    assert not found(rng.integers(90, 110, (12, *shape)).astype(dtype))
    assert not found(np.full((12, *shape), 7, dtype))


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64]
)
def test_every_type_of_frames(dtype: type) -> None:
    shape = (60, 70)
    frames: np.ndarray = (
        np.random.default_rng(6)
        .normal(40 + gaussian(shape, 30, 41, 80), 3, (20, *shape))
        .astype(dtype)
    )
    assert_at(found(frames), [(30, 41)])


def test_an_overexposed_spot() -> None:
    frames = noisy(1000 + gaussian(SHAPE, 60, 80, 500000))
    ((x, y),) = found(frames)
    assert frames[:, x, y].min() == 65535


def test_a_spot_on_a_background_without_counts() -> None:
    rng = np.random.default_rng(7)
    frames = rng.poisson(0.001 + gaussian((90, 110), 40, 61, 60), (20, 90, 110)).astype(np.uint16)
    assert_at(found(frames), [(40, 61)])


def test_invalid_pixels() -> None:
    valid = np.zeros((60, 70), bool)
    frames = noisy(1000 + gaussian((60, 70), 30, 41, 5000), (60, 70))
    assert not found(frames * valid, valid)
    # what is masked is no background: the level of the island is
    for island in (np.s_[31:32, 41:43], np.s_[28:33, 39:44], np.s_[25:45, 30:60]):
        valid[island] = True
        assert not found(noisy(1000, (60, 70)) * valid, valid)
    valid[:] = True
    valid[:, 10:13] = False
    assert_at(found(frames * valid, valid), [(30, 41)])


def test_the_mask_of_a_run_counts(backend: Backend) -> None:
    valid = np.ones((60, 70), bool)
    valid[25:36, 36:47] = False
    frames = noisy(1000 + gaussian((60, 70), 30, 41, 500, (2, 2)), (60, 70))
    notes = Notes()
    run(frames, Parameters.manual(angles=0), backend, validity=Validity(valid), notes=notes)
    assert not warned(notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_stats_that_are_no_numbers(value: float) -> None:
    avg, std, highest = stats(noisy(1000 + gaussian(SHAPE, 35, 110, 300)).astype(np.float32))
    for k in (0, 1) if value != -3e38 else (0,):
        broken = [avg.copy(), std.copy()]
        broken[k][SHAPE[0] // 2 :, ::3] = value
        broken[k][5:9, 5:9] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            spots = persistent_spots(broken[0], broken[1], highest, 15)
        assert [35, 110] in spots.tolist()
        everywhere = [avg, std]
        everywhere[k] = np.full_like(avg, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not len(persistent_spots(everywhere[0], everywhere[1], highest, 15))


def test_huge_frames(backend: Backend) -> None:
    frames = np.random.default_rng(8).normal(0, 1, (8, 40, 50)) * 10.0 ** np.arange(0, 308, 6.16)
    notes = Notes()
    run(frames, Parameters.manual(angles=0), backend, notes=notes)
    assert not warned(notes)


def test_many_spots_take_no_time() -> None:
    tile = gaussian((24, 24), 12, 12, 500, (2, 2))
    frames = noisy(1000 + np.tile(tile, (21, 21)), (504, 504), 10)
    average = stats(frames)
    begun = time.process_time()
    spots = persistent_spots(*average, 8)
    assert time.process_time() - begun < 2
    assert abs(len(spots) - 21 * 21) < 0.1 * 21 * 21


def test_masks_that_cover_the_frame_are_warned_of(backend: Backend) -> None:
    """A photon counter, and an -n that leaves only zeros: every photon is above the threshold."""
    frames = np.random.default_rng(1).poisson(0.3, (20, 80, 90)).astype(np.uint16)
    notes = Notes()
    results = run(
        frames, Parameters.manual(angles=0, n=75, erosions=0, dilations=2), backend, notes=notes
    )
    (line,) = [line for line in notes.warnings if line.startswith("masks: ")]
    assert line.startswith("masks: 20 of 20 cover more than 10 % of the frame, at most ")
    assert "below one count" in line
    assert "decrease n, " in line
    assert results["masks_filtered"].mean() > 0.1


@pytest.mark.parametrize("sparse", [False, True])
def test_the_advice_about_absurd_masks_fits_the_finder(sparse: bool) -> None:
    covered = np.array([3, 9000])
    for known, end in (
        ({"clipped": True}, "use normalise='surface', or increase significance"),
        ({}, "use normalise='surface' with method='clip', or increase significance"),
        ({"clipped": True, "surface": True}, "or increase significance"),
    ):
        line = cover_warning(covered, 10_000, sparse=sparse, matched=True, **known)
        assert line
        assert "1 of 2 cover more than 20 %" in line
        assert line.endswith(f"check frame_level, {end}")


def test_one_absurd_mask_is_enough(backend: Backend) -> None:
    frames = noisy(1000, (80, 90), 20)
    frames[7] += 300
    notes = Notes()
    run(frames, Parameters.manual(angles=0), backend, notes=notes)
    (line,) = [line for line in notes.warnings if line.startswith("masks: ")]
    assert line.startswith(
        "masks: 1 of 20 cover more than 10 % of the frame, at most 100 % (mask 7), "
    )
    assert "check frame_level for drift" in line
    assert "below one count" not in line


@pytest.mark.parametrize("shape", [(40, 50), (80, 90)])
def test_masks_of_spots_are_not_absurd(backend: Backend, shape: tuple[int, int]) -> None:
    frames = noisy(1000, shape, 20)
    frames[3] += gaussian(shape, 20, 20, 3000, (2, 2)).astype(np.uint16)
    notes = Notes()
    results = run(frames, Parameters.manual(angles=0), backend, notes=notes)
    assert results["masks_filtered"][3].any()
    assert not [line for line in notes.warnings if line.startswith("masks: ")]


def test_two_frames_cannot_tell_a_static_spot() -> None:
    frames = noisy(1000 + gaussian(SHAPE, 60, 80, 5000), SHAPE, 4)
    assert not found(frames[:2])
    assert_at(found(frames), [(60, 80)])
