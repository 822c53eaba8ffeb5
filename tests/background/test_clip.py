"""The background of ``-m clip`` and the noise model, against the naive reference, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots.backend import Backend
from gpu_spots.background import complete
from gpu_spots.background.methods import METHODS
from gpu_spots.model import (
    Array,
    ConstantPart,
    FixedPointMean,
    IntegerMoments,
    Morphology,
    Surface,
    Validity,
)
from gpu_spots.parameters import Parameters
from helpers import assert_same, background_of, fetched, moments_of, run
from reference import find_valid, make_blocks
from reference_clip import clip_maps, levelled, levels_between

pytestmark = pytest.mark.on_two_devices

SHAPE = (9, 14)
ALL = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")


def frames_of(dtype: str, n: int, level: float, seed: int) -> np.ndarray:
    """Poisson frames with a gradient, hot and dead pixels, spots and zingers."""
    rng = np.random.default_rng(seed)
    mean = level * np.linspace(0.6, 1.4, SHAPE[1]) * np.ones(SHAPE)
    frames = rng.poisson(mean, (n, *SHAPE)).astype(np.float64)
    frames[:, 2, 3] = 0
    frames[:, 4, 9] += 40 + 10 * level
    for f in range(n):
        x, y = (3 * f) % 7, (5 * f) % 11
        frames[f, x : x + 2, y : y + 2] += 8 + 3 * level**0.5
    frames[n // 2, 8, 13] += 150
    if dtype.startswith("float"):
        return (frames * 1.37 - 3.1).astype(dtype)
    if dtype.startswith("int"):
        frames -= 5
    limits = np.iinfo(dtype)
    return np.clip(frames, limits.min, limits.max).astype(dtype)


def assert_as_reference(
    frames: np.ndarray,
    backend: Backend,
    *,
    percent: int = 25,
    cutoff: float = 3.0,
    angles: Any = None,
    pixels: np.ndarray | None = None,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, np.ndarray]:
    """Hold the maps of a run against the reference's."""
    valid = find_valid(frames, pixels, low, high)
    blocks = None if angles is None else make_blocks(angles)
    with np.errstate(all="ignore"):
        stats, _, _, _ = clip_maps(frames, valid, percent, cutoff, blocks)
    found = run(
        frames,
        Parameters.manual(method="clip", n=percent, cutoff=cutoff, angles=0),
        backend,
        None if angles is None else {"angle": np.asarray(angles, np.float64)},
        Validity(pixels, low, high),
    )
    del stats["spread"]
    assert_same(found, {f"stats/{name}": values for name, values in stats.items()})
    return found


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("level", [0.05, 3, 50])
def test_values(backend: Backend, dtype: str, level: float) -> None:
    assert_as_reference(frames_of(dtype, 21, level, 1), backend)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("level", [0.05, 30])
def test_blocks(backend: Backend, dtype: str, level: float) -> None:
    angles = np.repeat([0, 10, 20, 0, 30, 40], [3, 4, 2, 2, 5, 6])
    frames = frames_of(dtype, len(angles), level, 2)
    frames[angles == 20, 5:7, 5:7] += frames.dtype.type(37)
    assert_as_reference(frames, backend, angles=angles)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("blocks", [False, True])
def test_bias_of_a_detector(dtype: str, blocks: bool, backend: Backend) -> None:
    """Backgrounds of 1010 to 1200 counts have the noise of 10 to 200; some pixels are darker."""
    light = np.random.default_rng(12).poisson(np.linspace(10, 200, SHAPE[0])[:, None], (21, *SHAPE))
    frames = (1000 + light).astype(dtype)
    frames[:, :2, 0] = np.arange(42).reshape(21, 2) + 500
    angles = np.arange(21) // 4 if blocks else None
    found = assert_as_reference(frames, backend, angles=angles)
    # 2.3 times the light, but only 1.1 times the counts
    ratio = found["stats/noise"][-2:].mean() / found["stats/noise"][3:5].mean()
    assert ratio > 1.3


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("blocks", [False, True])
def test_gaps_and_masked_pixels(backend: Backend, dtype: str, blocks: bool) -> None:
    angles = np.repeat([0, 10, 20, 30], 5)
    frames = frames_of(dtype, 20, 20, 3)
    rng = np.random.default_rng(4)
    if frames.dtype.kind == "f":
        frames[rng.random(frames.shape) < 0.1] = np.nan
        low = high = None
    else:
        low, high = 0 if frames.dtype.kind == "i" else None, 120
        frames[rng.random(frames.shape) < 0.1] = 121
        frames[:5, 3, 3] = 125
        frames[:, 6, 6] = 122
        frames[1:, 6, 7] = 122
    pixels = rng.random(SHAPE) > 0.1
    assert_as_reference(
        frames, backend, angles=angles if blocks else None, pixels=pixels, low=low, high=high
    )


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_strips_of_rows(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbourhood of a pixel may be in another strip of rows."""
    monkeypatch.setattr(complete, "STRIP_PIXELS", 23)
    assert_as_reference(frames_of(dtype, 21, 3, 11), CpuBackend(2))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("percent", [1, 25, 60])
@pytest.mark.parametrize("blocks", [False, True])
def test_spots_on_many_frames(backend: Backend, dtype: str, percent: int, blocks: bool) -> None:
    """Up to half of the values of a pixel are excluded; some are the largest of their type."""
    frames = frames_of(dtype, 60, 20, 10)
    for x in range(SHAPE[0]):
        frames[3 * x : 6 * x + 3, x, 5:] = 100
    frames[12:15, 1:4, 2:5] = np.iinfo(dtype).max
    assert_as_reference(
        frames, backend, percent=percent, angles=np.arange(60) // 3 if blocks else None
    )


def test_sums_of_many_large_values(backend: Backend) -> None:
    """M Q and S S are beyond the whole numbers of float64."""
    rng = np.random.default_rng(11)
    frames = rng.integers(30000, 65536, (1500, 3, 4), dtype=np.uint16)
    frames[5:9, 1] = 65535
    assert_as_reference(frames, backend)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float64"])
@pytest.mark.parametrize("sizes", [None, [3] * 20, [5, 2, 4, 1] * 5])
def test_one_pixel(backend: Backend, dtype: str, sizes: list[int] | None) -> None:
    """Sums of many blocks of floats, whose order counts; blocks of one size or several."""
    frames = frames_of(dtype, 60, 20, 8)[:, 4:5, 4:5]
    if dtype == "float64":
        frames = frames * np.random.default_rng(9).uniform(0.9, 1.1, frames.shape)
    frames[:5] += frames.dtype.type(90)
    assert_as_reference(
        frames, backend, angles=None if sizes is None else np.repeat(np.arange(20), sizes)
    )


@pytest.mark.parametrize(
    ("dtype", "blocks", "is_surface", "part"),
    [
        *((dtype, blocks, False, None) for dtype in ALL for blocks in (False, True)),
        ("uint16", True, True, None),
        ("int32", False, True, None),
        ("float32", False, True, None),
        # pixels below 9 counts do not follow the level, those above 60 do twice
        *((dtype, True, False, (0.8, 20)) for dtype in ("uint16", "int32", "float32")),
        ("uint16", False, False, (0.8, 20)),
        ("int16", True, True, (0.8, 20)),
        ("float32", False, True, (-0.3, 20)),
    ],
)
def test_levelled_frames(
    backend: Backend, dtype: str, blocks: bool, is_surface: bool, part: tuple[float, float] | None
) -> None:
    """Moments of frames of different exposures, some values invalid."""
    rng = np.random.default_rng(5)
    exposure = rng.uniform(0.6, 1.5, 18)
    frames = frames_of(dtype, 18, 20, 6)
    frames = (frames * exposure[:, None, None]).astype(dtype)
    if frames.dtype.kind == "f":
        frames[rng.random(frames.shape) < 0.05] = np.nan
        high = None
    else:
        high = 125
        frames[rng.random(frames.shape) < 0.05] = 126
    frames[:, 0, 0] = frames[0, 0, 0] = 3
    assert_levelled(backend, frames, exposure, high, blocks, is_surface=is_surface, part=part)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16"])
@pytest.mark.parametrize("blocks", [False, True])
def test_levelled_values_beyond_their_type(backend: Backend, dtype: str, blocks: bool) -> None:
    """Values less the background of a bright frame span more than the type of the frames."""
    rng = np.random.default_rng(6)
    limits = np.iinfo(dtype)
    frames = rng.integers(limits.min, limits.max + 1, (18, 3, 5)).astype(dtype)
    frames[:, 1] = rng.poisson(20, (18, 5))
    assert_levelled(backend, frames, rng.uniform(0.2, 12, 18), limits.max // 8 * 7, blocks)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("high", [None, 31000])
def test_levels_that_change_few_pixels(
    backend: Backend, dtype: str, blocks: bool, high: int | None
) -> None:
    """Levels differ so little that they change values of hot pixels only."""
    rng = np.random.default_rng(8)
    exposure = rng.uniform(0.999, 1.002, 18)
    frames = frames_of(dtype, 18, 20, 6)
    frames[:, 2, 5] += (30000 * exposure + rng.normal(0, 50, 18)).astype(dtype)
    frames[:, 7, 7:9] += (300 * exposure[:, None] + rng.normal(0, 5, (18, 2))).astype(dtype)
    if high is not None:
        frames[rng.random(frames.shape) < 0.05] = 31001
    assert_levelled(backend, frames, exposure, high, blocks)


def assert_levelled(
    backend: Backend,
    frames: Array,
    exposure: Array,
    high: int | None,
    blocks: bool,
    *,
    is_surface: bool = False,
    part: tuple[float, float] | None = None,
) -> None:
    """Compare the moments of levelled frames with those of the reference."""
    levels = each = np.rint(exposure * 65536).astype(np.int64)
    surface = None
    if is_surface:
        # the band begins at row 60 of the frame, so that it has two lines of knots
        knots = np.random.default_rng(4).integers(50000, 90000, (18, 3, 2)).astype(np.int32)
        surface = Surface(knots, 6)
        each = levels_between(knots, 6, (60 + SHAPE[0], SHAPE[1]))[:, 60:]
    angles = np.repeat([0, 10, 20, 30], [4, 5, 6, 3])
    columns = {"angle": angles} if blocks else {}
    method = METHODS["clip"].for_run(Parameters.manual(), columns, len(frames), "run")
    constant_part = None if part is None else ConstantPart(*part)
    method = method.at_levels(levels, surface, constant_part).below(60)
    found = moments_of(backend, backend.upload(frames), method, Validity(high=high))
    valid = find_valid(frames, None, None, high)
    stats, _, _, _ = clip_maps(
        frames, valid, 25, 3.0, make_blocks(angles.tolist()) if blocks else None, each, part
    )
    assert np.array_equal(found.kept, stats["n_used"])
    assert np.array_equal(found.max, np.where(valid, frames, 0).max(axis=0))
    if isinstance(found, IntegerMoments):
        assert found.scatter_high is None
        spread = np.sqrt(found.scatter_low.astype(np.float64)) / np.maximum(found.kept, 1)
        assert np.array_equal((found.iqr4 / 4).astype(np.float32), stats["iqr"])
    else:
        spread = np.sqrt(found.deviation / np.maximum(found.kept, 1))
        assert np.array_equal(found.iqr.astype(np.float32), stats["iqr"])
    assert np.array_equal(spread.astype(np.float32), stats["spread"])


@pytest.mark.parametrize(
    ("dtype", "is_surface"),
    [*((dtype, False) for dtype in ALL), ("int16", True), ("float32", True)],
)
def test_frames_less_their_background(backend: Backend, dtype: str, is_surface: bool) -> None:
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 127, (3, 5, 70)).astype(dtype)
    levels: Any = np.array([65536, 40000, 130000])
    each = np.broadcast_to(levels[:, None, None], frames.shape)
    if is_surface:
        knots = rng.integers(30000, 130000, (3, 2, 3)).astype(np.int32)
        levels, each = Surface(knots, 6), levels_between(knots, 6, (5, 70))
    mean: Any = rng.uniform(-3, 90, (5, 70))
    whole = np.floor(mean)
    if frames.dtype.kind != "f":
        low = np.floor((mean - whole) * 2.0**32).astype(np.uint32)
        mean = FixedPointMean(2**32, whole.astype(np.int64), low)
    threshold = np.ones((5, 70), np.float64 if frames.dtype.kind == "f" else np.int32)
    follows = mean
    if frames.dtype.kind != "f":
        follows = whole.astype(np.int64) * 16 + mean.low // 2**28
    background = replace(background_of(threshold, frames.dtype, mean), follows=follows)
    prepared = backend.prepare(background, Morphology(0, 0, 1), None)
    validity = Validity(high=120)
    found = fetched(backend, backend.levelled(backend.upload(frames), levels, validity, prepared))
    assert found.dtype == frames.dtype
    for (f, x, y), value in np.ndenumerate(frames):
        if value > 120:
            assert np.isnan(found[f, x, y]) or found[f, x, y] == np.iinfo(dtype).max
            continue
        b = mean[x, y] if frames.dtype.kind == "f" else whole[x, y] + mean.low[x, y] / 2**32
        expected = levelled(value.item(), int(each[f, x, y]), float(b), frames.dtype)
        if frames.dtype.kind != "f":
            limits = np.iinfo(dtype)
            expected = min(max(expected, int(limits.min)), int(limits.max) - 1)
        assert found[f, x, y] == expected
