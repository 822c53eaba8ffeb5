"""Dask clusters for a batch: of this computer, of Slurm jobs, or one that runs already.

Only this module and `gpu_spots.beamtime.session` import Dask.
"""

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

import dask
import distributed
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, WorkerPlugin

from gpu_spots.beamtime.runner import Runners
from gpu_spots.beamtime.task import Job, check_worker, process
from gpu_spots.errors import GpuSpotsError, given
from gpu_spots.packages import install_command

NEVER = logging.CRITICAL + 1
"""Level of logging that no message has."""
CONNECT = 10.0
"""Seconds to connect to a scheduler."""
LOST_WORKERS = 1
"""Number of workers that may die of a run before it counts as failed: it is tried twice."""


class RunnersPlugin(WorkerPlugin):  # type: ignore[misc]
    """Owner of the processes of a worker that do the commands; they end with the worker."""

    def __init__(self, name: str, log: str | None = None) -> None:
        self.name = name
        self._log = log

    def setup(self, worker: Any) -> None:
        """Begin to own processes; from now on, text that libraries print goes to the log."""
        if self._log is not None:
            with suppress(OSError):
                log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
        self.runners = Runners()

    def teardown(self, worker: Any) -> None:
        """End the processes."""
        self.runners.stop()


def do(job: Job, plugin: str, version: str) -> dict[str, Any]:
    """Process a run in a worker; this is the task that Dask is given."""
    worker = distributed.get_worker()
    address = worker.address
    if problem := check_worker(str(job.token), version):
        return {"name": job.run.name, "state": "unfit", "worker": address, "error": problem}
    runners: Runners = worker.plugins[plugin].runners
    host = address.rpartition("://")[2].rpartition(":")[0]
    slots = job.slots.get(host, worker.state.nthreads)
    return {**process(job, runners, socket.gethostname(), slots), "worker": address}


def stop_runners(plugin: str, dask_worker: Any) -> None:
    """End the processes of a worker; `Client.run` calls this."""
    found = dask_worker.plugins.get(plugin)
    if found is not None:
        found.runners.stop()


def silence() -> None:
    """Let Dask print nothing; our own lines have all that the user must know."""
    for name in ["distributed", "bokeh", "tornado", "asyncio", *logging.root.manager.loggerDict]:
        if name.split(".")[0] in ("distributed", "bokeh", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(NEVER)


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """Workers of this computer."""

    number: int
    """Number of worker processes."""
    devices: tuple[str, ...] = ()
    """GPU of each worker, as in CUDA_VISIBLE_DEVICES; empty: runs are computed on the CPU."""


@contextmanager
def local_client(workers: LocalWorkers) -> Iterator[Client]:
    """Start a cluster on this computer, and connect to it.

    Each worker is a process that does one run at a time. Connections are encrypted, with keys of
    this cluster only, as everybody with an account on the computer could connect.
    """
    silence()
    security = Security.temporary()
    spec = {
        i: {"cls": Nanny, "options": _nanny_options(workers, i, security)}
        for i in range(workers.number)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {
            "protocol": "tls",
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "security": security,
        },
    }
    settings = {
        "distributed.scheduler.allowed-failures": LOST_WORKERS,
        "distributed.worker.daemon": True,
        "distributed.admin.log-format": "%(message)s",
    }
    with ExitStack() as opened:
        opened.enter_context(dask.config.set(settings))
        with _interrupts_held():
            try:
                cluster = SpecCluster(
                    workers=spec, scheduler=scheduler, security=security, silence_logs=NEVER
                )
            except RuntimeError as error:
                raise GpuSpotsError(
                    f"workers did not start: {' '.join(str(error).split())}; a script must call "
                    "batch below a line if __name__ == '__main__':"
                ) from error
            opened.enter_context(cluster)
        silence()
        yield opened.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold the first Ctrl-C back until the block ends; processes that start in it never get one.

    A worker that is still importing its modules would print a traceback, and a cluster that is
    interrupted while it starts would not end its workers.
    """
    resource_tracker.ensure_running()  # it unblocks the signal in the thread that starts it
    handler = signal.getsignal(signal.SIGINT)
    heard: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if heard and callable(handler):
            handler(number, frame)
        heard.append(number)

    is_heard_here = callable(handler) and threading.current_thread() is threading.main_thread()
    if is_heard_here:
        signal.signal(signal.SIGINT, hold)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_heard_here:
            signal.signal(signal.SIGINT, handler)
    if heard:
        signal.raise_signal(signal.SIGINT)


def _nanny_options(workers: LocalWorkers, number: int, security: Security) -> dict[str, Any]:
    options: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": 0,  # the plan of each run keeps the limit
        "protocol": "tls",
        "security": security,
        "host": "127.0.0.1",
        "silence_logs": NEVER,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    if workers.devices:
        options |= {
            "env": {"CUDA_VISIBLE_DEVICES": workers.devices[number % len(workers.devices)]},
            "resources": {"GPU": 1},
        }
    return options


@contextmanager
def connected_client(address: str) -> Iterator[Client]:
    """Connect to a running scheduler.

    Args:
        address: address such as ``tcp://host:8786``, or a scheduler file.

    Raises:
        GpuSpotsError: There is no scheduler at the address.
    """
    silence()
    where: dict[str, Any] = (
        {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    )
    try:
        client = Client(**where, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise GpuSpotsError(
            f"{given('scheduler')}: {address} cannot be reached: {' '.join(str(error).split())}"
        ) from error
    with client:
        yield client


@dataclass(frozen=True, slots=True)
class SlurmJobs:
    """Slurm jobs, each with one worker."""

    number: int
    """Number of jobs."""
    options: Mapping[str, Any]
    """Arguments of ``dask_jobqueue.SLURMCluster``, which replace those of the site's file."""
    with_gpu: bool = False
    """Each worker has a GPU."""


def slurm_cluster(jobs: SlurmJobs) -> Any:
    """Return a cluster without jobs as yet.

    Raises:
        GpuSpotsError: dask-jobqueue is missing, or its settings are incomplete.
    """
    silence()
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise GpuSpotsError(
            f"--slurm: needs dask-jobqueue; install it with {install_command('cluster')}"
        ) from None
    extra = ["--nthreads", "1", *(["--resources", "GPU=1"] if jobs.with_gpu else [])]
    options = {"processes": 1, **jobs.options}
    options["worker_extra_args"] = [*options.get("worker_extra_args", []), *extra]
    try:
        with dask.config.set({"distributed.scheduler.allowed-failures": LOST_WORKERS}):
            return SLURMCluster(silence_logs=NEVER, **options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise GpuSpotsError(
            f"--slurm: {text}; give it with --slurm-option NAME=VALUE, or in "
            "~/.config/dask/jobqueue.yaml"
        ) from error


@contextmanager
def slurm_client(jobs: SlurmJobs) -> Iterator[Client]:
    """Submit Slurm jobs, and connect to their workers. The jobs end with the block.

    Raises:
        GpuSpotsError: Slurm is not there, or refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise GpuSpotsError("--slurm: there is no command sbatch; use a computer that submits jobs")
    with slurm_cluster(jobs) as cluster:
        silence()
        try:
            cluster.scale(jobs=jobs.number)
            cluster.sync(cluster._correct_state)  # else a job that is refused is not told
            # a job that reaches its time limit is followed by another one
            cluster.adapt(minimum_jobs=jobs.number, maximum_jobs=jobs.number)
        except (OSError, RuntimeError) as error:
            text = str(error).strip()
            said = text.rpartition("stderr:")[2] or text
            raise GpuSpotsError(f"--slurm: {' '.join(said.split())}") from error
        with Client(cluster, set_as_default=False) as client:
            yield client


def parse_slurm_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return options of Slurm jobs from texts ``NAME=VALUE``.

    Numbers are integers; names that end in ``extra_directives``, ``prologue`` or ``skip`` are lists
    and may be repeated.

    Raises:
        GpuSpotsError: a text has no ``=``.

    Examples:
        >>> parse_slurm_options(["cores=16", "job_extra_directives=--gres=gpu:1"])
        {'cores': 16, 'job_extra_directives': ['--gres=gpu:1']}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name.isidentifier():
            raise GpuSpotsError(f"--slurm-option: {text!r} is not NAME=VALUE")
        if name.endswith(("extra_directives", "prologue", "skip", "extra_args")):
            options.setdefault(name, []).append(value)
        else:
            options[name] = int(value) if value.isdigit() else value
    return options


def job_script(jobs: SlurmJobs) -> str:
    """Return the script that each Slurm job runs. Nothing is submitted."""
    with slurm_cluster(jobs) as cluster:
        return str(cluster.job_script())
