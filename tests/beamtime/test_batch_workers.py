"""Workers of a batch: a GPU for each, resources, and a scheduler that is killed and restarted."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import CommClosedError

from gpu_spots.beamtime import computers
from gpu_spots.beamtime.computers import local_computers
from gpu_spots.beamtime.runner import Runner
from gpu_spots.beamtime.runs import Run
from gpu_spots.beamtime.session import Batch, Pending, jobs_of, sending
from gpu_spots.beamtime.task import Processing
from gpu_spots.cli.batch import Lines
from gpu_spots.errors import GpuSpotsError
from helpers import assert_equal_results, command, series, write_run


def test_the_processes_of_each_worker_see_one_gpu_from_their_start(client: Any) -> None:
    """CuPy chooses its device when it is imported, so the choice is in the environment before."""

    def look(dask_worker: Any) -> tuple[str, bool, dict[str, float]]:
        runner = Runner()
        try:
            while not (text := Path(f"/proc/{runner.pid}/environ").read_text()):
                time.sleep(0.001)  # until its memory has been set up
        finally:
            runner.close()
        visible = [line for line in text.split("\0") if line.startswith("CUDA_VISIBLE_DEVICES=")]
        return visible[0], "cupy" in sys.modules, dask_worker.state.total_resources

    assert sorted(client.run(look).values()) == [
        (f"CUDA_VISIBLE_DEVICES={number}", False, {"GPU": 1}) for number in (0, 1)
    ]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with 16 cores, 10 GB of free memory, and two of three GPUs that can be used."""
    found = {"numbers": [0, 2], "problems": ["GPU 1: it is too old"]}
    monkeypatch.setattr(Runner, "ask", lambda self, request: found)
    monkeypatch.setattr(computers, "default_workers", lambda: 16)
    monkeypatch.setattr(computers, "available_memory", lambda: 10**10)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("options", "visible", "words", "devices"),
    [
        ({}, None, "GPUs 0,2: 2 runs at a time, 8 threads each", ("0", "2")),
        ({"device": "2"}, None, "GPU 2: 16 threads each", ("2",)),
        ({"threads": 3, "jobs": 1}, None, "GPUs 0,2: 3 threads each", ("0", "2")),
        (
            {},
            "GPU-a,GPU-b,GPU-c",
            "GPUs GPU-a,GPU-c: 2 runs at a time, 8 threads each",
            ("GPU-a", "GPU-c"),
        ),
        ({"backend": "cpu"}, None, "the CPU: 8 runs at a time, 2 threads each", ()),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_each_gpu_has_a_worker(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    visible: str | None,
    words: str,
    devices: tuple[str, ...],
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started: list[Any] = []
    monkeypatch.setattr("gpu_spots.beamtime.cluster.local_client", started.append)
    found = local_computers(300, **options)
    assert found.words == words
    found.connect()
    assert (started[0].number, started[0].devices) == (found.number, devices)
    assert found.resources == ({"GPU": 1} if devices else {})
    assert found.backend == (("--backend", "gpu") if devices else ())
    assert found.memory == (None if found.number == 1 else int(0.9 * 10**10 / found.number))


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GpuSpotsError, match="device: GPU 1 cannot be used: GPU 1: it is too old"):
        local_computers(1, device="0,1")
    with pytest.raises(GpuSpotsError, match="device: cannot be used with the CPU backend"):
        local_computers(1, device="0", backend="cpu")
    found = {"numbers": [], "problems": ["CuPy is not installed"]}
    monkeypatch.setattr(Runner, "ask", lambda self, request: found)
    with pytest.raises(GpuSpotsError, match="backend gpu: CuPy is not installed"):
        local_computers(1, backend="gpu")


class Notes(Lines):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


LOST = (
    "the connection to the scheduler was lost; repeat the command, it goes on with the runs that "
    "are not done"
)


def test_a_scheduler_that_dies_while_a_record_is_fetched_is_named(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(future: Any) -> None:
        raise CommClosedError

    monkeypatch.setattr("distributed.Future.result", closed)
    batch = Batch([Run("a", ("a.h5",))], Processing(), tmp_path, lambda _: [])
    with sending(batch, "one", lambda: nullcontext(client), Notes()) as sent:
        (job,) = jobs_of(batch, "one")
        job.token.unlink()  # so that the worker returns at once
        sent.submit(Pending(job, "new", 0))
        with pytest.raises(GpuSpotsError, match=f"^{LOST}$"):
            until(sent.arrived)


def test_runs_wait_for_a_worker_with_what_they_need(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.beamtime.session.NO_WORKER", 0.0)
    run = Run("a", (str(write_run(tmp_path / "a.h5")),))
    notes = Notes()
    batch = Batch([run], Processing(), tmp_path / "out", lambda _: [], resources={"GPU": 2})
    with sending(batch, "one", lambda: nullcontext(client), notes) as sent:
        (job,) = jobs_of(batch, "one")
        sent.submit(Pending(job, "new", 0))
        assert [sent.arrived(), sent.arrived()] == [None, None]
    assert notes.notes == ["no worker has the Dask resource GPU; waiting for one"]


@contextmanager
def cluster(file: Path, port: int) -> Iterator[tuple[Any, Any]]:
    """A scheduler and a worker, started as users do; yield their processes."""
    common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
    file.unlink(missing_ok=True)
    started: list[Any] = []

    def start(name: str, *words: str) -> None:
        program = [sys.executable, "-m", f"distributed.cli.dask_{name}", *common, *words]
        started.append(subprocess.Popen(program, stderr=subprocess.DEVNULL, cwd=file.parent))

    try:
        start("scheduler", "--port", str(port))
        until(file.exists)
        start("worker", "--nthreads", "1", "--no-nanny", "--death-timeout", "60")
        yield started[0], started[1]
    finally:
        for process in started[::-1]:
            process.terminate()
            process.wait()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_scheduler_that_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.beamtime.cluster.CONNECT", 3.0)  # it is gone for good
    runs, out, file = tmp_path / "runs", tmp_path / "out", tmp_path / "scheduler.json"
    runs.mkdir()
    write_run(runs / "1.h5")
    write_run(runs / "2.h5", frames=series(100, (192, 192)))
    words = ("--scheduler", file, "--manual", "-d", "40", "--backend", "cpu", "--threads", 1)

    def batch() -> Any:
        return command("batch", runs, "-o", out, *words, name="gpu-spots")

    with cluster(file, 0) as (scheduler, worker):

        def kill() -> None:
            until((out / "2__spots.h5.part").exists)
            scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        ended = batch()
        killer.join()
        worker.wait(30)  # it ends without its scheduler, and its run with it
    assert ended.status == 1
    assert ended.lines[0] == f"2 runs; computing on workers of {file}"
    assert [line[:9] for line in ended.lines[1:-1]] in ([], ["[1/2] 1: "])  # said, or just done
    assert ended.lines[-1] == f"gpu-spots: {LOST}"
    until(lambda: not list(out.glob("*.part")))
    with cluster(file, 0):
        ended = batch()
    assert ended.status == 0
    assert ended.lines[1] == "1 of 2 runs are done already"
    for name in ("1", "2"):
        single = tmp_path / f"single_{name}.h5"
        assert command(runs / f"{name}.h5", "-d", 40, "-o", single, "--quiet").status == 0
        assert_equal_results(out / f"{name}__spots.h5", single)
    assert not list(out.rglob("*.claim"))
