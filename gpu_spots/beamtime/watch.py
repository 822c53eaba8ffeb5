"""Watching of folders: runs that are complete, and runs that are still growing.

Folders are polled, which also works on network drives. A run is complete when its files have not
changed for some time, and its log and images agree; an HDF5 file must not be open for writing.
Which runs are done is in their records, so a restart does nothing twice.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gpu_spots.beamtime.record import Record, Records
from gpu_spots.beamtime.runner import Runner, RunnerDied
from gpu_spots.beamtime.runs import (
    Found,
    Run,
    image_ending,
)
from gpu_spots.beamtime.session import (
    Batch,
    Connect,
    Pending,
    Sent,
    jobs_of,
    name_of_batch,
    sending,
)
from gpu_spots.beamtime.tables import write_tables
from gpu_spots.beamtime.task import state_of
from gpu_spots.errors import GpuSpotsError, InputError
from gpu_spots.files.suffixes import HDF5_SUFFIXES

PATIENCE = 10
"""Multiple of the settling time after which a run that does not agree with its log, or is open for
writing, is told of."""
State = tuple[tuple[str, int, int], ...]
"""Name, size and time of files."""


class WatchObserver(Protocol):
    """Receiver of the events of a watch."""

    def event(self, run: str, message: str) -> None:
        """Receive the news of a run."""

    def finished(self, record: Record, n_bytes: int) -> None:
        """Receive the record of a run that is done or has failed, and the bytes of its input."""

    def note(self, message: str) -> None:
        """Show a line to the user."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Settings of a watch."""

    search: Callable[[], Found]
    """Returns the runs that are there. Raises `GpuSpotsError`."""
    batch: Batch
    """Processing of each run; its own list of runs is empty."""
    every: float = 2.0
    """Seconds between two looks at the folders."""
    settle: float = 20.0
    """Seconds without a change after which a run is complete."""
    preview: float | None = None
    """Seconds between two previews of a growing run; None: no previews."""


@dataclass(slots=True)
class _Seen:
    """State of a run at the last look."""

    state: State
    since: float
    told: bool = False
    previewed: float | None = None
    preview_of: State = ()


class Watcher:
    """A watch while it runs."""

    def __init__(self, watch: Watch, observer: WatchObserver, runner: Runner) -> None:
        self._watch, self._observer, self._runner = watch, observer, runner
        self._records = Records(watch.batch.out)
        self._seen: dict[str, _Seen] = {}
        self._handled: dict[str, State] = {}
        self._sent: dict[str, State] = {}
        self._told: set[str] = set()
        self._preview: threading.Thread | None = None

    def complete(self, name: str) -> Iterator[Pending]:
        """Look at the folders once; yield runs that are complete and not done yet.

        Args:
            name: name of the batch.
        """
        try:
            found = self._watch.search()
        except InputError as error:  # a folder that vanishes, or two runs of the same name
            if str(error) not in self._told:
                self._told.add(str(error))
                self._observer.note(str(error))
            return
        for run in found.runs:
            if run.name in self._sent:
                continue
            pending = self._look(run, name)
            if pending is not None:
                yield pending

    def _look(self, run: Run, name: str) -> Pending | None:
        quick = _state([Path(run.source[0]), *_folders(run)])
        if not quick or self._handled.get(run.name) == quick:
            return None
        files, disagreement = self._files(run)
        state = _state(files, fresh=True)
        (job,) = jobs_of(replace(self._watch.batch, runs=[run]), name)
        try:
            why = state_of(job, files, self._records.read(run.name))
        except InputError:  # a file has vanished
            return None
        if why is not None and not self._is_complete(run, state, disagreement):
            return None
        self._seen.pop(run.name, None)
        self._handled[run.name] = quick
        if why is None:
            return None
        self._sent[run.name] = quick
        n_bytes = sum(size for _, size, _ in state)
        return Pending(job, why, n_bytes)

    def _is_complete(self, run: Run, state: State, disagreement: str) -> bool:
        """Return whether a run is complete; tell of one that is not, and make its preview."""
        now = time.monotonic()
        seen = self._seen.get(run.name)
        if seen is None or seen.state != state:
            if seen is None and run.name in self._handled:
                self._observer.event(run.name, "changed after it was processed; waiting")
            previewed, of = (seen.previewed, seen.preview_of) if seen else (None, ())
            seen = self._seen[run.name] = _Seen(state, now, False, previewed, of)
        quiet = now - seen.since
        is_open = quiet >= self._watch.settle and self._is_open(run)
        if quiet >= self._watch.settle and not disagreement and not is_open:
            return True
        problem = disagreement or ("is still open for writing" if is_open else "")
        if problem and quiet > PATIENCE * self._watch.settle and not seen.told:
            seen.told = True
            self._observer.event(run.name, f"not complete: {problem}")
        self._maybe_preview(run, seen, now)
        return False

    def processed(self, name: str) -> None:
        """Note that a run has been processed, so that a change of it counts again."""
        self._sent.pop(name, None)

    def _files(self, run: Run) -> tuple[list[Path], str]:
        """Return the files of a run, and the disagreement of log and images; empty: none."""
        words = [*run.source, *self._watch.batch.processing.options, *run.options]
        try:
            files = list(self._watch.batch.files(words))
        except InputError as error:  # images that the log names are missing, or half a line
            return [Path(run.source[0]), *_images_of(run)], str(error)
        if not run.source[0].lower().endswith(".log"):
            return files, ""
        others = {path.name for path in _images_of(run)} - {path.name for path in files}
        if others:
            n = len(others)
            files += [path for path in _images_of(run) if path.name in others]
            return files, f"{n} image{'s' * (n != 1)} not in the log, such as {min(others)}"
        return files, ""

    def _is_open(self, run: Run) -> bool:
        path = Path(run.source[0])
        if path.suffix.lower() not in HDF5_SUFFIXES:
            return False
        try:
            return bool(self._ask({"ask": "growth", "source": str(path)}).get("is_written"))
        except RunnerDied:
            return False

    def _ask(self, request: Any) -> Any:
        if not self._runner.is_alive():
            self._runner = Runner()
        return self._runner.ask(request)

    def _maybe_preview(self, run: Run, seen: _Seen, now: float) -> None:
        """Begin a preview of a growing run, if it is time for one."""
        every = self._watch.preview
        if every is None or (self._preview is not None and self._preview.is_alive()):
            return
        if seen.preview_of == seen.state or now - (seen.previewed or -1e9) < every:
            return
        seen.previewed, seen.preview_of = now, seen.state
        self._preview = threading.Thread(target=self._make_preview, args=(run,), daemon=True)
        self._preview.start()

    def _make_preview(self, run: Run) -> None:
        out = self._watch.batch.out
        output = out / f"{run.name}__preview.h5"
        copy = out / f"{run.name}__growing.h5"
        processing = self._watch.batch.processing
        source, words = run.source, [*processing.options, *run.options]
        runner = Runner()
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if Path(source[0]).suffix.lower() in HDF5_SUFFIXES:
                ask = {"ask": "copy", "source": source[0], "output": str(copy)}
                reply = runner.ask(ask)
                if "error" in reply or not reply["frames"]:
                    return  # not in the mode SWMR, or nothing there yet
                source = (str(copy),)
            else:
                words.append("--skip-bad")
            limits = [] if self._watch.batch.threads is None else ["--threads", "1"]
            log = self._records.path(run.name, ".preview.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            common = ["-a", "0", "--keep", "none", "-o", str(output), "--force"]
            step = ["find", *source, *words, *limits, *processing.resources, *common]
            reply = runner.ask({"ask": "commands", "steps": [step], "log": str(log)})
            if "error" in reply:
                self._observer.event(run.name, f"no preview yet: {reply['error']}")
                return
            figures = runner.ask({"ask": "figures", "spots": str(output)})
            if "error" not in figures:
                self._observer.event(
                    run.name,
                    f"growing, {figures['frames']} frames so far, {figures['spots']} spots; "
                    f"{output}",
                )
        except (RunnerDied, OSError) as error:
            self._observer.event(run.name, f"no preview yet: {error}")
        finally:
            runner.close()
            for path in (copy, *([output] if run.name in self._handled else [])):
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """End the process that looks into files."""
        self._runner.close()


def run_watch(watch: Watch, connect: Connect, observer: WatchObserver) -> None:
    """Process runs as they become complete, until an exception such as KeyboardInterrupt.

    Args:
        watch: Settings.
        connect: Connects to the cluster.
        observer: Receiver of the events.

    Raises:
        GpuSpotsError: The folder of the results cannot be written, or the cluster is gone.
    """
    name = name_of_batch()
    with sending(watch.batch, name, connect, _Notes(observer)) as sent:
        watcher = Watcher(watch, observer, Runner())
        try:
            _loop(watch, watcher, sent, observer, Records(watch.batch.out), name)
        finally:
            watcher.close()


def _loop(
    watch: Watch,
    watcher: Watcher,
    sent: Sent,
    observer: WatchObserver,
    records: Records,
    name: str,
) -> None:
    due = 0.0
    later: list[tuple[float, Pending]] = []
    while True:
        now = time.monotonic()
        if now >= due:
            for one in watcher.complete(name):
                n_bytes = one.n_bytes
                observer.event(one.job.run.name, f"complete, {n_bytes / 1e6:.1f} MB; {one.why}")
                sent.submit(one)
            # large trees on slow drives are looked at less often
            due = time.monotonic() + max(watch.every, 2 * (time.monotonic() - now))
        for entry in [entry for entry in later if entry[0] <= now]:
            later.remove(entry)
            sent.submit(entry[1])
        arrived = sent.arrived()
        if arrived is None:
            continue
        one, record = arrived
        if record["state"] == "claimed":
            later.append((time.monotonic() + watch.every, one))
            continue
        watcher.processed(one.job.run.name)
        with suppress(OSError):
            (watch.batch.out / f"{one.job.run.name}__preview.h5").unlink()
        observer.finished(record, one.n_bytes)
        try:
            write_tables(records)
        except GpuSpotsError as error:
            observer.note(str(error))


class _Notes:
    """The observer of a batch inside a watch: only notes are passed on."""

    def __init__(self, observer: WatchObserver) -> None:
        self.note = observer.note

    def begin(self, n_runs: int, n_done: int, n_bytes: int) -> None:
        """Do nothing."""

    def finished(self, record: Record, n_bytes: int) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Do nothing."""


def _folders(run: Run) -> list[Path]:
    """Return folders whose times change when files of a run come."""
    path = Path(run.source[0])
    return [path.parent, path.parent / "xray_images"]


def _images_of(run: Run) -> list[Path]:
    """Return the images beside a log, or in its folder of images."""
    path = Path(run.source[0])
    found: list[Path] = []
    for folder in (path.parent / "xray_images", path.parent):
        with suppress(OSError):
            found += [folder / name for name in sorted(os.listdir(folder)) if image_ending(name)]
        if found:
            break
    return found


def _state(paths: list[Path], *, fresh: bool = False) -> State:
    """Return names, sizes and times of files; those that are missing are left out.

    ``fresh``: each file is opened, so that a network drive asks its server.
    """
    found = []
    for path in paths:
        try:
            if fresh and path.is_file():
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    state = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
            else:
                state = path.stat()
        except OSError:
            continue
        found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)
