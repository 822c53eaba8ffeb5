"""The Python interface: find_spots on a file or on arrays."""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gpu_spots.backend import select_backend
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.compression import filter_options
from gpu_spots.files.frames import ArrayStack, open_run
from gpu_spots.files.spots_file import SpotsFile, open_spots
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from gpu_spots.run import Job, Stack, find_in_memory, find_to_file


class PythonWarnings:
    """An observer that shows no progress; its warnings are Python's."""

    def stage(self, name: str, total: int) -> None:
        """Nothing to show."""

    def advance(self, steps: int) -> None:
        """Nothing to show."""

    def warn(self, message: str) -> None:
        """Warn whoever called `find_spots`."""
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals["__name__"].split(".")[0] == "gpu_spots":
            level, frame = level + 1, frame.f_back
        warnings.warn(message, UserWarning, stacklevel=level)


def find_spots(
    frames: str | Path | ArrayLike,
    parameters: Parameters | None = None,
    *,
    output: str | Path | None = None,
    frames_path: str | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    valid_pixels: ArrayLike | None = None,
    saturation: float | None = None,
    compression: str = "gzip",
    backend: str = "auto",
    threads: int | None = None,
    device: int | None = None,
    device_memory_limit: int | None = None,
    force: bool = False,
) -> SpotsFile:
    """Find the spots of a run and return the results.

    Args:
        frames: the HDF5 file of a run, or its frames: (n_frames, n_X, n_Y), counts, of uint8, uint16, uint32, int16, int32, float32
            or float64.
        parameters: what to look for; None: the manual's defaults, which ask for 10 different angles (``Parameters(angles=0)`` does not).
        output: the spots file to write; None: the results stay in memory.
        frames_path: the dataset of the frames in the file; None: /frames, or the only 3-D one.
        columns: for frames in memory, their metadata: ``angle`` (degrees), ``laser_on`` (0 or 1), ...; one value a frame.
        valid_pixels: (n_X, n_Y) bool; False pixels are in no mask and in no spot. None: all are valid.
        saturation: the smallest saturated value, counts; None: the largest that frames of integers can hold.
        compression: of ``output``: gzip, lzf, none, or a filter of hdf5plugin where that is installed.
        backend: auto, gpu or cpu.
        threads: how many threads of the host are used; None: all cores.
        device: number of the GPU; None: the first.
        device_memory_limit: bytes of its memory that may be used; None: all that is free.
        force: overwrite ``output``.

    Returns:
        The results; close them when done, or use them in a ``with`` statement.

    Raises:
        GpuSpotsError: one line that names the file, dataset or parameter, what was found and what was expected.
    """
    validity = Validity(None if valid_pixels is None else np.asarray(valid_pixels, bool))
    parameters = Parameters() if parameters is None else parameters
    if not isinstance(parameters, Parameters):
        raise ParameterError("parameters", f"{parameters!r} is not Parameters(...)")
    filter_options(compression)
    job = Job(parameters, select_backend(backend, threads, device, device_memory_limit), PythonWarnings())

    def find(stack: Stack) -> SpotsFile:
        if validity.pixels is not None and validity.pixels.shape != stack.shape[1:]:
            raise InputError(f"valid_pixels has shape {validity.pixels.shape}, expected that of a frame, {stack.shape[1:]}")
        if validity.pixels is not None:
            stack.validity = validity
        if saturation is not None:
            stack.saturation = saturation
        if output is None:
            return find_in_memory(stack, job)
        find_to_file(stack, Path(output), job, compression=compression, force=force)
        return open_spots(output)

    if not isinstance(frames, str | Path):
        return find(ArrayStack(np.asarray(frames), columns))
    if columns is not None:
        raise InputError("columns: only for frames in memory; a file has its own in the group lauecollect")
    with open_run(frames, frames_path) as stack:
        return find(stack)
