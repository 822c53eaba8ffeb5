"""Pixels whose values fit a byte: sorted as bytes, they have the same moments to the bit."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from cpu_fallback import clip_narrow, narrow
from cpu_fallback.background import moments
from cpu_fallback.narrow import CUT, Sorter
from gpu_spots.background import clip
from gpu_spots.background.methods import Clip
from gpu_spots.model import Array, Validity


@pytest.mark.parametrize("n", [2, 3, 8, 33, 64, 180, 300])
def test_each_pixel_is_sorted(n: int) -> None:
    """Also where rows of bytes are not multiples of eight, and there are fewer pixels than room."""
    values = np.random.default_rng(n).integers(0, 256, (n, 13)).astype(np.uint16)
    sorter = Sorter(n, 21)
    sorter.load(values, np.zeros(13, np.uint16))
    sorter.sort()
    assert np.array_equal(sorter.bytes[:, :13], np.sort(values, axis=0))
    total, square = sorter.sums(1, n, 13)
    rest = np.sort(values, axis=0)[1:].astype(np.int64)
    assert np.array_equal(total, rest.sum(axis=0))
    assert np.array_equal(square, (rest * rest).sum(axis=0))


def test_narrower_sorters_use_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels are sorted in fewer columns; too few are not."""
    monkeypatch.setattr(narrow, "FEWEST_SORTED", 16)
    sorter = Sorter(20, 100)
    assert sorter.of_pixels(51) is sorter
    fewer = sorter.of_pixels(20)
    assert fewer is not None
    assert fewer.n_pixels == 25
    assert np.shares_memory(fewer.bytes, sorter.bytes)
    assert sorter.of_pixels(12) is None
    values = np.random.default_rng(0).integers(-300, 300, (20, 20)).astype(np.int16)
    fewer.load(values, values.min(axis=0))
    fewer.sort()
    above = np.sort(values.astype(int) - values.min(axis=0), axis=0)
    assert np.array_equal(fewer.bytes[:, :20], np.minimum(above, CUT))


def frames_of(kind: str, n: int, dtype: str, rng: np.random.Generator) -> Array:
    """Return frames (n, 12, 40) with spots, and with pixels that fit a byte badly."""
    shape = (n, 12, 40)
    if kind == "photons":
        frames = rng.poisson(0.3, shape).astype(float)
    else:
        frames = rng.normal(60, {"usual": 5, "wide": 28}[kind], shape)
    spots = rng.random(shape) < 0.2 / n
    frames[spots] += rng.exponential(300, np.count_nonzero(spots))
    # strong spots on many frames or all, some of them just below or above what fits
    frames[: n // 3, 0, :10] += np.arange(10) * 60
    frames[::2, 1, :10] += 250 + np.arange(10)
    frames[:, 2] += 1e4
    frames[:, 3, ::2] = 7
    frames[0, 4, :10] = frames[1:, 4, :10].min(axis=0) + CUT - 5 + np.arange(10)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(frames), limits.min, limits.max).astype(dtype)


@pytest.mark.parametrize("levels", [None, 0.0, 0.0006, 0.03])
@pytest.mark.parametrize("by_blocks", [False, True])
@pytest.mark.parametrize("kind", ["usual", "photons", "wide"])
@pytest.mark.parametrize(
    ("n", "dtype"), [(8, "u2"), (60, "i2"), (180, "u2"), (61, "u1"), (270, "u2"), (24, "i1")]
)
def test_moments_are_those_of_sorted_rows(
    n: int,
    dtype: str,
    kind: str,
    by_blocks: bool,
    levels: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With single values or blocks left out, with and without levels and invalid values."""
    rng = np.random.default_rng(n)
    frames = frames_of(kind, n, dtype, rng)
    block = np.arange(n) // (6 if n % 6 == 0 else 2) if by_blocks else None
    n_blocks = 0 if block is None else int(block[-1]) + 1
    method = Clip(clip.start_table(n, 25), block, clip.block_shifts(n_blocks))
    if levels is not None:
        method = method.at_levels(
            np.rint(65536 * (1 + levels * rng.standard_normal(n))).astype(np.int64)
        )
    narrowed = []
    made = clip_narrow.Narrow

    def counted(*given: Any) -> clip_narrow.Narrow:
        narrowed.append(given)
        return made(*given)

    monkeypatch.setattr(clip_narrow, "Narrow", counted)
    for validity in (Validity(), Validity(low=2, high=115)):
        monkeypatch.setattr(clip_narrow, "ROOMY", 1.4)
        found = moments(frames, method, validity)
        monkeypatch.setattr(clip_narrow, "ROOMY", np.inf)
        expected = moments(frames, method, validity)
        for field in fields(expected):
            values, right = getattr(found, field.name), getattr(expected, field.name)
            assert np.array_equal(values, right), field.name
            assert np.asarray(values).dtype == np.asarray(right).dtype, field.name
    assert narrowed or kind == "wide"
