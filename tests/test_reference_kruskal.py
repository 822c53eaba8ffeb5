"""Kruskal-Wallis test of the naive reference, by hand and against SciPy."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from factories.stacks import make_stack, one_pixel
from reference import reference_run
from reference_kruskal import critical_value, kruskal_h, kruskal_keep


@pytest.mark.parametrize("spread", [3, 30, 100000])
def test_kruskal_h_against_scipy(spread: int) -> None:
    """SciPy computes the same H, with few, some and hardly any ties."""
    rng = np.random.default_rng(spread)
    for _ in range(60):
        groups = [
            rng.integers(0, spread, size=rng.integers(1, 9)).tolist()
            for _ in range(rng.integers(2, 7))
        ]
        if len({value for group in groups for value in group}) > 1:
            assert float(kruskal_h(groups)) == pytest.approx(
                stats.kruskal(*groups).statistic, rel=1e-9, abs=1e-9
            )


def test_kruskal_h_by_hand() -> None:
    """Two cases, without and with ties, are exact."""
    # ranks 1 2 | 3 4 | 5 6: H = 12 / 42 * (9 + 49 + 121) / 2 - 21 = 32 / 7
    assert kruskal_h([[1, 2], [3, 4], [5, 6]]) == Fraction(32, 7)
    # ranks 1.5 1.5 | 3 4: H = 12 / 20 * (9 + 49) / 2 - 15 = 2.4, divided by 1 - 6 / 60
    assert kruskal_h([[1, 1], [3, 4]]) == Fraction(8, 3)


def test_kruskal_keep_against_scipy() -> None:
    """The same blocks are dropped as with SciPy's test and ranks."""
    rng = np.random.default_rng(7)
    dropped_at_all = 0
    for _ in range(80):
        groups = [
            (rng.normal(50, 3, size=6) + rng.choice([0, 0, 0, 20])).tolist() for _ in range(6)
        ]
        left = list(range(6))
        while len(left) > 2 and stats.kruskal(*(groups[i] for i in left)).pvalue < 0.05:
            ranks = stats.rankdata([groups[i] for i in left]).reshape(len(left), -1)
            left.pop(int(ranks.mean(axis=1).argmax()))
        assert kruskal_keep(groups, 0.05) == left
        dropped_at_all += len(left) < 6
    assert dropped_at_all > 20


def test_kruskal_stop_rules() -> None:
    """The test stops at two blocks, at equal values, and where nothing can be rejected."""
    assert kruskal_keep([[1, 2, 3], [100, 200, 300]], 0.99) == [0, 1]  # two blocks are never tested
    assert kruskal_keep([[5, 5], [5, 5], [5, 5]], 0.99) == [0, 1, 2]  # all equal
    assert kruskal_keep([[5, 5], [9, 9], [5, 5], [5, 5]], 0.5) == [
        0,
        2,
        3,
    ]  # all equal after one is dropped
    assert kruskal_keep([[9, 9, 8], [1, 2, 3], [8, 9, 9], [2, 1, 3], [1, 2, 2]], 0.2) == [1, 3, 4]
    assert kruskal_keep([[1, 1], [9, 9], [9, 9]], 0.5)[-1] == 2  # of equals the first is dropped
    assert kruskal_keep([[1, 2], [3, 4], [5, 6]], 1e-17) == [
        0,
        1,
        2,
    ]  # 1 - alpha is 1, the critical value infinite
    assert critical_value(0.05, 3) == stats.chi2.ppf(0.95, 2)
    assert critical_value(1e-17, 3) == math.inf


def test_kruskal_statistics_come_from_what_is_left() -> None:
    """The sample is all frames of the blocks that are left; max and arg are over all frames."""
    # angles come back: the blocks are frames {0, 1, 6}, {2, 3, 7} and {4, 5, 8}
    angles = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0004, 1.0, 2.0]
    values = [1, 2, 50, 52, 3, 1, 3, 51, 2]
    result = one_pixel(
        values,
        "uint16",
        method="kruskal",
        alpha=0.1,
        angles=angles,
        laser=[False, True] * 4 + [0],
        erosions=0,
    )
    assert result["stats/n_used"].item() == 6
    assert result["stats/avg"].item() == 2
    assert result["stats/std"].item() == np.float32(math.sqrt(24) / 6)
    assert result["stats/iqr"].item() == 1.5
    assert result["stats/max"].item() == 52
    assert result["stats/arg"].item() == 3
    assert result["stats/threshold"].item() == 5
    assert result["masks_raw"].ravel().tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 0]
    assert result["spots/I"].tolist() == [48, 50, 49]


def test_kruskal_without_a_whole_block() -> None:
    """A block with no valid value in a pixel does not count there."""
    angles = [0, 0, 1, 1, 2, 2]
    result = one_pixel(
        [1, 2, math.nan, math.nan, 900, 901],
        "float32",
        method="kruskal",
        alpha=0.9,
        angles=angles,
        laser=[False, True] * 3,
    )
    assert result["stats/n_used"].item() == 4  # two blocks are left in this pixel: no test


def test_kruskal_does_not_depend_on_n() -> None:
    """The percentage to drop plays no part in kruskal."""
    frames = make_stack("uint16", shape=(12, 4, 4))
    options: dict[str, Any] = {
        "method": "kruskal",
        "angles": np.repeat([0, 1, 2], 4),
        "laser": [0, 1] * 6,
    }
    one, other = reference_run(frames, n=25, **options), reference_run(frames, n=99, **options)
    for path in one:
        np.testing.assert_array_equal(one[path], other[path])
