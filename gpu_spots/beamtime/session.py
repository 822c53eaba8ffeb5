"""A batch: choice of the runs to process, their way over a Dask cluster, tables of all runs."""

import itertools
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gpu_spots import __version__
from gpu_spots.beamtime.record import Record, Records
from gpu_spots.beamtime.runs import Run
from gpu_spots.beamtime.tables import write_tables
from gpu_spots.beamtime.task import Job, Processing, state_of
from gpu_spots.errors import GpuSpotsError, InputError, OutputError, given

if TYPE_CHECKING:
    from distributed import Client, Future

TABLES_EVERY = 5.0
"""Seconds between two writings of the tables while runs are processed."""
ASK_AGAIN = 2.0
"""Seconds until a run is asked for again that another batch is processing."""
TICK = 0.2
"""Seconds between two looks at the progress."""
NO_WORKER = 10.0
"""Seconds between two looks for workers that can process the runs."""

Files = Callable[[Sequence[str]], Sequence[Path]]
"""Function that returns the files of a run from its words. Raises `InputError`."""
Connect = Callable[[], "AbstractContextManager[Client]"]
"""Function that connects to a cluster."""


class BatchObserver(Protocol):
    """Receiver of the progress of a batch."""

    def begin(self, n_runs: int, n_done: int, n_bytes: int) -> None:
        """Receive the numbers of runs and of those done already, and the bytes of the others."""

    def finished(self, record: Record, n_bytes: int) -> None:
        """Receive the record of a run that is done or has failed, and the bytes of its input."""

    def tick(self) -> None:
        """Note that the batch is alive; called several times per second."""

    def note(self, message: str) -> None:
        """Show a line to the user."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs and their processing."""

    runs: Sequence[Run]
    """Runs, with different names."""
    processing: Processing
    """Processing of each run."""
    out: Path
    """Folder of the results."""
    files: Files
    """Returns the files of a run."""
    force: bool = False
    """Process all runs, and replace files that are not of a batch."""
    threads: int | None = None
    """Threads of a run; None: the cores of a computer are shared."""
    memory: int | None = None
    """Memory of a run, bytes; None: the memory of a computer is shared."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Dask resources that a run needs, such as ``{"GPU": 1}``."""
    retries_failed: bool = True
    """Process runs again that failed before."""


def name_of_batch() -> str:
    """Return a name that no other batch has."""
    return uuid.uuid4().hex[:12]


def jobs_of(batch: Batch, name: str) -> list[Job]:
    """Return a job for each run."""
    return [
        Job(
            run=run,
            processing=batch.processing,
            out=str(batch.out.absolute()),
            batch=name,
            folder=os.getcwd(),
            force=batch.force,
            threads=batch.threads,
            memory=batch.memory,
        )
        for run in batch.runs
    ]


@dataclass(frozen=True, slots=True)
class Pending:
    """Run to process."""

    job: Job
    """The run."""
    why: str
    """Reason."""
    n_bytes: int
    """Size of its files."""


def sort_out(batch: Batch, name: str) -> tuple[list[Pending], list[Record]]:
    """Return the runs that are to be processed, and the records of those that are done."""
    records = Records(batch.out)
    pending: list[Pending] = []
    done: list[Record] = []
    for job in jobs_of(batch, name):
        record = records.read(job.run.name)
        why: str | None
        size = 0
        try:
            words = [*job.run.source, *batch.processing.options, *job.run.options]
            files = batch.files(words)
            size = sum(path.stat().st_size for path in files)
            why = state_of(job, files, record)
        except (InputError, OSError):  # a worker finds it too, and writes it to the record
            why = "new"
        if why is None and record is not None:
            done.append({**record, "action": "skipped"})
        else:
            pending.append(Pending(job, why or "new", size))
    return pending, done


def run_batch(batch: Batch, connect: Connect, observer: BatchObserver) -> list[Record]:
    """Process the runs that are not done; return the records of all runs, in their order.

    If it is stopped, by an exception such as KeyboardInterrupt, the runs that are processed end
    without results, and the tables are written.

    Args:
        batch: Runs and their processing.
        connect: Connects to the cluster; not called if all runs are done.
        observer: Receiver of the progress.

    Raises:
        GpuSpotsError: The folder of the results cannot be written, or there is no cluster.
    """
    records = Records(batch.out)
    name = name_of_batch()
    pending, done = sort_out(batch, name)
    observer.begin(len(batch.runs), len(done), sum(one.n_bytes for one in pending))
    finished = {record["name"]: record for record in done}
    if pending:
        with sending(batch, name, connect, observer) as sent:
            try:
                finished |= sent.process(pending)
            except BaseException:
                if sent.has_results:
                    write_tables(records)
                raise
    write_tables(records)
    return [finished[run.name] for run in batch.runs]


@contextmanager
def sending(batch: Batch, name: str, connect: Connect, observer: BatchObserver) -> "Iterator[Sent]":
    """Connect to a cluster whose workers can process runs of a batch while the block runs.

    Raises:
        GpuSpotsError: The folder of the results cannot be written, there is no cluster, or no
            worker can process runs.
    """
    records = Records(batch.out)
    token = records.token(name)
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise OutputError(
            f"{token.parent}: no file can be written there: {error.strerror or error}; choose "
            f"another folder with {given('out')}"
        ) from error
    try:
        with connect() as client:
            sent = Sent(client, name, batch.resources, observer, records)
            try:
                sent.prepare(token)
                yield sent
            finally:
                sent.stop()
    finally:
        with suppress(OSError):
            token.unlink()


class Sent:
    """Runs that are on their way over a cluster."""

    def __init__(
        self,
        client: "Client",
        name: str,
        resources: Mapping[str, float],
        observer: BatchObserver,
        records: Records,
    ) -> None:
        self._client, self._name, self._observer = client, name, observer
        self._resources, self._records = dict(resources), records
        self._plugin = f"gpu-spots-{name}"
        self._numbers = itertools.count()
        self._arrived: queue.Queue[tuple[Pending, Future]] = queue.Queue()
        self._futures: dict[str, Future] = {}
        self._unfit: set[str] = set()
        self._slots: dict[str, int] = {}
        self._looked = time.monotonic()
        self._is_waiting = False
        self.has_results = False

    def prepare(self, token: Path) -> None:
        """Look at the workers that are there, and send them what runs need.

        Raises:
            GpuSpotsError: No worker can process runs, or the scheduler is gone.
        """
        from gpu_spots.beamtime.cluster import RunnersPlugin
        from gpu_spots.beamtime.task import check_worker

        with self._connected():
            answers = self._client.run(check_worker, str(token), __version__, on_error="return")
        problems = {
            address: answer if isinstance(answer, str) else f"{address}: {_line(answer)}"
            for address, answer in answers.items()
            if answer is not None
        }
        for problem in sorted(set(problems.values())):
            self._observer.note(f"worker {problem}")
        if problems and len(problems) == len(answers):
            raise GpuSpotsError("no worker can process runs; the reasons are above")
        self._unfit = set(problems)
        log = str(self._records.path("workers", ".log")) if self._is_ours() else None
        with self._connected():
            self._client.register_plugin(RunnersPlugin(self._plugin, log))
            for worker in self._workers().values():
                host = worker["host"]
                self._slots[host] = self._slots.get(host, 0) + worker["nthreads"]

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Raise `GpuSpotsError` if the scheduler does not answer any more."""
        try:
            yield
        except (OSError, CancelledError) as error:
            raise GpuSpotsError(_lost()) from error

    def _is_ours(self) -> bool:
        """Return whether the workers are of this batch alone."""
        return self._client.cluster is not None

    def _workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    def process(self, pending: Sequence[Pending]) -> dict[str, Record]:
        """Process runs, and return their records by name."""
        finished: dict[str, Record] = {}
        later: list[tuple[float, Pending]] = []
        told: set[str] = set()
        tables = time.monotonic()
        for one in pending:
            self.submit(one)
        while len(finished) < len(pending):
            now = time.monotonic()
            for due, one in [entry for entry in later if entry[0] <= now]:
                later.remove((due, one))
                self.submit(one)
            record = self.arrived()
            if record is None:
                self._observer.tick()
                continue
            one, found = record
            if found["state"] == "claimed":
                if one.job.run.name not in told:
                    told.add(one.job.run.name)
                    self._observer.note(
                        f"{one.job.run.name}: another batch is processing it on {found['host']}; "
                        "waiting"
                    )
                later.append((now + ASK_AGAIN, one))
                continue
            finished[one.job.run.name] = found
            self._observer.finished(found, one.n_bytes)
            if now - tables > TABLES_EVERY or not self.has_results:
                self.has_results = True
                write_tables(self._records)
                tables = time.monotonic()
        return finished

    def submit(self, one: Pending) -> None:
        """Give a run to the scheduler. Raises `GpuSpotsError` if that is gone."""
        from gpu_spots.beamtime.cluster import do

        with self._connected():
            allowed = [address for address in self._workers() if address not in self._unfit]
            future = self._client.submit(
                do,
                replace(one.job, slots=self._slots),
                self._plugin,
                __version__,
                key=f"{self._plugin}-{next(self._numbers)}-{one.job.run.name}",
                workers=allowed if self._unfit else None,
                resources=self._resources or None,
                pure=False,
            )
        self._futures[one.job.run.name] = future
        future.add_done_callback(lambda done: self._arrived.put((one, done)))

    def arrived(self) -> tuple[Pending, Record] | None:
        """Wait a moment for a run that has been processed.

        Raises:
            GpuSpotsError: The scheduler is gone, or no worker is left that can process runs.
        """
        try:
            one, future = self._arrived.get(timeout=TICK)
        except queue.Empty:
            if self._client.status not in ("running", "connecting"):
                raise GpuSpotsError(_lost()) from None
            with self._connected():
                self._look_for_workers()
            return None
        self._futures.pop(one.job.run.name, None)
        with self._connected():
            record = self._record(one.job.run.name, future)
        if record["state"] != "unfit":
            return one, record
        if record["worker"] not in self._unfit:
            self._observer.note(f"worker {record['error']}")
        self._unfit.add(record["worker"])
        with self._connected():
            if not set(self._workers()) - self._unfit:
                raise GpuSpotsError("no worker can process runs; the reasons are above")
        self.submit(one)
        return None

    def _record(self, name: str, future: "Future") -> Record:
        """Return the record of a run that has been processed."""
        if future.status == "finished":
            record: Record = future.result()
            return record
        if future.status == "error":
            return self._given_up(name, future.exception())
        raise GpuSpotsError(_lost())  # cancelled or lost

    def _look_for_workers(self) -> None:
        """Say once that runs wait because no worker can process them."""
        now = time.monotonic()
        if not self._futures or now - self._looked < NO_WORKER:
            return
        self._looked = now
        workers = self._workers()
        if any(self._fits(worker["resources"]) for worker in workers.values()):
            self._is_waiting = False
        elif not self._is_waiting:
            self._is_waiting = True
            needs = " and ".join(self._resources)
            missing = (
                f"no worker has the Dask resource {needs}" if workers else "there is no worker"
            )
            self._observer.note(f"{missing}; waiting for one")

    def _fits(self, resources: Mapping[str, float]) -> bool:
        """Return whether a worker has what a run needs."""
        return all(resources.get(name, 0) >= value for name, value in self._resources.items())

    def _given_up(self, name: str, error: BaseException | None) -> Record:
        """Return and write the record of a run whose workers died."""
        from distributed import KilledWorker

        before = self._records.read(name) or {"name": name}
        is_killed = isinstance(error, KilledWorker)
        text = "its worker died, twice" if is_killed else f"internal error: {_line(error)}"
        record = {**before, "state": "failed", "error": text, "action": "processed"}
        self._records.write(record)
        return record

    def stop(self) -> None:
        """End what still runs, and take our processes away from the workers."""
        from gpu_spots.beamtime.cluster import stop_runners

        with suppress(Exception):  # the cluster may be gone, which is no news here
            if self._futures:
                self._client.cancel(list(self._futures.values()), force=True)
            self._client.run(stop_runners, self._plugin, on_error="ignore")
        if not self._is_ours():
            with suppress(Exception):
                self._client.unregister_worker_plugin(self._plugin)


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if isinstance(error, BaseException) else text


def _lost() -> str:
    return (
        "the connection to the scheduler was lost; repeat the command, it goes on with the runs "
        "that are not done"
    )
