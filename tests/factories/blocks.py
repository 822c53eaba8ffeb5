"""Stacks of blocks, and the moments that the reference computes of them."""

import math
from collections.abc import Sequence

import numpy as np

from gpu_spots.model import FloatMoments, IntegerMoments, Validity
from reference import group_by_first_seen
from reference_kruskal import critical_value, kruskal_keep

EQUAL = np.repeat(np.arange(6), 5)
INTERLACED = np.arange(28) % 7
UNEQUAL = np.repeat(np.arange(5), [3, 9, 5, 7, 6])
BACK_AGAIN = np.repeat([0, 1, 0, 2, 3, 1, 4], [3, 3, 4, 6, 4, 3, 7])


def critical_values(alpha: float, n_blocks: int) -> np.ndarray:
    return np.array([critical_value(alpha, b) if b > 2 else math.inf for b in range(n_blocks + 1)])


def frames_of(
    dtype: np.dtype, block_of_frame: np.ndarray, shape: tuple[int, int], seed: int
) -> np.ndarray:
    """Noise, blocks that are brighter in some pixels, columns of many ties, and constant pixels."""
    rng = np.random.default_rng(seed)
    n_blocks = int(block_of_frame.max()) + 1
    frames = (
        rng.normal(90, 5, (len(block_of_frame), *shape))
        + rng.exponential(20, (n_blocks, *shape))[block_of_frame]
    )
    frames[:, :, 1] = np.rint(frames[:, :, 1] / 8)
    frames[:, :, 2] = rng.integers(0, 2, frames[:, :, 2].shape)
    frames[:, 0, :3] = 7
    if dtype.kind == "f":
        return (frames / 7).astype(dtype)
    if dtype.kind == "i":
        frames -= 80
    frames = np.rint(frames)
    if dtype.itemsize > 1:
        frames[:, :, 3] *= 2 ** (8 * dtype.itemsize - 9)
    return np.clip(frames, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def assert_equals_reference(
    moments: IntegerMoments | FloatMoments,
    frames: np.ndarray,
    block_of_frame: np.ndarray,
    alpha: float,
    validity: Validity | None = None,
) -> None:
    """Compare every field of every pixel with the sample of the reference."""
    validity = validity or Validity()
    assert moments.dropped is not None
    assert moments.dropped.dtype == moments.kept.dtype == moments.arg.dtype == np.int32
    assert moments.max.dtype == frames.dtype
    gaps = False
    for pixel in np.ndindex(frames.shape[1:]):
        values = frames[:, *pixel].tolist()
        excluded = validity.pixels is not None and not validity.pixels[pixel]
        valid = [not excluded and math.isfinite(value) for value in values]
        valid = [
            v and (validity.low is None or x >= validity.low)
            for v, x in zip(valid, values, strict=True)
        ]
        valid = [
            v and (validity.high is None or x <= validity.high)
            for v, x in zip(valid, values, strict=True)
        ]
        gaps |= any(valid) and not all(valid)
        by_block = group_by_first_seen(block_of_frame.tolist())
        groups = [
            group
            for block in by_block
            if (group := [values[frame] for frame in block if valid[frame]])
        ]
        left = kruskal_keep(groups, alpha)
        sample = sorted(value for position in left for value in groups[position])
        m = len(sample) if len(sample) > 1 else 0
        assert moments.kept[pixel] == m, pixel
        assert moments.dropped[pixel] == (len(groups) - len(left) if m else 0)
        largest = max((value for value, good in zip(values, valid, strict=True) if good), default=0)
        assert moments.max[pixel] == (largest if m else 0)
        first = next((i for i, value in enumerate(values) if valid[i] and value == largest), 0)
        assert moments.arg[pixel] == (first if m else 0)
        assert_sample(moments, pixel, sample if m else [])
    assert moments.gaps == gaps


def assert_sample(
    moments: IntegerMoments | FloatMoments, pixel: tuple[int, ...], sample: Sequence[float]
) -> None:
    """The statistics of one ascending sample."""
    m = len(sample)
    quartiles = np.percentile(np.array(sample, np.float64), [75, 25]) if m else np.zeros(2)
    if isinstance(moments, FloatMoments):
        total = deviation = 0.0
        for value in sample:
            total += value
        average = sample[0] if m and sample[0] == sample[-1] else total / max(m, 1)
        for value in sample:
            deviation += (value - average) * (value - average)
        assert (moments.average[pixel], moments.deviation[pixel], moments.iqr[pixel]) == (
            average,
            deviation,
            quartiles[0] - quartiles[1],
        )
        return
    scatter = m * sum(int(value) ** 2 for value in sample) - sum(sample) ** 2
    high = 0 if moments.scatter_high is None else int(moments.scatter_high[pixel])
    assert (moments.total[pixel], high * 2**64 + int(moments.scatter_low[pixel])) == (
        sum(sample),
        scatter,
    )
    assert moments.iqr4[pixel] == 4 * (quartiles[0] - quartiles[1])
