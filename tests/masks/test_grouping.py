"""Angles and laser states: blocks, pairs, and how metadata is read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_spots.backend import Backend
from gpu_spots.errors import InputError
from gpu_spots.masks import grouping
from gpu_spots.parameters import Parameters
from helpers import Notes, run

OFF, ON = False, True


def pairs_of(angles: list[float], states: list[bool]) -> list[list[int]]:
    """The frames of each mask."""
    keys = grouping.angle_keys({"angle": np.array(angles)}, len(angles), "run")
    found = grouping.pairs(keys, np.array(states))
    assert found.n_masks == found.mask_of_frame.max() + 1
    members = [
        np.flatnonzero(found.mask_of_frame == mask).tolist() for mask in range(found.n_masks)
    ]
    assert found.n_unpaired == sum(len(frames) == 1 for frames in members)
    return members


@pytest.mark.parametrize(
    ("states", "masks"),
    [
        ([OFF, ON, OFF, ON], [[0, 1], [2, 3]]),
        ([ON, OFF, ON, OFF], [[0, 1], [2, 3]]),
        ([OFF, OFF, ON, ON], [[0], [1, 2], [3]]),
        ([OFF, ON, OFF], [[0, 1], [2]]),
        ([OFF, ON, ON, OFF], [[0, 1], [2, 3]]),
        ([ON, ON, ON], [[0], [1], [2]]),
        ([OFF], [[0]]),
    ],
)
def test_pairs_in_one_block(states: list[bool], masks: list[list[int]]) -> None:
    assert pairs_of([1.0] * len(states), states) == masks


def test_pairs_stay_inside_their_block() -> None:
    assert pairs_of([1, 2, 1, 2], [OFF, ON, ON, OFF]) == [[0, 2], [1, 3]]


def test_masks_are_numbered_by_their_first_frame() -> None:
    assert pairs_of([1, 2, 2, 1], [OFF, OFF, ON, ON]) == [[0, 3], [1, 2]]


def test_an_interlaced_run_has_the_pairs_of_each_pass() -> None:
    passes = (
        [0.0, 2.0, 4.0],
        [1.0, 3.0],
        [2.0, 0.0],
    )  # the last one comes back to angles of the first
    angles = [angle for one in passes for angle in one for _ in range(2)]
    assert pairs_of(angles, [OFF, ON] * 7) == [[frame, frame + 1] for frame in range(0, 14, 2)]
    found = grouping.blocks(grouping.angle_keys({"angle": np.array(angles)}, 14, "run"))
    assert found.mask_of_frame.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 0, 0]


def test_a_pair_may_be_split_over_passes() -> None:
    assert pairs_of([0, 1, 2, 0, 1, 2], [OFF, OFF, ON, ON, OFF, OFF]) == [[0, 3], [1], [2, 5], [4]]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30))
def test_pairs_hold_their_definition(frames: list[tuple[int, bool]]) -> None:
    angles, states = [float(angle) for angle, _ in frames], [state for _, state in frames]
    masks = pairs_of(angles, states)
    assert sorted(frame for mask in masks for frame in mask) == list(range(len(frames)))
    assert [mask[0] for mask in masks] == sorted(mask[0] for mask in masks)
    mask_of = {frame: tuple(mask) for mask in masks for frame in mask}
    for frame, (angle, state) in enumerate(zip(angles, states, strict=True)):
        before = [other for other in range(frame) if angles[other] == angle]
        joins = (
            bool(before)
            and states[before[-1]] != state
            and mask_of[before[-1]] in {(before[-1],), (before[-1], frame)}
        )
        assert (mask_of[frame][0] != frame) == joins


def test_a_block_is_all_frames_of_an_angle_also_where_it_comes_back() -> None:
    keys = grouping.angle_keys({"angle": np.array([5.0, 1.0, 3.0, 1.0, 5.0])}, 5, "run")
    found = grouping.blocks(keys)
    assert found.mask_of_frame.tolist() == [0, 1, 2, 1, 0]
    assert found.n_masks == 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (10.0004, 10.0, True),
        (10.0006, 10.0, False),
        (-0.0004, 0.0, True),
        (359.9999, 360.0, True),
        (0.0, 360.0, False),
    ],
)
def test_angles_are_equal_to_a_thousandth_of_a_degree(one: float, other: float, same: bool) -> None:
    keys = grouping.angle_keys({"angle": np.array([one, other])}, 2, "run")
    assert (keys[0] == keys[1]) == same


@pytest.mark.parametrize("values", [[b"1.5", b"2"], ["1.5", "2"], [1.5, 2]])
def test_angles_may_be_text(values: list[Any]) -> None:
    assert grouping.angle_keys({"angle": np.array(values)}, 2, "run").tolist() == [1500, 2000]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"laser_on": np.array([0, 1, 1])}, [OFF, ON, ON]),
        ({"laser_on": np.array([False, True, True])}, [OFF, ON, ON]),
        ({"laser_on": np.array([0.0, 1.0, 1.0])}, [OFF, ON, ON]),
        ({"laser_on": np.array(["off", "on", "ON "])}, [OFF, ON, ON]),
        ({"laser_on": np.array([b"0", b"1", b"on"], object)}, [OFF, ON, ON]),
        ({"delay": np.array(["-", "100ps", "1us"])}, [OFF, ON, ON]),
        ({"delay": np.array([b"off", b"0", b" "], object)}, [OFF, ON, OFF]),
        ({"delay": np.array([np.nan, 1e-10, 0.0])}, [OFF, ON, ON]),
        (
            {"file": np.array(["e074a_off1_011.mccd", "e074a_on1_012.mccd", "e074a_on2_013.mccd"])},
            [OFF, ON, ON],
        ),
        (
            {
                "file": np.array(
                    [b"/data/on/s_45.000_off_1.mccd", b"C:\\on\\s_1_ON.mccd", b"on_off_on.mccd"],
                    object,
                )
            },
            [OFF, ON, ON],
        ),
        ({"laser_on": np.array([1, 0, 0]), "delay": np.array(["-", "1", "1"])}, [ON, OFF, OFF]),
        (
            {"delay": np.array(["1", "-", "-"]), "file": np.array(["off", "on", "on"])},
            [ON, OFF, OFF],
        ),
    ],
)
def test_laser_states_are_read_from_the_first_column_that_tells(
    columns: dict[str, Any], expected: list[bool]
) -> None:
    states = grouping.laser_states(columns, 3, "run")
    assert states is not None
    assert states.tolist() == expected


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"file": np.array(["a_1.mccd", "a_2.mccd"])},
        {"file": np.array(["balcony.mccd", "a_on.mccd"])},
    ],
)
def test_where_nothing_tells_the_state_is_unknown(columns: dict[str, Any]) -> None:
    assert grouping.laser_states(columns, 2, "run") is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"angle": np.array([1.0])},
            r"run: lauecollect/angle has shape \(1,\), expected one value for each of the 2 frames",
        ),
        (
            {"angle": np.array([1.0, np.nan])},
            "run: lauecollect/angle is 'nan' at frame 1, expected degrees",
        ),
        ({"angle": np.array(["1.0", "north"])}, "run: lauecollect/angle"),
        ({}, "run: lauecollect/angle is missing"),
    ],
)
def test_angles_that_are_none_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grouping.angle_keys(columns, 2, "run")


def test_a_laser_state_that_is_none_is_named() -> None:
    with pytest.raises(
        InputError, match="run: lauecollect/laser_on is '2' at frame 1, expected 0, 1, off or on"
    ):
        grouping.laser_states({"laser_on": np.array([0, 2])}, 2, "run")


@pytest.mark.parametrize(("n_angles", "at_least"), [(3, 3), (3, 1), (1, 0)])
def test_enough_angles_pass(n_angles: int, at_least: int) -> None:
    grouping.check_angles({"angle": np.arange(6) % n_angles}, 6, at_least, "run")


def test_too_few_angles_are_counted_and_the_way_out_is_named() -> None:
    with pytest.raises(
        InputError,
        match=r"has 3 different angles, expected at least 10 \(angles\); use angles=0 to skip this "
        r"check",
    ):
        grouping.check_angles({"angle": np.arange(6) % 3}, 6, 10, "run")


@pytest.mark.parametrize("sync", ["pairs", "blocks"])
@pytest.mark.parametrize(
    ("columns", "known"),
    [
        (
            {"angle": np.arange(8.0)},
            "lauecollect has no laser_on, delay or file column with the laser states",
        ),
        (
            {"angle": np.arange(8.0), "laser_on": np.zeros(8, int)},
            "all 8 frames have the laser off",
        ),
        ({"angle": np.arange(8.0), "delay": np.arange(8.0)}, "all 8 frames have the laser on"),
    ],
)
def test_a_dark_run_has_nothing_to_synchronise(
    backend: Backend, sync: str, columns: dict[str, Any], known: str
) -> None:
    with pytest.raises(
        InputError,
        match=f"sync='{sync}' needs a laser run, with frames of both laser states; {known}",
    ):
        run(
            np.zeros((8, 4, 4), np.uint16), Parameters.manual(angles=0, sync=sync), backend, columns
        )


def test_frames_without_a_partner_are_counted_in_one_warning(backend: Backend) -> None:
    notes = Notes()
    columns = {"angle": np.repeat([1.0, 2.0], 4), "laser_on": np.array([0, 0, 1, 1, 0, 1, 0, 1])}
    found = run(
        np.zeros((8, 4, 4), np.uint16),
        Parameters.manual(angles=0, sync="pairs"),
        backend,
        columns,
        notes=notes,
    )
    assert found["masks_synced"].shape == (5, 4, 4)
    assert notes.warnings == [
        "2 of 8 frames have no off/on partner at their angle and keep a mask of their own"
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"angle": np.ones(8), "laser_on": np.arange(8) % 2},
            "all 8 frames are at one angle, method='kruskal' needs at least 2 angles",
        ),
        (
            {"angle": np.array([1.0] * 7 + [9.5]), "laser_on": np.arange(8) % 2},
            "only frame 7 is at 9.5 degrees, method='kruskal' needs at least 2",
        ),
        ({"angle": np.arange(8) // 2}, "method='kruskal' needs a laser run"),
    ],
)
def test_kruskal_needs_blocks_that_can_be_compared(
    backend: Backend, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(
            np.zeros((8, 4, 4), np.uint16),
            Parameters.manual(angles=0, method="kruskal"),
            backend,
            columns,
        )


def test_kruskal_with_two_blocks_warns_that_nothing_can_be_rejected(backend: Backend) -> None:
    notes = Notes()
    frames = np.random.default_rng(1).poisson(100, (8, 4, 4)).astype(np.uint16)
    columns = {"angle": np.arange(8) // 4, "laser_on": np.arange(8) % 2}
    found = run(
        frames, Parameters.manual(angles=0, method="kruskal"), backend, columns, notes=notes
    )
    assert (found["stats/n_used"] == 8).all()
    assert len(notes.warnings) == 1
    assert "found 2 blocks, method='kruskal' needs at least 3" in notes.warnings[0]


@pytest.mark.parametrize("angle", [1.1e12, -1.1e12, 1e30, np.inf, np.nan])
def test_an_angle_that_is_no_angle_is_refused(angle: float) -> None:
    with pytest.raises(
        InputError, match=r"run: lauecollect/angle is .* at frame 1, expected degrees"
    ):
        grouping.angle_keys({"angle": np.array([1.0, angle])}, 2, "run")
    assert grouping.angle_keys({"angle": np.array([1e12, -1e12])}, 2, "run").tolist() == [
        10**15,
        -(10**15),
    ]
