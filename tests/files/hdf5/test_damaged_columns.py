"""The group lauecollect where it is damaged, leads elsewhere, or is large."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.damage import NAMES, damage_heap
from gpu_spots.files.hdf5.heaps import DamagedHeapError, checked
from helpers import assert_refused, process, replaced, write_run


def test_a_heap_that_hdf5_would_read_for_ever(tmp_path: Path) -> None:
    """Text that is not needed is left out of the output; a process is killed if it does not end."""
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(lauecollect_file=NAMES, lauecollect_delay=["-", "1ns"] * 10),
    )
    damage_heap(path)
    ended = process(path, "-S", "pairs", "--quiet")
    assert ended.status == 0
    assert {line.partition(": the heap")[0] for line in ended.lines} == {
        f"warning: {path}: lauecollect/{name} is damaged and left out of the output"
        for name in ("file", "delay")
    }
    with h5py.File(tmp_path / "x__spots.h5") as found:
        assert set(found["lauecollect"]) == {"angle", "laser_on"}


@pytest.mark.parametrize("name", ["delay", "file"])
def test_text_that_is_needed_is_an_error(name: str, tmp_path: Path) -> None:
    text = NAMES if name == "file" else ["-", "1ns"] * 10
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(lauecollect_laser_on=None, **{f"lauecollect_{name}": text}),
    )
    damage_heap(path)
    assert_refused(
        process(path, "-S", "pairs", "--quiet"),
        1,
        f"lauecollect/{name} cannot be read: the heap at byte",
        "is damaged",
    )
    (tmp_path / "table.csv").write_text("laser_on\n" + "off\non\n" * 10)
    assert process(path, "-S", "pairs", "--quiet", "--table", tmp_path / "table.csv").status == 0


def test_a_column_whose_unit_is_damaged_is_written_without_it(tmp_path: Path) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5",
        lambda file: file["lauecollect/angle"].attrs.update(units="degrees"),
    )
    damage_heap(path)
    ended = process(path, "--quiet")
    assert (ended.status, len(ended.lines)) == (0, 1)
    assert "lauecollect/angle is damaged" in ended.stderr
    with h5py.File(path) as run, h5py.File(tmp_path / "x__spots.h5") as found:
        assert np.array_equal(found["lauecollect/angle"], run["lauecollect/angle"])


@pytest.mark.parametrize("n", [1, 20, 3000])
def test_heaps_are_read_as_they_are(n: int, tmp_path: Path) -> None:
    """Also large ones, empty text, and text that looks like a heap."""
    texts = [["", "GCOL\x01", "x" * (i % 50), "long" * i][i % 4] for i in range(n)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["text"] = texts
        file["text"].attrs["note"] = "y" * 5000
        file["bytes"] = np.frombuffer(b"GCOL\x01\0\0\0" * 1000, np.uint8)
    with h5py.File(tmp_path / "x.h5") as file, checked(file) as again:
        assert again["text"].asstr()[()].tolist() == texts
        assert again["text"].attrs["note"] == "y" * 5000
        assert np.array_equal(again["bytes"], file["bytes"])
    damage_heap(tmp_path / "x.h5")
    with (
        h5py.File(tmp_path / "x.h5") as file,
        checked(file) as again,
        pytest.raises(DamagedHeapError, match="the heap at byte"),
    ):
        again["text"][()]


def test_columns_in_other_files_are_copied(tmp_path: Path) -> None:
    """Groups are copied too, without broken links and named pipes."""
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["names"], file["more/x"] = NAMES, np.arange(20)
        file["names"].attrs["heading"] = "file name"

    def edit(file: h5py.File) -> None:
        group = file["lauecollect"]
        group.attrs["comments"] = "two\nlines"
        group.attrs["numbers"] = np.arange(3, dtype="i2")
        group["file"], group["gone"] = (
            h5py.ExternalLink("log.h5", "names"),
            h5py.ExternalLink("gone.h5", "x"),
        )
        group["inner/deep"], group["inner/own"] = h5py.ExternalLink("log.h5", "more"), np.arange(2)
        file["states"] = ["a", "b"]
        group["soft"], group["nowhere"] = h5py.SoftLink("/states"), h5py.SoftLink("/none")

    path = write_run(tmp_path / "x__mccd.h5", edit)
    ended = process(path, "--quiet")
    assert ended.status == 0
    assert [line.partition(" is damaged")[0] for line in ended.lines] == [
        f"warning: {path}: lauecollect/{name}" for name in ("gone", "nowhere")
    ]
    assert "gone.h5, which is missing" in ended.stderr
    (tmp_path / "log.h5").unlink()
    with h5py.File(tmp_path / "x__spots.h5") as found:
        group = found["lauecollect"]
        assert set(group) == {"angle", "laser_on", "file", "inner", "soft"}
        assert group["file"].asstr()[()].tolist() == NAMES
        assert group["file"].attrs["heading"] == "file name"
        assert (group["inner/deep/x"][3], group["inner/own"][1], group["soft"][0]) == (3, 1, b"a")
        assert group.attrs["comments"] == "two\nlines"
        assert (group.attrs["numbers"].dtype, group.attrs["numbers"].tolist()) == (
            np.int16,
            [0, 1, 2],
        )


def test_a_column_of_absurd_size(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["lauecollect/angle"]
        file["lauecollect"].create_dataset("angle", (2**40,), "f8", chunks=(2**20,))

    assert_refused(
        process(write_run(tmp_path / "x.h5", edit), "--quiet"),
        1,
        "lauecollect/angle has shape (1099511627776,)",
    )
