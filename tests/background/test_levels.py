"""Normalisation: levels, factors, scaled frames and the whole run, against plain arithmetic."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from factories.frames import frames_of
from gpu_spots import find_spots, pipeline
from gpu_spots.backend import Backend, select_backend
from gpu_spots.background import levels
from gpu_spots.errors import InputError
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.model import FRAME_DTYPES, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, datasets, fetched, run
from reference import make_blocks, reference_run, scale_frames
from reference_clip import clip_maps, following, levelled, levels_between

pytestmark = pytest.mark.on_two_devices


def plain_level(values: list[float]) -> float:
    """Interquartile mean: the values between the quarters at both ends."""
    values = sorted(values)
    quarter = len(values) // 4
    middle = values[quarter : len(values) - quarter]
    total = 0.0
    for value in middle:
        total += value
    return total / len(middle)


@given(hnp.arrays(np.uint16, (4, 7)), st.integers(0, 2))
def test_level_is_the_interquartile_mean(frame: np.ndarray, bad_rows: int) -> None:
    pixels = np.ones((4, 7), bool)
    pixels[:bad_rows] = False
    assert levels.frame_level(frame, Validity(pixels)) == plain_level(
        frame[bad_rows:].reshape(-1).tolist()
    )


def test_level_of_a_large_frame_is_that_of_every_kth_row() -> None:
    frame = np.random.default_rng(1).integers(0, 5, (1024, 512)).astype(np.uint16)
    valid = np.random.default_rng(2).random(frame.shape) < 0.8
    sampler = levels.LevelSampler((3, *frame.shape), Validity(valid))
    sampler.see(1, frame[sampler.rows])
    assert sampler.levels[1] == plain_level(frame[::16][valid[::16]].tolist())


def test_level_ignores_invalid_values() -> None:
    frame = np.array([[1.0, np.nan, 2.0, np.inf, 3.0, 99.0]])
    assert levels.frame_level(frame, Validity(high=10)) == 2.0
    assert np.isnan(levels.frame_level(np.full((2, 2), np.nan), Validity()))


def test_bounds_are_not_rounded_to_the_type_of_the_frames() -> None:
    """The nearest float32 to 0.7 is below it."""
    frame = np.array([[0.7, 2.0]], np.float32)
    assert levels.frame_level(frame, Validity(low=0.7)) == 2.0


def test_factors_bring_frames_to_the_median_level() -> None:
    assert levels.factors(np.array([100.0, 50.0, 200.0]), "run").tolist() == [65536, 131072, 32768]


@pytest.mark.parametrize("bad", [0.0, -1.0, 1.0, 1e6, np.nan])
def test_a_frame_that_cannot_be_scaled_is_named(bad: float) -> None:
    with pytest.raises(InputError, match="run: normalise='level': frame 2 has a level of"):
        levels.factors(np.array([100.0, 101.0, bad, 99.0]), "run")


@settings(deadline=None)
@given(
    st.sampled_from(FRAME_DTYPES),
    st.lists(st.integers(2**12, 2**20), min_size=3, max_size=3),
    st.data(),
)
def test_scaled_frames_equal_plain_products(
    dtype: np.dtype, factors: list[int], data: st.DataObject
) -> None:
    if dtype.kind == "f":
        elements = st.floats(
            width=64 if dtype.itemsize == 8 else 32, allow_nan=False, allow_infinity=False
        )
    else:
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    frames = data.draw(hnp.arrays(dtype, (3, 2, 5), elements=elements))
    backend = select_backend("cpu", 1)
    found = backend.scaled(backend.upload(frames), np.array(factors), Validity())
    assert found.dtype == dtype
    with np.errstate(over="ignore"):
        assert np.array_equal(found, scale_frames(frames, np.ones(frames.shape, bool), factors))


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_invalid_values_stay_invalid_when_scaled(backend: Backend, dtype: np.dtype) -> None:
    frames = np.array([[[1, 50, 100, 126, 127]]]).astype(dtype)
    validity = Validity(low=2, high=126)
    for factor in (2**15, 2**16, 2**18):
        scaled = fetched(
            backend, backend.scaled(backend.upload(frames), np.array([factor]), validity)
        )
        after = validity.of_scaled(dtype)
        valid = np.isfinite(scaled) & ((after.high is None) | (scaled <= (after.high or 0)))
        assert valid.reshape(-1).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    "dtype",
    [np.dtype("uint16"), np.dtype("int32"), np.dtype("uint8"), np.dtype("float32")],
    ids=str,
)
@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
def test_normalised_run_equals_reference(backend: Backend, dtype: np.dtype, sync: str) -> None:
    frames = frames_of(dtype, (20, 21, 33), seed=3)
    if dtype.kind == "i":
        frames += 60000
    drift = np.random.default_rng(4).uniform(0.8, 1.0, 20)
    frames = (frames * drift[:, None, None]).astype(dtype)
    angles, laser = np.repeat([1.0, 2.0], 10), np.arange(20) % 2 == 1
    columns = {"angle": angles, "laser_on": laser.astype(int)}
    found = run(
        frames,
        Parameters.manual(angles=0, sync=sync, normalise="level", cutoff=2.0),
        backend,
        columns,
    )
    measured = np.array([plain_level(frame.reshape(-1).tolist()) for frame in frames])
    factors = np.rint(np.median(measured) / measured * 65536).astype(int).tolist()
    assert np.array_equal(found["per_frame/level"], measured)
    assert np.array_equal(found["per_frame/scale"], np.array(factors) / 65536)
    assert_same(
        found,
        reference_run(frames, cutoff=2.0, sync=sync, angles=angles, laser=laser, factors=factors),
    )


def test_normalised_run_with_invalid_values_equals_reference(backend: Backend) -> None:
    rng = np.random.default_rng(8)
    frames = frames_of(np.dtype("int16"), (20, 19, 40), seed=8) + 200
    low, high = np.quantile(frames, [0.01, 0.99]).astype(int).tolist()
    valid = rng.random(frames.shape[1:]) < 0.95
    found = run(
        frames,
        Parameters.manual(angles=0, normalise="level"),
        backend,
        validity=Validity(valid, low, high),
    )
    factors = np.rint(found["per_frame/scale"] * 65536).astype(int).tolist()
    expected = reference_run(frames, valid_pixels=valid, low=low, high=high, factors=factors)
    assert "stats/n_used" in expected
    assert_same(found, expected)


def test_stats_say_that_they_are_in_scaled_counts(tmp_path: Path) -> None:
    frames = frames_of(np.dtype("uint16"), (20, 21, 33), seed=3)
    for normalise, units in (("none", "counts"), ("level", "scaled counts")):
        path = tmp_path / f"{normalise}.h5"
        find_spots(frames, Parameters.manual(angles=0, normalise=normalise), output=path).close()
        with h5py.File(path) as file:
            assert {
                file[f"stats/{name}"].attrs["units"]
                for name in ("avg", "std", "iqr", "max", "threshold")
            } == {units}
            assert file["spots/I"].attrs["units"] == "counts"


@pytest.mark.parametrize(
    ("dtype", "blocks", "normalise"),
    [
        ("uint16", False, "level"),
        ("uint16", True, "level"),
        ("int32", False, "level"),
        ("uint16", True, "surface"),
    ],
)
def test_masks_by_thresholds_know_the_bias(
    backend: Backend, dtype: str, blocks: bool, normalise: str
) -> None:
    """The beam drifts, the bias of the detector does not: against plain arithmetic."""
    rng = np.random.default_rng(4)
    n, shape = 20, (11, 70)
    light = 40 + 260 * np.linspace(0, 1, shape[1]) * np.ones(shape)
    exposure = rng.uniform(0.7, 1.4, n)
    frames = rng.poisson(exposure[:, None, None] * light) + 200
    for i, image in enumerate(frames):
        image[i // 5 * 2 : i // 5 * 2 + 3, 2 * i : 2 * i + 3] += 90
    frames = frames.astype(dtype)
    parameters = Parameters.manual(
        angles=0, method="clip", normalise=normalise, cutoff=3.0, erosions=0, dilations=0
    )
    angles = np.repeat(np.arange(4.0), 5) if blocks else np.arange(float(n))
    with memory_file() as file:
        stack = ArrayStack(frames, {"angle": angles})
        writer = SpotsWriter(file, "memory", stack.shape, {})
        pipeline.find_spots(stack, parameters, Resources(backend), writer, Notes())
        found, known = datasets(file), file["per_frame/level"].attrs
        part = float(known["contrast"]), float(known["centre"])
    above: Any = [round(2**32 / round(65536 * scale)) for scale in found["per_frame/scale"]]
    if normalise == "surface":
        knots = np.rint(found["per_frame/surface"] * 65536).astype(np.int64)
        above = levels_between(knots, 6, shape)
    made, usable = make_blocks(angles.tolist()) if blocks else None, np.ones(frames.shape, bool)
    stats, _, _, mean = clip_maps(frames, usable, 25, 3.0, made, above, part)
    assert np.array_equal(found["stats/avg"], stats["avg"])
    assert np.array_equal(found["stats/threshold"], stats["threshold"])
    n_different = 0
    for i, x, y in np.ndindex(frames.shape):
        level = int(above[i] if normalise == "level" else above[i][x, y])
        b, value = mean[x * shape[1] + y], int(frames[i, x, y])
        is_in, would_be = (
            levelled(value, level, of_levels, frames.dtype) >= stats["threshold"][x, y]
            for of_levels in (following(b, part), b)
        )
        assert found["masks_raw"][i, x, y] == is_in
        n_different += is_in != would_be
    assert n_different


def drifting(rms: float) -> np.ndarray:
    rng = np.random.default_rng(5)
    level = 1000 * (1 + rms * rng.standard_normal(30))
    return rng.normal(level[:, None, None], 7, (30, 64, 64)).astype(np.uint16)


def test_drift_above_the_noise_is_warned_of_once(backend: Backend) -> None:
    notes = Notes()
    run(drifting(0.02), Parameters.manual(angles=0), backend, notes=notes)
    (drift,) = [warning for warning in notes.warnings if "found a scatter of" in warning]
    assert "normalise='level'" in drift


@pytest.mark.parametrize(("rms", "normalise"), [(0.002, "none"), (0.02, "level")])
def test_no_warning_without_drift_or_where_it_is_taken_out(
    backend: Backend, rms: float, normalise: str
) -> None:
    notes = Notes()
    run(drifting(rms), Parameters.manual(angles=0, normalise=normalise), backend, notes=notes)
    assert notes.warnings == []


def photons(scatter: float, rate: float = 0.05) -> np.ndarray:
    """Frames of a photon counter whose exposure scatters, uint16."""
    rng = np.random.default_rng(6)
    exposure = rate * np.clip(1 + scatter * rng.standard_normal(40), 0.2, None)
    return rng.poisson(exposure[:, None, None], (40, 96, 96)).astype(np.uint16)


@pytest.mark.parametrize(
    ("rate", "remedy"), [(0.05, "increase cutoff"), (4.0, "use normalise='level' to scale")]
)
def test_drift_of_a_photon_counter_is_warned_of(backend: Backend, rate: float, remedy: str) -> None:
    for scatter, expected in ((0.0, 0), (0.4, 1)):
        notes = Notes()
        run(photons(scatter, rate), Parameters.manual(angles=0, cutoff=20), backend, notes=notes)
        drift = [warning for warning in notes.warnings if "found a scatter of" in warning]
        assert len(drift) == expected
        assert all(remedy in warning for warning in drift)


@pytest.mark.parametrize("shape", [(2, 3), (8, 8), (64, 64)])
@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 2.0, 50.0])
def test_counting_statistics_are_no_drift(shape: tuple[int, int], rate: float) -> None:
    frames = np.random.default_rng(7).poisson(rate, (50, *shape)).astype(np.uint16)
    sampler = levels.LevelSampler(frames.shape, Validity())
    for i, frame in enumerate(frames):
        sampler.see(i, frame[sampler.rows])
    assert sampler.drift_warning() is None


@pytest.mark.parametrize("level", [0, -3])
def test_a_run_without_counts_cannot_be_normalised(backend: Backend, level: int) -> None:
    frames = np.full((8, 10, 10), level, np.int16)
    with pytest.raises(
        InputError,
        match=f"frames: normalise='level': found a level of {level} counts .*use normalise='none'",
    ):
        run(frames, Parameters.manual(angles=0, normalise="level"), backend)


@pytest.mark.parametrize("ratio", [levels.LARGEST, 1 / levels.LARGEST])
def test_the_largest_ratio_is_allowed(ratio: float) -> None:
    assert levels.factors(np.array([16.0, 16.0, 16.0 / ratio]), "run")[2] == ratio * 65536


def test_the_largest_valid_value_has_a_level() -> None:
    assert levels.frame_level(np.array([[5, 7, 9]], np.uint16), Validity(low=5, high=9)) == 7.0
    assert levels.frame_level(np.array([[9, 9, 10]], np.uint16), Validity(high=9)) == 9.0
