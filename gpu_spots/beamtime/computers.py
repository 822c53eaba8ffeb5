"""Computers for the runs of a batch: GPUs or cores of this computer, or a cluster."""

import importlib.util
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu_spots.beamtime.runner import Runner, RunnerDied
from gpu_spots.beamtime.task import SPARE
from gpu_spots.errors import GpuSpotsError, ParameterError, given
from gpu_spots.memory.amounts import available_memory
from gpu_spots.memory.workers import default_workers
from gpu_spots.packages import install_command

if TYPE_CHECKING:
    from gpu_spots.beamtime.session import Connect

THREADS_OF_A_RUN = 2
"""Threads of a run on the CPU, if there are cores enough."""
LEAST_MEMORY = 1 << 30
"""Bytes of memory for which a further run is processed at the same time."""


@dataclass(frozen=True, slots=True)
class Computers:
    """Computers that process runs."""

    connect: "Connect"
    """Connects to the cluster."""
    words: str
    """The cluster in words."""
    threads: int | None = None
    """Threads of a run; None: workers share their cores."""
    memory: int | None = None
    """Memory of a run, bytes; None: workers share their memory."""
    resources: dict[str, float] = field(default_factory=dict)
    """Dask resources of a run."""
    backend: tuple[str, ...] = ()
    """Option of find for the backend."""
    number: int = 0
    """Runs at the same time; 0: not known before workers are there."""


def require_cluster() -> None:
    """Raise `GpuSpotsError` if Dask is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("dask", "distributed")):
        raise GpuSpotsError(f"needs Dask; install it with {install_command('cluster')}")


def local_computers(
    n_runs: int,
    jobs: int | None = None,
    device: str | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Computers:
    """Return the workers of this computer: one per GPU, or as many as cores and memory allow.

    Args:
        n_runs: Runs that are to be processed.
        jobs: Runs at the same time; None: chosen here.
        device: Numbers of the GPUs, separated by commas; None: all that can be used.
        backend: ``"auto"``, ``"gpu"`` or ``"cpu"``.
        threads: Threads of a run; None: its share of the cores.

    Raises:
        GpuSpotsError: A GPU that is asked for cannot be used.
    """
    from gpu_spots.beamtime.cluster import LocalWorkers, local_client

    cores, free = default_workers(), available_memory()
    gpus = _gpus(backend, device)
    usual = len(gpus) or max(1, cores // THREADS_OF_A_RUN)
    if not gpus and free is not None:
        usual = max(1, min(usual, free // LEAST_MEMORY))
    number = min(jobs or usual, max(1, n_runs))
    memory = None if free is None or number == 1 else int(free * SPARE / number)
    threads = threads or max(1, cores // number)
    where = f"GPU{'s' * (len(gpus) > 1)} {','.join(gpus)}" if gpus else "the CPU"
    at_once = f"{number} runs at a time, " if number > 1 else ""
    return Computers(
        lambda: local_client(LocalWorkers(number, gpus)),
        f"{where}: {at_once}{threads} thread{'s' * (threads != 1)} each",
        threads,
        memory,
        {"GPU": 1} if gpus else {},
        ("--backend", "gpu") if gpus else (),
        number,
    )


def _gpus(backend: str, device: str | None) -> tuple[str, ...]:
    """Return the GPUs to use, as in CUDA_VISIBLE_DEVICES; empty: the CPU.

    Another process looks for them, as a process that has looked keeps memory of each GPU.
    """
    if backend == "cpu":
        if device is not None:
            raise ParameterError("device", "cannot be used with the CPU backend")
        return ()
    runner = Runner()
    try:
        found = runner.ask({"ask": "devices"})
    except RunnerDied as died:
        found = {"numbers": [], "problems": [f"the process that looks for GPUs {died}"]}
    finally:
        runner.close()
    numbers = found["numbers"]
    if device is not None:
        wanted = [part.strip() for part in device.split(",")]
        missing = [part for part in wanted if not part.isdigit() or int(part) not in numbers]
        if missing:
            reasons = "; ".join(found["problems"]) or f"GPUs are {', '.join(map(str, numbers))}"
            raise GpuSpotsError(f"{given('device')}: GPU {missing[0]} cannot be used: {reasons}")
        numbers = [int(part) for part in wanted]
    if backend == "gpu" and not numbers:
        raise GpuSpotsError(f"backend gpu: {'; '.join(found['problems'])}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    return tuple(names[number] if names else str(number) for number in numbers)
