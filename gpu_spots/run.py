"""One run into one spots file, on disk or in memory: how the results were made is written with them."""

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_spots import __version__, pipeline
from gpu_spots.backend import Backend
from gpu_spots.files.compression import filter_options
from gpu_spots.files.frames import ArrayStack, FileStack
from gpu_spots.files.output import check_output, complete_or_absent, new_file
from gpu_spots.files.spots_file import SpotsFile, SpotsWriter, memory_file
from gpu_spots.first_pass import Rejection
from gpu_spots.parameters import Parameters
from gpu_spots.pipeline import Summary
from gpu_spots.protocols import Observer

Stack = ArrayStack | FileStack


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked, whatever it is asked of."""

    parameters: Parameters
    """What to look for."""
    backend: Backend
    """What computes."""
    observer: Observer
    """Who is told how far it is."""


def default_output(source: Path) -> Path:
    """Beside the input: ``NAME__spots.h5`` for ``NAME__mccd.h5`` and for any other ``NAME.h5``."""
    return source.with_name(source.name.removesuffix(source.suffix).removesuffix("__mccd") + "__spots.h5")


def find_to_file(stack: Stack, output: Path, job: Job, *, compression: str = "gzip", force: bool = False) -> Summary:
    """Find the spots of a run and write them to ``output``. Raises `GpuSpotsError`; then nothing new is left on disk."""
    filters = filter_options(compression)
    check_output(output, stack.files if isinstance(stack, FileStack) else (), force)
    with complete_or_absent(output) as part, new_file(part, str(output)) as file:
        return _find(stack, SpotsWriter(file, str(output), stack.shape, filters), job, compression)


def find_in_memory(stack: Stack, job: Job) -> SpotsFile:
    """Find the spots of a run and keep the results in memory, compressed by a fast filter: masks shrink fiftyfold."""
    file = memory_file()
    try:
        _find(stack, SpotsWriter(file, "memory", stack.shape, filter_options("lzf")), job, "lzf")
        return SpotsFile(file)
    except BaseException:
        file.close()
        raise


def _find(stack: Stack, writer: SpotsWriter, job: Job, compression: str) -> Summary:
    started, clock = datetime.now(UTC), time.perf_counter()
    if isinstance(stack, FileStack):
        writer.copy_lauecollect(stack.file)
    else:
        writer.write_lauecollect(stack.columns)
    summary = pipeline.find_spots(stack, job.parameters, job.backend, writer, job.observer)
    writer.write_info(
        {
            **asdict(job.parameters),
            "n": job.parameters.percent_removed,
            "compression": compression,
            "n_removed": summary.n_removed,
            **_blocks(summary.rejection),
            "input_file": str(Path(stack.file_name).absolute()) if isinstance(stack, FileStack) else "",
            "frames_path": stack.path if isinstance(stack, FileStack) else "",
            "n_frames": summary.n_frames,
            **({} if stack.saturation is None else {"saturation": stack.saturation}),
            "program": "gpu_spots",
            "version": __version__,
            "backend": job.backend.name,
            "device": job.backend.device,
            "start_time": started.isoformat(timespec="seconds"),
            "duration": time.perf_counter() - clock,
            "duration_units": "s",
            "command_line": shlex.join(sys.argv),
            **{f"seconds_{name.replace(' ', '_')}": seconds for name, seconds in summary.seconds.items()},
        }
    )
    return summary


def _blocks(rejection: Rejection | None) -> dict[str, Any]:
    """What ``info`` says of kruskal's blocks."""
    if rejection is None:
        return {}
    return {"n_blocks": len(rejection.block_sizes), "frames_per_block": rejection.block_sizes}
