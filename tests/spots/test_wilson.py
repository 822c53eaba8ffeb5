"""The photo-Wilson fit on ratios whose scale and temperature factor are known."""

import math

import numpy as np
import pytest

from gpu_spots.spots.ratios.wilson import mean_lines, photo_wilson

ANGLES, SPOTS = 10, 40


def ratios_of(
    seed: int, *, delta_B: float = 0.1, scale: float = 0.98, common: float = 0.01
) -> dict[str, np.ndarray]:
    """Ratios with responses of 3 %, and errors that the spots of an angle have in common."""
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(ANGLES), SPOTS)
    s = rng.uniform(0.1, 0.7, len(block))
    sigma = rng.uniform(0.005, 0.1, len(block))
    logs = math.log(scale) - 2 * delta_B * s**2 + 0.03 * rng.standard_normal(len(block))
    logs += common * rng.standard_normal(ANGLES)[block] + sigma * rng.standard_normal(len(block))
    R = np.exp(logs)
    return {"s": s, "R": R, "sigma": sigma * R, "block": block, "delay": np.full(len(block), 1e-9)}


def test_scale_and_temperature_factor_are_found_with_their_errors() -> None:
    pulls = []
    for seed in range(60):
        (fit,) = photo_wilson(**ratios_of(seed))
        assert fit["delta_B"] == -fit["slope"] / 2
        assert fit["scale"] == math.exp(fit["ln_scale"])
        pulls.append((fit["delta_B"] - 0.1) / fit["sigma_delta_B"])
        pulls.append((fit["scale"] - 0.98) / fit["sigma_scale"])
    assert abs(np.mean(pulls)) < 0.35
    assert 0.50 < np.mean(np.abs(pulls) < 1) < 0.80
    assert 0.85 < np.mean(np.abs(pulls) < 2) < 0.99


def test_scatter_of_the_responses_is_found() -> None:
    (fit,) = photo_wilson(**ratios_of(3, common=0.0))
    assert fit["scatter"] == pytest.approx(0.03, rel=0.3)
    assert fit["angles"] == ANGLES
    quiet = ratios_of(3, common=0.0)
    quiet["R"] = np.exp(-0.2 * quiet["s"] ** 2)
    (exact,) = photo_wilson(**quiet)
    assert exact["scatter"] == 0
    assert exact["delta_B"] == pytest.approx(0.1, abs=1e-12)


def test_errors_of_few_angles_are_those_of_the_weights() -> None:
    columns = ratios_of(4, common=0.0)
    columns["block"][:] = 0
    (fit,) = photo_wilson(**columns)
    weight = 1 / ((columns["sigma"] / columns["R"]) ** 2 + fit["scatter"] ** 2)
    _, covariance = np.polyfit(columns["s"] ** 2, np.log(columns["R"]), 1, w=np.sqrt(weight),
                               cov="unscaled")  # fmt: skip
    assert fit["sigma_slope"] == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
    assert fit["sigma_scale"] / fit["scale"] == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)


def test_delays_are_fitted_apart_and_unknown_values_left_out() -> None:
    columns = ratios_of(5)
    columns["delay"][::2] = 2e-9
    columns["delay"][:3] = np.nan
    columns["s"][3] = np.nan
    columns["R"][4:6] = [-1.0, np.nan]
    columns["sigma"][6] = 2 * columns["R"][6]
    fits = photo_wilson(**columns)
    assert [fit["delay"] for fit in fits] == [1e-9, 2e-9]
    assert sum(fit["n"] for fit in fits) == ANGLES * SPOTS - 7


def test_nothing_to_fit() -> None:
    columns = ratios_of(6)
    assert photo_wilson(**{name: values[:9] for name, values in columns.items()}) == []
    columns["s"][:] = 0.3
    assert photo_wilson(**columns) == []
    assert photo_wilson(**{name: values[:0] for name, values in columns.items()}) == []


def test_points_of_the_plot_are_means() -> None:
    columns = ratios_of(7, common=0.0)
    x, y, error = mean_lines(columns["s"], columns["R"], columns["sigma"], 8)
    assert len(x) == len(y) == len(error) == 8
    assert (np.abs(y - (math.log(0.98) - 0.2 * x)) < 4 * error).all()
