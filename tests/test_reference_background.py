"""Background of the naive reference, by hand and against NumPy."""

import math
import warnings

import numpy as np
import pytest

from factories.stacks import DTYPES, make_stack, one_pixel
from reference import reference_run
from reference_background import integer_background


def test_stats_by_hand() -> None:
    """The statistics of eight values follow the formulas."""
    # 8 values, 25 % are 2: kept are 1 2 3 4 5 6; S = 21, Q = 91, num = 6 * 91 - 441 = 105
    result = one_pixel([9, 1, 3, 2, 9, 5, 4, 6], "uint16")
    assert result["stats/avg"].item() == 3.5
    assert result["stats/std"].item() == np.float32(math.sqrt(105) / 6)
    assert result["stats/iqr"].item() == 2.5  # positions 1.25 and 3.75: 2.25 and 4.75
    assert result["stats/max"].item() == 9
    assert result["stats/arg"].item() == 0
    assert result["stats/threshold"].item() == math.ceil(3.5 + 3 * math.sqrt(105) / 6) == 9
    assert result["masks_raw"].ravel().tolist() == [1, 0, 0, 0, 1, 0, 0, 0]


def test_n_zero_means_25() -> None:
    """No percentage means the default; a small one may drop nothing."""
    frames = make_stack("uint16")
    zero, default = reference_run(frames, n=0), reference_run(frames, n=25)
    assert zero.keys() == default.keys()
    for path in zero:
        np.testing.assert_array_equal(zero[path], default[path])
    assert (
        one_pixel([1, 2, 3, 100], "uint8", n=1)["stats/avg"].item() == 26.5
    )  # floor(4 * 1 / 100) is 0: nothing is dropped


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 10, 25, 60, 90])
def test_stats_against_numpy(dtype: str, n: int) -> None:
    """NumPy agrees with the statistics, to rounding, and with the raw masks."""
    frames = make_stack(dtype, seed=n)
    result = reference_run(frames, n=n)
    n_frames = len(frames)
    kept = np.sort(frames.astype(np.float64), axis=0)[: n_frames - n_frames * n // 100]
    np.testing.assert_allclose(result["stats/avg"], kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(result["stats/std"], kept.std(axis=0), rtol=1e-6)
    q25, q75 = np.percentile(kept, [25, 75], axis=0)
    np.testing.assert_allclose(result["stats/iqr"], q75 - q25, rtol=1e-6)
    np.testing.assert_array_equal(result["stats/max"], frames.max(axis=0))
    np.testing.assert_array_equal(result["stats/arg"], frames.argmax(axis=0))
    level = kept.mean(axis=0) + 3 * kept.std(axis=0)
    expected = (frames >= level) & (frames > kept.mean(axis=0))
    np.testing.assert_array_equal(result["masks_raw"], expected.astype(np.uint8))
    np.testing.assert_array_equal(frames >= result["stats/threshold"], expected)


def test_32_bit_sums_are_exact() -> None:
    """Sums of squares that need more than 64 bits lose nothing."""
    top = 2**32 - 1
    values = [top] * 5 + [top - 1]
    background = integer_background(sorted(values), 0.0, 0, top)
    assert background.std == math.sqrt(5) / 6  # in float64 Q - S * S / m would have lost it
    assert background.threshold == top  # the average is between top - 1 and top
    assert background.total == 6 * top - 1
    result = one_pixel([*values, top, top], "uint32", cutoff=0.0)
    assert result["stats/threshold"].item() == top
    assert result["masks_raw"].ravel().tolist() == [1] * 5 + [0, 1, 1]


def test_constant_pixels_are_never_in_a_raw_mask() -> None:
    """A pixel that never changes is not above its average."""
    for dtype in DTYPES:
        for cutoff in (0.0, 3.0):
            result = one_pixel([7] * 8, dtype, cutoff=cutoff)
            assert not result["masks_raw"].any()
            assert result["stats/std"].item() == 0
            expected = 8 if "float" not in dtype else np.nextafter(7.0, np.inf)
            assert result["stats/threshold"].item() == expected


def test_cutoff_zero_is_above_the_average() -> None:
    """With cutoff 0 the threshold is the first integer above the average.

    This holds for negative values too.
    """
    result = one_pixel([1, 2, 3, 2, 2, 2, 9, 9], "uint16", cutoff=0.0)
    assert result["stats/threshold"].item() == 3  # the average is 2, exactly
    result = one_pixel([-3, -2, -2, -2, -2, -2, 9, 9], "int16", cutoff=0.0)
    assert result["stats/threshold"].item() == -2  # the average is -13/6


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [("uint8", 256), ("uint16", 65536), ("int16", 32768), ("uint32", 2**32), ("int32", 2**31)],
)
def test_threshold_is_clamped(dtype: str, limit: int) -> None:
    """No threshold is more than one above the largest value of the type."""
    for cutoff in (1e300, np.finfo(np.float64).max):
        assert (
            one_pixel([1, 2, 100, 4, 90, 3, 2, 2], dtype, cutoff=cutoff)["stats/threshold"].item()
            == limit
        )
    assert one_pixel([limit - 1] * 4, dtype)["stats/threshold"].item() == limit


def test_iqr_is_exact_for_every_remainder() -> None:
    """The interquartile range has exact quarters."""
    rng = np.random.default_rng(3)
    for m in range(2, 14):
        kept = sorted(rng.integers(-1000, 1000, size=m).tolist())
        iqr = integer_background(kept, 3.0, -1000, 1000).iqr
        assert iqr == pytest.approx(
            float(np.percentile(kept, 75) - np.percentile(kept, 25)), rel=1e-13
        )
        assert iqr * 4 == int(iqr * 4)


def test_float_sum_order() -> None:
    """Float values are summed in ascending order."""
    # ascending: ((1 + 1) + 1) + 2**53 is 2**53 + 3 rounded to 2**53 + 4; in the order of the run it
    # would be 2**53
    values = [2.0**53, 1.0, 1.0, 1.0]
    result = one_pixel(values, "float64", n=1, cutoff=0.0)
    assert result["stats/threshold"].item() == np.nextafter((2.0**53 + 4) / 4, np.inf)


def test_equal_float_values_are_their_average() -> None:
    """A sum that rounds does not move the average of equal values."""
    assert (0.1 + 0.1 + 0.1) / 3 > 0.1
    result = one_pixel([0.1, 0.1, 0.1, 0.5], "float64", erosions=0)
    assert result["stats/std"].item() == 0
    assert result["stats/threshold"].item() == np.nextafter(0.1, 1)
    assert result["spots/I"].tolist() == [0.5 - 0.1]


def test_float_overflow_is_silent() -> None:
    """Overflow gives infinity, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = one_pixel([1e308, 1.5e308, 1.2e308, 1.7e308, 1e308], "float64")
        assert result["stats/avg"].item() == math.inf
        assert not result["masks_raw"].any()
        result = one_pixel([1e200, -1e200, 0.0, 1.0, 5.0], "float64")
        assert result["stats/std"].item() == math.inf


# ----------------------------------------------------------------------------------- invalid values


def test_masked_pixels() -> None:
    """Pixels that are excluded have no stats and are in no mask; that alone writes no n_used."""
    frames = make_stack("uint16")
    valid_pixels = np.ones(frames.shape[1:], dtype=bool)
    valid_pixels[3:6, 4:7] = False
    frames[5, 2:7, 3:8] = 5000
    result = reference_run(frames, valid_pixels=valid_pixels)
    assert "stats/n_used" not in result
    for name in ("avg", "std", "iqr", "max", "arg"):
        assert not result[f"stats/{name}"][~valid_pixels].any()
        assert name == "arg" or result[f"stats/{name}"][valid_pixels].all()
    assert set(result["stats/threshold"][~valid_pixels].tolist()) == {65536}
    assert not result["masks_raw"][:, ~valid_pixels].any()
    assert not result["masks_filtered"][:, ~valid_pixels].any()


def test_partially_invalid_values() -> None:
    """Invalid values are taken out before the largest are dropped."""
    # valid are 1 2 3 4 50: v = 5, k = floor(5 * 25 / 100) = 1, kept are 1 2 3 4
    values = [1, 255, 2, 50, 3, 255, 4, 255]
    result = one_pixel(values, "uint8", high=254)
    assert result["stats/n_used"].item() == 4
    assert result["stats/n_used"].dtype == np.int32
    assert result["stats/avg"].item() == 2.5
    assert result["stats/max"].item() == 50
    assert result["stats/arg"].item() == 3
    assert result["masks_raw"].ravel().tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert one_pixel(values, "int16", low=1, high=50)["stats/avg"].item() == 2.5
    floats = [math.nan if value == 255 else value for value in values]
    floats[5] = -math.inf
    for dtype in ("float32", "float64"):
        result = one_pixel(floats, dtype)
        assert result["stats/avg"].item() == 2.5
        assert result["stats/n_used"].item() == 4
        assert result["masks_raw"].ravel().tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_pixel_with_too_few_values() -> None:
    """A pixel with less than two values is masked.

    n_used exists if only some of its values are invalid.
    """
    result = one_pixel([math.nan, 3.0, math.nan, math.nan], "float32")
    assert result["stats/n_used"].item() == 0
    assert [result[f"stats/{name}"].item() for name in ("avg", "std", "iqr", "max", "arg")] == [
        0
    ] * 5
    assert math.isnan(result["stats/threshold"].item())
    result = one_pixel([math.nan] * 4, "float32")
    assert "stats/n_used" not in result  # invalid on all frames, not on some
    frames = np.full((4, 1, 2), np.nan)
    frames[:, 0, 1] = [1, 2, 3, 4]
    frames[1, 0, 0] = 3
    assert "stats/n_used" in reference_run(frames)
    assert "stats/n_used" not in reference_run(frames, valid_pixels=np.array([[False, True]]))


def test_dilation_stops_at_invalid_values() -> None:
    """A dilated mask holds no invalid value."""
    frames = np.full((12, 9, 9), 10, dtype=np.uint16)
    frames[4, 2:7, 2:7] = 1000
    frames[4, 4, 4] = 65535
    frames[4, 1, 4] = 65535
    result = reference_run(frames, high=65534, erosions=0, dilations=1)
    assert result["masks_raw"][4].sum() == 24
    assert result["masks_filtered"][4, 1:8, 1:8].sum() == result["masks_filtered"].sum() == 47
    assert result["masks_filtered"][4, 4, 4] == 0
    assert result["masks_filtered"][4, 1, 4] == 0
    assert result["stats/n_used"][4, 4] == 9  # 11 valid, 2 dropped
    assert result["stats/n_used"][3, 3] == 9  # 12 valid, 3 dropped
