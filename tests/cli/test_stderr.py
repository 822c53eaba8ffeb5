"""Unexpected errors, too little memory, and a stderr that is closed or full."""

import os
from pathlib import Path

import h5py
import pytest

from helpers import (
    command,
    listing,
    process,
    refuses,
    started,
    write_run,
)


def test_not_enough_memory_is_said_before_anything_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.memory.plan.available_memory", lambda: 2**20)
    refuses(run, words=(run.name, "MiB of memory", "are available"))


def test_what_nobody_thought_of_is_one_line_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("gpu_spots.run.find_to_file", fail)
    ended = command(run, "--quiet")
    assert (ended.status, len(ended.lines)) == (1, 1)
    assert "internal error: ZeroDivisionError: a b" in ended.stderr
    assert "--debug" in ended.stderr


@pytest.mark.parametrize(
    ("options", "status"),
    [((), 0), (("-a", 99), 1), (("-n", 100), 2)],
    ids=["done", "error", "usage"],
)
def test_a_closed_stderr_changes_no_status(
    run: Path, options: tuple[object, ...], status: int
) -> None:
    ended = process(run, *options, prelude="import os; os.close(2); sys.stderr = None")
    assert (ended.status, ended.stdout) == (status, "")
    assert set(listing(run.parent)) == {run.name} | ({"run__spots.h5"} if status == 0 else set())


@pytest.mark.parametrize(
    ("options", "status"),
    [((), 0), (("-m", "kruskal"), 0), (("-n", 100), 2)],
    ids=["done", "warned", "usage"],
)
def test_a_stderr_that_takes_nothing_changes_no_status(
    tmp_path: Path, options: tuple[object, ...], status: int
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = write_run(tmp_path / "run__mccd.h5")
    with open("/dev/full", "w") as full:
        assert process(run, *options, stderr=full).status == status
    assert set(listing(run.parent)) == {run.name} | ({"run__spots.h5"} if status == 0 else set())


def test_a_simulation_with_a_full_stderr_is_done(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        assert (
            process(
                "simulate",
                tmp_path / "x.h5",
                "--size",
                32,
                "--angles",
                2,
                name="gpu-spots",
                stderr=full,
            ).status
            == 0
        )


def test_a_run_whose_messages_nobody_reads_any_more_goes_on(run: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(run, stderr=writing) as running:
        os.close(writing)
        assert running.wait(timeout=60) == 0
    assert set(listing(run.parent)) == {run.name, "run__spots.h5"}


def test_a_closed_stderr_gives_its_number_to_no_file_of_the_run(run: Path) -> None:
    noise = (
        "import os; os.close(2); sys.stderr = None; import atexit; atexit.register(os.write, "
        "2, b'from a C library')"
    )
    assert process(run, prelude=noise).status == 0
    with h5py.File(run.parent / "run__spots.h5") as file:
        assert len(file["frame2spotsBE"]) == 20
