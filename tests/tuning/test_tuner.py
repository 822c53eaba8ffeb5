"""Masks of single frames with other options are those of a whole run with these options."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factories.tuned_runs import columns, spotty
from gpu_spots.backend import Backend
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.masks.grouping import Groups
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.model import FACTOR_BITS, ConstantPart, Surface, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.pipeline import find_spots
from gpu_spots.protocols import Stack
from gpu_spots.resources import Resources
from gpu_spots.tuning.cutoffs import Cutoffs, exact_sums
from gpu_spots.tuning.frame_cache import FrameCache
from gpu_spots.tuning.noise_frames import NoiseFrames, skew_pixels
from gpu_spots.tuning.sweep import Tried, chosen_frames, recommended, sweep
from gpu_spots.tuning.tuner import Tuner, run_of_results
from helpers import ROOT, Notes

FRAMES = (0, 13, 38)


def found(stack: Stack, parameters: Parameters, backend: Backend) -> SpotsFile:
    """Results of a whole run, in memory, with what `find_to_file` writes about it."""
    file = memory_file()
    writer = SpotsWriter(file, "memory", stack.shape, {})
    writer.write_metadata(stack, lambda _: None)
    find_spots(stack, parameters, Resources(backend), writer, Notes())
    values = stack.validity
    bounds = {"valid_low": values.low, "valid_high": values.high}
    known = {name: value for name, value in bounds.items() if value is not None}
    options = {name: getattr(parameters, name) for name in Parameters.__dataclass_fields__}
    writer.write_info({**options, "n": parameters.percent_removed, **known})
    return SpotsFile(file)


@pytest.mark.parametrize(
    ("options", "changes", "dtype", "validity"),
    [
        ({"method": "n_removed"}, {"cutoff": 4.0}, np.uint16, Validity()),
        (
            {"method": "n_removed", "normalise": "level", "sync": "blocks"},
            {"cutoff": 2.5, "erosions": 0},
            np.uint16,
            Validity(high=65000),
        ),
        ({"method": "kruskal", "sync": "pairs"}, {"dilations": 1}, np.int32, Validity(high=60000)),
        ({"method": "n_removed", "structure": (2, 1)}, {"cutoff": 3.5}, np.float32, Validity()),
        ({"method": "clip", "sync": "blocks"}, {"cutoff": 3.7}, np.uint16, Validity(high=65000)),
        ({"method": "clip"}, {"finder": "matched", "significance": 5.0}, np.uint16, Validity()),
        (
            {"method": "clip", "normalise": "surface", "finder": "matched", "sync": "blocks"},
            {"significance": 4.5},
            np.uint16,
            Validity(high=65000),
        ),
        (
            {"method": "clip", "normalise": "level", "finder": "matched"},
            {"finder": "threshold", "cutoff": 3.3},
            np.int32,
            Validity(high=60000),
        ),
        (
            {"method": "n_removed", "normalise": "level", "finder": "matched", "sync": "blocks"},
            {"significance": 4.5, "streaks": True},
            np.uint16,
            Validity(high=65000),
        ),
    ],
)
def test_masks_are_those_of_a_run(
    make_backend: Any,
    options: dict[str, Any],
    changes: dict[str, Any],
    dtype: Any,
    validity: Validity,
) -> None:
    """From the stored background alone, raw and final masks and spots, to the bit."""
    backend = make_backend("cpu")
    masked = np.ones((60, 84), bool)
    masked[20:24, 50:60] = False
    stack = ArrayStack(spotty(dtype), columns(), replace(validity, pixels=masked))
    before = Parameters(**{"finder": "threshold", "normalise": "none", **options})
    after = replace(before, **changes)
    with found(stack, before, backend) as results, found(stack, after, backend) as expected:
        tuner = Tuner(run_of_results(results, stack), backend)
        assert tuner.run.parameters == before
        for parameters, whole in ((before, results), (after, expected)):
            kind = "filtered" if before.sync == "none" else "synced"
            for frame in FRAMES:
                one = tuner.find(frame, parameters)
                assert np.array_equal(one.final, whole.mask(frame, kind))
                assert one.n_spots == np.diff(whole.frame_ranges[frame])[0]
                assert one.spots.box.tolist() == whole.spots(frame)["box"].tolist()
                if before.sync == "none" or parameters.finder == "matched":
                    assert np.array_equal(one.raw, whole.mask(frame, "raw"))
        assert any(not np.array_equal(results.mask(f), expected.mask(f)) for f in FRAMES)


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_bias_and_frames_without_beam_are_known(make_backend: Any, sync: str) -> None:
    """The beam drifts, the bias of the detector does not, and frame 13 is dark."""
    backend = make_backend("cpu")
    light = spotty(np.float64)
    levels = np.random.default_rng(2).uniform(0.8, 1.2, len(light))
    levels[13] = 0
    gradient = np.linspace(0.5, 1.5, light.shape[2])
    frames = np.rint(100 * (levels > 0)[:, None, None] + levels[:, None, None] * light * gradient)
    stack = ArrayStack(frames.astype(np.uint16), columns())
    before = Parameters(angles=0, sync=sync)
    after = replace(before, significance=5.0)
    with found(stack, before, backend) as results, found(stack, after, backend) as expected:
        assert results.constant_part is not None
        assert np.isnan(results.per_frame()["scale"]).nonzero()[0].tolist() == [13]
        # the light of a pixel follows the level, its bias does not
        dim, bright = np.argsort(np.where(levels > 0, levels, 1.0))[[0, -1]].tolist()
        place = np.array([3, 50]), np.array([10, 80])
        average = results.avg[place].astype(np.float64)
        least, most = (results.background_on(one, *place, average) for one in (dim, bright))
        ratio = (most - 100) / (least - 100)
        assert ratio == pytest.approx(levels[bright] / levels[dim], rel=0.1)
        tuner = Tuner(run_of_results(results, stack), backend)
        for parameters, whole in ((before, results), (after, expected)):
            kind = "filtered" if sync == "none" else "synced"
            for frame in FRAMES:
                one = tuner.find(frame, parameters)
                assert np.array_equal(one.final, whole.mask(frame, kind))
                assert one.n_spots == np.diff(whole.frame_ranges[frame])[0]
        assert not tuner.find(13, after).n_spots
        assert tuner.find(0, after).n_spots


@pytest.mark.emulated
@pytest.mark.parametrize("finder", ["threshold", "matched"])
def test_kernels_find_the_same(make_backend: Any, finder: str) -> None:
    stack = ArrayStack(spotty(), columns())
    parameters = Parameters(method="clip", normalise="level", finder=finder)
    cpu, emulated = make_backend("cpu"), make_backend("emulated")
    with found(stack, parameters, cpu) as results:
        run = run_of_results(results, stack)
        for noise_only in (False, True):
            left, right = (
                Tuner(run, backend).find(7, parameters, noise_only=noise_only)
                for backend in (cpu, emulated)
            )
            assert np.array_equal(left.final, right.final)
            assert np.array_equal(left.raw, right.raw)


def test_thresholds_of_the_run_are_found_again(make_backend: Any) -> None:
    """Integers are restored exactly from float32: no pixel has another threshold."""
    backend = make_backend("cpu")
    stack = ArrayStack(spotty(), columns())
    for method, normalise in (("n_removed", "none"), ("kruskal", "level")):
        parameters = Parameters.manual(method=method, normalise=normalise)
        with found(stack, parameters, backend) as results:
            run = run_of_results(results, stack)
            found_again = Cutoffs(run.background, run.method, -1.0).at(parameters.cutoff)
            assert np.array_equal(found_again, results.threshold)


@pytest.mark.parametrize("mean", [3, 60, 900, 9000])
def test_sums_follow_from_float32(mean: int) -> None:
    """Against sums in integers, for 540 values of each pixel; of either sign."""
    values = np.random.default_rng(mean).poisson(mean, (540, 200)).astype(np.int64)
    values -= np.arange(200) * 5
    total, squares = values.sum(axis=0), (values * values).sum(axis=0)
    scatter = 540 * squares - total * total
    avg = (total / 540).astype(np.float32)
    std = (np.sqrt(scatter.astype(float)) / 540).astype(np.float32)
    found_total, found_scatter = exact_sums(avg, std, np.full(200, 540))
    assert found_total.tolist() == total.tolist()
    assert found_scatter.tolist() == scatter.tolist()


def noise_of(
    mean: np.ndarray, noise: np.ndarray, dtype: Any, gain: float = 0.07, bias: float | None = None
) -> NoiseMap:
    """Background and noise of a run whose read noise is 2 counts rms; 0 for a gain of 1."""
    part = None if bias is None else ConstantPart(bias / (500 - bias), 500)
    return NoiseMap(
        mean=mean,
        noise=noise.astype(np.float32),
        gain=gain,
        read_variance=0.0 if gain == 1 else 4.0,
        validity=Validity(high=60000),
        gaps=False,
        dtype=np.dtype(dtype),
        constant_part=part,
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_noise_of_many_counts_is_mirrored(dtype: Any) -> None:
    """2 B - I at the level of the frame; values that are not valid stay."""
    frame = np.array([[100, 90, 130], [0, 65535, 250]]).astype(dtype)
    noise = noise_of(np.full((2, 3), 100.25), np.full((2, 3), 3.0), dtype)
    factors = np.array([2**FACTOR_BITS // 2])  # twice as bright as the run
    mirror = NoiseFrames(lambda _: frame, noise, 60, Validity(high=60000), factors)[0]
    expected = np.array([[301, 311, 271], [401, 65535, 151]])
    assert mirror.dtype == dtype
    assert mirror.tolist() == expected.tolist()


def test_bias_is_not_scaled_by_the_level() -> None:
    """Pixels of 500 counts, bias of 40, have 1000: light is 960 / 460 of before.

    So pixels of 40 + 60 counts have 40 + 125.2.
    """
    frame = np.full((2, 3), 158, np.uint16)
    noise = noise_of(np.full((2, 3), 100.0), np.full((2, 3), 3.0), np.uint16, bias=40)
    factors = np.array([2**FACTOR_BITS // 2])
    made = NoiseFrames(lambda _: frame, noise, 60, Validity(), factors)[0]
    assert made.tolist() == [[172] * 3] * 2


def test_noise_follows_the_surface() -> None:
    """A surface from once to twice the background over 64 columns: 2 B - I."""
    frame = np.full((2, 65), 100, np.uint16)
    noise = noise_of(np.full((2, 65), 100.0), np.full((2, 65), 3.0), np.uint16)
    knots = np.array([[[1, 2, 2], [1, 2, 2]]], np.int32) << FACTOR_BITS
    factors = np.array([2**FACTOR_BITS])
    made = NoiseFrames(lambda _: frame, noise, 60, Validity(), factors, Surface(knots, 6))[0]
    expected = np.rint(2 * (100 + 100 * np.arange(65) / 64)) - 100
    assert made.tolist() == [expected.tolist()] * 2


def test_noise_of_few_counts_is_drawn() -> None:
    """Binomial numbers: the mean is B, the variance B (1 - 1/n); masked and noisy pixels apart."""
    mean = np.full((300, 400), 2.0)
    noise = np.sqrt(mean)
    noise[:, 100:200], noise[:, 200] = 300.0, np.nan  # flickering pixels, and unknown noise
    frames = np.full((300, 400), 5, np.uint16)
    factors = np.array([2**FACTOR_BITS, 2**FACTOR_BITS // 3])
    of = noise_of(mean, noise, np.uint16, gain=1.0)
    assert np.flatnonzero(~skew_pixels(of)[0]).tolist() == list(range(100, 201))
    made = NoiseFrames(lambda _: frames, of, 10, Validity(), factors)
    first, brighter = made[0], made[1]
    assert np.array_equal(first, made[0])
    assert (first[:, 100:201] == 0).all()  # 2 B - I is below 0
    for image, expected, variance in ((first, 2, 2 * 0.9), (brighter, 6, 6 * 0.7)):
        drawn = image[:, 201:].astype(float)
        assert drawn.mean() == pytest.approx(expected, abs=0.04)
        assert drawn.var() == pytest.approx(variance, rel=0.03)


NOISES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "0.3 photons": lambda random: random.poisson(0.3, (24, 200, 200)),
    "3 photons": lambda random: random.poisson(3, (24, 200, 200)),
    "10 to 40 photons": lambda random: random.poisson(
        np.linspace(10, 40, 200)[:, None], (24, 200, 200)
    ),
    "CCD, 1000 counts": lambda random: np.rint(random.normal(1000, 9, (24, 200, 200))),
}


def test_as_many_false_spots_are_expected_as_found(make_backend: Any) -> None:
    """Spots found at a low significance on frames without spots: the table of docs/tune.md."""
    backend, rows = make_backend("cpu"), []
    parameters = Parameters(finder="matched", method="clip", normalise="none", significance=3.2)
    for name, noise in NOISES.items():
        frames = noise(np.random.default_rng(9)).astype(np.uint16)
        stack = ArrayStack(frames, {"angle": np.arange(24)})
        with found(stack, parameters, backend) as results:
            tuner = Tuner(run_of_results(results, stack), backend)
            (tried,) = sweep(tuner, parameters, range(0, 24, 2), [3.2])
        rows.append(f"| {name} | {tried.n_spots} | {tried.n_false} |")
        assert tried.n_spots > 100
        assert 0.75 < tried.n_false / tried.n_spots < 1.25, rows
    page = (ROOT / "docs/tune.md").read_text()
    assert "\n".join(rows) in page, rows


def test_frames_are_read_once(make_backend: Any) -> None:
    stack = ArrayStack(spotty(), columns())
    reads = []

    class Counted:
        shape, dtype = stack.shape, stack.dtype

        def read(self, begin: int, end: int, into: np.ndarray) -> None:
            reads.append(begin)
            stack.read(begin, end, into)

    frame = stack.shape[1] * stack.shape[2] * 2
    cache = FrameCache(Counted(), 2 * frame)  # type: ignore[arg-type]
    for wanted in (3, 4, 3, 5, 3, 4):
        assert np.array_equal(cache[wanted], spotty()[wanted])
    assert reads == [3, 4, 5, 4]
    smallest = FrameCache(Counted(), 1)  # type: ignore[arg-type]
    assert np.array_equal(smallest[1], spotty()[1])


def test_chosen_frames_are_of_different_groups() -> None:
    groups = Groups(np.repeat(np.arange(10), 4), 10, 0)
    assert chosen_frames(groups, 4) == [0, 12, 24, 36]
    assert chosen_frames(groups, 99) == list(range(0, 40, 4))


@pytest.mark.parametrize(
    ("tried", "good", "words"),
    [
        ([(4, 100, 30), (5, 80, 0)], 5, "at 5, 0 of 80 spots are"),
        ([(4, 100, 30), (5, 80, 9)], None, "choose larger values"),
        ([(4, 100, 0), (5, 80, 0)], 4, "the smallest value that was tried"),
        ([(4, 0, 0), (5, 0, 0)], None, "no spots were found"),
        # few spots by chance without a false one do not hide what is above
        ([(4, 100, 0), (5, 80, 9), (6, 70, 0)], 6, "at 5, 9 of 80"),
        ([(4, 100, 0), (5, 80, 0), (6, 0, 0)], 4, "at 4, 0 of 100"),
    ],
)
def test_recommendation(
    tried: list[tuple[float, int, int]], good: float | None, words: str
) -> None:
    found, why = recommended([Tried(*one) for one in tried])
    assert (None if found is None else found.value) == good
    assert words in why
