"""Regions that are left out: what they are, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_spots.errors import InputError, ParameterError
from gpu_spots.regions import Region, in_any, region

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
HALVES = st.integers(-6, 30).map(lambda n: n / 2)


def naive(one: Region, shape: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel, as the docs say it."""
    inside = np.zeros(shape, bool)
    for x in range(shape[0]):
        for y in range(shape[1]):
            if one.kind == "rect":
                x0, x1, y0, y1 = one.numbers
                inside[x, y] = x0 <= x < x1 and y0 <= y < y1
            elif one.kind == "disc":
                inside[x, y] = (x - one.numbers[0]) ** 2 + (y - one.numbers[1]) ** 2 <= one.numbers[
                    2
                ] ** 2
            else:
                inside[x, y] = min(x, y, shape[0] - 1 - x, shape[1] - 1 - y) < one.numbers[0]
    return inside


@st.composite
def regions(draw: st.DrawFn) -> Region:
    kind = draw(st.sampled_from(["rect", "disc", "border"]))
    if kind == "rect":
        x0, y0 = draw(st.integers(0, 12)), draw(st.integers(0, 12))
        return Region(kind, (x0, x0 + draw(st.integers(1, 12)), y0, y0 + draw(st.integers(1, 12))))
    if kind == "disc":
        return Region(kind, (draw(HALVES), draw(HALVES), draw(st.integers(0, 20)) / 2))
    return Region(kind, (draw(st.integers(1, 9)),))


@given(one=regions(), shape=SIZES)
def test_regions_are_what_they_say(one: Region, shape: tuple[int, int]) -> None:
    expected = naive(one, shape)
    if not expected.any():
        with pytest.raises(InputError, match="no pixel in frames"):
            one.pixels(shape)
        return
    found = one.pixels(shape)
    assert found.dtype == np.bool_
    assert np.array_equal(found, expected)


@given(one=regions())
def test_regions_are_read_as_they_are_written(one: Region) -> None:
    assert region(str(one)) == one


@pytest.mark.parametrize(
    "text",
    [
        "disc:1e308,1,1",
        "disc:1,1,1e308",
        "disc:1,1,nan",
        f"border:{'9' * 400}",
        f"border:{'9' * 5000}",
        f"rect:0,{'9' * 30},0,5",
    ],
)
def test_numbers_that_are_no_pixels_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="reject"):
        region(text)


@given(several=st.lists(regions(), max_size=4), shape=SIZES)
def test_several_regions_are_their_union(several: list[Region], shape: tuple[int, int]) -> None:
    fitting = tuple(one for one in several if naive(one, shape).any())
    assert np.array_equal(
        in_any(fitting, shape),
        np.logical_or.reduce([np.zeros(shape, bool), *(naive(one, shape) for one in fitting)]),
    )
