"""The matched finder against its naive reference, to the bit, on every backend."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference_matched as reference
from cpu_fallback import CpuBackend
from gpu_spots.backend import Backend
from gpu_spots.masks.kernels import ALL_KERNELS, Kernel
from gpu_spots.masks.matched import group_scale, significance_maps
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.masks.poisson import tail
from gpu_spots.masks.seed_levels import Thresholds
from gpu_spots.model import FRAME_DTYPES, Validity


@dataclass(frozen=True)
class Case:
    """A small run with spots."""

    dtype: str = "uint16"
    shape: tuple[int, int] = (44, 75)
    background: float = 20.0
    gain: float = 1.0
    read_variance: float = 0.0
    streaks: bool = False
    n: int = 2
    """Frames or groups."""
    size: int = 1
    """Frames of a group."""
    gaps: bool = False
    levels: tuple[int, int] | None = None
    spots: int = 6
    brightest: float = 9.0
    significance: float = 5.5
    masked: float = 0.03
    seed: int = 0


@dataclass
class Run:
    """Frames of a run, with noise, valid pixels and levels."""

    frames: NDArray[Any]
    usable: NDArray[np.bool_]
    noise: NoiseMap
    levels: NDArray[np.int64] | None


def run_of(case: Case) -> Run:
    """Return Poisson frames on a sloping background, with spots and missing values.

    Spots are from faint to saturated.
    """
    rng = np.random.default_rng(case.seed)
    x, y = np.mgrid[: case.shape[0], : case.shape[1]]
    mean = case.background * (1 + 0.3 * np.sin(x / 9) + 0.2 * np.cos(y / 7))
    n_frames = case.n * case.size
    frames = rng.poisson(np.broadcast_to(mean / case.gain, (n_frames, *case.shape))).astype(float)
    for frame in frames:
        for _ in range(case.spots):
            cx, cy = rng.uniform(0, case.shape[0]), rng.uniform(0, case.shape[1])
            s, total = rng.uniform(0.6, 2), np.exp(rng.uniform(1, case.brightest))
            profile = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s * s)) / (6.28 * s * s)
            frame += rng.poisson(total * profile)
    frames = frames * case.gain + rng.normal(0, max(1e-9, case.read_variance) ** 0.5, frames.shape)
    dtype = np.dtype(case.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        frames = np.clip(np.rint(frames), limits.min, limits.max)
    frames = frames.astype(dtype)
    validity = Validity(rng.random(case.shape) >= case.masked)
    usable = np.ones(frames.shape, bool)
    if case.gaps:
        usable = rng.random(frames.shape) > 0.02
        frames[~usable] = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
        if dtype.kind != "f":
            validity = replace(validity, high=int(np.iinfo(dtype).max) - 1)
            usable = frames < np.iinfo(dtype).max  # saturated values are invalid too
    noise = np.sqrt(case.gain * mean + case.read_variance) * rng.uniform(0.9, 1.1, case.shape)
    levels = None if case.levels is None else rng.integers(*case.levels, n_frames)
    of = NoiseMap(
        mean, noise.astype(np.float32), case.gain, case.read_variance, validity, case.gaps, dtype
    )
    return Run(frames, usable, of, levels)


def check(backend: Backend, case: Case, run: Run | None = None) -> int:
    """Compare every step with the reference; return the number of spots."""
    run = run or run_of(case)
    of, n, size, is_float = run.noise, case.n, case.size, run.frames.dtype.kind == "f"
    pixels = np.ones(case.shape, bool) if of.validity.pixels is None else of.validity.pixels
    expected = reference.Noise(of.mean, of.noise, of.gain, of.read_variance, pixels)

    maps = significance_maps(of, streaks=case.streaks, workers=2)
    prepared = backend.prepare_significance(maps)
    found = backend.significance(backend.upload(run.frames), prepared, run.levels)
    levels = np.full(n * size, 65536) if run.levels is None else run.levels
    plain = [
        reference.without_zingers(reference.plain_significance(frame, expected, int(level), good))
        for frame, level, good in zip(run.frames, levels, run.usable, strict=True)
    ]
    allowed = [reference.usable_pixels(expected) & good for good in run.usable]
    if size > 1:
        sums = backend.empty_sums(prepared, n, case.shape)
        backend.add_significance(sums, found, np.arange(n * size) % n)
        found = backend.of_sums(sums, [size] * n)
        plain = [reference.group_significance(plain[i::n]) for i in range(n)]
        allowed = [np.all(allowed[i::n], axis=0) for i in range(n)]

    smoothed = [reference.smoothed(p, case.streaks) for p in plain]
    on_host = backend.smoothed_maps(found, prepared)
    assert np.array_equal(on_host, np.array(smoothed))
    thresholds = Thresholds(of, case.significance, streaks=case.streaks, workers=2)
    calibration = thresholds.calibrate(list(on_host), size)
    measured = reference.calibration(smoothed, expected, size, case.streaks, is_float)
    assert list(zip(calibration.offset, calibration.width, strict=True)) == measured
    seeds = thresholds.levels(size, calibration)
    wanted = reference.levels(
        expected, size, case.significance, measured, size, case.streaks, is_float
    )
    for level, other in zip(seeds.seed, wanted.seed, strict=True):
        assert np.array_equal(level, other)
    assert np.array_equal(seeds.variance, wanted.variance)
    assert np.array_equal(seeds.own, wanted.own)

    masks = backend.matched_masks(found, prepared, [backend.prepare_seeds(seeds)] * n)
    raw, filtered = backend.fetch([masks.raw, masks.filtered])
    spots, n_spots = masks.spots, 0
    for i in range(n):
        one = reference.find(plain[i], wanted, allowed[i], case.streaks)
        labels = np.zeros(case.shape, np.int64)
        for label, c in enumerate(range(spots.first[i], spots.first[i + 1]), 1):
            inside = spots.pixels[spots.begin[c] : spots.begin[c + 1]]
            assert np.all(np.diff(inside) > 0)
            labels.reshape(-1)[inside] = label
            x, y = np.divmod(inside, case.shape[1])
            assert spots.box[c].tolist() == [x.min(), x.max() + 1, y.min(), y.max() + 1]
        assert np.array_equal(raw[i], one.raw)
        assert np.array_equal(labels, one.labels)
        assert np.array_equal(filtered[i], one.labels > 0)
        n_spots += int(labels.max())
    return n_spots


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_every_type_of_frame(backend: Backend, dtype: np.dtype, gaps: bool) -> None:
    assert check(backend, Case(str(dtype), gaps=gaps, levels=(60000, 70000), seed=dtype.num)) > 2


CASES = {
    "photon counter": Case("int32", background=0.05, n=3, brightest=7, significance=4.5),
    "less than one photon in 1000 pixels": Case("int32", background=0.0008, brightest=5),
    "streaks": Case(streaks=True, background=3, read_variance=4),
    "streaks of a CCD": Case(streaks=True, background=900, gain=0.07, read_variance=4),
    "pairs": Case(size=2, background=2),
    "blocks of 5 with gaps": Case("int32", size=5, background=0.3, gaps=True, streaks=True),
    "floats in groups": Case("float32", size=3, background=7, gaps=True, levels=(65000, 66000)),
    "a bright beam": Case("int16", levels=(2**19, 2**20), background=90),
    "a weak beam": Case("uint32", levels=(4096, 9000), background=4e4),
    "one row": Case(shape=(1, 90), n=3, background=4),
    "one column": Case(shape=(90, 1), n=3, background=4, streaks=True),
    "one pixel": Case(shape=(1, 1), n=3),
    "words and a bit": Case(shape=(33, 129), spots=12, n=1),
    "wide enough to be measured": Case(shape=(70, 75), read_variance=3, spots=2),
    "half of the pixels masked": Case(masked=0.5, spots=12),
    "all pixels masked": Case(masked=1.1),
    "crowded": Case(spots=60, brightest=8, n=1),
    "strict": Case(significance=12.0, background=0.5),
    "lax": Case(significance=3.0, background=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_unusual_runs(backend: Backend, name: str) -> None:
    check(backend, replace(CASES[name], seed=len(name)))


def test_ties_and_saturated_areas(backend: Backend) -> None:
    """Plateaus of equal significance, two with a common corner, and constant frames.

    These are zeros or maxima.
    """
    case = Case("uint16", shape=(40, 70), n=5, masked=0)
    run = run_of(case)
    run.frames[:] = 20
    run.frames[0, 5:20, 5:30] = run.frames[0, 20:30, 30:50] = 65535
    run.frames[1] = 0
    run.frames[2] = 65535
    run.frames[3, ::3, ::2] = 90
    run.frames[4, 10:14, 10:14] = run.frames[4, 10:14, 20:24] = 60
    run.frames[4, 10:14, 15:19] = 61
    flat = NoiseMap(
        np.full(case.shape, 20.0), np.full(case.shape, 4.5, np.float32), 1.0, 0.0,
        Validity(), False, np.dtype("uint16"),
    )  # fmt: skip
    assert check(backend, case, replace(run, noise=flat)) > 3


def test_islands(backend: Backend) -> None:
    """Usable pixels are in islands of one to nine.

    Some values have no noise, or a background that is not finite.
    """
    case = Case("float64", shape=(40, 70), n=2, masked=0, background=3, spots=20)
    run = run_of(case)
    islands = np.zeros(case.shape, bool)
    islands[::5, ::7] = islands[10:13, 10:13] = islands[20:, 40:] = True
    mean, noise = run.noise.mean.copy(), run.noise.noise.copy()
    mean[25, 50], mean[26, 51], noise[27, 52], noise[28, 53] = np.nan, np.inf, np.nan, np.inf
    noise[29, 54] = 0
    for gain in (1.0, 0.0):
        of = replace(run.noise, mean=mean, noise=noise, gain=gain, validity=Validity(islands))
        check(backend, case, replace(run, noise=of))


def test_invalid_counts_of_a_photon_counter(backend: Backend) -> None:
    """-1 and -2 are no counts, on single frames and in groups."""
    for size in (1, 2):
        case = Case("int32", background=0.4, n=2, size=size, seed=3)
        run = run_of(case)
        bad = np.random.default_rng(4).random(run.frames.shape) < 0.05
        run.frames[bad] = np.where(np.arange(bad.sum()) % 2, -1, -2)
        validity = replace(run.noise.validity, low=0)
        of = replace(run.noise, validity=validity, gaps=True)
        check(backend, case, replace(run, usable=run.frames >= 0, noise=of))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_small_run(data: st.DataObject) -> None:
    """Values of any size on any background, with levels and groups."""
    dtype = data.draw(st.sampled_from(FRAME_DTYPES))
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 20)))
    n, size = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    case = Case(
        str(dtype), shape, n=n, size=size,
        streaks=data.draw(st.booleans()), significance=data.draw(st.sampled_from([3.0, 5.5])),
    )  # fmt: skip
    top = 10.0 ** data.draw(st.integers(-2, 9))
    values = rng.exponential(top, (n * size, *shape)) * rng.integers(0, 2, (n * size, *shape))
    if dtype.kind != "f":
        values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    frames = values.astype(dtype)
    of = NoiseMap(
        rng.exponential(top, shape), rng.exponential(np.sqrt(top), shape).astype(np.float32),
        data.draw(st.sampled_from([0.0, 0.05, 1.0, 40.0])), data.draw(st.sampled_from([0.0, 9.0])),
        Validity(rng.random(shape) < 0.9), False, dtype,
    )  # fmt: skip
    levels = rng.integers(4096, 2**20, n * size) if data.draw(st.booleans()) else None
    check(CpuBackend(1), case, Run(frames, np.ones(frames.shape, bool), of, levels))


@pytest.mark.parametrize("kernel", ALL_KERNELS[:3], ids=lambda kernel: kernel.name)
def test_tables_are_exact(kernel: Kernel) -> None:
    """Thresholds equal those of a recursion with 60 digits, on any machine."""
    table = kernel.sum_of_counts.table(5.5)
    for index in [*range(0, 60, 7), 100, 120, 144]:
        assert table[index] == reference.tabulated(kernel.name, 5.5, index)


def test_thresholds_of_many_counts_approach_the_gaussian_one() -> None:
    for kernel in ALL_KERNELS:
        low, high, infinite = kernel.sum_of_counts.threshold(np.array([0.01, 1e4, np.inf]), 5.5)
        assert low > 10 > 5.6 > high > infinite == 5.5


def test_tail_of_the_gaussian() -> None:
    from scipy.stats import norm

    for significance in (3.0, 5.5, 8.25, 12.0):
        assert tail(significance) == pytest.approx(norm.sf(significance), rel=1e-12)


def test_group_sums_do_not_overflow() -> None:
    """The largest group of the largest significances, of either sign."""
    furthest = 21908 * 65535
    assert furthest < 2**31
    for size in (1, 2, 64, 65535):
        limit, factor = group_scale(size)
        assert limit * factor + 2**16 < 2**31
        assert abs(limit * factor >> 16) <= 21844 - 64
