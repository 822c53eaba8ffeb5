"""Runs with spots of different strengths, and their spots files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from helpers import command

N_ANGLES, PER_ANGLE = 10, 4
SHAPE = 60, 84


def spotty(dtype: Any = np.uint16, seed: int = 3, *, drift: bool = True) -> np.ndarray:
    """40 frames of 60 x 84: 10 angles with 4 frames each, spots of all strengths at each angle."""
    rng = np.random.default_rng(seed)
    n_frames = N_ANGLES * PER_ANGLE
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rate = np.full((n_frames, *SHAPE), 60.0) + 20 * np.exp(-((x - 30) ** 2 + (y - 40) ** 2) / 800)
    if drift:
        rate *= (1 + 0.05 * np.sin(np.arange(n_frames)))[:, None, None]
    for angle in range(N_ANGLES):
        for strength in (20, 40, 60, 90, 140, 250, 600):
            x0, y0 = rng.uniform(4, 56), rng.uniform(4, 80)
            peak = strength * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 3)
            rate[angle * PER_ANGLE : (angle + 1) * PER_ANGLE] += peak
    frames = rng.poisson(rate)
    # some values are invalid on some frames
    frames[5, 10, 12] = frames[17, 30, 31] = 65535
    return frames.astype(dtype)


def columns() -> dict[str, np.ndarray]:
    """Angle and laser state of the frames."""
    n_frames = N_ANGLES * PER_ANGLE
    return {
        "angle": np.arange(n_frames) // PER_ANGLE * 1.5,
        "laser_on": np.arange(n_frames) % 2,
    }


def run_and_spots(
    folder: Path, *options: object, name: str = "run", frames: np.ndarray | None = None
) -> tuple[Path, Path]:
    """A run, and the spots file that ``gpu-spots find`` makes of it."""
    run, spots = folder / f"{name}__mccd.h5", folder / f"{name}__spots.h5"
    with h5py.File(run, "w") as file:
        file["frames"] = spotty() if frames is None else frames
        for key, values in columns().items():
            file[f"lauecollect/{key}"] = values
    ended = command("find", run, "--quiet", *options, name="gpu-spots")
    assert ended.status == 0, ended.stderr
    return run, spots
