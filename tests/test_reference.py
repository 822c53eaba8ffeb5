"""Masks and spots of the naive reference, by hand and against SciPy."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from factories.stacks import DTYPES, make_stack, one_pixel
from reference import (
    find_components,
    make_blocks,
    make_pairs,
    reference_run,
)

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


def one_spot(
    pixels: dict[tuple[int, int], int], size: int = 5, n_frames: int = 8
) -> NDArray[np.uint16]:
    """Make frames of value 10 where the frame 2 alone has other pixels."""
    frames = np.full((n_frames, size, size), 10, dtype=np.uint16)
    for (x, y), value in pixels.items():
        frames[2, x, y] = value
    return frames


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
    """The background is an exact fraction if m is equal for all, else a multiple of 2**-32."""
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
    """Types, shapes and relations of datasets are right for every type, method and sync."""
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
    floats = ("centroid", "moments", "fwhm", "orientation", "background")
    expected |= {f"spots/{name}": np.dtype("float64") for name in floats}
    expected |= {f"spots/{name}": np.dtype("int32") for name in ("n_pixels", "n_maxima")}
    expected |= {"spots/max": frames.dtype, "spots/flags": np.dtype("uint16")}
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
