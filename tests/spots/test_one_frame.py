"""Spots that stand out on one frame: zingers of several pixels, but no responses to the laser."""

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots.columns import Flag
from gpu_spots.parameters import Parameters
from gpu_spots.spots.one_frame import stand_out
from helpers import run

PLACES = ((12, 12), (12, 40), (40, 12))
"""Spots without a response, with a zinger, and with a response."""
EMPTY = (40, 40)
"""Place of a zinger without a spot."""
COLUMNS = {"angle": np.repeat([10.0, 20.0, 30.0, 40.0], 6), "laser_on": np.tile([0, 1], 12)}


def frames_with(zinger: tuple[int, int], responses: list[float]) -> np.ndarray:
    """Return four blocks of three pairs; the first has zingers of that shape on frame 3.

    ``responses``: of the spot at the last of `PLACES` on the laser-on frames of the first block.
    """
    frames = np.random.default_rng(8).poisson(100, (24, 56, 56)).astype(np.int64)
    spot = np.exp(-((np.arange(9) - 4) ** 2) / 4)
    spot = np.rint(200 * np.outer(spot, spot)).astype(np.int64)
    for frame in range(6):
        for place, (x, y) in enumerate(PLACES):
            scale = 1.0
            if place == 2 and frame % 2:
                scale += responses[frame // 2]
            frames[frame, x - 4 : x + 5, y - 4 : y + 5] += np.rint(scale * spot).astype(np.int64)
    for x, y in (PLACES[1], EMPTY):
        frames[3, x : x + zinger[0], y : y + zinger[1]] += 4000
    return frames.astype(np.uint16)


@pytest.mark.parametrize("zinger", [(2, 2), (3, 3), (1, 5), (7, 2)])
@pytest.mark.parametrize("normalise", ["none", "level"])
def test_large_zingers_stand_out_and_strong_responses_do_not(
    zinger: tuple[int, int], normalise: str
) -> None:
    # the last on frame has another delay, and a large response of its own
    frames = frames_with(zinger, [0.3, -0.5, 0.9])
    parameters = Parameters(angles=0, normalise=normalise, sync="blocks")
    found = run(frames, parameters, CpuBackend(1), COLUMNS)
    out = (found["spots/flags"] & Flag.ONE_FRAME) > 0
    assert set(found["spots/frame"][out].tolist()) == {3}
    near = found["spots/centroid"][out]
    for place in (PLACES[1], EMPTY):
        assert (np.hypot(*(near - place).T) < 5).any()
    in_block = found["spots/frame"] < 6
    response = np.hypot(*(found["spots/centroid"] - PLACES[2]).T) < 3
    assert (response & in_block).sum() == 6
    assert not (response & out).any()


def test_pairs_tell_nothing() -> None:
    """A zinger on one of two frames could be the response."""
    frames = frames_with((3, 3), [0.0] * 3)
    found = run(frames, Parameters(angles=0, sync="pairs"), CpuBackend(1), COLUMNS)
    assert not (found["spots/flags"] & Flag.ONE_FRAME).any()


def test_limits() -> None:
    mask, label = np.zeros(9, np.int32), np.repeat([1, 2, 3], 3).astype(np.int32)
    intensity = np.array([10.0, 28.1, 10.0, 10.0, 28.0, 9.0, -5.0, 7.9, -6.0])
    found = stand_out(mask, label, intensity, np.ones(9))
    assert np.flatnonzero(found).tolist() == [1]
    assert not stand_out(mask, label, intensity, np.full(9, np.nan)).any()
    # two frames only
    assert not stand_out(mask[:2], label[:2], np.array([0.0, 1000.0]), np.ones(2)).any()
