"""Processing of one run into one spots file, on disk or in memory.

The file records how it was made.
"""

import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gpu_spots import __version__, pipeline, watchdog
from gpu_spots.errors import ParameterError
from gpu_spots.files.output.compression import filter_options
from gpu_spots.files.output.new_file import check_output, new_output
from gpu_spots.files.output.nexus import link_between
from gpu_spots.files.output.scratch import scratch_file
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.files.output.spots_writer import STACKS, SpotsWriter, memory_file
from gpu_spots.memory.amounts import output_bytes
from gpu_spots.memory.plan import Plan
from gpu_spots.parameters import STACK_NAMES, Parameters
from gpu_spots.pipeline import Summary
from gpu_spots.protocols import Observer, OpenSpool, Stack
from gpu_spots.resources import Resources

MAX_WARNINGS, MAX_WARNING = 50, 1000
"""Warnings that are recorded in the output, and characters of one."""


@dataclass(frozen=True, slots=True)
class Output:
    """Requested results and their destination. Raises `GpuSpotsError` for unknown names."""

    path: Path | None = None
    """Spots file; None: the results stay in memory."""
    compression: str = "gzip"
    """Compression of the file. Results in memory are compressed by lzf, which is fast."""
    keep: frozenset[str] = STACKS
    """Stacks to write, some of `STACKS`."""
    force: bool = False
    """Overwrite an existing file."""

    def __post_init__(self) -> None:
        filter_options(self.compression)
        if unknown := sorted(self.keep - STACKS):
            raise ParameterError("keep", f"{unknown[0]!r} is not one of {', '.join(STACK_NAMES)}")


def default_output(source: Path) -> Path:
    """Return ``NAME__spots.h5``, beside the input ``NAME__mccd.h5`` or ``NAME.h5``."""
    return source.with_name(
        source.name.removesuffix(source.suffix).removesuffix("__mccd") + "__spots.h5"
    )


def spool_for(output: Path | None, folder: Path | None = None) -> OpenSpool | None:
    """Return what opens a scratch file in a folder, or else beside the output; None: nowhere."""
    if folder is None and output is not None:
        folder = output.absolute().parent
    return None if folder is None else partial(scratch_file, folder)


def find_to_file(
    stack: Stack, parameters: Parameters, resources: Resources, output: Output, observer: Observer
) -> Summary:
    """Find the spots of a run and write them to the path of ``output``.

    Raises `GpuSpotsError`; then nothing new is left on disk.
    """
    assert output.path is not None
    with new_output(output.path, stack.files, force=output.force) as file:
        filters = filter_options(output.compression)
        writer = SpotsWriter(file, str(output.path), stack.shape, filters, output.keep)
        return _find(stack, parameters, resources, output, observer, writer)


def find_in_memory(
    stack: Stack, parameters: Parameters, resources: Resources, output: Output, observer: Observer
) -> SpotsFile:
    """Find the spots of a run and return the results, which stay in memory.

    Masks shrink fiftyfold by the fast compression. Raises `GpuSpotsError`.
    """
    output, file = replace(output, compression="lzf"), memory_file()
    try:
        filters = filter_options(output.compression)
        writer = SpotsWriter(file, "memory", stack.shape, filters, output.keep)
        _find(stack, parameters, resources, output, observer, writer)
        return SpotsFile(file)
    except BaseException:
        file.close()
        raise


def plan_to_file(
    stack: Stack, parameters: Parameters, resources: Resources, output: Output
) -> Plan:
    """Return the plan of `find_to_file`; an output that exists is not an error.

    Raises `GpuSpotsError` for everything else that is checked before frames are read.
    """
    assert output.path is not None
    check_output(output.path, stack.files, force=True)
    return pipeline.plan_run(stack, parameters, resources)


def expected_size(stack: Stack, parameters: Parameters, keep: frozenset[str]) -> int:
    """Return the approximate size of the output of `find_to_file`, bytes, compressed by gzip."""
    return output_bytes(stack.shape, pipeline.groups_of(stack, parameters).n_masks, keep)


def _find(
    stack: Stack,
    parameters: Parameters,
    resources: Resources,
    output: Output,
    observer: Observer,
    writer: SpotsWriter,
) -> Summary:
    started, clock = datetime.now(UTC), time.perf_counter()
    recorded = _Recorded(observer)
    for note in stack.notes:
        recorded.warn(note)
    writer.write_metadata(stack, recorded.warn)
    watchdog.reading(stack.source)
    summary = pipeline.find_spots(stack, parameters, resources, writer, recorded)
    origin = stack.provenance
    writer.write_info(
        {
            **asdict(parameters),
            "n": parameters.percent_removed,
            "compression": output.compression,
            "keep": ",".join(name for name in STACK_NAMES if name in output.keep),
            **summary.method.record(summary.n_frames),
            "input_file": str(Path(origin.input_file).absolute()) if origin.input_file else "",
            "frames_path": origin.frames_path,
            "n_frames": summary.n_frames,
            **({} if stack.saturation is None else {"saturation": stack.saturation}),
            **origin.record,
            "program": "gpu_spots",
            "version": __version__,
            "backend": resources.backend.name,
            "device": resources.backend.device,
            "plan": summary.plan.words(),
            "start_time": started.isoformat(timespec="seconds"),
            "duration": time.perf_counter() - clock,
            "duration_units": "s",
            "command_line": shlex.join(sys.argv),
            "warnings": recorded.text(),
            **{
                f"seconds_{name.replace(' ', '_')}": seconds
                for name, seconds in summary.seconds.items()
            },
        }
    )
    link = None
    if origin.dataset and output.path is not None:
        link = link_between(output.path, Path(origin.input_file), origin.dataset)
    writer.write_views(link)
    return summary


class _Recorded:
    """Observer that passes everything on, and keeps the warnings."""

    def __init__(self, observer: Observer) -> None:
        self.stage, self.advance = observer.stage, observer.advance
        self._warn = observer.warn
        self._warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep a warning, and show it."""
        self._warnings.append(message)
        self._warn(message)

    def text(self) -> str:
        """Return the warnings, one per line, as many as an attribute of HDF5 can hold."""
        lines = [message[:MAX_WARNING].replace("\n", " ") for message in self._warnings]
        rest = len(lines) - MAX_WARNINGS
        more = [f"and {rest} more warnings"] if rest > 0 else []
        return "\n".join([*lines[:MAX_WARNINGS], *more])
