"""background.py: rounding, thresholds and means, against Python's integers and fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_spots.background.maps import BackgroundMaps, _rounded_once
from gpu_spots.background.methods import critical_values
from gpu_spots.model import FixedPointMean, IntegerMoments, Validity


@given(st.lists(st.integers(0, 2**100), min_size=1, max_size=20))
def test_two_words_are_rounded_once(numbers: list[int]) -> None:
    high = np.array([number >> 64 for number in numbers], np.uint64)
    low = np.array([number & (2**64 - 1) for number in numbers], np.uint64)
    assert _rounded_once(high, low).tolist() == [float(number) for number in numbers]


@pytest.mark.parametrize(
    "number",
    [
        2**64 + 2**11,
        2**64 + 2**11 + 1,
        2**64 + 3 * 2**11,
        2**65 + 2**12,
        2**90 + 2**37,
        2**90 + 2**37 + 1,
        2**64 - 1,
    ],
)
def test_halves_are_rounded_to_even(number: int) -> None:
    found = _rounded_once(
        np.array([number >> 64], np.uint64), np.array([number & (2**64 - 1)], np.uint64)
    )
    assert found[0] == float(number)


def maps_of(values: list[int], dtype: str, cutoff: float) -> tuple[BackgroundMaps, int, int]:
    """The maps of one pixel whose sample is ``values``, and S and m*Q - S*S."""
    m, total, squares = len(values), sum(values), sum(value * value for value in values)
    scatter = m * squares - total * total
    moments = IntegerMoments(
        kept=np.full((1, 1), m, np.int32),
        total=np.full((1, 1), total, np.int64),
        scatter_low=np.full((1, 1), scatter & (2**64 - 1), np.uint64),
        scatter_high=np.full((1, 1), scatter >> 64, np.uint64),
        iqr4=np.zeros((1, 1), np.int64),
        max=np.full((1, 1), max(values), dtype),
        arg=np.zeros((1, 1), np.int32),
        gaps=False,
    )
    maps = BackgroundMaps((1, 1), np.dtype(dtype), cutoff, varies=False)
    maps.rows(0, 1).fill(moments)
    return maps, total, scatter


@given(
    st.sampled_from(["uint8", "uint16", "uint32", "int16", "int32"]),
    st.data(),
    st.one_of(st.just(0.0), st.floats(0, 50), st.just(1e308)),
)
def test_threshold_is_the_smallest_value_that_stands_out(
    dtype: str, data: st.DataObject, cutoff: float
) -> None:
    limits = np.iinfo(dtype)
    values = data.draw(
        st.lists(st.integers(int(limits.min), int(limits.max)), min_size=2, max_size=12)
    )
    maps, total, scatter = maps_of(values, dtype, cutoff)
    found = int(maps.finish(Validity()).threshold[0, 0])
    m = len(values)
    height = float(total) / m + cutoff * (math.sqrt(float(scatter)) / m)
    for value in (found - 1, found):
        if limits.min <= value <= limits.max:
            stands_out = value >= height and Fraction(value) > Fraction(total, m)
            assert stands_out == (value >= found)
    assert limits.min <= found <= limits.max + 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32"])
def test_a_constant_pixel_never_stands_out_but_anything_above_it_does(dtype: str) -> None:
    maps, *_ = maps_of([7, 7, 7], dtype, 3.0)
    assert maps.finish(Validity()).threshold[0, 0] == 8


def test_a_saturated_pixel_never_stands_out() -> None:
    maps, *_ = maps_of([65535] * 3, "uint16", 3.0)
    assert maps.finish(Validity()).threshold[0, 0] == 65536


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=9))
def test_mean_is_the_exact_sum(values: list[int]) -> None:
    maps, total, _ = maps_of(values, "int32", 3.0)
    mean = maps.finish(Validity()).mean
    assert isinstance(mean, FixedPointMean)
    assert mean.high is not None
    assert mean.scale == len(values)
    assert (int(mean.high[0, 0]) << 32) + int(mean.low[0, 0]) == total


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2, 0.9])
def test_critical_values_are_chi_squared_quantiles(alpha: float) -> None:
    from scipy.stats import chi2

    critical = critical_values(alpha, 40)
    assert np.isposinf(critical[:3]).all()
    assert critical[3:].tolist() == [chi2.ppf(1 - alpha, blocks - 1) for blocks in range(3, 41)]
