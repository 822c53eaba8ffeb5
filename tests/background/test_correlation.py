"""Correlation factor of the noise, compared with the naive reference and with known factors."""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots.backend import Backend
from gpu_spots.background.correlation import correlation, deviations
from gpu_spots.background.noise import mean_counts
from gpu_spots.model import Background, Validity
from gpu_spots.noise_model import correlation_factor
from gpu_spots.parameters import Parameters
from gpu_spots.simulate.design import make_design
from gpu_spots.simulate.run import simulate_run
from helpers import run
from reference import find_valid
from reference_clip import correlation_of, lower_part

SHAPE = (15, 43)
SMALL = {"size": (128, 160), "spots": 12, "laser": False, "repeats": 1, "angles": 12}


def spotted(dtype: str, level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frames with spots, zingers and a gradient, and their background at level 1."""
    rng = np.random.default_rng(seed)
    mean = level * np.linspace(0.5, 1.5, SHAPE[1]) * np.ones(SHAPE)
    frames = rng.poisson(mean * np.linspace(0.8, 1.2, 9)[:, None, None]).astype(np.float64)
    for frame in range(9):
        frames[frame, frame : frame + 5, 20:27] += 2 + 2 * level**0.5
        frames[frame, rng.integers(SHAPE[0]), rng.integers(SHAPE[1])] += 1000
    return frames.astype(dtype), mean


@pytest.mark.parametrize(("dtype", "level"), [("uint16", 200), ("int32", 0.3), ("float32", 5)])
def test_the_factor_is_that_of_the_reference(dtype: str, level: float) -> None:
    frames, mean = spotted(dtype, level, seed=3)
    valid = np.random.default_rng(4).random(frames.shape) < 0.98
    noise = np.sqrt(1.3 * mean).astype(np.float32)
    noise[7, 9:12] = 0
    relative = [0.8 + 0.05 * i for i in range(9)]
    samples = list(zip(frames, valid, relative, strict=True))[::3]
    found = correlation(
        deviations(rows, good, mean * of, noise.astype(np.float64), 1.25)
        for rows, good, of in samples
    )
    expected, n = correlation_of(samples, mean, noise, 1.25)
    assert astuple(found) == expected
    assert n > 1000
    assert found.factor != 1


def test_too_few_pixels_tell_nothing() -> None:
    frames, mean = spotted("uint16", 100, seed=5)
    for part in (np.s_[:1], np.s_[:, :11]):
        found = correlation(
            deviations(
                frame[part], np.ones_like(frame[part], bool), mean[part], mean[part] ** 0.5, 1
            )
            for frame in frames
        )
        assert (found.factor, found.lags) == (1, (0, 0, 0, 0))
        assert math.isnan(found.error)


X, Y = np.mgrid[-16:17, -16:17]


@pytest.mark.parametrize(
    ("mask", "tolerance"),
    [
        (abs(X) + abs(Y) < 1, 1e-12),
        ((X % 32 < 2) & (Y % 32 < 2), 1e-3),
        ((abs(X) < 2) & (abs(Y) < 2), 1e-3),
        ((abs(X) < 6) & (abs(Y) < 6), 1e-3),
        (X**2 + Y**2 < 10, 0.03),
        (X**2 + Y**2 < 65, 0.01),
        ((X / 2) ** 2 + (2 * Y) ** 2 < 144, 0.1),
        ((abs(X) < 2) & (abs(Y) < 7), 0.15),
    ],
    ids=["1", "2 x 2", "3 x 3", "11 x 11", "disc 3", "disc 8", "ellipse", "streak"],
)
@pytest.mark.parametrize("shared", [1.0, 0.8, 0.3])
def test_factor_of_masks(mask: np.ndarray, tolerance: float, shared: float) -> None:
    """The variance of a sum is the sum of the covariances of all its pairs of pixels.

    The light has a Gaussian spread. The part of the noise that is not shared is that of single
    pixels.
    """
    x, y = np.nonzero(mask)
    apart_x, apart_y = abs(x - x[:, None]), abs(y - y[:, None])
    light = np.array([0.6 ** (distance**2) for distance in range(5)] + [0.0] * 40)
    covariances = shared * light[apart_x] * light[apart_y] + (1 - shared) * np.eye(len(x))
    exact = covariances.sum() / len(x)
    found = correlation_factor(np.array([len(x)]), (shared * light[1:5]).tolist())
    assert found.shape == (1,)
    assert abs(found[0] / exact - 1) < tolerance


@pytest.mark.parametrize("shared", [1.0, 0.6])
@pytest.mark.parametrize("taps", [(0.05, 0.0), (0.14, 0.0003), (0.25, 0.004), (0.36, 0.017)])
def test_factor_of_light_by_its_spread(taps: tuple[float, float], shared: float) -> None:
    """Light of a photon on a pixel, on the next one and on the one after that, along X and Y."""
    light = np.array([taps[1], taps[0], 1.0, *taps])
    along = np.convolve(light, light) / (light @ light)
    lags = (shared * along[5:9]).tolist()
    exact = 1 - shared + shared * along.sum() ** 2
    assert abs(correlation_factor(np.array([10**12]), lags)[0] / exact - 1) < 0.06


def test_noise_without_correlation_has_a_factor_of_1() -> None:
    assert (correlation_factor(np.arange(1, 400), [0.0] * 4) == 1).all()


@pytest.mark.parametrize(
    ("method", "normalise", "dtype"),
    [
        ("clip", "level", "uint16"),
        ("clip", "none", "float32"),
        ("n_removed", "none", "uint16"),
    ],
)
def test_a_run_has_that_factor(
    backend: Backend, method: str, normalise: str, dtype: str, learnt: list[Background]
) -> None:
    frames, _ = spotted(dtype, 60, seed=6)
    pixels = np.random.default_rng(7).random(frames.shape[1:]) < 0.97
    parameters = Parameters(angles=0, method=method, normalise=normalise)
    found = run(frames, parameters, backend, None, Validity(pixels, None, 900))
    model, noise = learnt[0].noise_model, learnt[0].noise
    assert model is not None
    assert noise is not None
    levels = found["per_frame/level"].tolist()
    middle = float(np.median(levels))
    valid = find_valid(frames, pixels, None, 900)
    samples = [(frames[i], valid[i], levels[i] / middle) for i in (0, 1, 3, 5, 7)]
    # 2 of 9 values are left out by n_removed
    shift = lower_part(7 / 9)[0] if method == "n_removed" else 0.0
    mean = mean_counts(learnt[0].mean) + shift * noise.astype(np.float64)
    expected, n = correlation_of(samples, mean, noise, model.gain)
    assert (model.correlation, model.correlation_error, model.correlation_lags) == expected
    assert n > 1000


@pytest.mark.parametrize(
    ("preset", "options", "truth"),
    [
        ("marccd", {"drift": 3.0}, 1.0),
        ("marccd", {"drift": 3.0, "laser": True, "angles": 4, "repeats": 2}, 1.0),
        ("marccd", {"drift": 1.0, "background_change": 0.5}, 1.0),
        ("pilatus", {"drift": 3.0, "modules": None}, 1.0),
        ("eiger", {"background": 0.05, "modules": None}, 1.0),
        # variances of sums of 3 x 3 pixels, with 6 of 32 counts^2 by the read noise
        ("rayonix", {"drift": 3.0}, 2.85),
    ],
)
def test_factor_of_runs_with_drift_and_spots(
    preset: str, options: dict[str, Any], truth: float, learnt: list[Background]
) -> None:
    simulated = simulate_run(make_design(SMALL | options | {"seed": 21}, preset))
    frames = np.stack(list(simulated.frames()))
    columns = {"angle": simulated.truth.schedule.angle}
    run(frames, Parameters(angles=0, method="clip", normalise="level"), CpuBackend(2), columns)
    model = learnt[0].noise_model
    assert model is not None
    assert abs(model.correlation / truth - 1) < 4 * model.correlation_error / truth + 0.03
