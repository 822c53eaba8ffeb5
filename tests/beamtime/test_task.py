"""Processing of a single run in a worker, without Dask: faults of files, processes and disks."""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

from gpu_spots.beamtime import runner as runners_module
from gpu_spots.beamtime.record import Record, Records
from gpu_spots.beamtime.runner import Runner, RunnerDied, Runners
from gpu_spots.beamtime.runs import Run
from gpu_spots.beamtime.task import Job, Processing, check_worker, process
from helpers import assert_equal_results, command, replaced, series, write_run


@pytest.fixture(scope="module")
def runners() -> Iterator[Runners]:
    found = Runners()
    yield found
    found.stop()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A laser run that is to be processed."""
    (tmp_path / "in").mkdir()
    path = write_run(tmp_path / "in" / "a__mccd.h5")
    return Job(
        run=Run("day1/a", (str(path),)),
        processing=Processing(options=("--manual", "-d", "1"), laser=("-S", "blocks")),
        out=str(tmp_path / "out"),
        batch="one",
        folder=str(tmp_path),
        threads=1,
    )


def done(job: Job, runners: Runners) -> Record:
    return process(job, runners, "host", 1)


def left(job: Job) -> list[str]:
    """Files below the folder of the results."""
    out = Path(job.out)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_run_is_processed_once(job: Job, runners: Runners, tmp_path: Path) -> None:
    more = replace(job.processing, ratios=True, exports=(("csv",),), report=True)
    job = replace(job, processing=more)
    record = done(job, runners)
    assert (record["state"], record["action"], record["why"]) == ("done", "processed", "new")
    assert record["kind"] == "laser"
    assert record["figures"]["frames"] == 20
    assert record["figures"]["response"].startswith(("response", "no response"))
    assert record["figures"]["picture"].startswith("data:image/png;base64,")
    assert left(job) == [
        *("batch/day1/a.json", "batch/day1/a.log"),
        *("day1/a__ratios.h5", "day1/a__report.html", "day1/a__report.json"),
        *("day1/a__spots.csv", "day1/a__spots.h5"),
    ]
    assert command(*job.run.source, "-d", 1, "-S", "blocks", "-o", tmp_path / "b.h5").status == 0
    assert_equal_results(Path(job.out, "day1/a__spots.h5"), tmp_path / "b.h5")
    with h5py.File(Path(job.out, "day1/a__spots.h5")) as file:
        words = file["info"].attrs["command_line"]
    assert words.startswith(
        f"gpu-spots find {job.run.source[0]} --manual -d 1 -S blocks --threads 1 "
    )
    assert done(job, runners)["action"] == "skipped"
    other = replace(job, processing=replace(job.processing, options=("--manual", "-d", "2")))
    assert done(other, runners)["why"] == "options changed: now 2, not 1"
    assert done(replace(other, force=True), runners)["why"] == "forced"


def test_dark_runs_have_options_of_their_own(job: Job, runners: Runners) -> None:
    with h5py.File(job.run.source[0], "a") as file:
        replaced(lauecollect_laser_on=None)(file)
    job = replace(job, processing=replace(job.processing, ratios=True, dark=("-c", "4")))
    record = done(job, runners)
    assert record["kind"] == "dark"
    assert record["steps"] == [["find", "--manual", "-d", "1", "-c", "4"]]
    assert record["figures"]["response"] == ""
    as_laser = replace(job, run=replace(job.run, kind="laser"))
    assert "-S" in done(as_laser, runners)["error"]  # as its frames have no laser states


def test_a_changed_input_is_processed_again(job: Job, runners: Runners) -> None:
    done(job, runners)
    os.utime(job.run.source[0])
    assert done(job, runners)["why"].startswith("input changed: modified")


def test_an_input_that_changes_while_it_is_read_is_named(
    job: Job, runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Runner.ask

    def ask_and_change(runner: Runner, request: Any, *beat: Any) -> Any:
        reply = ask(runner, request, *beat)
        if request["ask"] == "commands":
            os.utime(job.run.source[0])
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "ask", ask_and_change)
        record = done(job, runners)
    error = f"{job.run.source[0]}: was changed while it was read; repeat the command"
    assert (record["state"], record["error"]) == ("failed", error)
    assert done(job, runners)["state"] == "done"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty, expected an HDF5 file"), (b"text", "is not an HDF5 file")],
)
def test_a_bad_file_fails_in_one_line(
    job: Job, runners: Runners, content: bytes, words: str
) -> None:
    Path(job.run.source[0]).write_bytes(content)
    record = done(job, runners)
    assert record["state"] == "failed"
    assert record["error"] == f"{job.run.source[0]}: {words}"
    assert left(job) == ["batch/day1/a.json"]
    assert Records(Path(job.out)).read("day1/a") == {
        key: value for key, value in record.items() if key != "action"
    }


def test_options_that_do_not_fit_the_run_fail(job: Job, runners: Runners) -> None:
    for words, text in (
        (("-a", "40"), "10 different angles"),
        (("--memory-limit", "10kB"), "of memory"),
    ):
        record = done(replace(job, run=replace(job.run, options=words)), runners)
        assert record["state"] == "failed"
        assert text in record["error"]
        assert "nothing was written" not in record["error"]
    assert left(job) == ["batch/day1/a.json", "batch/day1/a.log"]


def test_a_file_that_is_not_of_a_batch_is_kept(job: Job, runners: Runners) -> None:
    path = Path(job.out, "day1/a__spots.h5")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    record = done(job, runners)
    assert record["error"] == (
        f"{path}: already exists and is not of a batch; use --force to replace it"
    )
    assert path.read_text() == "mine"
    assert done(job, runners)["state"] == "failed"  # and again
    assert path.read_text() == "mine"
    assert done(replace(job, force=True), runners)["state"] == "done"


def test_a_run_of_another_batch_is_left_to_it(job: Job, runners: Runners) -> None:
    claim = Records(Path(job.out)).path("day1/a", ".claim")
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"host": "node7", "batch": "two"}))
    record = done(job, runners)
    assert record == {"name": "day1/a", "state": "claimed", "host": "node7"}
    assert left(job) == ["batch/day1/a.claim"]


def test_a_full_disk_is_named_and_the_run_is_done_later(job: Job) -> None:
    runners = Runners()
    try:
        with runners.runner() as runner:
            limits = resource.prlimit(runner.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(runner.pid, resource.RLIMIT_FSIZE, (20_000, limits[1]))
        record = done(job, runners)
        assert record["state"] == "failed"
        assert "a__spots.h5: cannot be written: File too large" in record["error"]
        assert left(job) == ["batch/day1/a.json", "batch/day1/a.log"]
        with runners.runner() as runner:
            resource.prlimit(runner.pid, resource.RLIMIT_FSIZE, limits)
        record = done(job, runners)
        assert (record["state"], record["why"]) == ("done", "failed before")
    finally:
        runners.stop()


@pytest.fixture
def slow(job: Job, tmp_path: Path) -> Job:
    """A run that takes seconds."""
    path = write_run(tmp_path / "slow.h5", frames=series(30, (192, 192)))
    return replace(job, run=Run("slow", (str(path),), ("-d", "40")))


def when_it_writes(job: Job) -> Path:
    """Wait until the output has been begun, and return the unfinished file."""
    part = Path(job.out, f"{job.run.name}__spots.h5.part")
    end = time.monotonic() + 30
    while not part.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    return part


@pytest.mark.parametrize(("times", "state"), [(1, "done"), (2, "failed")])
def test_a_process_that_dies_is_tried_again_once(slow: Job, times: int, state: str) -> None:
    runners = Runners()

    def kill() -> None:
        for _ in range(times):
            part = when_it_writes(slow)
            os.kill(runners._busy[0].pid, signal.SIGKILL)
            part.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        record = done(slow, runners)
    finally:
        killer.join()
        runners.stop()
    assert (record["state"], record["attempts"]) == (state, 2)
    if state == "failed":
        assert record["error"] == (
            "its process was killed, as the system does when memory runs out, twice"
        )


def test_a_run_renews_its_claim_and_stopping_leaves_nothing(
    slow: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners_module, "BEAT", 0.05)
    runners = Runners()
    claim = Records(Path(slow.out)).path("slow", ".claim")
    renewed: list[bool] = []

    def stop() -> None:
        when_it_writes(slow)
        os.utime(claim, (0, 0))
        end = time.monotonic() + 30
        while claim.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        renewed.append(claim.stat().st_mtime > 0)
        runners.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    record = done(slow, runners)
    stopper.join()
    assert renewed == [True]
    assert record == {"name": "slow", "state": "stopped"}
    assert left(slow) == ["batch/slow.json", "batch/slow.log"]
    with pytest.raises(RunnerDied), runners.runner():
        pass
    log = Records(Path(slow.out)).path("slow", ".log").read_text()
    assert "terminated; nothing was written" in log


def test_a_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners_module, "GRACE", 0.3)
    runner = Runner()
    runner.ask({"ask": "devices"})
    os.kill(runner.pid, signal.SIGSTOP)
    runner.close()
    assert not runner.is_alive()
    with pytest.raises(RunnerDied, match="was stopped"):
        runner.ask({"ask": "devices"})


def test_a_worker_must_see_the_results_and_have_the_version(tmp_path: Path) -> None:
    token = tmp_path / "out/batch/.one"
    assert "does not see the results in" in str(check_worker(str(token), "0.1.0"))
    token.parent.mkdir(parents=True)
    token.touch()
    assert check_worker(str(token), "0.1.0") is None
    assert "has gpu_spots 0.1.0, expected 7" in str(check_worker(str(token), "7"))
