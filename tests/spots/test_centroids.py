"""Offsets of centres of mass from weighted centroids."""

import numpy as np
import pytest

from gpu_spots.spots.centroids import ENOUGH, Offsets

SPREAD = 0.7


def offsets(n: int, asymmetry: float, seed: int) -> tuple[Offsets, np.ndarray]:
    """Return offsets of n spots with noise, and those without, (n, 2) each."""
    rng = np.random.default_rng(seed)
    variance = np.exp(rng.uniform(np.log(1e-5), np.log(1e-2), (n, 2)))
    true = rng.standard_normal((n, 2)) * np.sqrt(asymmetry * SPREAD)
    noise = rng.standard_normal((n, 2)) * np.sqrt(variance)
    return Offsets(true + noise, variance, np.full((n, 2), SPREAD)), true


@pytest.mark.parametrize("asymmetry", [0.0005, 0.003, 0.01])
def test_the_asymmetry_of_a_run_is_found(asymmetry: float) -> None:
    found, _ = offsets(2000, asymmetry, seed=1)
    assert abs(found.asymmetry() / asymmetry - 1) < 0.15


def test_symmetric_spots_have_none() -> None:
    found = [offsets(500, 0.0, seed)[0].asymmetry() for seed in range(20)]
    assert not np.any(found)


def test_centroids_are_nearer_to_the_centre_of_mass_and_their_errors_are_right() -> None:
    found, true = offsets(2000, 0.003, seed=3)
    known = np.full(true.shape, 0.01)
    weighted = 0.01 * np.random.default_rng(4).standard_normal(true.shape)
    centroid, sigma = found.columns(weighted, known)
    error = centroid - true
    assert np.std(error) < 0.9 * min(np.std(weighted - true), np.std(found.distance - true))
    assert abs((abs(error) < sigma).mean() - 0.683) < 0.03
    assert abs((abs(error) < 1.96 * sigma).mean() - 0.95) < 0.02


@pytest.mark.parametrize("n", [ENOUGH // 2 - 1, ENOUGH // 2])
def test_too_few_spots_tell_nothing(n: int) -> None:
    """Each has two coordinates."""
    found, _ = offsets(n, 0.003, seed=5)
    found.variance[:] = 1e-4
    tells = 2 * n >= ENOUGH
    assert (found.asymmetry() > 0) == tells
    centroid, sigma = found.columns(np.zeros((n, 2)), np.ones((n, 2)))
    assert (centroid != 0).all() == tells
    assert (sigma > 1).all() == tells


def test_spots_without_a_centre_of_mass_keep_their_weighted_centroid() -> None:
    found, _ = offsets(200, 0.003, seed=6)
    found.distance[3] = np.nan
    found.spread[4] = np.nan
    centroid, sigma = found.columns(np.zeros((200, 2)), np.ones((200, 2)))
    assert (centroid[3:5] == 0).all()
    assert (sigma[3:5] == 1).all()
    assert (centroid[5:] != 0).all()
    # a spot without weights has no position
    nowhere, _ = found.columns(np.full((200, 2), np.nan), np.ones((200, 2)))
    assert np.isnan(nowhere).all()
