"""The table of spots at the limits of its integer types."""

from itertools import pairwise

import numpy as np
import pytest

from gpu_spots.model import Components, FixedPointMean, Measurements
from gpu_spots.spots.properties import ComponentMaps
from gpu_spots.spots.table import SpotTableBuilder, intensities, joined, label_image
from helpers import background_of


def measured(total: int, high: int, low: int) -> Measurements:
    """One spot."""
    one = np.zeros(1, np.int64)
    return Measurements(
        total=one + total,
        background_high=one + high,
        background_low=one + low,
        peak=one,
        overload=None,
        largest=one,
        n_maxima=one,
        moments=np.zeros((5, 1), np.int64),
        moments_high=None,
    )


@pytest.mark.parametrize(
    ("total", "scale", "high", "low"),
    [
        (1000, 7, 0, 3500),
        (
            2**55,
            2**7,
            -(2**30),
            0,
        ),  # twice 2^62: the background alone makes the numerator too large for 64 bits
        (2**55, 2**7, -(2**30) + 1, -(2**62) + 2**32),  # and so do its lower words
        (2**60, 2**20, 5, 9),
        (-(2**62), 2, 2**30, 2**62),
    ],
)
def test_intensity_is_rounded_once(total: int, scale: int, high: int, low: int) -> None:
    found = intensities(
        measured(total, high, low), FixedPointMean(scale, None, np.zeros((1, 1), np.uint32))
    )
    assert found.tolist() == [float(total * scale - high * 2**32 - low) / float(scale)]


@pytest.mark.parametrize(("n_spots", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_labels_are_as_wide_as_their_number(n_spots: int, dtype: type) -> None:
    components = Components(
        pixels=np.arange(n_spots),
        begin=np.arange(n_spots + 1),
        box=np.zeros((n_spots, 4), np.int32),
        first=np.array([0, n_spots]),
    )
    image = label_image(components, 0, (257, 256))
    assert image.dtype == dtype
    assert image.reshape(-1)[:n_spots].tolist() == list(range(1, n_spots + 1))
    assert not image.reshape(-1)[n_spots:].any()


def batch(*masks: list[list[int]]) -> Components:
    """Components of some masks of 10 columns, each given by its pixels; the boxes number them."""
    components = [pixels for mask in masks for pixels in mask]
    return Components(
        pixels=np.array([pixel for pixels in components for pixel in pixels], np.int64),
        begin=np.cumsum([0, *map(len, components)]),
        box=np.array([[p[0], p[0] + 1] * 2 for p in components], np.int32).reshape(-1, 4),
        first=np.cumsum([0, *map(len, masks)]),
    )


MASKS: list[list[list[int]]] = [[[3, 4], [17]], [], [[5], [8, 9, 19], [40]], [[2]]]


@pytest.mark.parametrize("cuts", [(), (1,), (2, 3), (1, 2, 3)], ids=str)
def test_batches_of_components_are_joined(cuts: tuple[int, ...]) -> None:
    edges = [0, *cuts, len(MASKS)]
    parts = [batch(*MASKS[a:b]) for a, b in pairwise(edges)]
    found, expected = joined(parts), batch(*MASKS)
    for name in ("pixels", "begin", "box", "first"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("cuts", [(), (1,), (2, 3), (1, 2, 3)], ids=str)
def test_the_table_by_hand_does_not_depend_on_batches(cuts: tuple[int, ...]) -> None:
    """Frames 0 and 3 share mask 2; frame 1 has mask 0, frame 2 the empty mask 1, frame 4 mask 3."""
    mask_of_frame = np.array([2, 0, 1, 2, 3])
    spots = [MASKS[mask] for mask in mask_of_frame]
    background = background_of(np.zeros((5, 10)), np.dtype("float64"), np.zeros((5, 10)))
    maps = ComponentMaps.of(background, may_touch=False)
    builder = SpotTableBuilder(10, np.dtype("float64"), background)
    for a, b in pairwise([0, *cuts, 4]):
        found = batch(*MASKS[a:b])
        builder.add_components(found, maps.sums(found))
    for a, b in pairwise([0, *cuts, 5]):
        peaks = np.array([pixels[-1] for frame in spots[a:b] for pixels in frame], np.int64)
        sums = Measurements(
            total=peaks,
            background_high=None,
            background_low=None,
            peak=peaks,
            overload=peaks + 1,
            largest=peaks / 2,
            n_maxima=np.ones_like(peaks),
            moments=np.zeros((5, len(peaks))),
            moments_high=None,
        )
        builder.add_measurements(peaks / 4, sums, mask_of_frame[a:b])
    assert builder.covered.tolist() == [3, 0, 5, 1]
    table = builder.table()
    expected = {
        "masks/counts": [2, 0, 3, 1],
        "spots/I": [1.25, 4.75, 10.0, 1.0, 4.25, 1.25, 4.75, 10.0, 0.5],
        "spots/XY": [[0, 5], [1, 9], [4, 0], [0, 4], [1, 7], [0, 5], [1, 9], [4, 0], [0, 2]],
        "spots/box": [[n, n + 1, n, n + 1] for n in (5, 8, 40, 3, 17, 5, 8, 40, 2)],
        "spots/frame": [0, 0, 0, 1, 1, 3, 3, 3, 4],
        "spots/label": [1, 2, 3, 1, 2, 1, 2, 3, 1],
        "spots/mask": [2, 2, 2, 0, 0, 2, 2, 2, 3],
        "spots/pixel_list_BE": [
            [3, 4], [4, 7], [7, 8], [0, 2], [2, 3], [3, 4], [4, 7], [7, 8], [8, 9],
        ],
        "spots/overload": [6, 20, 41, 5, 18, 6, 20, 41, 3],
        "spots/n_pixels": [1, 3, 1, 2, 1, 1, 3, 1, 1],
        "spots/max": [2.5, 9.5, 20.0, 2.0, 8.5, 2.5, 9.5, 20.0, 1.0],
        "spots/n_maxima": [1] * 9,
        "per_frame/n_spots": [3, 2, 0, 3, 1],
        "per_frame/mask": [2, 0, 1, 2, 3],
        "frame2spotsBE": [[0, 3], [3, 5], [5, 5], [5, 8], [8, 9]],
    }  # fmt: skip
    assert {path: table[path].tolist() for path in expected} == expected
