"""The score, on cases small enough to count by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from gpu_spots.cli.score import score as command
from gpu_spots.files.output import new_plot
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.simulate.run import Design, Schedule, Truth, simulate_run
from gpu_spots.simulate.score import Found, match, score
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


def found_of(
    *frames: list[list[tuple[int, int]]],
    intensity: list[float] | None = None,
    sigma: NDArray[np.float64] | None = None,
) -> Found:
    """Spots of each frame, each a list of pixels X, Y."""
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
    centres = [np.mean(spot, axis=0) for frame in frames for spot in frame]
    return Found(
        SHAPE,
        np.column_stack([np.append(0, frame_ends)[:-1], frame_ends]),
        np.array(centres, float).reshape(-1, 2),
        values,
        sigma,
        begin_end,
        pixels,
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
        *[(2, 2), (0, 0), (0, 0), (2, 1), (0, 0), (0, 0), (2, 1)]
    ]
    assert (result.clear.low, result.clear.true, result.clear.found) == (10, 4, 2)
    assert (result.n_frames, result.n_found, result.n_false, result.n_merged) == (4, 5, 1, 0)
    assert (result.n_genuine, result.precision) == (4, 0.8)


@pytest.mark.parametrize(
    ("pixels", "is_found"),
    [
        ([(10, 20)], True),
        ([(12, 20), (12, 22)], True),  # centre 2.2 pixels away
        ([(10, 23)], True),
        ([(12, 23)], False),
        ([(14, 20)], False),
    ],
)
def test_a_centre_within_reach_makes_a_find(pixels: list[tuple[int, int]], is_found: bool) -> None:
    result = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([pixels], [], [], []))
    assert (result.clear.true, result.clear.found) == (2, int(is_found))
    assert result.n_fragments + result.n_false == 1 - is_found


def test_reach_is_the_sigma_of_large_spots() -> None:
    truth = truth_of((10.0, 20.0, 50.0, 0))
    large = replace(truth, spots=replace(truth.spots, sigma=np.array([[5.0, 2.0]])))
    found = found_of([[(14, 20)]], [], [], [])
    assert score(truth, found).clear.found == 0
    assert score(large, found).clear.found == 1


def test_true_and_found_spots_come_together_one_to_one_the_nearest_first() -> None:
    true = np.array([[10.0, 10.0], [10.0, 13.0]])
    found = np.array([[10.0, 12.0], [10.0, 14.5], [30.0, 30.0]])
    mine, distance, near = match(true, np.ones(2), found)
    assert mine.tolist() == [-1, 0]
    assert distance[1] == 1
    assert near.tolist() == [False, True, False]
    mine, _, near = match(true, np.ones(2), found[:0])
    assert (mine.tolist(), near.tolist()) == ([-1, -1], [])


def test_a_mask_with_two_true_spots_merges_them_and_pieces_are_fragments() -> None:
    merged = score(
        truth_of((10.0, 20.0, 50.0, 0), (10.0, 25.0, 50.0, 0)),
        found_of([[(10, y) for y in range(17, 29)]], [], [], []),
    )
    assert (merged.clear.found, merged.n_found, merged.n_false) == (1, 1, 0)
    assert merged.n_merged == 1
    broken = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([[(10, 20)], [(12, 20)]], [], [], []))
    assert (broken.clear.found, broken.n_found, broken.n_fragments, broken.n_false) == (1, 2, 1, 0)


def test_without_pixels_merges_are_not_counted() -> None:
    found = replace(found_of([square(10, 20)], [], [], []), pixel_list=None, pixel_list_BE=None)
    result = score(truth_of((10.0, 20.0, 50.0, 0)), found)
    assert (result.clear.found, result.n_merged) == (1, None)


def test_pairs_of_neighbours_are_resolved_if_both_are_found() -> None:
    truth = truth_of((10.0, 20.0, 50.0, 0), (10.0, 28.0, 50.0, 0))
    truth = replace(truth, spots=replace(truth.spots, partner=np.array([1, 0], np.int32)))
    result = score(truth, found_of([square(10, 20), square(10, 28)], [square(10, 24)], [], []))
    assert (result.n_pairs, result.n_resolved) == (2, 1)


def test_found_spots_at_static_ones_are_not_false() -> None:
    truth = truth_of((10.0, 20.0, 50.0, 0))
    conditions = replace(truth.conditions, static=np.array([[30.0, 30.0]]), static_radius=4.0)
    found = found_of([square(30, 31), square(20, 40)], [], [], [])
    result = score(replace(truth, conditions=conditions), found)
    assert (result.n_static, result.n_false, result.precision) == (1, 1, 0)


def test_spots_move_with_the_crystal() -> None:
    truth = truth_of((10.0, 20.0, 50.0, 0))
    shift = np.array([[0, 0], [8, 0], [8, 0], [8, 0]], float)
    moved = replace(truth, conditions=replace(truth.conditions, shift=shift))
    found = found_of([square(10, 20)], [square(18, 20)], [], [])
    assert score(truth, found).clear.found == 1
    assert score(moved, found).clear.found == 2


def test_intensities_positions_and_pulls_are_compared_with_the_true_ones() -> None:
    """100 spots of 5000 counts on two frames, the second of which is half as bright."""
    rng = np.random.default_rng(2)
    places = [(4.0 * i + 2, 5.0 * j + 2, 50.0, 0) for i in range(10) for j in range(10)]
    truth = truth_of(*places)
    scale = np.array([1.0, 0.5, 1.0, 1.0])
    spots = replace(truth.spots, fraction=np.full(100, 0.8))
    conditions = replace(truth.conditions, spot_scale=scale)
    truth = replace(truth, spots=spots, conditions=conditions)
    squares = [square(round(x), round(y)) for x, y, _, _ in places]
    true = np.repeat([4000.0, 2000.0], 100)
    sigma = np.full(200, 40.0)
    found = found_of(
        squares, squares, [], [], intensity=list(1.1 * true + rng.normal(0, 40, 200)), sigma=sigma
    )
    part = score(truth, found).clear
    assert part.found == 200
    assert part.position_error == 0
    assert part.intensity_bias == pytest.approx(0.1, abs=0.003)
    # sigma is 1 % or 2 % of the true intensity, half of each
    assert part.intensity_scatter == pytest.approx(0.014, abs=0.003)
    exact = found_of(
        squares, squares, [], [], intensity=list(true + rng.normal(0, 40, 200)), sigma=sigma
    )
    result = score(truth, exact)
    assert result.clear.pull_mean == pytest.approx(0, abs=0.2)
    assert result.clear.pull_width == pytest.approx(1, abs=0.15)
    assert result.clear.covered_68 == pytest.approx(0.68, abs=0.08)
    assert result.clear.covered_95 == pytest.approx(0.95, abs=0.04)
    assert [(part.low, part.found, part.genuine) for part in result.purity if part.found] == [
        (30, *[int((np.array(exact.I) / 40 < 100).sum())] * 2),
        (100, *[int((np.array(exact.I) / 40 >= 100).sum())] * 2),
    ]


def test_the_faintest_true_spots_are_left_out() -> None:
    result = score(truth_of((10.0, 20.0, 0.5, 0)), found_of([square(10, 20)], [], [], []))
    assert (result.n_found, result.n_false) == (1, 1)


def test_nothing_found() -> None:
    result = score(truth_of((10.0, 20.0, 50.0, 0)), found_of([], [], [], []))
    assert (result.clear.true, result.clear.found, result.n_found) == (2, 0, 0)
    assert math.isnan(result.response_correlation)
    assert math.isnan(result.precision)
    assert math.isnan(result.clear.intensity_bias)


def test_response_is_compared_where_a_spot_is_found_off_and_on() -> None:
    truth = truth_of(
        *((10.0, 10.0 * i + 5, 50.0, 0) for i in range(4)),
        (30.0, 30.0, 50.0, 0),
        laser=True,
        response=(0.1, -0.1, 0.05, 0.0, 0.1),
    )
    places = [square(10, 10 * i + 5) for i in range(4)]
    on = [120.0, 80.0, 110.0, 100.0]
    result = score(
        truth,
        found_of(places, [*places, square(30, 30)], [], [], intensity=[100.0] * 4 + on + [500.0]),
    )
    assert result.response_spots == 4
    assert result.response_correlation == pytest.approx(1)
    assert result.response_slope == pytest.approx(2)


def test_frames_on_which_a_spot_stands_out_are_not_in_its_response() -> None:
    response = (0.1, -0.1, 0.05, 0.0)
    truth = truth_of(
        *((10.0, 10.0 * i + 5, 50.0, 0) for i in range(4)), laser=True, response=response
    )
    places = [square(10, 10 * i + 5) for i in range(4)]
    truth = replace(truth, schedule=replace(truth.schedule, block=np.zeros(4, np.int32)))
    once = [100.0] * 4 + [100 * (1 + value) for value in response]
    with_zinger = [*once, 900.0, 100.0, 100.0, 100.0, *once[4:]]
    found = found_of(places, places, places, places, intensity=with_zinger)
    assert score(truth, found).response_correlation < 0.9
    stands_out = np.array(with_zinger) == 900.0
    result = score(truth, replace(found, on_one_frame=stands_out))
    assert result.response_spots == 4
    assert result.response_correlation == pytest.approx(1)


def test_each_delay_is_compared_with_its_own_response() -> None:
    truth = truth_of(*((10.0, 10.0 * i + 5, 50.0, 0) for i in range(4)), laser=True)
    schedule = replace(
        truth.schedule,
        block=np.zeros(4, np.int32),
        laser_on=np.array([0, 1, 1, 0], np.int32),
    )
    responses = np.array([[0.1, -0.2], [0.2, -0.1], [0.3, 0.1], [-0.1, 0.2]])
    truth = replace(
        truth,
        schedule=schedule,
        spots=replace(truth.spots, responses=responses),
        conditions=replace(steady(schedule), delay=np.array([-1, 0, 1, -1], np.int32)),
    )
    places = [square(10, 10 * i + 5) for i in range(4)]
    on = [*(100 + 100 * responses[:, 0]), *(100 + 100 * responses[:, 1])]
    result = score(
        truth,
        found_of(*[places] * 4, intensity=[100.0] * 4 + on + [100.0] * 4),
    )
    assert result.response_spots == 8
    assert result.response_slope == pytest.approx(1)
    assert result.response_scatter == pytest.approx(0, abs=1e-12)


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
        if found.sigma is not None:
            file["spots/sigma"] = found.sigma
        for name, columns in (
            ("XY", (2,)),
            ("box", (4,)),
            ("frame", ()),
            ("label", ()),
            ("mask", ()),
        ):
            file[f"spots/{name}"] = np.zeros((len(found.XY), *columns), np.int64)
    return path


def searched(folder: Path, sigma: bool = False) -> tuple[Path, Path, int]:
    """A run and the spots of a search that missed one and found one too many; their number."""
    run = simulate_run(Design(size=(100, 80), angles=2, repeats=2, spots=8, seed=2))
    write_run(folder / "a__mccd.h5", run, compression="none")
    frames = []
    for block in run.truth.schedule.block:
        here = (run.truth.spots.block == block) & (run.truth.spots.snr_matched >= 10)
        frames.append([(round(x), round(y)) for x, y in run.truth.spots.XY[here].tolist()])
    frames[0].pop()
    frames[1].append((0, 0))
    total = sum(map(len, frames))
    ends = np.cumsum([len(frame) for frame in frames])
    found = Found(
        (100, 80),
        np.column_stack([np.append(0, ends)[:-1], ends]),
        np.zeros((total, 2)),
        np.ones(total),
        np.ones(total) if sigma else None,
        np.column_stack([np.arange(total), np.arange(1, total + 1)]),
        np.array([x * 80 + y for frame in frames for x, y in frame]),
    )
    return folder / "a__mccd.h5", spots_file(folder / "a__spots.h5", found), total


def test_command_prints_the_table(tmp_path: Path) -> None:
    run, spots, total = searched(tmp_path)
    result = CliRunner().invoke(command, [str(run), str(spots)])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    share = 100 * (total - 1) / total
    assert lines[0] == f"found {total - 1} of {total} true spots above 10 sigma ({share:.1f} %)"
    assert lines[2].split() == [*["S/N", "true", "found", "recall", "position", "bias", "scatter"]]
    assert [line.split()[:3] for line in lines[3:5]] == [["3", "-", "5"], ["5", "-", "7"]]
    assert f"{total} spots found on 8 frames; precision {share:.1f} %" in lines[11]
    assert lines[12] == "1 of them at no true spot (0.12 per frame), 0 fragments of true spots"
    assert "0 true spots merged into others" in lines
    assert "no spots/sigma in the file: error bars are not checked" in lines


def test_command_uses_the_sigmas_of_the_file(tmp_path: Path) -> None:
    run, spots, _ = searched(tmp_path, sigma=True)
    text = CliRunner().invoke(command, [str(run), str(spots)]).stdout
    assert "no spots/sigma" not in text
    assert text.splitlines()[2].endswith("pulls  in 68 %  in 95 %")
    assert "precision by found I/sigma" in text


def test_command_prints_json(tmp_path: Path) -> None:
    run, spots, total = searched(tmp_path)
    found = json.loads(CliRunner().invoke(command, [str(run), str(spots), "--json"]).stdout)
    assert found["n_found"] == total
    assert found["clear"]["found"] == total - 1
    assert found["bins"][-1]["high"] is None
    assert found["purity"] == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_command_draws_a_plot(tmp_path: Path, ending: str) -> None:
    run, spots, _ = searched(tmp_path)
    plot = tmp_path / f"a.{ending}"
    arguments = [str(run), str(spots), "--plot", str(plot)]
    ended = CliRunner().invoke(command, arguments)
    assert ended.exit_code == 0, ended.output
    head = plot.read_bytes()[:300]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<svg" in head or b"<?xml" in head
    again = CliRunner().invoke(command, arguments)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert CliRunner().invoke(command, [*arguments, "--force"]).exit_code == 0


def test_command_refuses_other_plots(tmp_path: Path) -> None:
    run, spots, _ = searched(tmp_path)
    ended = CliRunner().invoke(command, [str(run), str(spots), "--plot", "a.pdf"])
    assert ended.exit_code == 2
    assert "expected a name that ends in .png or .svg" in ended.stderr


def test_plots_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, spots, _ = searched(tmp_path)
    monkeypatch.setattr(new_plot, "find_spec", lambda _: None)
    ended = CliRunner().invoke(command, [str(run), str(spots), "--plot", str(tmp_path / "a.png")])
    assert ended.exit_code == 1
    assert ended.stderr.endswith("use pip install matplotlib\n")
    assert not (tmp_path / "a.png").exists()


def test_command_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a__mccd.h5", simulate_run(Design(size=(64, 64), angles=1, repeats=1, spots=1))
    )
    other = spots_file(tmp_path / "b__spots.h5", found_of([], []))
    result = CliRunner().invoke(command, [str(tmp_path / "a__mccd.h5"), str(other)])
    assert result.exit_code == 1
    assert "is not from" in result.stderr
    result = CliRunner().invoke(
        command, [str(tmp_path / "a__mccd.h5"), str(tmp_path / "a__mccd.h5")]
    )
    assert "not a spots file, it has no dataset frame2spotsBE" in result.stderr


def test_command_names_what_is_damaged(tmp_path: Path) -> None:
    run, found = tmp_path / "a__mccd.h5", found_of([square(10, 20)], [], [], [])
    write_run(run, simulate_run(Design(size=(64, 64), angles=1, repeats=1, spots=1)))

    def error(spots: Path) -> str:
        stderr = CliRunner().invoke(command, [str(run), str(spots)]).stderr
        return stderr.removeprefix("score: ").removesuffix("\n")

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
