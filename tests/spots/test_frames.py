"""Columns of each frame that follow from the metadata."""

import math
from typing import Any

import numpy as np
import pytest

from gpu_spots.backend import Backend
from gpu_spots.parameters import Parameters
from gpu_spots.spots.frames import delay_warning, frame_columns, seconds
from helpers import run

N = 6


def columns_of(**columns: Any) -> dict[str, list[Any]]:
    """Return the columns by name, as lists."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return {
        path.removeprefix("per_frame/"): values.tolist()
        for path, values in frame_columns(arrays, N, "run.h5").items()
    }


def same(found: list[Any], expected: list[Any]) -> bool:
    return np.array_equal(found, expected, equal_nan=True)


def test_pairs_blocks_and_delays() -> None:
    found = columns_of(
        angle=[2.0, 2.0, 1.0, 2.0, 1.0, 1.0],
        laser_on=[0, 1, 1, 1, 0, 1],
        delay=["-", "100ps", "1.5us", "on", "5ns", "-2 ns"],
    )
    assert found["angle"] == [2.0, 2.0, 1.0, 2.0, 1.0, 1.0]
    assert found["laser_on"] == [0, 1, 1, 1, 0, 1]
    assert found["block"] == [0, 0, 1, 0, 1, 1]
    # frame 3 finds frame 1 taken, and frame 5 finds frame 4 taken
    assert found["partner"] == [1, 0, 4, -1, 2, -1]
    # no delay while the laser is off, whatever the log says
    assert same(found["delay"], [0.0, 1e-10, 1.5e-6, math.nan, 0.0, -2e-9])


def test_numbers_are_seconds() -> None:
    found = columns_of(delay=[math.nan, 1e-9, math.nan, 2e-9, 3e-9, -1e-9])
    assert found["delay"] == [0.0, 1e-9, 0.0, 2e-9, 3e-9, -1e-9]
    assert found["laser_on"] == [0, 1, 0, 1, 1, 1]
    assert found["partner"] == found["block"] == [-1] * N


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"angle": [1.0, 2.0], "laser_on": [0, 1]},
        {"angle": ["a"] * N, "laser_on": ["maybe"] * N},
    ],
    ids=["missing", "too short", "not understood"],
)
def test_what_is_not_known_says_so(columns: dict[str, Any]) -> None:
    found = columns_of(**columns)
    assert same(found["angle"], [math.nan] * N)
    assert same(found["delay"], [math.nan] * N)
    assert found["laser_on"] == found["block"] == found["partner"] == [-1] * N


def test_a_dark_run_has_blocks_and_no_partners() -> None:
    found = columns_of(angle=[1.0, 1.0, 2.0, 2.0, 3.0, 1.0], laser_on=[0] * N)
    assert found["block"] == [0, 0, 1, 1, 2, 0]
    assert found["partner"] == [-1] * N
    assert found["delay"] == [0.0] * N


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100ps", 1e-10),
        (b"3fs", 3e-15),
        (" .5 \N{MICRO SIGN}s ", 5e-7),
        ("1e3ns", 1e-6),
        ("+2", 2.0),
        ("10 MS", 0.01),
        (7, 7.0),
        ("", math.nan),
        ("5 min", math.nan),
        ("-", math.nan),
        ("ps", math.nan),
    ],
)
def test_texts_of_delays(text: object, expected: float) -> None:
    assert same([seconds(text)], [expected])


def test_delays_of_a_wrong_length_are_told() -> None:
    """A frame too many in the log: the states are known, the delays are not."""
    columns = {"laser_on": np.array([0, 1] * 3), "delay": np.array(["1ns"] * 7, object)}
    assert delay_warning(columns, N, "run.h5") == (
        "run.h5: lauecollect/delay has shape (7,), expected one value for each of the 6 frames; "
        "delays are unknown"
    )
    assert same(columns_of(**columns)["delay"], [0.0, math.nan] * 3)
    assert delay_warning({"delay": columns["delay"][:N]}, N, "run.h5") is None
    assert delay_warning({}, N, "run.h5") is None


def test_the_group_of_a_run(backend: Backend) -> None:
    frames = np.random.default_rng(3).poisson(50, (N, 20, 30)).astype(np.uint16)
    frames[2, 5:9, 5:9] += 500
    columns = {"angle": np.repeat([1.0, 2.0], 3), "laser_on": np.array([0, 1, 0, 1, 0, 1])}
    found = run(frames, Parameters.manual(angles=0, sync="pairs"), backend, columns)
    assert found["per_frame/mask"].tolist() == [0, 0, 1, 2, 2, 3]
    assert found["per_frame/partner"].tolist() == [1, 0, -1, 4, 3, -1]
    ranges = found["frame2spotsBE"]
    assert found["per_frame/n_spots"].tolist() == (ranges[:, 1] - ranges[:, 0]).tolist()
    assert found["per_frame/scale"].tolist() == [1.0] * N
    assert found["per_frame/level"].shape == (N,)
