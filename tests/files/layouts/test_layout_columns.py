"""Angles and laser states: where each layout has them, and what the user gives in their place."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import (
    ANGLES,
    N_FRAMES,
    STATES,
    write_bliss,
    write_dectris,
    write_nexus,
    write_nxdata,
)
from gpu_spots.files.frames import open_run
from gpu_spots.inputs import Inputs
from helpers import assert_refused, command


def columns_of(path: Path, **options: Any) -> dict[str, list[Any]]:
    with open_run(path, Inputs(**options)) as stack:
        return {name: values.tolist() for name, values in stack.columns.items()}


def test_paths_name_the_columns(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["my/angles"], file["my/states"] = (
            ANGLES + 7,
            np.where(STATES, "ON", "off").astype("S3"),
        )

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    found = columns_of(path, angles_path="my/angles", laser_path="/my/states")
    assert found["angle"] == (ANGLES + 7).tolist()
    assert found["laser_on"][:2] == [b"off", b"ON"]
    ended = command(
        path,
        "-S",
        "pairs",
        "--angles-path",
        "my/angles",
        "--laser-path",
        "my/states",
        "-o",
        tmp_path / "out.h5",
        "--quiet",
    )
    assert ended.status == 0, ended.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["info"].attrs["angles_from"], file["info"].attrs["laser_from"]) == (
            "/my/angles",
            "/my/states",
        )
        assert file["lauecollect/angle"][:].tolist() == (ANGLES + 7).tolist()


def test_a_table_takes_the_place_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "angle,laser_on,comment\n"
        + "\n".join(f"{i // 4},{'on' if i % 2 else 'off'},c{i}" for i in range(N_FRAMES))
        + "\n"
    )
    path = write_nexus(tmp_path / "run.h5")
    found = columns_of(path, table=table)
    assert found["angle"] == [i // 4 for i in range(N_FRAMES)]
    assert found["laser_on"] == ["on" if i % 2 else "off" for i in range(N_FRAMES)]
    assert (
        command(
            path, "-S", "blocks", "-a", 5, "--table", table, "-o", tmp_path / "out.h5", "--quiet"
        ).status
        == 0
    )
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["masks/counts"]) == 5
        assert file["lauecollect/comment"].asstr()[3] == "c3"
        assert file["lauecollect/angle"].attrs["origin"] == f"{table}: angle"


def test_states_of_a_table_are_not_mixed_with_the_files_own(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["lauecollect/angle"], file["lauecollect/laser_on"] = ANGLES, np.zeros(N_FRAMES)

    table = tmp_path / "table.csv"
    table.write_text("delay\n" + "-\n100ps\n" * 10)
    assert "laser_on" not in columns_of(write_nexus(tmp_path / "run.h5", edit=edit), table=table)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--angles-path", "nowhere"), ("no dataset 'nowhere' (--angles-path)",)),
        (("--angles-path", "/entry"), ("/entry is a group",)),
        (
            ("--angles-path", "/entry/data/data"),
            ("/entry/data/data has shape (20, 24, 40)", "each of the 20 frames"),
        ),
        (("--angles-path", "short"), ("short has shape (19,)", "each of the 20 frames")),
        (
            ("--laser-path", "/entry/sample/rotation_angle", "-S", "pairs"),
            ("/entry/sample/rotation_angle is '1.5' at frame 2",),
        ),
        (("--table", "short.csv"), ("short.csv: has 19 rows", "each of the 20 frames")),
        (("--table", "none.csv"), ("none.csv", "No such file")),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    options: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_nexus(
        tmp_path / "run.h5", edit=lambda file: file.create_dataset("short", data=ANGLES[:19])
    )
    (tmp_path / "short.csv").write_text("angle\n" + "1\n" * 19)
    assert_refused(command(path, *options, "--quiet"), 1, *words)


def test_a_table_and_a_path_are_one_too_many(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "run.h5")
    ended = command(path, "--table", "x.csv", "--angles-path", "/a", "--quiet")
    assert_refused(ended, 2, "--angles-path", "cannot be used with --table")


def test_of_several_turning_motors_none_is_guessed(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/goniometer/phi"]
        file["entry/sample/goniometer/phi"] = ANGLES * 2

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    words = (
        "several datasets could be the angles",
        "/entry/sample/goniometer/omega",
        "/entry/sample/goniometer/phi",
        "--angles-path",
    )
    assert_refused(command(path, "--quiet"), 1, *words)
    assert (
        columns_of(path, angles_path="/entry/sample/goniometer/phi")["angle"]
        == (ANGLES * 2).tolist()
    )
    assert command(path, "-a", 0, "--quiet").status == 0


def test_angles_of_another_length_are_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del (
            file["entry/sample/goniometer/omega"],
            file["entry/sample/goniometer/phi"],
            file["entry/sample/goniometer/chi"],
        )
        file["entry/sample/goniometer/omega"] = np.arange(21.0)

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    assert_refused(
        command(path, "--quiet"),
        1,
        "no angles for 20 frames",
        "/entry/sample/goniometer/omega (21,)",
        "--angles-path",
        "--table",
    )


def test_angles_whose_file_is_missing_are_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del (
            file["entry/sample/goniometer/omega"],
            file["entry/sample/goniometer/phi"],
            file["entry/sample/goniometer/chi"],
        )
        file["entry/sample/goniometer/omega"] = h5py.ExternalLink("run_meta.h5", "/omega")

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    words = (
        "/entry/sample/goniometer/omega is a link",
        "the file run_meta.h5, which is missing",
        "--angles-path",
    )
    assert_refused(command(path, "--quiet"), 1, *words)


def test_a_laser_energy_is_not_a_state(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/laser_on"]
        file["entry/sample/laser"] = np.linspace(0, 1, N_FRAMES)

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    assert_refused(
        command(path, "-S", "pairs", "--quiet"), 1, "no laser states found", "--laser-path"
    )


def test_the_axis_of_the_data_is_taken_before_other_angles(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["scan/sample/omega"] = ANGLES[::-1]

    path = write_nxdata(tmp_path / "run.h5", edit=edit)
    assert columns_of(path)["angle"] == ANGLES.tolist()
    # also where the frames are named at another place than that of the axis
    assert columns_of(path, frames_path=("/scan/instrument/ccd/image",))["angle"] == ANGLES.tolist()


def test_a_motor_in_degrees_is_an_angle_in_bliss(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["1.1/measurement/rot"]

    assert columns_of(write_bliss(tmp_path / "run.h5", edit=edit))["angle"] == ANGLES.tolist()
