"""Processing of one run of a batch, in the process of a worker.

Commands run in a process of their own, see `gpu_spots.beamtime.runner`. Nothing here needs Dask.
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_spots import __version__
from gpu_spots.beamtime.claim import Claim, ClaimedElsewhere, claimed
from gpu_spots.beamtime.record import Record, Records, fingerprint, reason
from gpu_spots.beamtime.runner import Runner, RunnerDied, Runners
from gpu_spots.beamtime.runs import Run
from gpu_spots.errors import GpuSpotsError, OutputError
from gpu_spots.memory.amounts import available_memory
from gpu_spots.memory.workers import default_workers

ATTEMPTS = 2
"""Number of times that a run is tried whose process dies."""
SPARE = 0.9
"""Part of the free memory that the runs of a computer share."""


@dataclass(frozen=True, slots=True)
class Processing:
    """Processing of each run of a batch. Options are words of a command line of find."""

    options: tuple[str, ...] = ()
    """Options of all runs."""
    dark: tuple[str, ...] = ()
    """Further options of dark runs."""
    laser: tuple[str, ...] = ()
    """Further options of laser runs."""
    resources: tuple[str, ...] = ()
    """Options that do not change results, such as ``--threads``."""
    ratios: bool = False
    """Write the ratios of laser runs."""
    exports: tuple[tuple[str, ...], ...] = ()
    """Formats of ``gpu-spots export``, each with its options."""
    report: bool = False
    """Write a report of each run."""

    def steps(self, run: Run, kind: str) -> list[list[str]]:
        """Return the commands for a run of that kind, without their inputs and outputs."""
        of_kind = self.laser if kind == "laser" else self.dark
        return [
            ["find", *self.options, *of_kind, *run.options],
            *([["ratios"]] if self.ratios and kind == "laser" else []),
            *(["export", *one] for one in self.exports),
            *([["report"]] if self.report else []),
        ]


@dataclass(frozen=True, slots=True)
class Job:
    """Run, with all that a worker needs to process it. It can be pickled."""

    run: Run
    """The run."""
    processing: Processing
    """Its processing."""
    out: str
    """Folder of the results, absolute."""
    batch: str
    """Name of the batch, different for each."""
    folder: str
    """Folder of the command, to which paths in options are relative."""
    force: bool = False
    """Process the run even if it is done, and replace files that are not of a batch."""
    threads: int | None = None
    """Threads of a run. None: the cores of the computer, shared by its tasks."""
    memory: int | None = None
    """Memory of a run, bytes. None: the free memory of the computer, shared by its tasks."""
    slots: Mapping[str, int] = field(default_factory=dict)
    """Tasks at the same time by the address of a computer."""

    @property
    def token(self) -> Path:
        """File of the batch, see `Records.token`."""
        return Records(Path(self.out)).token(self.batch)


def check_worker(token: str, version: str) -> str | None:
    """Return why this computer cannot process runs of a batch; None: it can."""
    host = socket.gethostname()
    if version != __version__:
        return f"{host}: has gpu_spots {__version__}, expected {version}"
    if not os.path.exists(token):
        folder = Path(token).parent.parent
        return f"{host}: does not see the results in {folder}, expected a shared file system"
    return None


def state_of(job: Job, files: Sequence[Path], record: Record | None) -> str | None:
    """Return why a run must be processed, from its record; None: it is done.

    Args:
        job: the run.
        files: the files that it reads.
        record: its record; None: there is none.

    Raises:
        InputError: A file is missing.
    """
    if job.force or record is None or "kind" not in record:
        return "new" if record is None else "forced" if job.force else "was not finished"
    kind = job.run.kind or record["kind"]
    wanted = _wanted(job, kind, [*files, *map(Path, record.get("linked", []))])
    return reason(record, wanted, Path(job.out))


def _wanted(job: Job, kind: str, files: Sequence[Path]) -> Record:
    """Return the entries that the record of a run that is done has. Raises `InputError`."""
    return {
        "version": __version__,
        "steps": job.processing.steps(job.run, kind),
        "input": fingerprint(files),
    }


def process(job: Job, runners: Runners, host: str, slots: int) -> Record:
    """Process a run, unless it is done or claimed by another batch.

    Args:
        job: the run.
        runners: processes that do the commands.
        host: name of the computer, for the record.
        slots: tasks at the same time on this computer.

    Returns:
        The record of the run. ``state`` is done, failed, stopped (asked to end) or claimed (by
        another batch), ``action`` is processed or skipped.
    """
    records = Records(Path(job.out))
    try:
        with claimed(records.path(job.run.name, ".claim"), job.batch) as claim:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    with runners.runner() as runner:
                        return _Attempt(job, records, runner, claim, host, slots).process()
                except RunnerDied as died:
                    if runners.is_stopped:
                        return {"name": job.run.name, "state": "stopped"}
                    if attempt == ATTEMPTS:
                        return _failed(job, records, host, f"its process {died}, twice")
            raise AssertionError
    except ClaimedElsewhere as elsewhere:
        return {"name": job.run.name, "state": "claimed", "host": str(elsewhere)}
    except GpuSpotsError as error:
        return _failed(job, records, host, str(error))


def _failed(job: Job, records: Records, host: str, error: str) -> Record:
    """Write and return the record of a run that failed."""
    before = records.read(job.run.name)
    record: Record = {
        **_beginning(job, host, before),
        **{key: before[key] for key in ("kind", "begun") if before is not None and key in before},
        "state": "failed",
        "error": error,
    }
    try:
        records.write(record)
    except OutputError as failure:
        record["error"] = f"{error}; {failure}"
    return {**record, "action": "processed"}


def _beginning(job: Job, host: str, before: Record | None) -> Record:
    """Return what each record has; ``before`` is the last one of the run."""
    is_of_batch = before is not None and before.get("batch") == job.batch
    return {
        "name": job.run.name,
        "source": list(job.run.source),
        "version": __version__,
        "host": host,
        "batch": job.batch,
        "attempts": before.get("attempts", 1) if before is not None and is_of_batch else 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt to process a run, with the claim of it."""

    job: Job
    records: Records
    runner: Runner
    claim: Claim
    host: str
    slots: int

    def process(self) -> Record:
        """Process the run unless it is done, and return its record."""
        begin = time.perf_counter()
        job, run, out = self.job, self.job.run, Path(self.job.out)
        before = self.records.read(run.name)
        seen = self._ask(
            "inspection",
            words=[*run.source, *job.processing.options, *run.options],
            folder=job.folder,
        )
        if "error" in seen:
            return _failed(job, self.records, self.host, seen["error"])
        kind = run.kind or seen["kind"]
        linked = sorted({*seen["files"]} - {*seen["given"]})
        files = [Path(path) for path in (*seen["given"], *linked)]
        wanted = _wanted(job, kind, files)
        why = "forced" if job.force else reason(before, wanted, out)
        if why is None:
            assert before is not None
            return {**before, "action": "skipped"}
        outputs = _outputs(run, wanted["steps"], out)
        if problem := self._problem_of(outputs, before):
            return _failed(job, self.records, self.host, problem)
        record: Record = {
            **_beginning(job, self.host, before),
            **wanted,
            "kind": kind,
            "linked": linked,
            "state": "running",
            "begun": True,  # outputs of these names are of a batch from now on
            "why": why,
        }
        if before is not None and before.get("batch") == job.batch:
            record["attempts"] += 1  # the process or the worker died of it
        self.records.write(record)
        reply = self._compute(wanted["steps"], outputs)
        if "error" not in reply and fingerprint(files) != wanted["input"]:
            reply["error"] = f"{run.source[0]}: was changed while it was read; repeat the command"
        record |= {
            "state": "failed" if "error" in reply else "done",
            "seconds": round(time.perf_counter() - begin, 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "raw_bytes": seen["bytes"],
            **reply,
        }
        if record["state"] == "done":
            record["outputs"] = {
                str(path.relative_to(out)): path.stat().st_size if path.is_file() else None
                for path in outputs
            }
        self.records.write(record)
        return {**record, "action": "processed"}

    def _ask(self, what: str, **request: Any) -> Any:
        """Ask the process of the run, and renew the claim meanwhile. Raises `RunnerDied`."""
        return self.runner.ask({"ask": what, **request}, self.claim.renew)

    def _problem_of(self, outputs: Sequence[Path], before: Record | None) -> str | None:
        """Make the folders of the outputs; return why these cannot be written, None: they can."""
        existing = next((path for path in outputs if path.exists()), None)
        if existing is not None and not self.job.force and not (before or {}).get("begun"):
            return f"{existing}: already exists and is not of a batch; use --force to replace it"
        try:
            for output in outputs:
                output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return None

    def _compute(self, steps: Sequence[Sequence[str]], outputs: Sequence[Path]) -> Record:
        """Do the steps; return warnings, times and figures, or with ``error`` why one failed."""
        job = self.job
        reply: Record = self._ask(
            "commands",
            steps=_commands(job, job.run, steps, outputs, self.slots),
            log=str(self.records.path(job.run.name, ".log")),
            folder=job.folder,
        )
        if "error" in reply:
            return reply
        ratios = str(outputs[1]) if ["ratios"] in steps else None
        figures = self._ask("figures", spots=str(outputs[0]), ratios=ratios)
        return reply | ({"error": figures["error"]} if "error" in figures else {"figures": figures})


def _outputs(run: Run, steps: Sequence[Sequence[str]], out: Path) -> list[Path]:
    """Return the outputs of the steps, one each."""
    from gpu_spots.export.formats import FORMATS

    endings = {"find": "__spots.h5", "ratios": "__ratios.h5", "report": "__report.html"}
    return [
        out / f"{run.name}{FORMATS[step[1]].ending if step[0] == 'export' else endings[step[0]]}"
        for step in steps
    ]


def _commands(
    job: Job, run: Run, steps: Sequence[Sequence[str]], outputs: Sequence[Path], slots: int
) -> list[list[str]]:
    """Return whole command lines for the steps."""
    # Slurm need not bind a job to its cores, and its limit of memory is not seen from inside
    cores = min(default_workers(), _of_slurm("SLURM_CPUS_PER_TASK") or default_workers())
    threads = job.threads or max(1, cores // max(1, slots))
    memory, allowed = job.memory, _of_slurm("SLURM_MEM_PER_NODE")
    if memory is None and allowed is not None:
        memory = int((allowed << 20) * SPARE / slots)
    elif memory is None and slots > 1 and (free := available_memory()) is not None:
        memory = int(free * SPARE / slots)
    limit = [] if memory is None else ["--memory-limit", f"{memory}B"]
    commands = []
    for step, output in zip(steps, outputs, strict=True):
        spots, common = str(outputs[0]), ["-o", str(output), "--force"]
        if step[0] == "find":
            resources = ["--threads", str(threads), *limit, *job.processing.resources]
            commands.append(["find", *run.source, *step[1:], *resources, *common])
        elif step[0] == "export":
            commands.append(
                ["export", step[1], spots, *step[2:], "--threads", str(threads), *common]
            )
        else:
            commands.append([step[0], spots, *common])
    return commands


def _of_slurm(name: str) -> int | None:
    """Return a number that Slurm gives its jobs; None outside of them."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() and int(text) else None
