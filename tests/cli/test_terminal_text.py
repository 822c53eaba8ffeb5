"""Names and values in files cannot control the terminal."""

import os
from pathlib import Path

import h5py

from helpers import (
    Ended,
    assert_refused,
    command,
    process,
    replaced,
    write_run,
)

HOSTILE = "a\x1b[31m\x07\n\u202eb\x9b\rc"
HARMLESS = "a\\x1b[31m\\x07\\n\\u202eb\\x9b\\rc"


def assert_harmless(ended: Ended, stream: str = "stderr") -> None:
    """Check that everything is printable, and that the name is there in its escaped form."""
    text = getattr(ended, stream)
    assert HARMLESS in text, text
    for line in (ended.stdout + ended.stderr).split("\n"):
        assert line.isprintable(), line


def test_names_of_files_cannot_control_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / f"{HOSTILE}__mccd.h5")
    warned = command(run, "-n", 1)
    assert warned.status == 0
    assert "warning: " in warned.stderr
    assert_harmless(warned)
    refused = command(run, "--quiet")
    assert_refused(refused, 1, "already exists")
    assert_harmless(refused)
    planned = command(run, "--dry-run", "--force")
    assert planned.status == 0
    assert_harmless(planned, "stdout")
    for ended in (
        command(run, "--debug"),
        command(run, "-S", HOSTILE),
        command(run, "--debug", "-S", HOSTILE),
    ):
        assert ended.status in (1, 2)
        assert_harmless(ended)


def test_names_in_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    def rename(file: h5py.File) -> None:
        file.move("frames", HOSTILE)
        file["dangling"] = h5py.SoftLink(f"/{HOSTILE}/x")

    run = write_run(tmp_path / "x__mccd.h5", rename)
    assert_harmless(command(run, "--frames", HOSTILE))
    linked = command(run, "--frames", "dangling", "-o", tmp_path / "y.h5", "--quiet")
    assert_refused(linked, 1)
    assert_harmless(linked)
    assert_harmless(command("info", run, name="gpu-spots"), "stdout")
    described = command("info", run, "--json", name="gpu-spots")
    assert described.status == 0
    assert all(line.isprintable() for line in described.stdout.split("\n"))


def test_values_in_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect_laser_on=[HOSTILE, "on"] * 10))
    ended = command(run, "-S", "pairs", "--quiet")
    assert_refused(ended, 1, "laser_on")
    assert all(line.isprintable() for line in ended.lines)


def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan\xff.h5")
    assert_refused(command(tmp_path / name, "--quiet"), 1, "scan\\udcff.h5")


def test_names_are_shown_in_an_encoding_that_lacks_them(run: Path) -> None:
    path = run.rename(run.parent / "Löß_結晶.h5")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = process(path, "--dry-run", env=environment)
    assert ended.status == 0
    assert r"L\xf6\xdf_\u7d50\u6676" in ended.stdout
    assert r"L\xf6\xdf_\u7d50\u6676" in ended.stderr
