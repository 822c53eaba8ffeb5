"""Properties of spots whose answer is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from factories.masks import masks_of
from gpu_spots.backend import Backend
from gpu_spots.columns import Flag
from gpu_spots.model import (
    HALF_BITS,
    Components,
    FixedPointMean,
    Measurements,
    Morphology,
    Validity,
)
from gpu_spots.parameters import Parameters
from gpu_spots.simulate.design import DetectorDesign
from gpu_spots.simulate.run import Design, SimulatedRun, simulate_run
from gpu_spots.spots.neighbours import neighbours
from gpu_spots.spots.properties import ComponentMaps, ComponentSums, spot_columns
from helpers import background_of, run


def run_with(spot: np.ndarray, backend: Backend, **options: Any) -> dict[str, np.ndarray]:
    """Properties of a spot on one frame, on a background of 100 and 101 counts in turn."""
    frames = np.full((12, *spot.shape), 100, np.uint16)
    frames[::2] += 1
    frames[4] += spot.astype(np.uint16)
    found = run(frames, Parameters.manual(angles=0, erosions=0, dilations=3, **options), backend)
    (row,) = np.flatnonzero(found["spots/frame"] == 4)
    return {
        path.removeprefix("spots/"): values[row]
        for path, values in found.items()
        if path.startswith("spots/") and len(values) == len(found["spots/I"])
    }


@pytest.mark.parametrize("angle", [0.0, 30.0, 60.0, 90.0, -45.0])
def test_shape_of_a_gaussian(backend: Backend, angle: float) -> None:
    x, y = np.indices((41, 47)) - np.array([19.3, 23.8])[:, None, None]
    along = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
    across = y * np.cos(np.radians(angle)) - x * np.sin(np.radians(angle))
    found = run_with(30000 * np.exp(-(along**2) / 18 - across**2 / 5.12), backend)
    # sigma 3 and 1.6 pixels; what the mask cuts off is below a count
    assert found["centroid"] == pytest.approx([19.3, 23.8], abs=0.01)
    assert found["fwhm"] == pytest.approx(np.array([3, 1.6]) * 2.35482, rel=0.01)
    turned = (found["orientation"] - angle + 90) % 180 - 90
    assert abs(turned) < 0.5
    assert -90 < found["orientation"] <= 90
    assert found["moments"][:2].sum() == pytest.approx(9 + 2.56, rel=0.01)
    assert found["n_maxima"] == 1
    assert found["flags"] == 0


def test_two_maxima_and_their_flag(backend: Backend) -> None:
    x, y = np.indices((31, 33))
    one, other = (3000 * np.exp(-((x - 15) ** 2 + (y - at) ** 2) / 4) for at in (13, 19))
    found = run_with(one + other, backend)
    assert found["n_maxima"] == 2
    assert found["flags"] == Flag.SEVERAL_MAXIMA


def test_a_plateau_is_one_maximum(backend: Backend) -> None:
    spot = np.zeros((20, 22))
    spot[8:12, 8:12] = 500
    assert run_with(spot, backend)["n_maxima"] == 1


def test_flags_of_the_border_and_of_masked_pixels(backend: Backend) -> None:
    frames = np.full((10, 40, 50), 100, np.uint16)
    frames[::2] += 1
    for x, y in ((1, 20), (20, 1), (20, 20), (38, 48), (30, 30)):
        frames[3, x - 1 : x + 2, y - 1 : y + 2] += 1000
    pixels = np.ones((40, 50), bool)
    pixels[22, 22] = False
    found = run(
        frames,
        Parameters.manual(angles=0, erosions=0, dilations=0),
        backend,
        validity=Validity(pixels),
        saturation=1050,
    )
    on = found["spots/frame"] == 3
    flags = dict(
        zip(
            map(tuple, found["spots/box"][on][:, [0, 2]].tolist()),
            found["spots/flags"][on].tolist(),
            strict=True,
        )
    )
    over = Flag.OVERLOADED
    assert flags == {
        (0, 19): Flag.BORDER | over,
        (19, 0): Flag.BORDER | over,
        (19, 19): Flag.INVALID | over,
        (37, 47): Flag.BORDER | over,
        (29, 29): over,
    }


def test_spots_that_touch_at_a_corner(backend: Backend) -> None:
    frames = np.full((8, 20, 22), 50, np.uint16)
    frames[::2] += 1
    frames[3, 2:4, 2:4] = 900
    frames[3, 4:6, 4:6] = 800
    frames[3, 12:14, 12:14] = 700
    options: dict[str, Any] = {"angles": 0, "erosions": 0, "dilations": 0, "structure": (2, 1)}
    found = run(frames, Parameters.manual(**options), backend)
    assert found["spots/flags"][found["spots/frame"] == 3].tolist() == [16, 16, 0]


@pytest.fixture(scope="module")
def correlated() -> tuple[SimulatedRun, dict[str, np.ndarray]]:
    """Blocks with correlated noise, and all datasets of the run."""
    design = Design(
        size=(160, 160),
        spots=40,
        angles=5,
        repeats=5,
        jitter=0.0,
        hot_pixels=0,
        dead_pixels=0,
        zingers=0.0,
        seed=5,
        detector=DetectorDesign(correlation=0.7),
    )
    simulated = simulate_run(design)
    schedule = simulated.truth.schedule
    frames = np.stack(list(simulated.frames()))
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on}
    parameters = Parameters(angles=0, method="clip", sync="blocks", normalise="none")
    return simulated, run(frames, parameters, CpuBackend(2), columns)


def test_sigmas_of_correlated_noise(
    correlated: tuple[SimulatedRun, dict[str, np.ndarray]],
) -> None:
    """Intensities of a spot on frames in the same state differ by their sigmas."""
    simulated, found = correlated
    schedule = simulated.truth.schedule
    state = schedule.laser_on[found["spots/frame"]]
    key = np.stack([found["spots/frame"], found["spots/mask"], found["spots/label"], state])
    order = np.lexsort(key)
    same = (key[1:, order[1:]] == key[1:, order[:-1]]).all(0)
    a, b = order[1:][same], order[:-1][same]
    for name, error in (("I", "sigma"), ("I_prf", "sigma_prf")):
        values, sigmas = found[f"spots/{name}"], found[f"spots/{error}"]
        differences = (values[a] - values[b]) / np.hypot(sigmas[a], sigmas[b])
        is_strong = found["spots/snr"][a] > 50
        for some in (is_strong, ~is_strong):
            of_some = differences[some & np.isfinite(differences)]
            assert len(of_some) > 200
            assert abs(of_some.std() - 1) < 0.1


def test_centroids_and_weighted_intensities_of_strong_spots(
    correlated: tuple[SimulatedRun, dict[str, np.ndarray]],
) -> None:
    simulated, found = correlated
    spots, block = simulated.truth.spots, simulated.truth.schedule.block
    pulls = []
    strong = np.flatnonzero((found["spots/snr"] > 50) & (found["spots/flags"] == 0))
    for row in strong:
        there = spots.XY[spots.block == block[found["spots/frame"][row]]]
        errors = there - found["spots/centroid"][row]
        nearest = errors[np.hypot(*errors.T).argmin()]
        pulls.append(nearest / found["spots/centroid_sigma"][row])
    assert len(pulls) > 200
    # 95 % of a normal distribution; with weights by the noise of single pixels it was 77 %
    assert (abs(np.array(pulls)) < 1.96).mean() > 0.88
    ratio = found["spots/I_prf"][strong] / found["spots/I"][strong]
    assert np.median(ratio) == pytest.approx(1, abs=0.005)


def test_a_zinger_on_one_frame_leaves_the_profile_as_it_is() -> None:
    rng = np.random.default_rng(4)
    frames = rng.poisson(100, (16, 64, 70)).astype(np.uint16)
    angle = np.repeat(np.arange(4.0), 4)
    x, y = np.indices((64, 70))
    for i, frame in enumerate(frames):
        at = 14 + 10 * angle[i]
        spot = 4000 * np.exp(-((x - at) ** 2 + (y - 30.3) ** 2) / 5) / (5 * np.pi)
        frame += rng.poisson(spot).astype(np.uint16)
    with_zinger = frames.copy()
    with_zinger[5, 26, 33] += 9000
    options = Parameters(angles=0, method="clip", sync="blocks", normalise="none")
    columns = {"angle": angle, "laser_on": np.arange(16) % 2}
    clean, struck = (run(each, options, CpuBackend(2), columns) for each in (frames, with_zinger))
    for name in ("frame", "label"):
        assert (clean[f"spots/{name}"] == struck[f"spots/{name}"]).all()
    assert clean["spots/frame"].tolist() == list(range(16))
    assert struck["spots/I"][5] > clean["spots/I"][5] + 8900
    assert struck["spots/centroid"] == pytest.approx(clean["spots/centroid"], abs=0.03)
    others = np.arange(16) != 5
    for name in ("I_prf", "sigma_prf"):
        expected = clean[f"spots/{name}"][others]
        assert struck[f"spots/{name}"][others] == pytest.approx(expected, rel=0.02)


def test_a_static_place() -> None:
    background = replace(
        background_of(np.zeros((30, 40)), np.dtype("uint16")), static=np.array([[10, 20], [0, 39]])
    )
    maps = ComponentMaps.of(background, may_touch=False)
    places = [(13, 17), (14, 20), (7, 23), (10, 24), (3, 36), (10, 20)]
    flags = []
    for x, y in places:
        found = Components(
            pixels=np.array([x * 40 + y]),
            begin=np.array([0, 1]),
            box=np.array([[x, x + 1, y, y + 1]], np.int32),
            first=np.array([0, 1]),
        )
        flags += maps.sums(found).flags.tolist()
    assert flags == [32, 0, 32, 0, 32, 32]


def test_a_spot_without_intensity_has_no_shape() -> None:
    one = np.ones(2, np.int64)
    found = spot_columns(
        Measurements(one, one, one, one, None, one, one, np.ones((5, 2), np.int64), None),
        np.array([0.0, 5.0]),
        ComponentSums(one, np.zeros((6, 2)), np.ones((5, 2)), one),
        np.arange(2),
        np.array([[3, 5, 4, 6]] * 2, np.int32),
        1,
        None,
        np.dtype(np.uint16),
        None,
    )
    for name in ("centroid", "moments", "fwhm", "orientation"):
        assert np.isnan(found[name][0]).all(), name
        assert not np.isnan(found[name][1]).any(), name


def test_a_box_that_is_too_long_has_no_shape() -> None:
    one = np.ones(2, np.int64)
    found = spot_columns(
        Measurements(one, one, one, one, None, one, one, np.ones((5, 2), np.int64), None),
        np.array([5.0, 5.0]),
        ComponentSums(one, np.zeros((6, 2)), np.ones((5, 2)), one),
        np.arange(2),
        np.array([[0, 4096, 0, 1], [0, 1, 0, 4097]], np.int32),
        1,
        None,
        np.dtype(np.uint16),
        None,
    )
    assert np.isnan(found["centroid"]).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("upper", [0, 5, -(2**40), 2**46, -(2**55)])
def test_moments_of_two_halves_are_rounded_once(upper: int) -> None:
    lower = 2**62 + 12345
    one = np.ones(1, np.int64)
    found = spot_columns(
        Measurements(
            one, one, one, one, None, one, one, np.full((5, 1), lower), np.full((5, 1), upper)
        ),
        np.array([1.0]),
        ComponentSums(one, np.zeros((6, 1)), np.ones((5, 1)), one),
        np.arange(1),
        np.array([[0, 2, 0, 2]], np.int32),
        1,
        None,
        np.dtype(np.uint32),
        None,
    )
    assert found["centroid"][0, 0] == float(upper * 2**HALF_BITS + lower)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (5, 6), (2, 2)])
def test_neighbours_equal_a_plain_search(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    images = rng.random((4, *shape)) < 0.6
    images[2] = False
    image, x, y = np.nonzero(images)
    found = {
        (int(a), int(b))
        for at, other in neighbours(image, x * shape[1] + y, shape)
        for a, b in zip(at, other, strict=True)
    }
    expected = {
        (i, j)
        for i in range(len(x))
        for j in range(i + 1, len(x))
        if image[i] == image[j] and max(abs(x[i] - x[j]), abs(y[i] - y[j])) == 1
    }
    assert found == expected


def test_measurements_of_no_spot(backend: Backend) -> None:
    """Empty results have the shapes and types that batches with spots have."""
    for dtype in ("uint16", "uint32", "float32"):
        frames = np.zeros((2, 4, 5), dtype)
        mean: Any = np.zeros((4, 5))
        if dtype != "float32":
            mean = FixedPointMean(3, None, np.zeros((4, 5), np.uint32))
        prepared = backend.prepare(
            background_of(np.zeros((4, 5)), frames.dtype, mean), Morphology(0, 0, 2), 3
        )
        results: list[Any] = [
            backend.measure(
                backend.upload(frames),
                backend.components(masks_of(backend, np.full((2, 4, 5), is_set)), 2),
                np.arange(2),
                prepared,
                None,
            )
            for is_set in (0, 1)
        ]
        for name in Measurements.__slots__:
            none, some = (getattr(found, name) for found in results)
            assert (none is None) == (some is None), name
            if some is not None:
                assert (none.dtype, none.shape[:-1]) == (some.dtype, some.shape[:-1]), name
                assert none.shape[-1] == 0
