"""The simulator: the frames are what the truth says, and the file is one that the finder reads."""

import itertools
import re
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from gpu_spots.cli.simulate import simulate
from gpu_spots.errors import InputError, OutputError, ParameterError
from gpu_spots.files.output.simulated_run import COMPRESSIONS, read_truth, write_run
from gpu_spots.simulate.design import DetectorDesign
from gpu_spots.simulate.run import Design, TrueSpots, simulate_run
from helpers import command

BIAS, READ_NOISE = DetectorDesign().bias, DetectorDesign().read_noise
SMALL = Design(size=(150, 170), angles=3, repeats=2, spots=12, seed=5)
PLAIN = replace(
    SMALL, laser=False, angles=1, repeats=30, spots=0, zingers=0, hot_pixels=0, dead_pixels=0
)


def test_frame_looks_like_a_marccd_frame() -> None:
    run = simulate_run(replace(SMALL, background=400))
    frame = run.frame(0)
    assert frame.dtype == np.uint16
    assert frame.shape == (150, 170)
    X, Y = np.ogrid[:150, :170]
    outside = np.hypot(X - 74.5, Y - 84.5) > 75
    assert outside.sum() > 5000  # of 25500 pixels, 75 * 75 * pi are inside
    assert not frame[outside].any()
    assert not frame[tuple(run.detector.dead.T)].any()
    assert (frame[tuple(run.detector.hot.T)] > 200).all()
    behind_stop = frame[np.hypot(X - run.detector.beam[0], Y - run.detector.beam[1]) < 2]
    assert abs(behind_stop.mean() - BIAS) < 4  # 12 pixels of read noise 2.5
    ring = np.abs(np.hypot(X - run.detector.beam[0], Y - run.detector.beam[1]) - 0.4 * 75) < 3
    assert np.median(frame[ring]) == pytest.approx(BIAS + 400, rel=0.05)


def test_noise_is_shot_noise_and_read_noise() -> None:
    run = simulate_run(PLAIN)
    frames = np.array(list(run.frames()), float)
    expected = PLAIN.gain * run.detector.background + READ_NOISE**2 + 1 / 12  # the last is rounding
    inside = run.detector.inside
    # 30 frames, some 17000 pixels: the mean of variance / expected is 1 within 0.26 / sqrt(17000) =
    # 0.002
    assert (frames.var(0, ddof=1) / expected)[inside].mean() == pytest.approx(1, abs=0.01)
    assert (frames.mean(0) - run.detector.background)[inside].mean() == pytest.approx(
        BIAS, abs=0.05
    )


def test_zingers_strike_single_pixels_of_single_frames() -> None:
    run = simulate_run(replace(PLAIN, zingers=40))
    frames = np.array(list(run.frames()), float)
    struck = (
        frames > np.median(frames, axis=0) + 150
    )  # the noise is below 12 counts, a zinger is 200 or more
    inside = run.detector.inside.mean()
    assert struck.sum() == pytest.approx(
        30 * 40 * inside, rel=0.15
    )  # 800 or so, 3.5 % is one sigma
    assert struck.sum(axis=0).max() <= 3
    assert not struck[:, ~run.detector.inside].any()


def test_drift_scales_whole_frames() -> None:
    run = simulate_run(replace(PLAIN, drift=5, repeats=60))
    light = np.array([frame[run.detector.inside].mean() - BIAS for frame in run.frames()])
    np.testing.assert_allclose(light / light.mean(), run.scale / run.scale.mean(), rtol=2e-3)
    many = simulate_run(replace(PLAIN, drift=5, repeats=3000)).scale
    assert many.std() == pytest.approx(0.05, rel=0.1)
    assert np.diff(many).std() < 0.05  # most of it is slow


def test_frame_does_not_depend_on_the_others() -> None:
    run = simulate_run(SMALL)
    frames = list(run.frames())
    assert all((run.frame(i) == frames[i]).all() for i in (7, 0, 11))
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    more = simulate_run(replace(SMALL, angles=4, repeats=3))
    # Frame 5 is the second of block 1; with 6 frames a block that is frame 7.
    np.testing.assert_array_equal(more.frame(7), frames[5])
    again = simulate_run(replace(SMALL, seed=6)).frame(0)
    assert (again != frames[0]).any()


def test_interlaced_run_has_the_same_frames_in_another_order() -> None:
    plain, interlaced = (
        simulate_run(replace(SMALL, angles=5)),
        simulate_run(replace(SMALL, angles=5, interlaced=True)),
    )
    assert interlaced.truth.schedule.block[::4].tolist() == [0, 2, 4, 1, 3]
    np.testing.assert_array_equal(interlaced.frame(4 * 3 + 1), plain.frame(4 * 1 + 1))


def test_schedule() -> None:
    off_on = simulate_run(SMALL).truth.schedule
    assert off_on.laser_on.tolist() == [0, 1] * 6
    assert off_on.repeat.tolist() == [1, 1, 2, 2] * 3
    assert off_on.angle.tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    assert (
        simulate_run(replace(SMALL, on_first=True)).truth.schedule.laser_on.tolist() == [1, 0] * 6
    )
    dark = simulate_run(replace(SMALL, laser=False, step=0.25)).truth.schedule
    assert dark.laser_on.tolist() == [0] * 6
    assert dark.repeat.tolist() == [1, 2] * 3
    assert dark.angle.tolist() == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]


def test_spots_have_their_intensity_place_and_shape() -> None:
    # Without background the noise of second moments, which the outermost pixels dominate, is small.
    design = Design(
        size=(500, 460),
        angles=3,
        repeats=2,
        spots=100,
        background=0,
        zingers=0,
        hot_pixels=0,
        dead_pixels=0,
    )
    run = simulate_run(design)
    spots, schedule = run.truth.spots, run.truth.schedule
    checked = 0
    for index, frame in enumerate(run.frames()):
        signal = frame - BIAS
        for i in np.flatnonzero((spots.block == schedule.block[index]) & (spots.I > 30000)):
            x, y = np.ogrid[:500, :460]
            dx, dy = x - spots.XY[i, 0], y - spots.XY[i, 1]
            near = np.hypot(dx, dy) < 3.5 * spots.sigma[i, 0]
            if frame[near].max() == 65535:
                continue
            total = signal[near].sum()
            scale = (
                run.scale[index]
                * run.spot_scale[index]
                * (1 + spots.response[i] * schedule.laser_on[index])
            )
            # Noise: at most sqrt(0.07 / 30000 + 600 * 2.5^2 / 30000^2) = 0.25 %, and the pixels'
            # sensitivity, 0.5 % / sqrt(10).
            assert total == pytest.approx(spots.I[i] * scale, rel=0.01)
            orientation = np.radians(spots.orientation[i])
            axes = (
                dx * np.cos(orientation) + dy * np.sin(orientation),
                dy * np.cos(orientation) - dx * np.sin(orientation),
            )
            for distance, sigma in zip(axes, spots.sigma[i], strict=True):
                assert (signal * distance)[near].sum() / total == pytest.approx(0, abs=0.05 * sigma)
                assert (signal * distance**2)[near].sum() / total == pytest.approx(
                    sigma**2, rel=0.15
                )
            checked += 1
    assert checked > 20


def test_major_axis_points_away_from_the_beam_and_spots_keep_apart() -> None:
    run = simulate_run(Design(size=(400, 300), angles=2, repeats=1, spots=60))
    spots, detector = run.truth.spots, run.detector
    away = spots.XY - detector.beam
    direction = np.column_stack(
        [np.cos(np.radians(spots.orientation)), np.sin(np.radians(spots.orientation))]
    )
    np.testing.assert_allclose((away * direction).sum(1), np.hypot(*away.T))
    assert (spots.sigma[:, 0] > spots.sigma[:, 1]).all()
    assert detector.inside[tuple(np.rint(spots.XY).astype(int).T)].all()
    assert (np.hypot(*away.T) > detector.stop + 2 * spots.sigma[:, 0]).all()
    for block in range(2):
        here = spots.block == block
        distance = np.hypot(*(spots.XY[here, None] - spots.XY[here]).transpose(2, 0, 1))
        reach = 3 * spots.sigma[here, 0]
        distance[np.diag_indices(60)] = np.inf
        assert (distance > reach[:, None] + reach).all()
    assert not np.isin(spots.XY[spots.block == 0], spots.XY[spots.block == 1]).any()


def test_spots_are_as_large_and_as_strong_as_real_ones() -> None:
    spots = simulate_run(Design(size=(2048, 2048), angles=3, repeats=1)).truth.spots
    area = 4 * np.pi * spots.sigma.prod(1)
    np.testing.assert_allclose(np.median(area), 107, rtol=0.2)
    # From a real list of 80 to 100 spots a frame: 669, 9.7k and 78k counts at 50, 90 and 99 %.
    np.testing.assert_allclose(np.percentile(spots.I, [50, 90, 99]), [669, 9700, 78000], rtol=0.5)
    assert 70 < (spots.snr > 10).sum() / 3 < 120
    assert np.abs(spots.response).max() <= 0.1


def test_bright_spots_saturate() -> None:
    frames = simulate_run(replace(SMALL, background=60000, gain=20, seed=1)).frames()
    assert max(frame.max() for frame in frames) == 65535


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (31, 100)),
        ("angles", 0),
        ("repeats", 0),
        ("spots", -1),
        ("background", -1.0),
        ("drift", float("nan")),
        ("drift", 21.0),
        ("jitter", -1.0),
        ("gain", 0.0),
        ("step", 0.0),
        ("zingers", -1.0),
        ("hot_pixels", -1),
        ("dead_pixels", -1),
        ("seed", -1),
    ],
)
def test_design_refuses(field: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{field}: .* expected a number, ") as caught:
        replace(SMALL, **{field: value})  # type: ignore[arg-type]
    assert caught.value.name == field


def test_too_many_spots_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"^spots: 500 do not fit on frames of 150 x 170"):
        simulate_run(replace(SMALL, spots=500))


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
def test_file_holds_frames_columns_and_truth(tmp_path: Path, compression: str) -> None:
    run, path, done = simulate_run(SMALL), tmp_path / "a__mccd.h5", []
    write_run(path, run, compression=compression, progress=lambda: done.append(1))
    assert len(done) == 12
    with h5py.File(path) as file:
        frames = file["frames"]
        assert (frames.dtype, frames.chunks, frames.attrs["units"], frames.attrs["bias"]) == (
            np.uint16,
            (1, 128, 170),
            "counts",
            10,
        )
        np.testing.assert_array_equal(frames[()], np.array(list(run.frames())))
        columns = file["lauecollect"]
        assert columns["file"].asstr()[[0, 1, 6]].tolist() == [
            "sim_000.000_off_1.mccd",
            "sim_000.000_on_1.mccd",
            "sim_001.000_off_2.mccd",
        ]
        assert columns["delay"].asstr()[:2].tolist() == ["-", "100ps"]
        assert columns["angle"].attrs["units"] == "degrees"
        assert {len(column) for column in columns.values()} == {12}
        assert file["truth"].attrs["seed"] == 5
        assert file["truth/scale"][()].tolist() == run.scale.tolist()
        assert all(
            "description" in dataset.attrs
            for group in ("lauecollect", "truth")
            for dataset in file[group].values()
        )
    truth = read_truth(path)
    assert truth.shape == (150, 170)
    for field in fields(TrueSpots):
        np.testing.assert_array_equal(
            getattr(truth.spots, field.name), getattr(run.truth.spots, field.name), strict=True
        )
    for name in ("block", "angle", "laser_on", "repeat"):
        np.testing.assert_array_equal(
            getattr(truth.schedule, name), getattr(run.truth.schedule, name), strict=True
        )
    assert [file.name for file in tmp_path.iterdir()] == ["a__mccd.h5"]


def test_file_is_replaced_only_with_force_and_only_when_complete(tmp_path: Path) -> None:
    run, path = simulate_run(replace(SMALL, angles=1)), tmp_path / "a__mccd.h5"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        write_run(path, run)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(path, run, force=True, progress=stop)
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["a__mccd.h5"]
    write_run(path, run, force=True)
    assert len(read_truth(path).schedule) == 4


def test_truth_is_asked_of_a_file_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_truth(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        read_truth(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="has no dataset truth/XY; expected a simulated run"):
        read_truth(tmp_path / "empty.h5")


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "b__mccd.h5"
    result = CliRunner().invoke(
        simulate,
        [str(path), "--dark", "--size", "96,128", "--angles", "3", "--frames-per-angle", "2"],
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert "dark run, 6 frames of 96 x 128, 3 angles, 15 spots a frame" in result.stderr
    with h5py.File(path) as file:
        assert file["frames"].shape == (6, 96, 128)
        assert file["lauecollect/file"].asstr()[5] == "sim_002.000_2.mccd"
    again = CliRunner().invoke(simulate, [str(path), "--size", "96", "--angles", "1"])
    assert again.exit_code == 1
    assert "already exists" in again.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "16"],
        ["--size", "64,64,64"],
        ["--size", "x"],
        ["--dark", "--pairs", "2"],
        ["--dark", "--order", "on-off"],
        ["--frames-per-angle", "2"],
        ["--drift", "30"],
        ["--compression", "zip"],
    ],
)
def test_command_refuses(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(simulate, [str(tmp_path / "c.h5"), *options])
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_command_offers_what_the_file_can_do() -> None:
    (option,) = (parameter for parameter in simulate.params if parameter.name == "compression")
    assert list(option.type.choices) == list(COMPRESSIONS)  # type: ignore[attr-defined]


def test_a_damaged_group_is_an_error_of_one_line(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "damaged.h5"
    write_run(whole, simulate_run(Design(size=(64, 64), angles=4, repeats=1, spots=2)))
    content, messages = whole.read_bytes(), []
    for found in re.finditer(b"SNOD", content):  # where the names of a group begin
        path.write_bytes(content[: found.start()] + b"x" + content[found.start() + 1 :])
        try:
            read_truth(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 1
    assert all(message.startswith(f"{path}: ") for message in messages)


def test_messages_name_the_output_as_the_help_does(tmp_path: Path) -> None:
    ended = command("simulate", tmp_path / "no" / "run__mccd.h5", "--size", 32, name="gpu-spots")
    assert ended.status == 1
    assert ended.stderr.endswith("is missing; name another output with OUT__mccd.h5\n")
