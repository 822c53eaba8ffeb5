"""Bias, noise, levels and bad cases of ``-m clip`` and of the noise model."""

from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots.model import Background, Validity
from gpu_spots.parameters import Parameters
from helpers import Notes, run

SHAPE = (160, 200)
SPOT = np.s_[60:66, 80:86]


def found_by_clip(frames: np.ndarray, notes: Notes | None = None, **options: Any) -> dict[str, Any]:
    columns = options.pop("columns", None)
    validity = options.pop("validity", None)
    parameters = Parameters.manual(method="clip", angles=0, **options)
    return run(frames, parameters, CpuBackend(2), columns, validity, notes)


def background(level: float) -> np.ndarray:
    """A background that changes by 40 % across the frame, counts."""
    x, y = np.indices(SHAPE)
    return level * (1 + 0.2 * np.sin(x / 25) + 0.2 * np.cos(y / 35))


def poisson(level: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(background(level), (n, *SHAPE)).astype(np.uint16)


@pytest.mark.parametrize(
    ("level", "limit"), [(0.05, 0.02), (3, 0.004), (50, 0.0015), (1000, 0.0005)]
)
def test_the_average_has_no_bias(level: float, limit: float) -> None:
    """Nor where a spot is on 2 of 40 frames."""
    frames = poisson(level, 40, seed=11)
    frames[[7, 21], 60:66, 80:86] += np.uint16(8 * max(1, level) ** 0.5)
    ratio = found_by_clip(frames)["stats/avg"] / background(level)
    far = np.ones(SHAPE, bool)
    far[SPOT] = False
    assert abs(ratio[far].mean() - 1) < limit
    # 36 pixels of 38 values, or of their neighbours where these know more
    error = 1 / np.sqrt(36 * 38 * max(level, 1.5))
    assert abs(ratio[SPOT].mean() - 1) < 3 * error + limit


@pytest.mark.parametrize(
    ("level", "limit"), [(0.05, 0.02), (3, 0.004), (50, 0.0015), (1000, 0.0005)]
)
def test_the_average_has_no_bias_by_blocks(level: float, limit: float) -> None:
    """Nor where a spot is on all frames of 2 of 10 blocks."""
    frames = poisson(level, 60, seed=12)
    block = np.arange(60) // 6
    for which in (3, 8):
        frames[block == which, 60:66, 80:86] += np.uint16(4 * max(1, level) ** 0.5)
    columns = {"angle": block.astype(float)}
    found = found_by_clip(frames, columns=columns)
    ratio = found["stats/avg"] / background(level)
    assert abs(ratio.mean() - 1) < limit
    assert np.median(found["stats/n_used"][SPOT]) == 48
    assert abs(ratio[SPOT].mean() - 1) < 3 / np.sqrt(36 * 48 * max(level, 1.5)) + limit


@pytest.mark.parametrize("level", [0.05, 3, 50, 1000])
def test_hot_and_cold_pixels_are_flagged_and_no_others(
    level: float, learnt: list[Background]
) -> None:
    frames = poisson(level, 40, seed=13)
    hot, cold = ([20, 20, 140], [30, 31, 190]), ([40, 100], [150, 20])
    for x, y in zip(*hot, strict=True):
        frames[:, x, y] += np.random.default_rng(x + y).poisson(2 * level + 2, 40).astype(np.uint16)
    frames[(slice(None), *cold)] = 0
    found_by_clip(frames)
    flagged = learnt[0].flagged
    assert flagged is not None
    assert flagged[hot].all()
    if level >= 3:
        # fewer photons do not tell a dead pixel from one without
        assert flagged[cold].all()
    assert flagged.sum() <= 5 + 2e-4 * flagged.size
    # and their neighbours have the background without them
    around = learnt[0].avg[15:26, 25:37][~flagged[15:26, 25:37]]
    assert abs(around.mean() / background(level)[15:26, 25:37].mean() - 1) < 0.02 + 0.1 * (
        level < 1
    )


@pytest.mark.parametrize("level", [0.05, 3, 50, 1000])
def test_noise_of_a_photon_counter(level: float, learnt: list[Background]) -> None:
    found = found_by_clip(poisson(level, 40, seed=14))
    model = learnt[0].noise_model
    assert model is not None
    assert abs(model.gain - 1) < 0.04
    assert abs(model.offset) < 4 * (model.offset_error if level > 1 else 0.01)
    assert abs(model.correlation - 1) < 4 * model.correlation_error
    ratio = found["stats/noise"] / np.sqrt(background(level))
    assert abs(np.median(ratio) - 1) < 0.03


@pytest.mark.parametrize("method", ["n_removed", "clip"])
@pytest.mark.parametrize("bias", [10, 1000])
def test_noise_of_a_ccd(method: str, bias: int, learnt: list[Background]) -> None:
    """Gain 0.07, read noise 2.4 counts."""
    rng = np.random.default_rng(15)
    truth = background(900)
    frames = rng.poisson(truth / 0.07, (60, *SHAPE)) * 0.07 + rng.normal(bias, 2.4, (60, *SHAPE))
    frames = np.rint(frames).astype(np.uint16)
    frames[:, :20] = 0  # a dead part
    run(frames, Parameters.manual(method=method, angles=0), CpuBackend(2))
    model = learnt[0].noise_model
    assert model is not None
    assert abs(model.gain - 0.07) < 0.05 * 0.07
    # the line crosses 0 counts^2 where the bias is, less the read noise
    assert abs(model.offset - (2.4**2 + 1 / 12 - 0.07 * bias)) < 4 * model.offset_error + 1
    assert model.bias == (-model.offset / model.gain if bias == 1000 else 0)
    noise = learnt[0].noise
    assert noise is not None
    assert abs(np.median(noise[30:] / np.sqrt(0.07 * truth + 2.4**2)[30:]) - 1) < 0.03


def test_noise_that_is_correlated(learnt: list[Background]) -> None:
    """Each pixel is the mean of itself and the one before it, along both axes."""
    white = np.random.default_rng(16).normal(0, 40, (20, SHAPE[0] + 1, SHAPE[1] + 1))
    smooth = (white[:, 1:] + white[:, :-1]) / 2
    smooth = (smooth[:, :, 1:] + smooth[:, :, :-1]) / 2
    run(np.rint(1000 + smooth).astype(np.uint16), Parameters.manual(angles=0), CpuBackend(2))
    model = learnt[0].noise_model
    assert model is not None
    # correlations of 1/2 with the neighbour and 0 beyond: (1 + 2/3)^2
    assert abs(model.correlation - 25 / 9) < 5 * model.correlation_error + 0.03


@pytest.mark.parametrize("level", [0.05, 3, 1000])
@pytest.mark.parametrize("blocks", [False, True])
def test_frames_of_different_exposures(level: float, blocks: bool) -> None:
    """The level of each frame is found, and the background is that of the run's level."""
    exposure = np.random.default_rng(17).choice([0.7, 1.0, 1.0, 1.0, 1.6], 40)
    rng = np.random.default_rng(18)
    frames = rng.poisson(background(level) * exposure[:, None, None]).astype(np.uint16)
    notes = Notes()
    columns = {"angle": np.repeat(np.arange(10.0), 4)} if blocks else None
    found_by_clip(frames, notes, columns=columns)
    assert any(warning.startswith("frame levels: found a scatter") for warning in notes.warnings)
    notes = Notes()
    found = found_by_clip(frames, notes, columns=columns, normalise="level")
    assert not notes.warnings
    levels = found["per_frame/level"] / np.median(found["per_frame/level"])
    chance = 1 / np.sqrt(level * min(32768, frames[0].size))
    assert np.abs(levels / exposure - 1).max() < 5 * chance + 0.02
    assert np.allclose(found["per_frame/scale"], 1 / levels, rtol=1e-3)
    bias = (found["stats/avg"] / background(level)).mean() - 1
    # photons are not multiplied: the background of few photons is that of the mean exposure
    assert abs(bias - (exposure.mean() - 1 if level < 1 else 0)) < 0.04
    noise = np.median(found["stats/noise"] / np.sqrt(background(level)))
    assert abs(noise - 1) < 0.12


def test_single_photons_do_not_become_spots() -> None:
    """Nor on frames of half the exposure."""
    exposure = np.where(np.arange(30) % 3 == 0, 0.5, 1.0)
    rng = np.random.default_rng(19)
    frames = rng.poisson(0.05 * exposure[:, None, None], (30, *SHAPE)).astype(np.uint16)
    found = found_by_clip(frames, normalise="level")
    assert np.array_equal(found["masks_raw"], frames >= 2)


def test_the_cutoff_matters_on_a_photon_counter() -> None:
    frames = poisson(0.05, 30, seed=20)
    thresholds = [
        np.median(found_by_clip(frames, cutoff=cutoff)["stats/threshold"])
        for cutoff in (1, 3, 4, 6)
    ]
    assert thresholds == [1, 2, 3, 4]


def test_few_frames_are_told() -> None:
    notes = Notes()
    found_by_clip(poisson(20, 5, seed=21), notes)
    assert [
        warning for warning in notes.warnings if "found 5 frames, expected at least 8" in warning
    ]
    notes = Notes()
    found_by_clip(poisson(20, 8, seed=21), notes)
    assert not notes.warnings


@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_frames_without_variation(value: int, dtype: str) -> None:
    if dtype == "float32" or value == 7:
        value = min(value, 1000)
    frames = np.full((20, 30, 40), value).astype(dtype)
    found = found_by_clip(frames)
    assert (found["stats/avg"] == np.float32(value)).all() or value == 0
    assert np.abs(found["stats/avg"] - np.float32(value)).max() < 1e-2
    assert not found["masks_raw"].any()
    assert len(found["spots/I"]) == 0


def test_a_single_photon_is_no_spot() -> None:
    frames = np.zeros((30, 40, 50), np.uint16)
    frames[11, 20, 20] = 1
    found = found_by_clip(frames, erosions=0)
    assert not found["masks_raw"].any()
    assert 0 < found["stats/avg"][20, 20] < 0.05
    frames[11, 20, 20] = 5
    assert found_by_clip(frames, erosions=0)["masks_raw"].sum() == 1


def test_a_saturated_area_has_its_own_background() -> None:
    frames = poisson(100, 20, seed=22)
    frames[:, 100:130, 100:130] = 65535
    found = found_by_clip(frames)
    assert (found["stats/avg"][105:125, 105:125] == 65535).all()
    assert abs(found["stats/avg"][:90] / background(100)[:90] - 1).mean() < 0.03


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (7, 9)])
def test_frames_of_any_shape(shape: tuple[int, int]) -> None:
    frames = np.random.default_rng(23).poisson(30, (25, *shape)).astype(np.uint16)
    found = found_by_clip(frames)
    assert abs(found["stats/avg"].mean() - 30) < 6
    assert (found["stats/threshold"] > 35).all()


def test_all_pixels_masked() -> None:
    notes = Notes()
    validity = Validity(np.zeros(SHAPE, bool))
    found = found_by_clip(poisson(30, 20, seed=24), notes, validity=validity)
    assert not found["masks_raw"].any()
    assert not found["stats/noise"].any()
    assert any("all pixels are masked" in warning for warning in notes.warnings)
