"""One run into one spots file, on disk or in memory: how the results were made is written with them."""

import shlex
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gpu_spots import __version__, pipeline, watchdog
from gpu_spots.backend import Backend
from gpu_spots.files.frames import ArrayStack, FileStack
from gpu_spots.files.images.image_stack import ImageStack
from gpu_spots.files.output.compression import filter_options
from gpu_spots.files.output.new_file import check_output, new_output
from gpu_spots.files.output.scratch import scratch_file
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.files.output.spots_writer import STACKS, SpotsWriter, memory_file
from gpu_spots.memory.plan import Limits, Plan, output_bytes
from gpu_spots.parameters import STACK_NAMES, Parameters
from gpu_spots.pipeline import Summary
from gpu_spots.protocols import Observer

Stack = ArrayStack | FileStack | ImageStack


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked, whatever it is asked of."""

    parameters: Parameters
    """What to look for."""
    backend: Backend
    """What computes."""
    observer: Observer
    """Who is told how far it is."""
    limits: Limits = field(default_factory=Limits)
    """What it may use."""
    scratch: Path | None = None
    """Folder of a scratch file, should there be need of one; None: beside the output."""
    keep: frozenset[str] = STACKS
    """Which stacks are written: some of `STACKS`."""

    def scratch_folder(self, output: Path | None) -> Path | None:
        """Where a scratch file would go; None: nowhere."""
        return self.scratch or (output.absolute().parent if output is not None else None)

    def limits_for(self, output: Path | None) -> Limits:
        """What a run to ``output`` may use; None: its results stay in memory."""
        return replace(self.limits, may_spool=self.scratch_folder(output) is not None)


def default_output(source: Path) -> Path:
    """Beside the input: ``NAME__spots.h5`` for ``NAME__mccd.h5`` and for any other ``NAME.h5``."""
    return source.with_name(
        source.name.removesuffix(source.suffix).removesuffix("__mccd") + "__spots.h5"
    )


def find_to_file(
    stack: Stack, output: Path, job: Job, *, compression: str = "gzip", force: bool = False
) -> Summary:
    """Find the spots of a run and write them to ``output``.

    Raises `GpuSpotsError`; then nothing new is left on disk.
    """
    filters = filter_options(compression)
    sources = () if isinstance(stack, ArrayStack) else stack.files
    with new_output(output, sources, force=force) as file:
        return _find(
            stack,
            SpotsWriter(file, str(output), stack.shape, filters, job.keep),
            job,
            compression,
            output,
        )


def plan_to_file(stack: Stack, output: Path, job: Job) -> Plan:
    """Return the plan of `find_to_file`, which is not carried out; an output that exists is no obstacle.

    Raises `GpuSpotsError` for what else would be refused before anything is read.
    """
    check_output(output, () if isinstance(stack, ArrayStack) else stack.files, force=True)
    return pipeline.plan_run(stack, job.parameters, job.backend, job.limits_for(output))


def expected_size(stack: Stack, job: Job) -> int:
    """About how many bytes the output of `find_to_file` will have, compressed by gzip."""
    return output_bytes(stack.shape, pipeline.groups_of(stack, job.parameters).n_masks, job.keep)


def find_in_memory(stack: Stack, job: Job) -> SpotsFile:
    """Find the spots of a run and keep the results in memory, compressed by a fast filter: masks shrink fiftyfold."""
    file = memory_file()
    try:
        _find(
            stack,
            SpotsWriter(file, "memory", stack.shape, filter_options("lzf"), job.keep),
            job,
            "lzf",
            None,
        )
        return SpotsFile(file)
    except BaseException:
        file.close()
        raise


def _find(
    stack: Stack, writer: SpotsWriter, job: Job, compression: str, output: Path | None
) -> Summary:
    started, clock = datetime.now(UTC), time.perf_counter()
    for note in stack.notes:
        job.observer.warn(note)
    if isinstance(stack, FileStack):
        watchdog.reading(f"{stack.file_name}: lauecollect")
        writer.copy_lauecollect(stack.file, job.observer.warn)
    if isinstance(stack, ImageStack):
        writer.write_images(stack.images)
    else:
        writer.write_lauecollect(stack.columns)
    watchdog.reading(stack.source)
    folder = job.scratch_folder(output)
    summary = pipeline.find_spots(
        stack,
        job.parameters,
        job.backend,
        writer,
        job.observer,
        job.limits_for(output),
        None if folder is None else partial(scratch_file, folder),
    )
    writer.write_info(
        {
            **asdict(job.parameters),
            "n": job.parameters.percent_removed,
            "compression": compression,
            "keep": ",".join(name for name in STACK_NAMES if name in job.keep),
            **summary.method.record(summary.n_frames),
            "input_file": ""
            if isinstance(stack, ArrayStack)
            else str(Path(stack.file_name).absolute()),
            "frames_path": "" if isinstance(stack, ArrayStack) else stack.path,
            "n_frames": summary.n_frames,
            **({} if stack.saturation is None else {"saturation": stack.saturation}),
            **stack.record,
            "program": "gpu_spots",
            "version": __version__,
            "backend": job.backend.name,
            "device": job.backend.device,
            "plan": summary.plan.words(),
            "start_time": started.isoformat(timespec="seconds"),
            "duration": time.perf_counter() - clock,
            "duration_units": "s",
            "command_line": shlex.join(sys.argv),
            **{
                f"seconds_{name.replace(' ', '_')}": seconds
                for name, seconds in summary.seconds.items()
            },
        }
    )
    return summary
