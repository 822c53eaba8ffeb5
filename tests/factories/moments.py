"""Stacks of every kind of values, and the comparison of moments."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emulator.emulated import EmulatedToolkit
from gpu_spots.model import FloatMoments, IntegerMoments, Validity

SHORT = [np.dtype(name) for name in ("uint8", "uint16", "int16")]
KINDS = ["noise", "full range", "few values", "at the top", "smallest", "saturated"]


def frames_of(dtype: np.dtype, shape: tuple[int, ...], kind: str, seed: int = 1) -> np.ndarray:
    """Frames of one kind.

    In the noise of pixel 0 one value is above all others, in that of pixel 1 the maximum comes
    twice.
    """
    rng = np.random.default_rng([seed, *shape])
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if kind == "full range":
        if dtype.kind == "f":
            return rng.choice(
                [limits.min, limits.max, -0.0, 0.0, limits.tiny, limits.smallest_subnormal, 1.5],
                shape,
            ).astype(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    if kind == "few values":
        return rng.integers(0, 3, shape).astype(dtype)
    if kind == "at the top":  # for floats: zeros of both signs
        return (
            rng.choice([0.0, -0.0, -1.0], shape)
            if dtype.kind == "f"
            else limits.max - rng.integers(0, 3, shape)
        ).astype(dtype)
    if kind in ("smallest", "saturated"):
        return np.full(shape, limits.min if kind == "smallest" else limits.max, dtype)
    frames = rng.normal(60, 9, shape)
    flat = frames.reshape(len(frames), -1)
    flat[len(flat) // 2, 0] = 120
    flat[len(flat) // 3 :: max(1, len(flat) // 2), -1] = 119
    if dtype.kind == "i":
        frames -= 70
    return (frames / 7 if dtype.kind == "f" else np.rint(frames)).astype(dtype)


def assert_equal(
    found: IntegerMoments | FloatMoments, expected: IntegerMoments | FloatMoments
) -> None:
    """Compare every field, with its type; NaN equals NaN."""
    assert type(found) is type(expected)
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            assert ours.shape == theirs.shape, field.name
            assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"), field.name
        else:
            assert ours == theirs, field.name


def validities(frames: np.ndarray) -> list[Validity]:
    """Return validities: all values, some pixels, and some values of them."""
    pixels = np.random.default_rng(7).random(frames.shape[1:]) < 0.8
    finite = frames[np.isfinite(frames)] if frames.dtype.kind == "f" else frames
    low, high = sorted(finite.reshape(-1)[[0, -1]].tolist())
    return [Validity(), Validity(pixels), Validity(pixels, low=low), Validity(low=low, high=high)]


def band_of(toolkit: EmulatedToolkit, frames: np.ndarray) -> Any:
    """Frames as rows of a stack that is on the device: not contiguous from frame to frame."""
    stack = np.full((len(frames), frames.shape[1] + 3, frames.shape[2]), 77, frames.dtype)
    stack[:, 2:-1] = frames
    return toolkit.to_device(stack)[:, 2:-1]


def small_stacks(dtype: np.dtype) -> st.SearchStrategy[np.ndarray]:
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        special = [
            0.0,
            -0.0,
            1.0,
            0.1,
            float(limits.max),
            float(limits.min),
            float(limits.smallest_subnormal),
            math.inf,
            math.nan,
        ]
        elements: st.SearchStrategy[Any] = st.sampled_from(special) | st.floats(
            -100, 100, width=64 if dtype.itemsize == 8 else 32
        )
    else:
        integers = np.iinfo(dtype)
        elements = (
            st.integers(0, 3)
            | st.sampled_from([int(integers.min), int(integers.max)])
            | st.integers(int(integers.min), int(integers.max))
        )
    return st.integers(1, 40).flatmap(lambda n: hnp.arrays(dtype, (n, 1, 5), elements=elements))
