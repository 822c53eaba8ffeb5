"""The defaults of ``gpu-spots find`` on runs that are not as they should be."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpu_fallback import CpuBackend
from gpu_spots import find_spots
from gpu_spots.backend import Backend
from gpu_spots.background.clipped_levels import ClippedLevelSampler
from gpu_spots.background.methods import METHODS
from gpu_spots.errors import InputError
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from helpers import Notes, assert_same, run

SHAPE = (48, 66)
N = 12
COLUMNS = {"angle": np.repeat(np.arange(4.0), 3), "laser_on": np.arange(N) % 2}


def series(
    background: float, dark: list[int], dtype: str = "uint16", bias: float = 0.0
) -> NDArray[Any]:
    """Frames with two spots each; those without beam have the bias only."""
    rng = np.random.default_rng(5)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = []
    for i in range(N):
        mean = np.full(SHAPE, float(background))
        for cx, cy in rng.uniform(7, np.array(SHAPE) - 7, (2, 2)):
            mean += 40 * (background**0.5 + 1) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3) / 9.4
        frames.append(rng.poisson(bias + (i not in dark) * mean * (1 + 0.02 * (i % 3 - 1))))
    return np.array(frames).astype(dtype)


@pytest.mark.parametrize("sync", ["none", "blocks"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_frames_without_beam_are_left_out(backend: Backend, sync: str, dtype: str) -> None:
    """Frames 3 to 5 are a whole block. The background is that of the other frames."""
    frames = series(50, [1, 3, 4, 5], dtype)
    notes = Notes()
    found = run(frames, Parameters(angles=0, sync=sync), backend, COLUMNS, notes=notes)
    assert_same(found, run(frames, Parameters(angles=0, sync=sync), CpuBackend(1), COLUMNS))
    n_spots = np.diff(found["frame2spotsBE"], axis=1).ravel()
    assert not n_spots[[1, 3, 4, 5]].any()
    assert np.all(n_spots[6:] >= 1)
    assert np.isnan(found["per_frame/scale"]).nonzero()[0].tolist() == [1, 3, 4, 5]
    assert found["per_frame/level"][1] == 0
    assert np.median(found["stats/avg"]) == pytest.approx(50, abs=1)
    assert len([text for text in notes.warnings if "frames 1, 3, 4, 5," in text]) == 1


def test_the_background_without_dark_frames_is_that_of_the_other_frames() -> None:
    frames = series(50, [2, 7])
    with_beam = [i for i in range(N) if i not in (2, 7)]
    parameters = Parameters(angles=0)
    found, alone = (run(each, parameters, CpuBackend(1)) for each in (frames, frames[with_beam]))
    for name in ("avg", "std", "iqr", "n_used", "noise", "threshold"):
        assert np.array_equal(found[f"stats/{name}"], alone[f"stats/{name}"])
    assert np.array_equal(found["spots/I"], alone["spots/I"])


@pytest.mark.parametrize(("method", "finder"), [("clip", "threshold"), ("n_removed", "matched")])
def test_other_methods_refuse_frames_without_beam(method: str, finder: str) -> None:
    parameters = Parameters(angles=0, method=method, finder=finder)
    with pytest.raises(InputError, match="frame 4 has a level of 0 counts"):
        run(series(50, [4]), parameters, CpuBackend(1))


@pytest.mark.parametrize("case", ["no counts", "mean near 0", "negative"])
def test_a_run_without_level_is_not_scaled(case: str) -> None:
    frames = series(50, [], "float32") - {"mean near 0": 50, "negative": 60}.get(case, 0)
    if case == "no counts":
        frames = np.zeros((N, *SHAPE), np.int32)
    notes = Notes()
    found = run(frames, Parameters(angles=0), CpuBackend(1), notes=notes)
    assert np.array_equal(found["per_frame/scale"], np.ones(N))
    if case != "mean near 0":  # unscaled, its drift hides the spots
        assert (len(found["spots/I"]) >= 6) == (case != "no counts")
    assert sum("which cannot be told from 0" in text for text in notes.warnings) == 1


def test_marks_of_dead_pixels_make_no_spots(backend: Backend) -> None:
    frames = series(5, [], "uint32")
    plain = run(frames, Parameters(angles=0), CpuBackend(1))
    frames[:, 20:22, 30] = 2**32 - 1
    frames[:, 9:12, 50:53] = 2**32 - 2
    found = run(frames, Parameters(angles=0), backend)
    where = found["spots/centroid"]
    near = (abs(where - [20.5, 30]) < 3).all(axis=1) | (abs(where - [10, 51]) < 3).all(axis=1)
    assert len(plain["spots/I"]) - 3 <= len(where) - near.sum() <= len(plain["spots/I"]) + 3
    assert near.sum() <= 2


def sampled(frames: NDArray[Any]) -> ClippedLevelSampler:
    """The sampler of a run, after all frames."""
    method = METHODS["clip"].for_run(Parameters(angles=0), {}, len(frames), "run")
    sampler = method.sampler(frames.shape, frames.dtype, Validity())
    for i, frame in enumerate(frames):
        sampler.see(i, frame[sampler.rows])
    sampler.finish()
    assert isinstance(sampler, ClippedLevelSampler)
    return sampler


def drifting(bias: float, dtype: str = "uint16") -> tuple[NDArray[Any], NDArray[np.float64]]:
    rng = np.random.default_rng(3)
    levels = rng.uniform(0.8, 1.2, 20)
    light = np.linspace(0, 400, 100) * np.ones((80, 1))
    return rng.poisson(bias + levels[:, None, None] * light).astype(dtype), levels


def test_a_bias_is_told_from_the_light() -> None:
    """The light of a pixel of B counts is B - 40, the level that of light and bias together."""
    frames, _ = drifting(40)
    part = sampled(frames).constant_part
    assert part is not None
    background = np.array([40.0, 100.0, 200.0, 440.0])
    expected = (background - 40) * 240 / 200
    # the levels are those of one in four columns, whose mean is 2 % less
    assert part.following(background) == pytest.approx(expected, abs=3, rel=0.02)
    assert part.following(np.array([0.0, -2.0])).tolist() == [0, -2]
    assert sampled(drifting(0)[0]).constant_part is None


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_a_bias_changes_neither_noise_nor_spots(sync: str) -> None:
    """Frames of a beam that drifts by 8 %, with the bias of a detector and without."""
    rng = np.random.default_rng(8)
    angles = np.repeat(np.arange(10.0), 6)
    x, y = np.mgrid[:96, :128]
    light = np.full((60, *x.shape), np.linspace(60, 400, 128))
    for angle in range(10):
        for cx, cy in rng.uniform(6, (90, 122), (12, 2)):
            light[angles == angle] += 400 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4)
    light *= (1 + 0.08 * np.sin(np.arange(60) / 7) + rng.normal(0, 0.02, 60))[:, None, None]
    frames = rng.poisson(light).astype(np.uint16)
    parameters = Parameters(angles=0, sync=sync)
    columns = {"angle": angles, "laser_on": np.arange(60) % 2}
    without, found = (
        run(each, parameters, CpuBackend(2), columns) for each in (frames, frames + np.uint16(1000))
    )
    ratio = found["stats/noise"] / without["stats/noise"]
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(ratio - 1) < 0.03) > 0.99
    frame, centres, intensities, sigma = (
        found[f"spots/{name}"] for name in ("frame", "centroid", "I", "sigma")
    )
    pulls = []
    for f, centre, i, s in zip(frame, centres, intensities, sigma, strict=True):
        there = np.flatnonzero(without["spots/frame"] == f)
        near = np.hypot(*(without["spots/centroid"][there] - centre).T)
        if near.min() < 0.3:
            pulls.append((i - without["spots/I"][there[near.argmin()]]) / s)
    assert len(without["spots/I"]) * 0.98 < len(pulls) <= len(found["spots/I"])
    assert len(found["spots/I"]) < 1.02 * len(without["spots/I"])
    assert np.abs(np.mean(pulls)) < 0.05
    assert np.std(pulls) < 0.3


def test_hot_pixels_do_not_move_the_levels() -> None:
    frames, levels = drifting(0)
    frames[:, ::8, ::8] = 65535
    found = sampled(frames).levels
    assert found / np.median(found) == pytest.approx(levels / np.median(levels), rel=5e-3)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_frames_whose_background_was_subtracted(dtype: str, backend: Backend) -> None:
    """Their noise is read noise: a mean background near 0 says nothing about the gain."""
    rng = np.random.default_rng(11)
    frames = rng.normal(0, 4, (16, *SHAPE))
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for frame, (cx, cy) in zip(frames, rng.uniform(8, 40, (16, 2)), strict=True):
        frame += rng.poisson(400 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3) / 9.4)
    found = run(np.rint(frames).astype(dtype), Parameters(angles=0), backend)
    assert np.median(found["stats/noise"]) == pytest.approx(4, rel=0.03)
    assert found["spots/sigma"] == pytest.approx(4 * found["spots/n_pixels"] ** 0.5, rel=0.2)
    assert np.all(np.diff(found["frame2spotsBE"], axis=1) == 1)


def exposed(levels: Any, bias: int, background: int, per_angle: int = 1) -> NDArray[Any]:
    """Frames of 128 x 128 pixels without spots, with a gradient of the background."""
    rng = np.random.default_rng(12)
    light = background * (0.5 + np.linspace(0, 1, 128)) * np.ones((128, 1))
    exposure = np.repeat(levels, per_angle)[:, None, None]
    return (bias + rng.poisson(light * exposure)).astype(np.uint16)


@pytest.mark.parametrize(("bias", "background"), [(0, 300), (100, 300), (0, 3)])
def test_bright_frames_have_no_false_spots(bias: int, background: int) -> None:
    """Two of 24 frames have three times the light."""
    levels = np.where(np.arange(24) > 21, 3.0, 1.0)
    found = run(exposed(levels, bias, background), Parameters(angles=0), CpuBackend(2))
    assert len(found["spots/I"]) <= 1


def test_blocks_of_a_falling_beam_above_a_bias() -> None:
    """The background that blocks are levelled by is that at the level of the run."""
    frames = exposed(np.linspace(1, 0.1, 12), 100, 100, 6)
    columns = {"angle": np.repeat(np.arange(12.0), 6), "laser_on": np.arange(72) % 2}
    found = run(frames, Parameters(angles=0, sync="blocks"), CpuBackend(2), columns)
    assert len(found["spots/I"]) <= 6
    n_used = found["stats/n_used"]
    assert np.median(n_used) == 72
    truth = 100 + np.median(np.linspace(1, 0.1, 12)) * 100 * (0.5 + np.linspace(0, 1, 128))
    assert np.all(abs(found["stats/avg"].mean(axis=0) - truth) < 2)


@pytest.mark.parametrize("bias", [0, 100, 1000])
@pytest.mark.parametrize("dark", [slice(0, None, 2), slice(1, None, 2), slice(21, None)])
def test_frames_without_beam_do_not_change_the_noise(dark: slice, bias: int) -> None:
    """They may have the counts of a bias, which is no light."""
    levels = np.ones(24)
    levels[dark] = 0
    n_dark = int((levels == 0).sum())
    with pytest.warns(UserWarning, match=f"{n_dark} of 24 frames without beam"):
        results = find_spots(exposed(levels, bias, 300), Parameters(angles=0), backend="cpu")
    with results:
        model, found = results.noise_model, results.per_frame()["level"]
        assert model is not None
        assert model["correlation"] == pytest.approx(1, abs=0.05)
        assert model["gain"] == pytest.approx(1, abs=0.05)
        assert found[levels > 0] == pytest.approx(bias + 300, rel=0.2)
        assert found[levels == 0].max() < found[levels > 0].min() / 16


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("last", [0.97, 0.2])
def test_gaps_of_the_largest_values_follow_no_level(
    last: float, dtype: str, backend: Backend
) -> None:
    """A third of the frame has the largest value of its type or the one below, on all frames."""
    frames = exposed(np.linspace(1, last, 12), 0, 60).astype(dtype)[:, :, :60]
    for i, frame in enumerate(frames):
        x, y = np.mgrid[:128, :60]
        frame += np.uint8(50) * (np.hypot(x - 20, y - 9 - 4 * i) < 2).astype(frame.dtype)
    largest = np.iinfo(frames.dtype).max
    frames[:, 40:81] = largest
    frames[:, 60:70] = largest - 1
    found = run(frames, Parameters(angles=0), backend)
    assert not np.any(abs(found["spots/XY"][:, 0] - 60) < 22)
    assert len(found["spots/I"]) >= 9
    level = np.mean(np.linspace(1, last, 12)) * 60
    assert np.mean(found["per_frame/level"]) == pytest.approx(level, rel=0.3)
    noise = found["stats/noise"][:40]
    assert np.median(noise) == pytest.approx(np.median(found["stats/avg"][:40]) ** 0.5, rel=0.1)
