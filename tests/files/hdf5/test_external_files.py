"""External raw files that are too short, and what is no file in the place of one."""

import os
import socket
from pathlib import Path

import h5py
import pytest

from factories.layouts_data import SHAPE, frames_of
from factories.virtual import (
    UNLIMITED,
    WHOLE,
    assert_read,
    everything,
    problem,
    space,
    write_mapped,
)
from helpers import command, process, refuses


def write_raw(folder: Path, *segments: tuple[str, int, int]) -> Path:
    """Frames in raw files: name, first byte and size of each segment."""
    path = folder / "run.h5"
    with h5py.File(path, "w") as file:
        external = [(str(folder / name), begin, size) for name, begin, size in segments]
        file.create_dataset("frames", data=frames_of(), external=external)
    return path


N_BYTES = frames_of().nbytes


@pytest.mark.parametrize(
    "segments",
    [
        [("a.raw", 0, UNLIMITED)],
        [("a.raw", 0, 10000), ("b.raw", 100, UNLIMITED)],
        [("a.raw", 50, 10000), ("b.raw", 0, N_BYTES)],
    ],
)
def test_raw_files_that_are_too_short(segments: list[tuple[str, int, int]], tmp_path: Path) -> None:
    path = write_raw(tmp_path, *segments)
    assert_read(path, direct=False)
    for name, begin, size in segments:
        raw = tmp_path / name
        needed = begin + min(size, N_BYTES if name == "a.raw" else N_BYTES - 10000)
        content = raw.read_bytes()
        raw.write_bytes(content[: needed // 2])
        refuses(path, words=(f"{raw} has {needed // 2} bytes, expected {needed}",))
        raw.unlink()
        assert f"its external file {raw}: cannot be opened: No such file or directory" in problem(
            path
        )
        raw.write_bytes(content)
    assert_read(path, direct=False)


def test_raw_files_of_sources(tmp_path: Path) -> None:
    write_raw(tmp_path, ("a.raw", 0, UNLIMITED))
    path = write_mapped(tmp_path / "all.h5", (everything(), "run.h5", "frames", everything()))
    assert_read(path, direct=False)
    os.truncate(tmp_path / "a.raw", 1000)
    assert f"a.raw has 1000 bytes, expected {N_BYTES}" in problem(path)


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device"])
@pytest.mark.parametrize(
    "where", ["virtual", "virtual without limit", "link", "link of a source", "raw", "itself"]
)
def test_what_is_no_file_is_not_opened(
    kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a named pipe would block, so that is done by a process, which can be killed."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = tmp_path / "run.h5"
    bad = tmp_path / "bad.h5"
    if where == "virtual":
        write_mapped(path, (everything(), "bad.h5", "x", everything()))
    elif where == "virtual without limit":
        target = space(WHOLE, (0, 0, 0), (UNLIMITED, 1, 1), (1, *SHAPE), (1, *SHAPE))
        write_mapped(path, (target, "bad.h5", "x", target))
    elif where == "link":
        with h5py.File(path, "w") as file:
            file["frames"] = h5py.ExternalLink("bad.h5", "x")
    elif where == "link of a source":
        with h5py.File(tmp_path / "part.h5", "w") as file:
            file["x"] = h5py.ExternalLink("bad.h5", "x")
        write_mapped(path, (everything(), "part.h5", "x", everything()))
    elif where == "raw":
        write_raw(tmp_path, ("bad.h5", 0, UNLIMITED))
        bad.unlink()
    else:
        path = bad
    if kind == "device":
        bad.symlink_to("/dev/zero")
        ended = command("find", path, "--quiet", name="gpu-spots")
    elif kind == "named pipe":
        os.mkfifo(bad)
        ended = process("find", path, "--quiet", name="gpu-spots")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("bad.h5")
            ended = command("find", path, "--quiet", name="gpu-spots")
    assert ended.status == 1
    assert len(ended.lines) == 1
    assert f"bad.h5: is a {kind}, expected" in ended.stderr
