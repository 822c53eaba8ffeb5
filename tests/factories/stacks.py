"""Small stacks for the naive reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference import reference_run

DTYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"]


def make_stack(
    dtype: str, seed: int = 0, shape: tuple[int, int, int] = (24, 12, 15)
) -> NDArray[Any]:
    """Simulate a noisy background; every four frames share a few bright 3 x 3 spots."""
    rng = np.random.default_rng(seed)
    frames = np.rint(rng.normal(60, 4, size=shape))
    for begin in range(0, shape[0], 4):
        for _ in range(3):
            x, y = rng.integers(0, shape[1] - 2), rng.integers(0, shape[2] - 2)
            frames[begin : begin + 4, x : x + 3, y : y + 3] += rng.integers(60, 150)
    if dtype.startswith("float"):
        return (frames + rng.random(shape)).astype(dtype)
    if dtype.startswith("int"):
        frames -= 70
    if dtype == "uint32":
        frames *= 2.0**24
    limits = np.iinfo(dtype)
    return np.clip(frames, limits.min, limits.max).astype(dtype)


def one_pixel(values: Sequence[float], dtype: str, **options: Any) -> dict[str, NDArray[Any]]:
    """Run the reference on a stack of one pixel."""
    return reference_run(np.array(values, dtype=dtype).reshape(-1, 1, 1), **options)
