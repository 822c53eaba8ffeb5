"""Pictures: contrast, binning, PNG files as another program reads them, outlines and runs."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpu_spots import pictures
from gpu_spots.errors import ParameterError
from gpu_spots.pictures import INVALID, N_LEVELS, OVERLOADED, Contrast


def opened(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def frame(shape: tuple[int, int] = (19, 27), dtype: Any = np.uint16) -> np.ndarray:
    found = np.random.default_rng(5).poisson(200, shape)
    found[4:8, 20:23] += 3000
    return found.astype(dtype)


@pytest.mark.parametrize("palette", pictures.PALETTES)
@pytest.mark.parametrize("small", [False, True])
def test_another_program_reads_the_picture(palette: str, small: bool) -> None:
    """Grey levels come back as their colours, row 0 at the top."""
    levels = pictures.grey_levels(frame(), Contrast(150, 300))
    levels[0, :3] = 0, N_LEVELS - 1, INVALID
    found = opened(pictures.png(levels, palette, small=small))
    assert found.shape == (19, 27, 3)
    colour = {int(level): tuple(found[levels == level][0]) for level in np.unique(levels)}
    for level, expected in colour.items():
        assert (found[levels == level] == expected).all()
    assert len(set(colour.values())) == len(colour)
    if palette != "heat":
        ends = [(0, 0, 0), (255, 255, 255)]
        assert [tuple(found[0, 0]), tuple(found[0, 1])] == ends[:: -1 if palette[0] == "i" else 1]


def test_lightness_of_heat_increases() -> None:
    colours = opened(pictures.png(np.arange(N_LEVELS, dtype=np.uint8)[None], "heat"))[0]
    assert (np.diff(colours @ (0.2126, 0.7152, 0.0722)) > -0.5).all()


@pytest.mark.parametrize("scale", pictures.SCALES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.float32, float])
def test_levels_follow_the_scale(scale: str, dtype: Any) -> None:
    """Against the formulas in plain words; the limits are the ends."""
    values = np.array([[5, 10, 20, 50, 100, 200]]).astype(dtype)
    found = pictures.grey_levels(values, Contrast(10, 100, scale))
    part = {
        "linear": [0, 0, 10 / 90, 40 / 90, 1, 1],
        "sqrt": [0, 0, np.sqrt(10 / 90), np.sqrt(40 / 90), 1, 1],
        "log": [0, 0, np.log10(2), np.log10(5), 1, 1],
    }[scale]
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[0], np.multiply(part, N_LEVELS - 1), atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_invalid_and_saturated_pixels_are_marked(dtype: Any) -> None:
    values = np.full((3, 4), 50, dtype)
    values[0, 0], values[1, 1], values[2, 2] = 200, 199, 255
    valid = np.ones((3, 4), bool)
    valid[2, 2:] = False
    found = pictures.grey_levels(values, Contrast(0, 100), valid, saturation=199.5)
    assert np.argwhere(found == OVERLOADED).tolist() == [[0, 0]]
    assert np.argwhere(found == INVALID).tolist() == [[2, 2], [2, 3]]
    assert found[1, 1] == N_LEVELS - 1


def test_values_that_are_not_finite_are_invalid() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 3e38, -3e38]])
    for dtype in (np.float32, np.float64):
        found = pictures.grey_levels(values.astype(dtype), Contrast(0, 1))
        assert found[0].tolist() == [INVALID, INVALID, INVALID, N_LEVELS - 1, 0]


def test_logarithms_of_counts_below_one() -> None:
    """Photon counters have zeros, and averages far below one count."""
    values = np.array([[0, 1e-6, 1e-3, 0.1]])
    found = pictures.grey_levels(values, Contrast(0, 0.1, "log"))
    assert found[0].tolist() == [0, 0, round((N_LEVELS - 1) / 2), N_LEVELS - 1]


@pytest.mark.parametrize("how", pictures.REDUCTIONS)
@pytest.mark.parametrize("factor", [1, 2, 3, 40])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_binning_is_that_of_plain_loops(how: str, factor: int, dtype: Any, masked: bool) -> None:
    image = frame(dtype=dtype)
    valid = np.random.default_rng(1).random(image.shape) > 0.4 if masked else None
    if valid is not None:
        valid[:6, :6] = False
    found, found_valid = pictures.binned(image, factor, how, valid)
    assert found.shape == (-(-19 // factor), -(-27 // factor))
    assert found.dtype == (dtype if how == "max" else np.float32)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            part = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            inside = image[part].ravel() if valid is None else image[part][valid[part]]
            if valid is not None:
                assert found_valid is not None
                assert found_valid[row, column] == (inside.size > 0)
            if inside.size:
                expected = inside.max() if how == "max" else inside.mean()
                np.testing.assert_allclose(found[row, column], expected, rtol=1e-6)


def test_binning_leaves_out_what_is_not_finite() -> None:
    image = np.array([[1, np.nan], [np.inf, 3], [np.nan, np.nan], [np.nan, np.nan]])
    for how, expected in (("max", 3), ("mean", 2)):
        found, valid = pictures.binned(image, 2, how)
        assert found[0, 0] == expected
        assert valid is not None
        assert valid.tolist() == [[True], [False]]


def test_contrast_is_that_of_valid_pixels() -> None:
    image = frame((600, 700))
    valid = np.ones(image.shape, bool)
    image[:300] = 60000
    valid[:300] = False
    found = pictures.contrast_of(image, valid, (5, 95))
    expected = np.percentile(image[300:], (5, 95))
    np.testing.assert_allclose((found.low, found.high), expected, atol=3)
    few = np.zeros(image.shape, bool)
    few[301, 301] = True  # between the sampled pixels
    assert pictures.contrast_of(image, few).low == image[301, 301]


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5), np.uint16), np.full((4, 5), np.nan), np.full((1, 1), 1e30), np.zeros((0, 5))],
)
def test_limits_of_any_image_are_finite_and_apart(image: np.ndarray) -> None:
    found = pictures.contrast_of(image)
    assert found.low < found.high < np.inf
    assert pictures.grey_levels(image, found).shape == image.shape


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ParameterError, match="scale: 'cube' is not one of linear, sqrt, log"):
        Contrast(0, 1, "cube")
    with pytest.raises(ParameterError, match="palette: 'jet' is not one of"):
        pictures.png(np.zeros((2, 2), np.uint8), "jet")
    with pytest.raises(ParameterError, match="how: 'sum' is not one of max, mean"):
        pictures.binned(frame(), 2, "sum")


def test_runs_cover_the_mask() -> None:
    mask = np.random.default_rng(2).random((23, 31)) > 0.5
    again = np.zeros_like(mask)
    found = pictures.runs(mask)
    for row, begin, end in found:
        assert not again[row, begin:end].any()
        again[row, begin:end] = True
    assert (again == mask).all()
    np.testing.assert_array_equal(pictures.runs_of_pixels(np.flatnonzero(mask), 31), found)
    assert pictures.runs_of_pixels(np.zeros(0, np.int32), 31).shape == (0, 3)
    assert pictures.runs(np.zeros((3, 4))).shape == (0, 3)


def test_outlines_are_the_edges_between_labels() -> None:
    labels = np.random.default_rng(3).integers(0, 4, (9, 13)).astype(np.uint16)
    padded = np.pad(labels, 1)
    along_y, along_x = pictures.outlines(labels)
    edges = {(x, y) for x, begin, end in along_y.tolist() for y in range(begin, end)}
    assert edges == {
        (x, y) for x in range(10) for y in range(13) if padded[x, y + 1] != padded[x + 1, y + 1]
    }
    edges = {(x, y) for y, begin, end in along_x.tolist() for x in range(begin, end)}
    assert edges == {
        (x, y) for x in range(9) for y in range(14) if padded[x + 1, y] != padded[x + 1, y + 1]
    }
