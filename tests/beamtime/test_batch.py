"""A simulated beamtime on a Dask cluster with two workers."""

import csv
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import gpu_spots
from gpu_spots import Parameters
from gpu_spots.beamtime.claim import _owner, claimed
from gpu_spots.beamtime.cluster import _interrupts_held, connected_client
from gpu_spots.beamtime.page import SHOWN
from gpu_spots.beamtime.record import Records
from gpu_spots.beamtime.tables import COLUMNS
from gpu_spots.errors import GpuSpotsError
from helpers import ROOT, Ended, assert_equal_results, command, replaced, series, started, write_run

LASER = ("-S", "blocks")
GOOD = ("day1/dark_1", "day1/dark_2", "day1/laser_1", "day2/laser_2")
BAD = {
    "day1/corrupt": "is cut off: 21684 bytes, expected 43368",
    "day2/large": "of memory, 8 MiB are allowed",
    "day2/no_angles": "lauecollect/angle",
}


def make_beamtime(folder: Path) -> Path:
    """Write dark and laser runs; one is corrupt, one has no angles, one is too large."""
    for name in ("day1", "day2"):
        (folder / name).mkdir(parents=True)
    no_laser = replaced(lauecollect_laser_on=None)
    for i in (1, 2):
        write_run(folder / f"day1/dark_{i}__mccd.h5", no_laser, series(seed=i))
        write_run(folder / f"day{i}/laser_{i}__mccd.h5", frames=series(seed=4 + i))
    whole = (folder / "day1/dark_1__mccd.h5").read_bytes()
    (folder / "day1/corrupt__mccd.h5").write_bytes(whole[: len(whole) // 2])
    write_run(folder / "day2/no_angles__mccd.h5", replaced(lauecollect_angle=None))
    write_run(folder / "day2/large__mccd.h5", frames=series(20, (400, 500)))
    return folder


@dataclass(frozen=True)
class Beamtime:
    """A beamtime that was processed once."""

    runs: Path
    out: Path
    rows: list[dict[str, Any]]

    def again(self, client: Any, **options: Any) -> list[dict[str, Any]]:
        """Process it with the same options, or with others."""
        return gpu_spots.batch(self.runs, self.out, client=client, **{**OPTIONS, **options})


OPTIONS: dict[str, Any] = {
    "parameters": Parameters.manual(dilations=1),
    "laser_options": LASER,
    "ratios": True,
    "export": ["csv"],
    "memory_limit": 8 << 20,
    "threads": 1,
    "backend": "cpu",
}


@pytest.fixture(scope="module")
def beamtime(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Beamtime:
    folder = tmp_path_factory.mktemp("beamtime")
    found = Beamtime(make_beamtime(folder / "runs"), folder / "results", [])
    found.rows.extend(found.again(client))
    return found


def no_client() -> Any:
    """A client that nothing may be asked of."""
    return object()


def test_every_good_run_is_done_and_every_bad_one_is_named(beamtime: Beamtime) -> None:
    states = {row["run"]: row["state"] for row in beamtime.rows}
    assert states == {**dict.fromkeys(GOOD, "done"), **dict.fromkeys(BAD, "failed")}
    errors = {row["run"]: row["error"] for row in beamtime.rows}
    for name, words in BAD.items():
        assert words in errors[name]
        assert "\n" not in errors[name]
    kinds = {row["run"]: row["kind"] for row in beamtime.rows if row["state"] == "done"}
    assert kinds == {name: name[5:-2] for name in GOOD}


def test_results_are_equal_to_those_of_single_runs(beamtime: Beamtime, tmp_path: Path) -> None:
    for name in GOOD:
        words = LASER if "laser" in name else ()
        output = tmp_path / "single.h5"
        run = beamtime.runs / f"{name}__mccd.h5"
        assert command(run, "-d", 1, *words, "-o", output, "--force", "--quiet").status == 0
        assert_equal_results(beamtime.out / f"{name}__spots.h5", output)
        ratios = beamtime.out / f"{name}__ratios.h5"
        assert ratios.exists() == ("laser" in name)
        assert (beamtime.out / f"{name}__spots.csv").exists()
    assert not list(beamtime.out.rglob("*.part"))
    assert not list(beamtime.out.rglob("*.claim"))


def test_tables_have_a_row_for_each_run(beamtime: Beamtime) -> None:
    with (beamtime.out / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {*GOOD, *BAD}
    row = next(row for row in rows if row["run"] == "day1/laser_1")
    with gpu_spots.open_spots(beamtime.out / row["spots_file"]) as results:
        assert int(row["spots"]) == results.n_spots
        assert int(row["frames"]) == results.n_frames == 20
        levels = results.per_frame()["level"]
        assert float(row["level"]) == round(float(np.median(levels)), 2)
        drift = 100 * np.ptp(levels) / np.median(levels)
        assert float(row["drift_percent"]) == round(float(drift), 2)
    assert row["response"].startswith("response not tested: this needs")
    table = pyarrow.parquet.read_table(beamtime.out / "runs.parquet").to_pylist()
    assert [entry["run"] for entry in table] == [entry["run"] for entry in rows]
    assert table[rows.index(row)]["spots"] == int(row["spots"])
    page = (beamtime.out / "index.html").read_text()
    assert "7 runs: 4 done, 3 failed" in page
    assert page.count("data:image/png;base64,") == len(GOOD)
    assert 'href="day1/laser_1__spots.h5"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_columns_are_documented() -> None:
    page = (ROOT / "docs/beamtime.md").read_text()
    table = page.partition("The columns of `runs.csv` are:")[2].partition("\n## ")[0]
    assert [name for name in COLUMNS if f"`{name}`" not in table] == []
    assert set(SHOWN) <= set(COLUMNS)


def test_runs_that_are_done_need_no_cluster(beamtime: Beamtime) -> None:
    begin = time.monotonic()
    rows = beamtime.again(no_client(), exclude=["corrupt*", "large*", "no_angles*"])
    assert [row["state"] for row in rows] == ["done"] * len(GOOD)
    assert time.monotonic() - begin < 5


def test_only_what_has_changed_is_processed_again(beamtime: Beamtime, client: Any) -> None:
    before = {name: (beamtime.out / f"{name}__spots.h5").stat().st_ino for name in GOOD}
    os.utime(beamtime.runs / "day1/dark_2__mccd.h5")
    rows = beamtime.again(client, exclude=["corrupt*", "large*"])
    after = {name: (beamtime.out / f"{name}__spots.h5").stat().st_ino for name in GOOD}
    assert {name for name in GOOD if after[name] != before[name]} == {"day1/dark_2"}
    whys = {name: Records(beamtime.out).read(name)["why"] for name in GOOD}  # type: ignore[index]
    assert whys["day1/dark_2"].startswith("input changed: modified")
    assert [row["state"] for row in rows].count("failed") == 1  # again, as the reason may be gone


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Three runs that take a second or so each."""
    (tmp_path / "runs").mkdir()
    for i in (1, 2, 3):
        write_run(tmp_path / f"runs/{i}.h5", frames=series(30, (192, 192), seed=i))
    return tmp_path / "runs"


SLOW = ("--manual", "-d", "40")


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that is not false, and return it."""
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def writing(out: Path) -> list[Path]:
    return list(out.glob("*__spots.h5.part"))


def test_a_run_whose_worker_dies_goes_to_another_one(slow: Path, client: Any) -> None:
    out = slow.parent / "out"
    killed: list[str] = []

    def kill() -> None:
        part = until(lambda: writing(out))[0]
        killed.append(part.name.partition("__")[0])
        owner = _owner(Records(out).path(killed[0], ".claim"))
        os.kill(owner["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = gpu_spots.batch(slow, out, client=client, options=SLOW, threads=1, backend="cpu")
    killer.join()
    assert [row["state"] for row in rows] == ["done"] * 3
    attempts = {row["run"]: row["attempts"] for row in rows}
    assert attempts[killed[0]] == 2
    until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
    until(lambda: not writing(out))


def processes(out: Path) -> list[int]:
    """Processes of a batch with that folder of results: programs, workers, and their processes."""
    mark = os.fsencode(str(out))
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and mark in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def process_of(out: Path, name: str) -> int:
    """Return the process that does the commands of a run, a child of its worker."""
    worker = _owner(Records(out).path(name, ".claim"))["pid"]
    children = [path.read_text() for path in Path(f"/proc/{worker}/task").glob("*/children")]
    (found,) = (
        int(child)
        for child in " ".join(children).split()
        if b"gpu_spots.cli.runner" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return found


@contextmanager
def frozen(process: int) -> Iterator[Callable[[], bool]]:
    """Stop a process, so that it cannot end by itself; yield whether its stdin was closed."""
    os.kill(process, signal.SIGSTOP)
    pipe = os.open(f"/proc/{process}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(pipe, 0)
    try:
        yield lambda: bool(poll.poll(0))
    finally:
        os.close(pipe)
        os.kill(process, signal.SIGCONT)


@contextmanager
def batch(slow: Path, out: Path, *words: object) -> Iterator[Any]:
    environment = {**os.environ, "BATCH_OF_THIS_TEST": str(out)}
    with started(
        *("batch", slow, "-o", out, "--jobs", 2, "--backend", "cpu", *SLOW, *words),
        name="gpu-spots",
        env=environment,
    ) as running:
        yield running


def n_done(out: Path) -> int:
    return sum(record["state"] == "done" for record in Records(out).all().values())


def test_workers_get_no_ctrl_c_however_early_it_comes(client: Any) -> None:
    """A worker that is still importing its modules would print a traceback."""
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    blocked = client.run(lambda: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    assert list(blocked.values()) == [True, True]


def test_ctrl_c_while_workers_start_is_heard_when_they_are_there() -> None:
    before = signal.getsignal(signal.SIGINT)
    events = []

    def start_workers() -> None:
        with _interrupts_held():
            signal.raise_signal(signal.SIGINT)
            events.append("started")
        events.append("not interrupted")

    with pytest.raises(KeyboardInterrupt):
        start_workers()
    assert events == ["started"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_batch_and_the_same_command_goes_on(
    slow: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = slow.parent / "out"
    write_run(slow / "3.h5", frames=series(100, (192, 192)))
    with batch(slow, out) as running:
        until((out / "3__spots.h5.part").exists)  # so 1 or 2 is done
        with frozen(process_of(out, "3")) as is_asked_to_end:
            running.send_signal(signal.SIGINT)
            until(is_asked_to_end)
        said = running.communicate(timeout=30)[1]
    assert running.returncode == -signal.SIGINT
    n = n_done(out)
    assert 1 <= n <= 2
    n_said = said.count("/3] ")  # the last one may be done and not be said
    first, *lines, last = said.splitlines()
    assert first == "3 runs; computing on the CPU: 2 runs at a time, 1 thread each"
    assert [line[:6] for line in lines] == [
        f"[{i}/3] " for i in range(1, n_said + 1)
    ]  # none of Dask
    assert (
        last
        == f"gpu-spots: interrupted; {n} runs are done; the same command goes on with the others"
    )
    until(lambda: not processes(out))
    assert not writing(out)
    assert not list(out.rglob("*.claim"))
    monkeypatch.setattr("gpu_spots.beamtime.cluster.local_client", lambda _: nullcontext(client))
    ended = told(slow, "-o", out, "--jobs", 2, "--backend", "cpu", *SLOW)
    assert ended.status == 0
    assert ended.lines[1] == f"{n} of 3 runs are done already"
    assert len(ended.lines) == 3 + 3 - n
    assert ended.lines[-1].startswith(f"3 runs: {3 - n} done, {n} skipped as already done, in ")


def told(*words: object) -> Ended:
    return command("batch", *words, name="gpu-spots")


def test_a_run_of_another_batch_is_waited_for(
    slow: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.beamtime.session.ASK_AGAIN", 0.1)
    out = slow.parent / "out"

    def other() -> None:
        with claimed(Records(out).path("1", ".claim"), "another"):
            until(lambda: n_done(out) == 2)

    holder = threading.Thread(target=other)
    holder.start()
    until(lambda: Records(out).path("1", ".claim").exists())
    with pytest.warns(UserWarning, match="^1: another batch is processing it on .*; waiting$"):
        rows = gpu_spots.batch(
            slow, out, client=client, options=["--manual"], threads=1, backend="cpu"
        )
    holder.join()
    assert [row["state"] for row in rows] == ["done"] * 3
    logs = [Records(out).path(name, ".log").read_text() for name in "123"]
    assert [log.count("spots on 30 frames") for log in logs] == [1, 1, 1]
    assert rows[0]["finished"] >= max(row["finished"] for row in rows[1:])


def test_a_worker_without_the_files_is_named(
    slow: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda _: None)  # the file that workers look for
    with (
        pytest.warns(UserWarning, match="does not see the results in .*, expected a shared file"),
        pytest.raises(GpuSpotsError, match="no worker can process runs"),
    ):
        gpu_spots.batch(slow, slow.parent / "out", client=client)


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_spots.beamtime.cluster.CONNECT", 0.5)
    with (
        pytest.raises(GpuSpotsError, match=r"scheduler: tcp://127\.0\.0\.1:9 cannot be reached"),
        connected_client("tcp://127.0.0.1:9"),
    ):
        pass


def test_the_dry_run_shows_runs_plan_and_time(beamtime: Beamtime) -> None:
    words = ("--manual", "-d", 1, "--laser-options", "-S blocks", "--backend", "cpu", "--jobs", 1)
    ended = told(beamtime.runs, "-o", beamtime.out / "new", "--dry-run", *words)
    assert ended.status == 0, ended
    lines = ended.stdout.splitlines()
    assert "day1/laser_1: laser, 20 frames of 24 x 40, uint16, 38400 bytes; new" in lines
    assert lines[0].startswith("day1/corrupt: cannot be opened: ")
    assert "plan of the largest run, day2/large:" in lines
    assert any(line.startswith("  memory:") for line in lines)
    assert lines[-2].startswith("7 of 7 runs are to be processed, ")
    assert lines[-1].startswith("time: about ")
    assert not (beamtime.out / "new").exists()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("-o", "out"), 2, "Missing argument 'FOLDER | RUN... | LIST'"),
        (("runs",), 2, "Missing option '-o' / '--out'"),
        (("nowhere", "-o", "out"), 1, "nowhere: No such file or directory"),
        (("empty", "-o", "out"), 1, "empty: no runs found, expected HDF5 files, or logs"),
        (("empty", "-o", "out", "-c", "-3"), 2, "-3.0 is not a finite number >= 0"),
        (("empty", "-o", "out", "--laser-options", "-S all"), 2, "--laser-options: "),
        (("empty", "-o", "out", "--dark-options", "'"), 2, "No closing quotation"),
        (("empty", "-o", "out", "--export", "excel"), 2, "'excel' is not one of csv, parquet"),
        (("empty", "-o", "out", "--export", "refl --fast"), 2, "--export: No such option '--fast'"),
        (("empty", "-o", "out", "--export", "refl -o a"), 2, "--output cannot be used for single"),
        (("empty", "-o", "out", "--print-job"), 2, "--print-job needs --slurm"),
        (("empty", "-o", "out", "--slurm-option", "cores=2"), 2, "--slurm-option needs --slurm"),
        (
            ("empty", "-o", "out", "--slurm", "--device", "0"),
            2,
            "--slurm cannot be used with --device (see gpu-spots batch --help)",
        ),
        (
            ("empty", "-o", "out", "--scheduler", "tcp://a:1", "--jobs", "2"),
            2,
            "--scheduler cannot be used with --jobs",
        ),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    status: int,
    text: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    ended = told(*words)
    assert (ended.status, ended.stdout) == (status, "")
    assert len(ended.lines) == 1
    assert text in ended.stderr
    assert not (tmp_path / "out").exists()


def test_the_exit_status_tells_that_a_run_failed(
    tmp_path: Path, beamtime: Beamtime, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.beamtime.cluster.local_client", lambda _: nullcontext(client))
    run = beamtime.runs / "day1/laser_1__mccd.h5"
    ended = told(
        run,
        "--manual",
        "-o",
        tmp_path / "new",
        "--quiet",
        "--jobs",
        1,
        "-a",
        40,
        "--backend",
        "cpu",
    )
    assert ended.status == 1
    assert ended.lines[0].startswith("[1/1] laser_1: failed: ")
    assert ended.lines[1] == (
        f"gpu-spots: 1 of 1 runs failed: laser_1; see {tmp_path / 'new' / 'runs.csv'}"
    )
