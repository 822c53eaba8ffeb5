"""The operations of the contract, one by one, on every backend, against plain NumPy and SciPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from factories.masks import masks_of
from gpu_spots.backend import Backend, select_backend
from gpu_spots.errors import BackendError
from gpu_spots.memory import plan
from gpu_spots.model import FRAME_DTYPES, MOMENT_SIDE, FixedPointMean, Morphology
from gpu_spots.parameters import Parameters
from helpers import assert_same, background_of, images_of, run
from reference import reference_run

pytestmark = pytest.mark.on_two_devices

SHAPES = [(1, 1), (1, 5), (7, 1), (3, 63), (5, 64), (4, 65), (2, 200), (33, 17)]


images = st.sampled_from(SHAPES).flatmap(
    lambda shape: hnp.arrays(np.uint8, (2, *shape), elements=st.integers(0, 1))
)


@settings(deadline=None)
@given(images, st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2]))
def test_morphology_equals_scipy(
    backend: Backend, stack: np.ndarray, erosions: int, dilations: int, connectivity: int
) -> None:
    structure = ndimage.generate_binary_structure(2, connectivity)
    found = images_of(
        backend, masks_of(backend, stack, Morphology(erosions, dilations, connectivity))
    )
    for image, mask in zip(stack.astype(bool), found, strict=True):
        expected = ndimage.binary_erosion(image, structure, erosions) if erosions else image
        expected = (
            ndimage.binary_dilation(expected, structure, dilations) if dilations else expected
        )
        assert np.array_equal(mask, expected)


@settings(deadline=None)
@given(images, st.sampled_from([1, 2]))
def test_components_equal_scipy(backend: Backend, stack: np.ndarray, connectivity: int) -> None:
    found = backend.components(masks_of(backend, stack), connectivity)
    assert len(found.first) == len(stack) + 1
    for i, image in enumerate(stack):
        labels, count = ndimage.label(image, ndimage.generate_binary_structure(2, connectivity))
        assert found.counts[i] == count
        for j, box in enumerate(ndimage.find_objects(labels)):
            component = found.first[i] + j
            pixels = found.pixels[found.begin[component] : found.begin[component + 1]]
            assert np.array_equal(pixels, np.flatnonzero(labels == j + 1))
            assert found.box[component].tolist() == [
                box[0].start,
                box[0].stop,
                box[1].start,
                box[1].stop,
            ]


@pytest.mark.parametrize("density", [0.02, 0.4, 0.6, 0.95])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_components_of_large_tangled_masks_equal_scipy(
    backend: Backend, density: float, connectivity: int
) -> None:
    stack = np.random.default_rng(3).random((3, 150, 333)) < density
    found = backend.components(masks_of(backend, stack), connectivity)
    structure = ndimage.generate_binary_structure(2, connectivity)
    for i, image in enumerate(stack):
        labels = np.zeros(image.size, int)
        for j in range(found.counts[i]):
            component = found.first[i] + j
            labels[found.pixels[found.begin[component] : found.begin[component + 1]]] = j + 1
        assert np.array_equal(labels.reshape(image.shape), ndimage.label(image, structure)[0])


def test_no_pixel_no_component(backend: Backend) -> None:
    found = backend.components(masks_of(backend, np.zeros((3, 4, 5))), 2)
    assert len(found.pixels) == 0
    assert found.begin.tolist() == [0]
    assert found.first.tolist() == [0, 0, 0, 0]
    assert found.box.shape == (0, 4)


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_a_value_is_in_the_raw_mask_if_it_is_at_least_the_threshold(
    backend: Backend, dtype: np.dtype
) -> None:
    if dtype.kind == "f":
        limits: Any = np.finfo(dtype)
        values = np.array([limits.min, -1.5, -0.0, limits.tiny, 0.1, 1.5, limits.max])
        thresholds = [
            -np.inf,
            limits.min,
            -1.5,
            0.0,
            0.1,
            np.nextafter(0.1, 1),
            1.5,
            np.nan,
            np.inf,
        ]
    else:
        limits = np.iinfo(dtype)
        values = np.array([limits.min, limits.min + 1, 7, limits.max - 1, limits.max])
        thresholds = [limits.min, limits.min + 1, 7, 8, limits.max, limits.max + 1]
    frame = values.astype(dtype)
    threshold_type = (
        np.float64 if dtype.kind == "f" else np.int64 if dtype.itemsize == 4 else np.int32
    )
    for threshold in thresholds:
        prepared = backend.prepare(
            background_of(np.full((1, len(frame)), threshold, threshold_type), dtype),
            Morphology(0, 0, 2),
            None,
        )
        found = images_of(
            backend, backend.find_masks(backend.upload(frame[None, None]), prepared).raw
        )[0, 0]
        assert found.tolist() == [int(float(value) >= threshold) for value in frame], threshold


def test_union_and_without(backend: Backend) -> None:
    stack = np.random.default_rng(1).random((5, 6, 70)) < 0.3
    masks = masks_of(backend, stack)
    onto = backend.empty_masks(2, (6, 70))
    backend.union(onto, masks, np.array([0, 1, 1, 0, 0]))
    united = np.stack([stack[[0, 3, 4]].any(0), stack[[1, 2]].any(0)])
    assert np.array_equal(images_of(backend, onto), united)
    assert np.array_equal(images_of(backend, backend.without(onto, masks[3:])), united & ~stack[3:])
    assert len(onto) == 2


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
@pytest.mark.parametrize("mask_of_frame", [[0, 1, 2], [2, 0, 2], [1, 1, 1]])
def test_sums_and_first_maximum_of_each_component(
    backend: Backend, dtype: np.dtype, mask_of_frame: list[int]
) -> None:
    rng = np.random.default_rng(4)
    stack = rng.random((3, 9, 70)) < 0.3
    # few different values, so that maxima tie
    frames = (rng.integers(0, 4, (3, 9, 70)) * (60 if dtype.itemsize == 1 else 10000)).astype(dtype)
    map_of_mean = rng.random((9, 70)) if dtype.kind == "f" else rng.integers(0, 2**32, (9, 70))
    mean = (
        map_of_mean
        if dtype.kind == "f"
        else FixedPointMean(7, map_of_mean.astype(np.int64) - 2**31, map_of_mean.astype(np.uint32))
    )
    prepared = backend.prepare(
        background_of(np.zeros((9, 70)), dtype, mean),
        Morphology(0, 0, 2),
        30000 if dtype.itemsize > 1 else 180,
    )
    found = backend.components(masks_of(backend, stack), 2)
    measured: Any = backend.measure(
        backend.upload(frames), found, np.array(mask_of_frame), prepared, None
    )
    row = 0
    for frame, mask in zip(frames, mask_of_frame, strict=True):
        for component in range(found.first[mask], found.first[mask + 1]):
            pixels = found.pixels[found.begin[component] : found.begin[component + 1]]
            values = frame.reshape(-1)[pixels]
            if dtype.kind == "f":
                total = 0.0
                for value, below in zip(values, map_of_mean.reshape(-1)[pixels], strict=True):
                    total += float(value) - float(below)
            else:
                total = sum(values.tolist())
                assert measured.background_high[row] == sum(
                    (map_of_mean.reshape(-1)[pixels] - 2**31).tolist()
                )
                assert measured.background_low[row] == sum(map_of_mean.reshape(-1)[pixels].tolist())
            assert measured.total[row] == total
            assert measured.peak[row] == pixels[np.argmax(values)]
            assert measured.overload[row] == sum(
                value >= (30000 if dtype.itemsize > 1 else 180) for value in values.tolist()
            )
            places = [divmod(int(pixel), 70) for pixel in pixels]
            x0, y0 = found.box[component, 0], found.box[component, 2]
            assert measured.largest[row] == values.max()
            assert measured.n_maxima[row] == count_maxima(
                dict(zip(places, values.tolist(), strict=True))
            )
            for k, of in enumerate(MOMENTS):
                weights = [of(x - int(x0), y - int(y0)) for x, y in places]
                if dtype.kind == "f":
                    below = map_of_mean.reshape(-1)[pixels].tolist()
                    moment: float = 0.0
                    for value, level, weight in zip(values.tolist(), below, weights, strict=True):
                        moment += (value - level) * float(weight)
                    assert measured.moments[k, row] == moment
                    assert measured.moments_high is None
                    continue
                exact = int(measured.moments[k, row])
                assert (measured.moments_high is not None) == (dtype.itemsize == 4)
                if measured.moments_high is not None:
                    exact += int(measured.moments_high[k, row]) * 2**16
                terms = zip(values.tolist(), weights, strict=True)
                assert exact == sum(value * weight for value, weight in terms)
            row += 1
    assert row == len(measured.total)


MOMENTS: list[Any] = [
    lambda x, _: x,
    lambda _, y: y,
    lambda x, _: x * x,
    lambda _, y: y * y,
    lambda x, y: x * y,
]


def count_maxima(values: dict[tuple[int, int], Any]) -> int:
    """Count the maxima of a spot, given by the values of its pixels."""
    half = 0.5 * max(values.values()) + 0.5 * min(values.values())
    count = 0
    for (x, y), value in values.items():
        around = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        lower = [place for place in around if place in values and values[place] > value]
        equal = [
            place
            for place in around
            if place in values and values[place] == value and place < (x, y)
        ]
        count += value >= half and not lower and not equal
    return count


@pytest.mark.parametrize("dtype", ["uint32", "int32", "uint16"])
def test_moments_of_the_largest_box_are_exact(backend: Backend, dtype: str) -> None:
    """Spots of the longest box, along X and along Y, with the largest and the smallest values."""
    limits = np.iinfo(dtype)
    for shape in ((3, MOMENT_SIDE), (MOMENT_SIDE, 3)):
        frames = np.stack([np.full(shape, limits.max, dtype), np.full(shape, limits.min, dtype)])
        prepared = backend.prepare(
            background_of(
                np.zeros(shape), frames.dtype, FixedPointMean(1, None, np.zeros(shape, np.uint32))
            ),
            Morphology(0, 0, 2),
            None,
        )
        found = backend.components(masks_of(backend, np.ones((2, *shape))), 2)
        measured: Any = backend.measure(backend.upload(frames), found, np.arange(2), prepared, None)
        x, y = (axis.astype(object) for axis in np.indices(shape))
        for k, of in enumerate(MOMENTS):
            for row, value in enumerate((int(limits.max), int(limits.min))):
                exact = int(measured.moments[k, row])
                if measured.moments_high is not None:
                    exact += int(measured.moments_high[k, row]) * 2**16
                assert exact == value * int(of(x, y).sum())


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(FRAME_DTYPES),
    st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 5)),
    st.integers(0, 60),
    st.data(),
)
def test_any_small_stack_equals_the_reference(
    backend: Backend, dtype: np.dtype, shape: tuple[int, int, int], n: int, data: st.DataObject
) -> None:
    if shape[0] - shape[0] * (n or 25) // 100 < 2:
        n = 1
    if dtype.kind == "f":
        elements: st.SearchStrategy = st.one_of(
            st.sampled_from(
                [0.0, 1.0, 0.1, -3.5, float(np.finfo(dtype).max), float(np.finfo(dtype).min)]
            ),
            st.floats(-100, 100, width=64 if dtype.itemsize == 8 else 32),
            st.just(float("nan")),
        )
    else:
        limits = np.iinfo(dtype)
        elements = st.one_of(st.integers(0, 3), st.sampled_from([int(limits.min), int(limits.max)]))
    frames = data.draw(hnp.arrays(dtype, shape, elements=elements))
    erosions, cutoff = data.draw(st.integers(0, 1)), data.draw(st.sampled_from([0.0, 0.5, 3.0]))
    options: dict[str, Any] = {"n": n, "erosions": erosions, "dilations": 1, "cutoff": cutoff}
    found = run(frames, Parameters.manual(angles=0, **options), backend)
    assert_same(found, reference_run(frames, **options))


def spot_places(n_x: int, n_y: int) -> list[tuple[int, int]]:
    return [(x, y) for x in (0, n_x // 2, n_x - 1) for y in (0, n_y // 2, n_y - 1)]


@pytest.mark.parametrize("place", spot_places(11, 67))
def test_a_spot_at_any_border_or_corner(backend: Backend, place: tuple[int, int]) -> None:
    frames = np.random.default_rng(9).integers(90, 110, (12, 11, 67)).astype(np.uint16)
    x, y = place
    frames[4, max(0, x - 2) : x + 3, max(0, y - 2) : y + 3] = 5000
    frames[4, x, y] = 6000
    found = run(frames, Parameters.manual(angles=0), backend)
    assert_same(found, reference_run(frames))
    assert [x, y] in found["spots/XY"].tolist()


@pytest.mark.parametrize(("structure", "n_spots"), [((2, 1), 2), ((2, 2), 1)])
def test_diagonal_contact_joins_spots_only_where_corners_count(
    backend: Backend, structure: tuple[int, int], n_spots: int
) -> None:
    frames = np.full((8, 10, 10), 50, np.uint16)
    frames[::2] += 1
    frames[3, 2:4, 2:4] = 900
    frames[3, 4:6, 4:6] = 800
    found = run(
        frames, Parameters.manual(angles=0, erosions=0, dilations=0, structure=structure), backend
    )
    assert found["masks/counts"][3] == n_spots
    assert_same(found, reference_run(frames, erosions=0, dilations=0, structure=structure))


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
def test_results_do_not_depend_on_threads_bands_or_batches(
    sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    frames = rng.poisson(40, (24, 33, 50)).astype(np.uint16)
    frames[rng.random(frames.shape) < 0.02] += 200
    columns = {"angle": np.tile([1.0, 2.0, 3.0], 8), "laser_on": np.arange(24) // 3 % 2}
    parameters = Parameters.manual(angles=3, sync=sync, erosions=0)
    expected = run(frames, parameters, select_backend("cpu", 1), columns)
    for threads, band, batch in [
        (1, 1, 1),
        (3, 60, 33 * 50),
        (2, 700, 7 * 33 * 50),
        (5, 10**6, 10**9),
    ]:
        monkeypatch.setattr(plan, "BAND_PIXELS", band)
        monkeypatch.setattr(plan, "BATCH_PIXELS", batch)
        assert_same(run(frames, parameters, select_backend("cpu", threads), columns), expected)


def test_frames_may_be_any_view(backend: Backend) -> None:
    wide = np.random.default_rng(6).integers(0, 90, (9, 40, 60)).astype(np.uint16)
    frames = wide[:, ::2, 1::3]
    assert_same(run(frames, Parameters.manual(angles=0), backend), reference_run(frames))


def test_big_endian_frames_give_native_results(backend: Backend) -> None:
    frames = np.random.default_rng(7).integers(0, 90, (9, 12, 20)).astype(np.uint16)
    assert_same(
        run(frames.astype(">u2"), Parameters.manual(angles=0), backend), reference_run(frames)
    )


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(BackendError, match="'abacus' is not one of auto, gpu, cpu"):
        select_backend("abacus")
