"""Sources of virtual datasets: where their files are looked for, their types and their filters."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.layouts_data import SHAPE, frames_of, write_dectris
from factories.virtual import (
    UNLIMITED,
    WHOLE,
    assert_read,
    everything,
    frames_at,
    problem,
    space,
    write_mapped,
    write_parts,
    write_two,
)
from gpu_spots.files.frames import open_run
from helpers import command, process, refuses

READ = """
import sys
from pathlib import Path
import numpy as np
from gpu_spots.files.frames import open_run
with open_run(Path(sys.argv[1])) as stack:
    frames = np.zeros(stack.shape, stack.dtype)
    stack.read(0, len(frames), frames)
    stack.check_whole()
np.save(sys.argv[2], frames)
"""
"""Program that reads a run and writes its frames to an NPY file."""


def assert_read_by_process(path: Path, **environment: str) -> None:
    """Check that another process, which has not used HDF5 yet, reads the frames of the run."""
    frames = path.with_suffix(".npy")
    ended = subprocess.run(
        [sys.executable, "-c", READ, path, frames],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(frames), frames_of())


def test_links_on_the_way_are_followed(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    (tmp_path / "part1.h5").rename(tmp_path / "other.h5")
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["x"] = h5py.SoftLink("/group/y")
        file["group/y"] = h5py.ExternalLink("other.h5", "x")
    assert_read(path, direct=True)


def test_names_with_numbers(tmp_path: Path) -> None:
    """A missing file among numbered ones is an error.

    For HDF5, the run would only be shorter.
    """
    write_parts(tmp_path, 0, 5, 10, 15)
    target = space(WHOLE, (0, 0, 0), (UNLIMITED, 1, 1), (5, *SHAPE), (5, *SHAPE))
    path = write_mapped(tmp_path / "run.h5", (target, "part%b.h5", "x", everything(5)))
    assert_read(path, direct=True)
    with h5py.File(tmp_path / "part1.h5", "a") as file:
        del file["x"]
        file["x"] = np.ones((4, *SHAPE), "u2")
    assert "frame 5 cannot be read: its source" in problem(path)
    (tmp_path / "part2.h5").unlink()
    (tmp_path / "part1.h5").unlink()
    assert problem(path).endswith(
        "frame 5 cannot be read: its source file part1.h5 is missing, and part3.h5 is there"
    )


def test_a_percent_sign_in_a_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "5%b.h5", "w") as file:
        file["x"] = frames_of()
    assert_read(
        write_mapped(tmp_path / "run.h5", (everything(), "5%%b.h5", "x", everything())), direct=True
    )


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found beside the file, in the working folder, and beside a link's target.

    HDF5 does the same.
    """
    folders = [tmp_path / name for name in ("real", "named", "working")]
    for folder in folders:
        folder.mkdir()
    write_two(folders[0])
    (folders[1] / "run.h5").symlink_to(folders[0] / "run.h5")
    monkeypatch.chdir(folders[2])
    assert_read(folders[1] / "run.h5", direct=True)
    for from_, to in ((0, 2), (2, 1)):
        (folders[from_] / "part1.h5").rename(folders[to] / "part1.h5")
        assert_read(folders[1] / "run.h5", direct=True)
        with open_run(folders[1] / "run.h5") as stack:
            assert any(file.resolve() == folders[to] / "part1.h5" for file in stack.files)


@pytest.mark.parametrize("direct", [True, False])
def test_folders_named_by_the_environment(direct: bool, tmp_path: Path) -> None:
    """The files there are read, and checked."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write_two(tmp_path, **({} if direct else {"compression": "lzf"}))
    shutil.copy(tmp_path / "part0.h5", folder)
    (tmp_path / "part1.h5").rename(folder / "part1.h5")
    for value in (str(folder), f"/nowhere:{folder}", "${ORIGIN}/elsewhere"):
        assert_read_by_process(path, HDF5_VDS_PREFIX=value)
    environment = {**os.environ, "HDF5_VDS_PREFIX": "/nowhere"}
    assert (
        "part1.h5 (dataset x) is missing"
        in process("find", path, "-a", 0, "--quiet", name="gpu-spots", env=environment).stderr
    )


def test_the_type_is_that_of_the_sources(tmp_path: Path) -> None:
    """The virtual dataset has int64, or a type that would clip the values of its sources."""
    frames = frames_of("uint32") * 10000
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"], file["y"] = frames, frames[:, ::-1].astype("f4")
    whole = (everything(), "part.h5", "x", everything())
    for dtype in ("i8", "u8", "u2", "i4", "u4"):
        path = write_mapped(tmp_path / f"{dtype}.h5", whole, dtype=dtype)
        assert_read(path, direct=True, dtype="u4", expected=frames)
    path = write_mapped(tmp_path / "f8.h5", whole, dtype="f8")
    assert_read(path, direct=False, dtype="f8", expected=frames)
    halves = [(frames_at(10 - i, 20 - i), "part.h5", "x", frames_at(i, 10 + i)) for i in (0, 10)]
    path = write_mapped(tmp_path / "halves.h5", *halves, dtype="i8")
    assert_read(path, direct=False, dtype="u4", expected=np.roll(frames, 10, axis=0))
    path = write_mapped(tmp_path / "two.h5", (frames_at(0, 10), "part.h5", "x", frames_at(0, 10)),
        (frames_at(10, 20), "part.h5", "y", frames_at(0, 10)), dtype="i8")  # fmt: skip
    refuses(
        path,
        words=(
            "/frames is a virtual dataset of int64 with sources of different types: uint32 (",
            "part.h5: y",
        ),
    )


def test_sources_of_a_type_that_no_frame_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = frames_of("int64")
    path = write_mapped(
        tmp_path / "run.h5", (everything(), "part.h5", "x", everything()), dtype="i8"
    )
    assert "/frames is int64, expected one of uint8" in problem(path)


@pytest.mark.parametrize("name", ["Bitshuffle", "LZ4"])
def test_sources_that_need_a_plugin(name: str, tmp_path: Path) -> None:
    """The process has not loaded the plugin yet."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    assert_read_by_process(write_two(tmp_path, **getattr(hdf5plugin, name)()))


@pytest.mark.parametrize("where", ["frames", "mask in the file", "mask", "angles"])
def test_a_filter_that_is_not_installed(where: str, tmp_path: Path) -> None:
    """The filter is named, and the package that has it."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    options = {"chunks": SHAPE, **hdf5plugin.LZ4()}

    def edit(file: h5py.File) -> None:
        if where == "mask in the file":
            file.create_dataset(
                "entry/instrument/detector/pixel_mask", data=np.zeros(SHAPE, "u4"), **options
            )
        if where == "angles":
            del file["entry/sample/goniometer/omega"]
            file.create_dataset(
                "entry/sample/goniometer/omega",
                data=np.arange(20.0),
                chunks=(20,),
                **hdf5plugin.LZ4(),
            )

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    arguments: list[object] = ["find", path, "-S", "none", "--quiet", "-a", 5]
    if where == "frames":
        arguments[1] = write_two(tmp_path, **{**options, "chunks": (1, *SHAPE)})
    if where == "mask":
        with h5py.File(tmp_path / "mask.h5", "w") as file:
            file.create_dataset("pixel_mask", data=np.zeros(SHAPE, "u4"), **options)
        arguments += ["--mask", tmp_path / "mask.h5"]
    ended = process(
        *arguments, name="gpu-spots", prelude="import sys; sys.modules['hdf5plugin'] = None"
    )
    assert ended.status == 1
    assert "is compressed by HDF5 filter 32004" in ended.stderr
    assert "pip install hdf5plugin" in ended.stderr
    if where != "frames":
        ended = command(*arguments, name="gpu-spots")
        assert (ended.status, ended.stderr) == (0, "")
