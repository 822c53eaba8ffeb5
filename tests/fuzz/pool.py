"""Runs cases in worker processes that are replaced when they die, and says how each ended."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fuzz.seeds import Oracle

TESTS = Path(__file__).parents[1]
SECONDS = 10.0
"""A case that takes longer hangs; wall-clock time."""
PATIENCE = 3
"""A case that seems to hang is run again with so much more time, as the machine may be busy."""
T = TypeVar("T")


class Worker:
    """One process of `fuzz.worker`, and a folder for its cases."""

    def __init__(self, root: Path) -> None:
        self.root = Path(tempfile.mkdtemp(dir=root))
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        prepare: Callable[[Path], object],
        commands: Sequence[Sequence[str]],
        oracle: Oracle | None = None,
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        """Run commands in a fresh folder that ``prepare`` fills; return how that ended.

        The outcome is that of `fuzz.worker`, with the names of the files, and of those that are
        new and gone.
        """
        folder = self.root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        prepare(folder)
        before = _names(folder)
        job = {
            "folder": str(folder),
            "scratch": str(self.root),
            "commands": commands,
            "seconds": seconds,
            "oracle": None if oracle is None else asdict(oracle),
        }
        outcome = self._ask(job)
        outcome["left"] = sorted(_names(folder) - before)
        outcome["lost"] = sorted(before - _names(folder))
        outcome["files"] = sorted(before)
        return outcome

    def run_patiently(
        self,
        prepare: Callable[[Path], object],
        commands: Sequence[Sequence[str]],
        oracle: Oracle | None = None,
    ) -> dict[str, Any]:
        """Run as `run`; again with more time if the case seems to hang."""
        outcome = self.run(prepare, commands, oracle)
        return (
            self.run(prepare, commands, oracle, SECONDS * PATIENCE) if outcome["hung"] else outcome
        )

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self._process = _started()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                return json.loads(line)
            self.close()
        raise RuntimeError("the worker process ends on this case")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _started() -> "subprocess.Popen[str]":
    path = os.pathsep.join(
        [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = {
        **os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    arguments = [sys.executable, "-m", "fuzz.worker"]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def writer(files: Mapping[str, bytes]) -> Callable[[Path], None]:
    """Return what writes files into a folder."""

    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return write


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Pool:
    """Several workers."""

    def __init__(self, root: Path, n_workers: int) -> None:
        self.n_workers = n_workers
        self._all = [Worker(root) for _ in range(n_workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a worker that is free, as soon as there is one."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def map(self, do: Callable[[Any], T], over: Sequence[Any]) -> Iterator[T]:
        """Apply a function that uses `worker`, in a thread for each worker; results in order."""
        with ThreadPoolExecutor(self.n_workers) as threads:
            yield from threads.map(do, over)

    def close(self) -> None:
        """End all processes."""
        for worker in self._all:
            worker.close()


@contextmanager
def pool(n_workers: int) -> Iterator[Pool]:
    """Provide workers whose files are in memory where the system has a folder for that."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place) as root:
        made = Pool(Path(root), n_workers)
        try:
            yield made
        finally:
            made.close()
