"""The background of ``-m clip`` and the noise model, against the naive reference, to the bit."""

from typing import Any

import numpy as np
import pytest

from gpu_spots.backend import Backend
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from helpers import assert_same, run
from reference import find_valid, make_blocks
from reference_clip import clip_maps

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
        Parameters(method="clip", n=percent, cutoff=cutoff, angles=0),
        backend,
        None if angles is None else {"angle": np.asarray(angles, np.float64)},
        Validity(pixels, low, high),
    )
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
