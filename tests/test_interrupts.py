"""Ctrl-C, SIGTERM and SIGKILL: messages, exit status, and files."""

import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpu_spots import watchdog
from gpu_spots.cli.errors import Stopped, _stoppable
from gpu_spots.files.output import locks
from gpu_spots.files.output.new_file import _Disk, complete_or_absent, uninterrupted
from helpers import (
    Ended,
    assert_same,
    command,
    datasets,
    listing,
    replaced,
    series,
    started,
    write_run,
)

SLOW = ("--threads", 1, "-d", 60)
"""Options with which each stage of the run below takes a tenth of a second or more."""
UNWATCHED = (
    "import contextlib, gpu_spots.watchdog as w; w.watched = lambda *_: contextlib.nullcontext()"
)
"""Python by which the program has no watchdog."""
HURRIED = "import gpu_spots.watchdog as w; w.GRACE, w.LAST_WORD, w.STALL = 0.5, 0.5, 0.3"
"""Python by which its watchdog waits less."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on which the program works for a second or so."""

    def compress(file: h5py.File) -> None:
        frames = np.tile(series(40, (256, 256)), (1, 2, 2))
        file.create_dataset(
            "frames", data=frames, chunks=(1, 512, 512), compression="gzip", compression_opts=1
        )
        for name, values in (("angle", np.arange(40) // 2), ("laser_on", np.arange(40) % 2)):
            del file[f"lauecollect/{name}"]
            file[f"lauecollect/{name}"] = values

    return write_run(tmp_path_factory.mktemp("large") / "run__mccd.h5", replaced(frames=compress))


@pytest.fixture
def run(large: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own."""
    os.link(large, tmp_path / large.name)
    return tmp_path / large.name


def until(running: subprocess.Popen[str], line: str) -> list[str]:
    """Read stderr until the program says that it begins with a stage."""
    said: list[str] = []
    assert running.stderr is not None
    for text in running.stderr:
        said.append(text)
        if text.startswith(line):
            return said
    raise AssertionError(f"it never said {line!r}: {said}")


def assert_ended(
    running: subprocess.Popen[str], said: list[str], message: str, number: signal.Signals
) -> None:
    """Death by the signal, one line besides those of the stages, and nothing on stdout."""
    stdout, stderr = running.communicate(timeout=60)
    lines = "".join([*said, stderr]).splitlines()
    assert (running.returncode, stdout) == (-number, ""), lines
    assert lines[-1] == f"lu_hdf2spots: {message}; nothing was written"
    assert not [
        line for line in lines[:-1] if not line.endswith("...") and "computing on" not in line
    ], lines


@pytest.mark.parametrize(
    ("stage", "number", "message"),
    [
        ("read", signal.SIGINT, "interrupted"),
        ("background", signal.SIGTERM, "terminated"),
        ("masks", signal.SIGINT, "interrupted"),
        ("masks", signal.SIGTERM, "terminated"),
    ],
)
def test_an_interrupted_run_says_so_and_leaves_nothing(
    run: Path, stage: str, number: signal.Signals, message: str
) -> None:
    before = listing(run.parent)
    with started(run, *SLOW, "-S", "pairs") as running:
        said = until(running, stage)
        running.send_signal(number)
        assert_ended(running, said, message, number)
    assert listing(run.parent) == before


def test_an_interrupt_while_the_output_is_written_leaves_nothing(run: Path) -> None:
    before = listing(run.parent)
    part = run.parent / "run__spots.h5.part"
    with started(run, *SLOW, "-C", "none") as running:
        said = until(running, "masks")
        while running.poll() is None and part.stat().st_size < 10_000_000:
            time.sleep(0.002)
        running.send_signal(signal.SIGINT)
        assert_ended(running, said, "interrupted", signal.SIGINT)
    assert listing(run.parent) == before


def test_a_run_whose_terminal_is_closed_leaves_nothing(run: Path) -> None:
    before = listing(run.parent)
    with started(run, *SLOW) as running:
        said = until(running, "masks")
        running.send_signal(signal.SIGHUP)
        assert_ended(running, said, "terminated, as its terminal was closed", signal.SIGHUP)
    assert listing(run.parent) == before


def test_impatience_does_no_harm(run: Path) -> None:
    before = listing(run.parent)
    with started(run, *SLOW) as running:
        said = until(running, "masks")
        for _ in range(20):
            running.send_signal(signal.SIGINT)
            time.sleep(0.003)
        assert_ended(running, said, "interrupted", signal.SIGINT)
    assert listing(run.parent) == before


def test_what_the_process_was_told_to_ignore_is_ignored(run: Path) -> None:
    with started(
        run, "--threads", 1, prelude="signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    ) as running:  # as nohup does
        until(running, "background")
        running.send_signal(signal.SIGHUP)
        running.communicate(timeout=60)
        assert running.returncode == 0
    assert set(listing(run.parent)) == {run.name, "run__spots.h5"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_that_is_killed_or_crashes_leaves_nothing(run: Path, number: signal.Signals) -> None:
    with started(run, *SLOW) as running:
        until(running, "masks")
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
        assert running.returncode == -number
    assert (
        stderr == f"lu_hdf2spots: crashed or was killed while reading {run}: /frames; nothing was "
        "written\n"
    )
    assert set(listing(run.parent)) == {run.name}


def test_a_run_that_is_killed_with_its_watchdog_leaves_its_part_which_the_next_run_removes(
    run: Path,
) -> None:
    with started(run, *SLOW, prelude=UNWATCHED) as running:
        until(running, "masks")
        running.kill()
        running.communicate(timeout=60)
    assert set(listing(run.parent)) == {run.name, "run__spots.h5.part"}
    assert command(run, "--quiet").status == 0
    assert set(listing(run.parent)) == {run.name, "run__spots.h5"}
    with h5py.File(run.parent / "run__spots.h5") as found:
        assert command(run, "--quiet", "-o", run.parent / "clean.h5").status == 0
        with h5py.File(run.parent / "clean.h5") as clean:
            after, expected = datasets(found), datasets(clean)
    assert after.keys() == expected.keys()
    assert_same(after, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_old_output_stays_until_the_new_one_is_complete(
    run: Path, number: signal.Signals
) -> None:
    output = run.parent / "run__spots.h5"
    output.write_bytes(b"precious")
    state = output.stat()
    with started(run, *SLOW, "--force", prelude=UNWATCHED) as running:
        until(running, "masks")
        running.send_signal(number)
        running.communicate(timeout=60)
    assert output.read_bytes() == b"precious"
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (state.st_ino, state.st_mtime_ns)
    assert set(listing(run.parent)) - {run.name, output.name} == (
        {"run__spots.h5.part"} if number == signal.SIGKILL else set()
    )
    assert command(run, "--quiet", "--force").status == 0
    assert set(listing(run.parent)) == {run.name, output.name}
    with h5py.File(output) as file:
        assert len(file["frame2spotsBE"]) == 40


def test_ctrl_c_ends_a_shell_loop_too(run: Path) -> None:
    program = Path(sys.executable).with_name("lu_hdf2spots")
    if not program.exists() or not shutil.which("bash"):
        pytest.skip("needs bash, and the program installed")
    loop = (
        f"for i in 1 2 3; do {shlex.quote(str(program))} {shlex.quote(str(run))} --threads 1 "
        "-d "
        "60; echo round $i $?; done; echo over"
    )
    # SIGINT may be ignored where the tests run in the background; bash cannot undo that
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loop_running = subprocess.Popen(
            ["bash", "-c", loop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, ignored)
    with loop_running as running:
        until(running, "masks")
        os.killpg(running.pid, signal.SIGINT)
        stdout, _ = running.communicate(timeout=60)
    assert "over" not in stdout
    assert "round" not in stdout
    assert set(listing(run.parent)) == {run.name}


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "x__mccd.h5"
    with started("simulate", output, "--size", 512, "--angles", 20, name="gpu-spots") as running:
        while running.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.002)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
        assert (running.returncode, stdout) == (-signal.SIGINT, "")
    assert stderr.splitlines()[-1] == "gpu-spots: interrupted; nothing was written"
    assert "Traceback" not in stderr
    assert not listing(tmp_path)


# ------------------------------------------------------------------------------ libraries that hang

IN_C = "collections.deque(itertools.repeat(0), 0)"
"""A loop in C that never ends, never looks at signals and keeps Python's interpreter lock."""
COPYING = (
    f"import collections, itertools, gpu_spots.files.frames as f; f.copy_group = lambda *_: {IN_C}"
)
READING = (
    "import time, gpu_spots.files.frames as f; f.FileStack.read = f.FileStack.read_rows = "
    "lambda *_: time.sleep(1000)"
)


def damaged_heap(path: Path) -> Path:
    """Return a run with a text of no length in its heap.

    HDF5 2.0 follows it for ever.
    """
    write_run(path, replaced(lauecollect_comment=[f"comment {i}" for i in range(20)]))
    content = bytearray(path.read_bytes())
    place = content.find(b"GCOL")
    assert place > 0
    place += 16
    while struct.unpack_from("<H", content, place)[0]:
        place += 16 + (struct.unpack_from("<Q", content, place + 8)[0] + 7) // 8 * 8
    struct.pack_into("<Q", content, place + 8, 0)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_call_that_never_returns_is_ended(run: Path, number: signal.Signals, word: str) -> None:
    with started(run, "--quiet", prelude=f"{HURRIED}; {COPYING}") as running:
        assert running.stderr is not None
        assert (
            running.stderr.readline()
            == f"lu_hdf2spots: no progress for 0.3 s, reading {run}: lauecollect\n"
        )
        assert "run__spots.h5.part" in listing(run.parent)
        running.send_signal(number)
        stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout) == (-signal.SIGKILL, "")
    assert stderr == f"lu_hdf2spots: {word} while reading {run}: lauecollect; nothing was written\n"
    assert set(listing(run.parent)) == {run.name}


def test_threads_that_never_return_are_given_up(run: Path) -> None:
    with started(run, "--quiet", prelude=f"{HURRIED}; {READING}") as running:
        assert running.stderr is not None
        assert (
            running.stderr.readline()
            == f"lu_hdf2spots: no progress for 0.3 s, reading {run}: /frames\n"
        )
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=30)
    # Python still runs, so the program ends by the signal itself
    assert running.returncode == -signal.SIGINT
    assert (
        stderr == f"lu_hdf2spots: interrupted while reading {run}: /frames; nothing was written\n"
    )
    assert set(listing(run.parent)) == {run.name}


def test_a_damaged_heap_does_not_keep_the_program(tmp_path: Path) -> None:
    path = damaged_heap(tmp_path / "x__mccd.h5")
    with started(path) as running:
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "lauecollect/comment is damaged and left out of the output" in stderr
    assert set(listing(tmp_path)) == {path.name, "x__spots.h5"}


def test_a_watchdog_that_is_killed_is_not_missed(run: Path) -> None:
    report = (
        "import os, gpu_spots.watchdog as w; fork = os.fork; os.fork = lambda: (n := fork()) "
        "and (print(n, flush=True) or n)"
    )
    with started(run, *SLOW, prelude=report) as running:
        assert running.stdout is not None
        os.kill(int(running.stdout.readline()), signal.SIGKILL)
        running.communicate(timeout=60)
        assert running.returncode == 0
    assert set(listing(run.parent)) == {run.name, "run__spots.h5"}


def test_the_watchdog_leaves_a_file_that_another_run_holds(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_text("another's")
    state = part.stat()
    with part.open("rb+") as held:
        assert locks.lock(held.fileno())
        watchdog._remove(watchdog._Unfinished(state.st_dev, state.st_ino, part))
        assert part.exists()
    watchdog._remove(watchdog._Unfinished(state.st_dev, state.st_ino + 1, part))
    assert part.exists()
    watchdog._remove(watchdog._Unfinished(state.st_dev, state.st_ino, part))
    assert not part.exists()


# ------------------------------------------------------------------------ how that is brought about


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, whatever the test suite was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_signals_wait_until_the_block_has_ended() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("second")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first", "second"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_signals_that_come_too_late_are_not_heard() -> None:
    with uninterrupted(too_late=True):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("place", [0, 0.1, 0.5, 0.9, 1])
def test_an_interrupt_in_the_midst_of_hdf5s_work_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    run = write_run(tmp_path / "run__mccd.h5")
    write, calls, moment = os.pwrite, 0, -1

    def pwrite(*arguments: object) -> int:
        nonlocal calls
        calls += 1
        if calls == moment:
            signal.raise_signal(signal.SIGINT)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert command(run, "--quiet").status == 0
    (tmp_path / "run__spots.h5").unlink()
    calls, moment = 0, 1 + round(place * (calls - 1))
    before = listing(tmp_path)
    assert command(run, "--quiet") == Ended(
        1, "", "lu_hdf2spots: interrupted; nothing was written\n"
    )
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_while_the_file_is_made_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run__mccd.h5")
    tell = _Disk.tell

    def interrupted_tell(disk: _Disk) -> int:
        monkeypatch.setattr(_Disk, "tell", tell)
        signal.raise_signal(signal.SIGINT)
        return tell(disk)

    monkeypatch.setattr(_Disk, "tell", interrupted_tell)
    assert command(run, "--quiet") == Ended(
        1, "", "lu_hdf2spots: interrupted; nothing was written\n"
    )
    assert set(listing(tmp_path)) == {run.name}


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted(), _stoppable():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_nothing_to_do_with_signals() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with uninterrupted(), _stoppable():
            seen.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers]


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("early", [False, True])
def test_an_interrupt_that_python_drops_is_made_again(
    early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first timer asks before its start has returned, as on a busy machine."""
    start, started = threading.Timer.start, []

    def start_slowly(timer: threading.Timer) -> None:
        start(timer)
        started.append(timer)
        if early and len(started) == 1:
            time.sleep(1)

    monkeypatch.setattr("threading.Timer.start", start_slowly)

    class Thing:
        pass

    def stop() -> None:
        thing = Thing()
        # what is raised while a weak reference is told that its object is gone goes nowhere
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert reference() is None

    def wait() -> None:
        stop()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.001)

    with _stoppable(), pytest.raises(Stopped, match="interrupted"):
        wait()
    assert len(started) == 1 + early


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_that_comes_up_as_another_error_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:  # as modules written in C do while they are imported
            raise SystemError("initialization raised an unreported exception") from error

    monkeypatch.setattr("gpu_spots.run.find_to_file", fail)
    assert command(write_run(tmp_path / "x.h5"), "--quiet") == Ended(
        1, "", "lu_hdf2spots: interrupted; nothing was written\n"
    )


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_during_the_rename_comes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted_replace(*names: object) -> None:
        signal.raise_signal(signal.SIGINT)
        replace(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with complete_or_absent(tmp_path / "x") as part:
        part.write_text("all of it")
    assert listing(tmp_path).keys() == {"x"}


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_before_the_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), complete_or_absent(tmp_path / "x") as part:
        part.write_text("all of it")
    assert not listing(tmp_path)
