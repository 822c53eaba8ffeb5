"""Frames with spots that move from frame to frame."""

import numpy as np


def frames_of(dtype: np.dtype, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Asymmetric background, its own noise, and blobs that move from frame to frame."""
    rng = np.random.default_rng(seed)
    n_x, n_y = shape[1:]
    x, y = np.mgrid[:n_x, :n_y]
    level = 60 + 1.5 * x + 0.7 * y
    frames = rng.normal(level, 6, shape)
    for frame in frames:
        for _ in range(rng.integers(1, 4)):
            cx, cy = rng.integers(0, n_x), rng.integers(0, n_y)
            frame += rng.uniform(20, 90) * np.exp(
                -((x - cx) ** 2 / rng.uniform(1, 6) + (y - cy) ** 2 / rng.uniform(1, 9))
            )
    if dtype.kind == "f":
        return (frames / 7).astype(dtype)
    if dtype.kind == "i":
        frames -= 90
    if dtype.itemsize == 4:
        frames *= 1000
    limits = np.iinfo(dtype)
    return np.clip(np.rint(frames), limits.min, limits.max).astype(dtype)
