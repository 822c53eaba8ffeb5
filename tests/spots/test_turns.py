"""Pixels of components in turns, and sums over them."""

import numpy as np
import pytest

from gpu_spots.spots import turns as module
from gpu_spots.spots.turns import summed, turns


@pytest.mark.parametrize("piece", [1, 40, 1 << 16])
@pytest.mark.parametrize("n", [0, 1, 2, 60])
def test_sums_are_those_of_pixel_by_pixel(
    n: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    rng = np.random.default_rng([n, piece])
    length = rng.integers(1, 90, n)
    begin = np.concatenate([[0], np.cumsum(length)])
    values = rng.standard_normal(begin[-1]) * 10.0 ** rng.integers(-9, 9, begin[-1])
    wanted = np.flatnonzero(rng.random(n) < 0.8)
    found = np.full(n, np.nan)
    for some in turns(begin, wanted):
        assert len(some.component) <= max(1, piece)
        assert (some.length == length[some.component]).all()
        found[some.component] = summed(some.without_empty(values.take(some.index)))
    expected = np.bincount(np.repeat(np.arange(n), length), weights=values, minlength=n)
    others = np.setdiff1d(np.arange(n), wanted)
    assert found[wanted].tobytes() == expected[wanted].tobytes()
    assert np.isnan(found[others]).all()


def test_components_of_very_different_size_do_not_share_a_table() -> None:
    length = np.array([9, 2000, 5, 1000, 8, 700])
    begin = np.concatenate([[0], np.cumsum(length)])
    tables = list(turns(begin, np.arange(6)))
    assert [some.length.tolist() for some in tables] == [[1000, 2000], [700], [5, 8, 9]]
    assert sum(some.index.size for some in tables) == 2 * 2000 + 700 + 3 * 9


def test_a_negative_zero_is_added_to_zero() -> None:
    for n in (1, 2):
        total = summed(np.full((3, n), -0.0))
        assert not np.signbit(total).any()
