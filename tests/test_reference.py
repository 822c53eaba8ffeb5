"""Checks of the naive reference itself: tiny cases worked out by hand, and other implementations where there are any."""

import itertools
import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from reference import (
    critical_value,
    find_components,
    integer_background,
    kruskal_h,
    kruskal_keep,
    make_blocks,
    make_pairs,
    reference_run,
)

DTYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"]
THRESHOLD_DTYPES = {
    "uint8": "int32",
    "uint16": "int32",
    "int16": "int32",
    "uint32": "int64",
    "int32": "int64",
    "float32": "float64",
}
PATHS = {
    *(
        "stats/avg",
        "stats/std",
        "stats/iqr",
        "stats/max",
        "stats/arg",
        "stats/threshold",
        "masks_raw",
        "masks_filtered",
    ),
    *("masks/labels", "masks/counts", "frame2spotsBE"),
    *(
        "spots/I",
        "spots/XY",
        "spots/box",
        "spots/frame",
        "spots/label",
        "spots/mask",
        "spots/pixel_list",
        "spots/pixel_list_BE",
    ),
}


def make_stack(
    dtype: str, seed: int = 0, shape: tuple[int, int, int] = (24, 12, 15)
) -> NDArray[Any]:
    """Simulate a noisy background; every four frames share a few bright 3 x 3 spots."""
    rng = np.random.default_rng(seed)
    frames = np.rint(rng.normal(60, 4, size=shape))
    for begin in range(0, shape[0], 4):
        for _ in range(3):
            x, y = rng.integers(0, shape[1] - 2), rng.integers(0, shape[2] - 2)
            frames[begin : begin + 4, x : x + 3, y : y + 3] += rng.integers(60, 150)
    if dtype.startswith("float"):
        return (frames + rng.random(shape)).astype(dtype)
    if dtype.startswith("int"):
        frames -= 70
    if dtype == "uint32":
        frames *= 2.0**24
    limits = np.iinfo(dtype)
    return np.clip(frames, limits.min, limits.max).astype(dtype)


def one_pixel(values: Sequence[float], dtype: str, **options: Any) -> dict[str, NDArray[Any]]:
    """Run the reference on a stack of one pixel."""
    return reference_run(np.array(values, dtype=dtype).reshape(-1, 1, 1), **options)


def one_spot(
    pixels: dict[tuple[int, int], int], size: int = 5, n_frames: int = 8
) -> NDArray[np.uint16]:
    """Make frames of value 10 where the frame 2 alone has other pixels."""
    frames = np.full((n_frames, size, size), 10, dtype=np.uint16)
    for (x, y), value in pixels.items():
        frames[2, x, y] = value
    return frames


# ---------------------------------------------------------------------------- background, n_removed


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
    """With no cutoff the threshold is the first integer above the average, also for negative values."""
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
    """A pixel with less than two values is masked; n_used is there when only some of its values are invalid."""
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


# ------------------------------------------------------------------------------------------ kruskal


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


# -------------------------------------------------------------------------------------------- masks


def test_filtered_masks_by_hand() -> None:
    """A single pixel and a corner erode; a square shrinks and grows back."""
    frames = one_spot(dict.fromkeys(itertools.product((1, 2, 3), (1, 2, 3)), 100))
    frames[2, 4, 0] = 50
    result = reference_run(frames, dilations=1)
    assert result["masks_raw"][2].sum() == 10
    expected = np.zeros((5, 5), dtype=np.uint8)
    expected[1:4, 1:4] = 1
    np.testing.assert_array_equal(result["masks_filtered"][2], expected)
    np.testing.assert_array_equal(
        reference_run(frames, erosions=0, dilations=0)["masks_filtered"], result["masks_raw"]
    )
    cross = reference_run(frames, dilations=1, structure=(2, 1))["masks_filtered"][2]
    assert cross.tolist() == [[0] * 5, [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5]
    corner = one_spot(dict.fromkeys(itertools.product((0, 1), (0, 1)), 100))
    assert not reference_run(corner)[
        "masks_filtered"
    ].any()  # the outside is False: the corner erodes from all sides


@pytest.mark.parametrize("connectivity", [1, 2])
def test_filtered_masks_against_scipy_iterations(connectivity: int) -> None:
    """One step at a time is the same as SciPy's iterations."""
    frames = make_stack("int32", seed=4)
    structure = ndimage.generate_binary_structure(2, connectivity)
    result = reference_run(frames, cutoff=1.0, erosions=2, dilations=3, structure=(2, connectivity))
    for raw, filtered in zip(result["masks_raw"], result["masks_filtered"], strict=True):
        expected = ndimage.binary_dilation(
            ndimage.binary_erosion(raw, structure, iterations=2), structure, iterations=3
        )
        np.testing.assert_array_equal(filtered, expected.astype(np.uint8))


@pytest.mark.parametrize("connectivity", [1, 2])
def test_components_against_scipy(connectivity: int) -> None:
    """Components and their numbers are SciPy's."""
    rng = np.random.default_rng(connectivity)
    structure = ndimage.generate_binary_structure(2, connectivity)
    for shape in [(20, 30), (30, 7), (1, 40), (40, 1), (16, 16)]:
        for density in (0.1, 0.4, 0.5, 0.6, 0.9):
            mask = rng.random(shape) < density
            labels, count = ndimage.label(mask, structure)
            components = find_components(mask, connectivity)
            assert len(components) == count
            for label, pixels in enumerate(components, start=1):
                assert pixels == np.flatnonzero(labels == label).tolist()


def test_blocks_and_pairs() -> None:
    """Frames are grouped by angle, and paired inside of their blocks."""
    on, off = True, False
    assert make_pairs([0, 0, 0, 0], [off, off, on, on]) == [[0], [1, 2], [3]]
    assert make_pairs([0, 0, 0, 0], [off, on, off, on]) == [[0, 1], [2, 3]]
    assert make_pairs([0, 0, 0], [on, off, on]) == [[0, 1], [2]]
    # frames of two angles interleaved: a pair is inside of its block, masks are numbered by their
    # first frame
    assert make_blocks([0, 5, 0, 5, 7]) == [[0, 2], [1, 3], [4]]
    assert make_pairs([0, 5, 0, 5, 7], [off, on, on, off, on]) == [[0, 2], [1, 3], [4]]
    assert make_pairs([0, 5, 0, 5, 0], [off, on, off, off, on]) == [[0], [1, 3], [2, 4]]
    assert make_blocks([0.0, 0.0004, 0.0006, -0.0003, 10.001, 10.0009]) == [[0, 1, 3], [2], [4, 5]]


def test_synced_masks_and_their_spots() -> None:
    """A component of a synced mask is measured on every frame, and stored once."""
    frames = np.full((8, 6, 6), 10, dtype=np.uint16)
    frames[0, 1:3, 1:3] = 30
    frames[1, 2:4, 2:4] = 50
    frames[6, 0, 5] = 90
    laser, angles = [False, True] * 4, [0, 0, 1, 1, 2, 2, 0, 0]
    pairs = reference_run(frames, erosions=0, dilations=0, sync="pairs", angles=angles, laser=laser)
    assert pairs["masks_synced"].shape == (4, 6, 6)
    assert pairs["masks_synced"][0].sum() == 7
    assert pairs["masks/counts"].tolist() == [1, 0, 0, 1]
    assert pairs["spots/frame"].tolist() == [0, 1, 6, 7]
    assert pairs["spots/mask"].tolist() == [0, 0, 3, 3]
    assert pairs["spots/I"].tolist() == [4 * 20, 4 * 40, 80, 0]
    assert pairs["spots/XY"].tolist() == [[1, 1], [2, 2], [0, 5], [0, 5]]
    assert pairs["spots/box"].tolist() == [[1, 4, 1, 4]] * 2 + [[0, 1, 5, 6]] * 2
    assert pairs["spots/pixel_list"].tolist() == [7, 8, 13, 14, 15, 20, 21, 5]
    assert pairs["spots/pixel_list_BE"].tolist() == [[0, 7], [0, 7], [7, 8], [7, 8]]
    assert pairs["frame2spotsBE"].tolist() == [
        [0, 1],
        [1, 2],
        [2, 2],
        [2, 2],
        [2, 2],
        [2, 2],
        [2, 3],
        [3, 4],
    ]
    blocks = reference_run(
        frames, erosions=0, dilations=0, sync="blocks", angles=angles, laser=laser
    )
    assert blocks["masks/counts"].tolist() == [2, 0, 0]
    assert blocks["spots/frame"].tolist() == [0, 0, 1, 1, 6, 6, 7, 7]
    assert blocks["spots/label"].tolist() == [1, 2] * 4
    assert blocks["spots/I"].tolist() == [0, 80, 0, 160, 80, 0, 0, 0]


def test_synced_masks_leave_out_what_is_invalid_on_any_frame() -> None:
    """A value that is invalid on one frame of a pair is left out of both."""
    frames = np.full((8, 4, 4), 10, dtype=np.uint16)
    frames[0, 1, 1:3] = 90
    frames[1, 1, 1] = 65535
    result = reference_run(
        frames,
        erosions=0,
        dilations=0,
        sync="pairs",
        angles=[0, 0, 1, 1, 2, 2, 3, 3],
        laser=[False, True] * 4,
        high=65534,
    )
    assert result["masks_filtered"][0].sum() == 2
    assert np.argwhere(result["masks_synced"]).tolist() == [[0, 1, 2]]


# -------------------------------------------------------------------------------------------- spots


def test_spot_by_hand() -> None:
    """Two spots on one frame give every dataset."""
    result = reference_run(
        one_spot({(1, 1): 40, (1, 2): 70, (2, 1): 70, (3, 4): 20}), erosions=0, dilations=0
    )
    assert result["masks/counts"].tolist() == [0, 0, 2, 0, 0, 0, 0, 0]
    assert result["masks/labels"][2].tolist() == [
        [0] * 5,
        [0, 1, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 2],
        [0] * 5,
    ]
    assert result["spots/I"].tolist() == [150, 10]
    assert result["spots/XY"].tolist() == [[1, 2], [3, 4]]  # of the two pixels of 70 the first
    assert result["spots/box"].tolist() == [[1, 3, 1, 3], [3, 4, 4, 5]]
    assert result["spots/frame"].tolist() == [2, 2]
    assert result["spots/label"].tolist() == [1, 2]
    assert result["spots/mask"].tolist() == [2, 2]
    assert result["spots/pixel_list"].tolist() == [6, 7, 11, 19]
    assert result["spots/pixel_list_BE"].tolist() == [[0, 3], [3, 4]]
    assert result["frame2spotsBE"].tolist() == [
        [0, 0],
        [0, 0],
        [0, 2],
        [2, 2],
        [2, 2],
        [2, 2],
        [2, 2],
        [2, 2],
    ]


def test_connectivity_of_labels() -> None:
    """Pixels that touch at a corner are one spot or two, as the structure says."""
    frames = one_spot({(1, 1): 40, (2, 2): 70})
    assert reference_run(frames, erosions=0, dilations=0)["masks/counts"][2] == 1
    assert reference_run(frames, erosions=0, dilations=0, structure=(2, 1))["masks/counts"][2] == 2


def test_intensity_is_one_division_or_fixed_point() -> None:
    """The background is an exact fraction where m is the same everywhere, else a multiple of 2**-32."""
    # 3 kept values of sum 4: the background is 4/3
    values = [1, 1, 2, 100]
    assert one_pixel(values, "uint16", erosions=0)["spots/I"].tolist() == [(300 - 4) / 3]
    frames = np.zeros((4, 1, 3), dtype=np.uint16)
    frames[:, 0, 0] = values
    frames[:, 0, 2] = [5, 6, 999, 7]  # a pixel with an invalid value, elsewhere
    result = reference_run(frames, erosions=0, dilations=0, high=900)
    assert result["spots/I"][-1] == (100 * 2**32 - 4 * 2**32 // 3) / 2**32
    assert result["spots/I"][-1] != (300 - 4) / 3
    negative = one_pixel([-1, -1, -2, 100], "int16", erosions=0)
    assert negative["spots/I"].tolist() == [(300 + 4) / 3]


def test_no_spots_at_all() -> None:
    """Datasets keep their shape when they are empty."""
    result = reference_run(np.full((6, 3, 4), 9, dtype=np.uint8))
    assert result["frame2spotsBE"].tolist() == [[0, 0]] * 6
    assert result["spots/XY"].shape == (0, 2)
    assert result["spots/box"].shape == (0, 4)
    assert result["spots/pixel_list_BE"].shape == (0, 2)
    assert result["spots/pixel_list"].shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
@pytest.mark.parametrize("method", ["n_removed", "kruskal"])
def test_datasets_agree_with_each_other(dtype: str, sync: str, method: str) -> None:
    """Types, shapes and the relations between the datasets hold for every type, method and synchronization."""
    frames = make_stack(dtype, seed=11)
    angles, laser = np.repeat(np.arange(6) * 1.5, 4), np.tile([False, True], 12)
    result = reference_run(
        frames, method=method, n=50, alpha=0.5, sync=sync, angles=angles, laser=laser
    )
    n_frames, n_x, n_y = frames.shape
    n_masks = {"none": 24, "pairs": 12, "blocks": 6}[sync]
    n_spots = len(result["spots/I"])
    expected = {path: result[path].dtype for path in PATHS}
    expected |= {f"stats/{name}": np.dtype("float32") for name in ("avg", "std", "iqr")}
    expected |= {
        path: np.dtype("int32")
        for path in ("stats/arg", "masks/counts", "spots/XY", "spots/box", "spots/pixel_list")
    }
    expected |= {f"spots/{name}": np.dtype("int32") for name in ("frame", "label", "mask")}
    expected |= {path: np.dtype("int64") for path in ("spots/pixel_list_BE", "frame2spotsBE")}
    expected |= {
        "stats/max": frames.dtype,
        "stats/threshold": np.dtype(THRESHOLD_DTYPES.get(dtype, "float64")),
    }
    expected |= {
        "masks_raw": np.dtype("uint8"),
        "masks_filtered": np.dtype("uint8"),
        "masks/labels": np.dtype("uint16"),
    }
    expected |= {"spots/I": np.dtype("float64")}
    if method == "kruskal":
        expected["stats/n_used"] = np.dtype("int32")
    if sync != "none":
        expected["masks_synced"] = np.dtype("uint8")
    if frames.dtype.kind != "f":
        expected["spots/overload"] = np.dtype("int32")
    assert {path: values.dtype for path, values in result.items()} == expected
    assert n_spots > 20
    assert result["masks/labels"].shape == (n_masks, n_x, n_y)
    np.testing.assert_array_equal(result["masks/counts"], result["masks/labels"].max(axis=(1, 2)))
    labelled = result["masks_filtered" if sync == "none" else "masks_synced"]
    np.testing.assert_array_equal(result["masks/labels"] > 0, labelled > 0)
    assert len(result["spots/pixel_list"]) == labelled.sum()
    background = result["stats/avg"].astype(np.float64)
    begins, ends = result["frame2spotsBE"].T
    np.testing.assert_array_equal(
        result["spots/frame"], np.repeat(np.arange(n_frames), ends - begins)
    )
    for spot in range(n_spots):
        frame, label, mask = (
            int(result[f"spots/{name}"][spot]) for name in ("frame", "label", "mask")
        )
        begin, end = result["spots/pixel_list_BE"][spot]
        pixels = result["spots/pixel_list"][begin:end]
        np.testing.assert_array_equal(pixels, np.flatnonzero(result["masks/labels"][mask] == label))
        x, y = np.divmod(pixels, n_y)
        assert result["spots/box"][spot].tolist() == [x.min(), x.max() + 1, y.min(), y.max() + 1]
        peak = pixels[frames[frame].ravel()[pixels].argmax()]
        assert result["spots/XY"][spot].tolist() == [peak // n_y, peak % n_y]
        total = (frames[frame].astype(np.float64) - background).ravel()[pixels].sum()
        assert result["spots/I"][spot] == pytest.approx(
            total, rel=1e-4, abs=1e-5 * float(np.abs(background).max()) * len(pixels)
        )


# ----------------------------------------------------------------------------------- illegal inputs


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "kruskal"}, "laser dataset"),
        ({"sync": "pairs", "angles": [0] * 8}, "laser dataset"),
        ({"sync": "blocks", "angles": [0] * 8, "laser": [True] * 8}, "laser dataset"),
        ({"sync": "blocks", "laser": [0, 1] * 4}, "angles"),
        ({"sync": "pairs", "laser": [0, 1] * 4, "angles": [0] * 7}, "found 7 and 8"),
        ({"method": "kruskal", "laser": [0, 1] * 4, "angles": [0] * 8}, "at least 2 blocks"),
        ({"method": "kruskal", "laser": [0, 1] * 4, "angles": [0] * 7 + [1]}, "block 1 has 1"),
        ({"method": "median"}, "method"),
        ({"sync": "all"}, "sync"),
        ({"n": 100}, "0 to 99"),
        ({"n": 90}, "at least 2 frames"),
        ({"alpha": 1.0}, "alpha"),
        ({"cutoff": math.inf}, "cutoff"),
        ({"erosions": -1}, "erosions"),
        ({"structure": (3, 1)}, "structure"),
    ],
)
def test_illegal_inputs(options: dict[str, Any], match: str) -> None:
    """Options out of range and missing metadata are errors that say what is wrong."""
    with pytest.raises(ValueError, match=match):
        reference_run(np.zeros((8, 3, 3), dtype=np.uint16), **options)


def test_illegal_stacks() -> None:
    """Stacks of another type or rank are errors."""
    with pytest.raises(ValueError, match="int64"):
        reference_run(np.zeros((8, 3, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="n_frames"):
        reference_run(np.zeros((8, 3), dtype=np.uint16))
