"""The defaults of ``gpu-spots find`` on runs that are not as they should be."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpu_fallback import CpuBackend
from gpu_spots.backend import Backend
from gpu_spots.background.clipped_levels import ClippedLevelSampler
from gpu_spots.background.methods import METHODS
from gpu_spots.errors import InputError
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from helpers import Notes, assert_same, run

SHAPE = (48, 66)
N = 12
COLUMNS = {"angle": np.repeat(np.arange(4.0), 3), "laser_on": np.arange(N) % 2}


def series(
    background: float, dark: list[int], dtype: str = "uint16", bias: float = 0.0
) -> NDArray[Any]:
    """Frames with two spots each; those without beam have the bias only."""
    rng = np.random.default_rng(5)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = []
    for i in range(N):
        mean = np.full(SHAPE, background)
        for cx, cy in rng.uniform(7, np.array(SHAPE) - 7, (2, 2)):
            mean += 40 * (background**0.5 + 1) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3) / 9.4
        frames.append(rng.poisson(bias + (i not in dark) * mean * (1 + 0.02 * (i % 3))))
    return np.array(frames).astype(dtype)


@pytest.mark.parametrize("sync", ["none", "blocks"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_frames_without_beam_are_left_out(backend: Backend, sync: str, dtype: str) -> None:
    """Frames 3 to 5 are a whole block. The background is that of the other frames."""
    frames = series(50, [1, 3, 4, 5], dtype)
    notes = Notes()
    found = run(frames, Parameters(angles=0, sync=sync), backend, COLUMNS, observer=notes)
    if backend.name != "cpu":
        expected = run(frames, Parameters(angles=0, sync=sync), CpuBackend(1), COLUMNS)
        assert_same(found, expected)
    n_spots = np.diff(found["frame2spotsBE"], axis=1).ravel()
    assert not n_spots[[1, 3, 4, 5]].any()
    assert np.all(n_spots[[0, 2, 6, 7, 8, 9, 10, 11]] >= 1)
    assert np.isnan(found["per_frame/scale"]).nonzero()[0].tolist() == [1, 3, 4, 5]
    assert found["per_frame/level"][1] == 0
    assert np.median(found["stats/avg"]) == pytest.approx(51, abs=1)
    assert len([text for text in notes.warnings if "frames 1, 3, 4, 5," in text]) == 1
