"""The score, on cases small enough to count by hand."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from gpu_spots.cli.score import score as command
from gpu_spots.errors import InputError
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.simulate.run import Design, Schedule, Truth, simulate_run
from gpu_spots.simulate.score import Bin, Found, score
from gpu_spots.simulate.truth import lone_spots, steady

SHAPE = (40, 50)


def truth_of(
    *spots: tuple[float, float, float, int],
    laser: bool = False,
    response: tuple[float, ...] | None = None,
) -> Truth:
    """Two blocks of two frames; a spot is X, Y, S/N and block."""
    X, Y, snr, block = (np.array(column, float) for column in zip(*spots, strict=True))
    zero = np.zeros(len(X))
    block_of_frame = np.array([0, 0, 1, 1], np.int32)
    on = np.array([0, 1, 0, 1] if laser else [0] * 4, np.int32)
    schedule = Schedule(block_of_frame, block_of_frame.astype(float), on, np.ones(4, np.int32))
    return Truth(
        SHAPE,
        schedule,
        lone_spots(
            np.column_stack([X, Y]),
            block.astype(np.int32),
            block,
            100 * snr,
            zero if response is None else np.array(response),
            np.ones((len(X), 2)),
            zero,
            snr,
        ),
        steady(schedule),
    )


def found_of(*frames: list[list[tuple[int, int]]], intensity: list[float] | None = None) -> Found:
    """For each frame its spots, each a list of pixels X, Y."""
    spots = [[x * SHAPE[1] + y for x, y in spot] for frame in frames for spot in frame]
    ends, frame_ends = (
        np.cumsum([len(s) for s in spots], dtype=np.int64),
        np.cumsum([len(f) for f in frames], dtype=np.int64),
    )
    begin_end = (
        np.column_stack([np.append(0, ends)[:-1], ends]) if spots else np.zeros((0, 2), np.int64)
    )
    pixels = np.array([pixel for spot in spots for pixel in spot], np.int32)
    values = np.array(intensity if intensity is not None else [1.0] * len(spots))
    return Found(
        SHAPE,
        np.column_stack([np.append(0, frame_ends)[:-1], frame_ends]),
        begin_end,
        pixels,
        values,
    )


def square(x: int, y: int, half: int = 1) -> list[tuple[int, int]]:
    return [(x + i, y + j) for i in range(-half, half + 1) for j in range(-half, half + 1)]


def test_spots_count_on_each_frame_of_their_block_and_in_their_bin() -> None:
    truth = truth_of((10.2, 20.4, 4.0, 0), (30.0, 8.0, 10.0, 0), (10.0, 20.0, 200.0, 1))
    result = score(
        truth,
        found_of(
            [square(10, 20)], [square(30, 8), square(10, 20)], [square(10, 20)], [square(30, 40)]
        ),
    )
    assert [(part.true, part.found) for part in result.bins] == [
        (2, 2),
        (0, 0),
        (2, 1),
        (0, 0),
        (2, 1),
    ]
    assert result.clear == Bin(10, math.inf, 4, 2)
    assert (result.n_frames, result.n_found, result.n_false, result.n_merged) == (4, 5, 1, 0)


@pytest.mark.parametrize(
    ("pixels", "is_found"),
    [
        ([(10, 20)], True),
        ([(12, 20)], True),
        ([(11, 19)], True),
        ([(12, 21)], False),
        ([(13, 20)], False),
        # A ring around the place is no find: none of its pixels is near.
        (
            [
                (10 + i, 20 + j)
                for i in range(-5, 6)
                for j in range(-5, 6)
                if max(abs(i), abs(j)) > 3
            ],
            False,
        ),
    ],
)
def test_a_pixel_within_reach_makes_a_find(pixels: list[tuple[int, int]], is_found: bool) -> None:
    result = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([pixels], [], [], []))
    assert result.clear == Bin(10, math.inf, 2, int(is_found))
    assert result.n_false == 1 - is_found


def test_reach_ends_at_the_frame() -> None:
    """Flat indices must not wrap: a pixel at the end of the row before is far away."""
    result = score(
        truth_of((10.0, 0.0, 50.0, 0), (39.0, 49.0, 50.0, 0)),
        found_of([[(9, 49)], [(39, 48)]], [], [], []),
    )
    assert (result.clear.found, result.n_false) == (1, 1)


def test_two_true_spots_in_one_are_merged_and_two_pieces_of_one_are_one_find() -> None:
    merged = score(
        truth_of((10.0, 20.0, 50.0, 0), (10.0, 26.0, 50.0, 0)),
        found_of([[(10, y) for y in range(18, 29)]], [], [], []),
    )
    assert (merged.clear.found, merged.n_found, merged.n_false, merged.n_merged) == (2, 1, 0, 1)
    broken = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([[(10, 20)], [(12, 20)]], [], [], []))
    assert (broken.clear.found, broken.n_found, broken.n_false) == (1, 2, 1)


def test_the_faintest_true_spots_are_left_out() -> None:
    result = score(truth_of((10.0, 20.0, 0.5, 0)), found_of([square(10, 20)], [], [], []))
    assert (result.n_found, result.n_false) == (1, 1)


def test_nothing_found() -> None:
    result = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([], [], [], []))
    assert result.clear == Bin(10, math.inf, 2, 0)
    assert math.isnan(result.response_correlation)


def test_response_is_compared_where_a_spot_is_found_off_and_on() -> None:
    truth = truth_of(
        *((10.0, 10.0 * i + 5, 50.0, 0) for i in range(4)),
        (30.0, 30.0, 50.0, 0),
        laser=True,
        response=(0.1, -0.1, 0.05, 0.0, 0.1),
    )
    places = [square(10, 10 * i + 5) for i in range(4)]
    on = [110.0, 90.0, 105.0, 100.0]
    result = score(
        truth,
        found_of(places, [*places, square(30, 30)], [], [], intensity=[100.0] * 4 + on + [500.0]),
    )
    assert result.response_spots == 4
    assert result.response_correlation == pytest.approx(1)


def test_another_run_is_refused() -> None:
    truth = truth_of((10.0, 20.0, 50.0, 0))
    with pytest.raises(ValueError, match=r"frames \(4, 40, 50\), the spots about \(3, 40, 50\)"):
        score(truth, found_of([], [], []))


def spots_file(path: Path, found: Found) -> Path:
    with h5py.File(path, "w") as file:
        file["stats/avg"] = np.zeros(found.shape, np.float32)
        file["frame2spotsBE"] = found.frame2spotsBE
        for name in ("pixel_list_BE", "pixel_list", "I"):
            file[f"spots/{name}"] = getattr(found, name)
        for name, columns in (
            ("XY", (2,)),
            ("box", (4,)),
            ("frame", ()),
            ("label", ()),
            ("mask", ()),
        ):
            file[f"spots/{name}"] = np.zeros((len(found.I), *columns), np.int64)
    return path


def test_command_prints_the_table(tmp_path: Path) -> None:
    run = simulate_run(Design(size=(100, 80), angles=2, repeats=2, spots=8, seed=2))
    write_run(tmp_path / "a__mccd.h5", run, compression="none")
    frames, pixels = 8, []
    for frame in range(frames):
        here = (run.truth.spots.block == run.truth.schedule.block[frame]) & (
            run.truth.spots.snr > 10
        )
        pixels.append([np.rint(xy).astype(int) @ (80, 1) for xy in run.truth.spots.XY[here]])
    pixels[0].pop()
    pixels[1].append(0)
    ends, total = np.cumsum([len(p) for p in pixels]), sum(len(p) for p in pixels)
    found = Found(
        (100, 80),
        np.column_stack([np.append(0, ends)[:-1], ends]),
        np.column_stack([np.arange(total), np.arange(1, total + 1)]),
        np.array([q for p in pixels for q in p]),
        np.ones(total),
    )
    spots = spots_file(tmp_path / "a__spots.h5", found)
    result = CliRunner().invoke(command, [str(tmp_path / "a__mccd.h5"), str(spots)])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert (
        lines[0]
        == f"found {total - 1} of {total} true spots above 10 sigma ({100 * (total - 1) / total:.1f} %)"
    )
    assert lines[2].split() == ["S/N", "true", "found", "recall"]
    assert [line.split()[:3] for line in lines[3:5]] == [["3", "-", "5"], ["5", "-", "10"]]
    assert f"{total} spots found on 8 frames" in lines[9]
    assert lines[10] == "1 of them at no true spot (0.12 per frame), 0 at more than one"


def test_command_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a__mccd.h5", simulate_run(Design(size=(64, 64), angles=1, repeats=1, spots=1))
    )
    other = spots_file(tmp_path / "b__spots.h5", found_of([], []))
    result = CliRunner().invoke(command, [str(tmp_path / "a__mccd.h5"), str(other)])
    assert isinstance(result.exception, InputError)
    assert "is not from" in str(result.exception)
    result = CliRunner().invoke(
        command, [str(tmp_path / "a__mccd.h5"), str(tmp_path / "a__mccd.h5")]
    )
    assert "not a spots file, it has no dataset frame2spotsBE" in str(result.exception)


def test_command_names_what_is_damaged(tmp_path: Path) -> None:
    run, found = tmp_path / "a__mccd.h5", found_of([square(10, 20)], [], [], [])
    write_run(run, simulate_run(Design(size=(64, 64), angles=1, repeats=1, spots=1)))

    def error(spots: Path) -> str:
        return str(CliRunner().invoke(command, [str(run), str(spots)]).exception)

    spots = spots_file(tmp_path / "b__spots.h5", found)
    with h5py.File(spots, "a") as file:
        file["spots/pixel_list"][0] = -1
    assert (
        error(spots)
        == f"{spots}: spots/pixel_list has pixels outside of the frame; the file is damaged"
    )
    with h5py.File(spots, "a") as file:
        del file["spots/pixel_list"]
    assert error(spots).startswith(f"{spots}: no spots/pixel_list;")
    with h5py.File(spots, "a") as file:
        values = file.create_dataset(
            "spots/pixel_list", data=found.pixel_list, chunks=(4,), fletcher32=True
        )
        begin = values.id.get_chunk_info(0).byte_offset
    with spots.open("r+b") as raw:
        raw.seek(begin)
        raw.write(b"\x7f")
    assert error(spots).startswith(f"{spots}: spots/pixel_list cannot be read: ")
    with h5py.File(run, "a") as file:
        del file["truth/angle"]
        file["truth/angle"] = np.zeros(7)
    assert error(spots) == (
        f"{run}: is a damaged simulated run: "
        "the lengths of its frames, columns and true spots differ"
    )
