"""Task for workflows of Ewoks; it processes one run as ``gpu-spots batch`` does, without Dask."""

import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from ewokscore import Task

from gpu_spots.beamtime.runner import Runners
from gpu_spots.beamtime.runs import Run, run_name
from gpu_spots.beamtime.task import Job, Processing, process
from gpu_spots.cli.words import check_words, words_of
from gpu_spots.errors import GpuSpotsError


class FindSpots(  # type: ignore[call-arg]
    Task,  # type: ignore[misc]
    input_names=["run", "folder"],
    optional_input_names=["options", "ratios", "export", "report", "threads"],
    output_names=["spots_file", "n_spots", "ratios_file", "warnings"],
):
    """Find the spots of a run. A run that is done, with the same input and options, is skipped.

    Inputs:
        run: Path of the run, an HDF5 file or a Lauecollect log.
        folder: Folder of the results.
        options: Options of ``gpu-spots find``: a text as on the command line, or values by the long
            names of the options, such as ``{"sync": "blocks", "significance": 6}``.
        ratios: Whether the on/off ratios of a laser run are written.
        export: Formats of ``gpu-spots export`` that are written, a list of texts.
        report: Whether a report is written.
        threads: Number of threads. Without it, one per core.

    Outputs:
        spots_file: Path of the spots file.
        n_spots: Number of spots on all frames.
        ratios_file: Path of the ratios file, empty without one.
        warnings: Warnings of the commands, a list of texts.

    Raises:
        GpuSpotsError: The run cannot be processed, or was cancelled.
    """

    _runners: Runners | None = None

    def run(self) -> None:
        """Process the run."""
        source = os.path.abspath(self.inputs.run)
        options = self.get_input_value("options", None) or ""
        words = words_of(options) if isinstance(options, Mapping) else shlex.split(options)
        check_words(words)
        job = Job(
            run=Run(run_name(Path(source).name), (source,), tuple(words)),
            processing=Processing(
                ratios=self.get_input_value("ratios", False),
                exports=tuple(tuple(one.split()) for one in self.get_input_value("export", ())),
                report=self.get_input_value("report", False),
            ),
            out=os.path.abspath(self.inputs.folder),
            batch=uuid4().hex,
            folder=os.getcwd(),
            threads=self.get_input_value("threads", None),
        )
        self._runners = Runners()
        try:
            record = process(job, self._runners, socket.gethostname(), slots=1)
        finally:
            self._runners.stop()
        if record["state"] != "done":
            other = f"another process is processing it, on {record.get('host')}"
            problems = {"stopped": "was cancelled", "claimed": other}
            raise GpuSpotsError(record.get("error") or f"{source}: {problems[record['state']]}")
        outputs = [str(Path(job.out, path)) for path in record["outputs"]]
        self.outputs.spots_file = outputs[0]
        self.outputs.n_spots = record["figures"]["spots"]
        self.outputs.ratios_file = next((p for p in outputs if p.endswith("__ratios.h5")), "")
        self.outputs.warnings = record["warnings"]

    def cancel(self) -> None:
        """Stop the run; no unfinished file is left."""
        if self._runners is not None:
            self._runners.stop()
