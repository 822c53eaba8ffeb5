"""The matched finder against its naive reference, to the bit, on every backend."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference_matched as reference
from gpu_spots.backend import Backend
from gpu_spots.masks.matched import NoiseMap, Thresholds, kernels, significance_maps
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
    """Its frames, and what is known of them."""

    frames: NDArray[Any]
    usable: NDArray[np.bool_]
    noise: NoiseMap
    levels: NDArray[np.int64] | None


def run_of(case: Case) -> Run:
    """Poisson frames on a sloping background, spots from faint to saturated, pixels and values that are missing."""
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
    for one, other in zip(seeds.seed, wanted.seed, strict=True):
        assert np.array_equal(one, other)
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
