"""The table of spots at the limits of its integer types."""

import numpy as np
import pytest

from gpu_spots.model import Components, IntegerLevel, Measurements
from gpu_spots.spots.table import intensities, label_image


def measured(total: int, high: int, low: int) -> Measurements:
    """One spot."""
    one = np.zeros(1, np.int64)
    return Measurements(
        total=one + total,
        background_high=one + high,
        background_low=one + low,
        peak=one,
        overload=None,
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
        measured(total, high, low), IntegerLevel(scale, None, np.zeros((1, 1), np.uint32))
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
