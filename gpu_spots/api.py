"""Python interface: find_spots for files, images and arrays; convert for images."""

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gpu_spots.backend import select_backend
from gpu_spots.errors import ParameterError
from gpu_spots.files.images.image_list import ImageRequest, default_output
from gpu_spots.files.images.image_stack import open_images
from gpu_spots.files.opening import open_stack
from gpu_spots.files.output.converted import write_converted
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.inputs import Inputs, parse_regions
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.memory.workers import default_workers
from gpu_spots.parameters import STACK_NAMES, Parameters
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_in_memory, find_to_file, spool_for


class PythonWarnings:
    """An observer that shows no progress; its warnings are Python's."""

    def stage(self, name: str, total: int, unit: str) -> None:
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
    frames: str | Path | ArrayLike | ImageRequest,
    parameters: Parameters | None = None,
    *,
    output: str | Path | None = None,
    frames_path: str | Sequence[str] | None = None,
    angles_path: str | None = None,
    laser_path: str | None = None,
    table: str | Path | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    valid_pixels: ArrayLike | None = None,
    mask: str | Path | None = None,
    mask_good: int | None = None,
    file_mask: bool = True,
    reject: str | Sequence[str] = (),
    valid_range: tuple[float | None, float | None] | None = None,
    saturation: float | None = None,
    compression: str = "gzip",
    backend: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
    memory_limit: int | None = None,
    scratch: str | Path | None = None,
    batch: int | None = None,
    keep: Collection[str] = STACK_NAMES,
    force: bool = False,
) -> SpotsFile:
    """Find the spots of a run and return the results.

    Args:
        frames: the HDF5 file of a run; or its images, by an `ImageRequest`; or its frames:
            (n_frames, n_X, n_Y), counts, of uint8, uint16, uint32, int16, int32, float32 or
            float64.
        parameters: what to look for; None: the manual's defaults, which ask for 10 different angles
            (``Parameters(angles=0)`` does not).
        output: the spots file to write; None: the results stay in memory.
        frames_path: the dataset of the frames in the file, or several that follow each other; None:
            where the file's layout has them.
        angles_path: the dataset of the angles in the file, degrees, one a frame; None: where the
            layout has them.
        laser_path: the dataset of the laser states in the file, 0 or 1, one a frame; None: where
            the layout has them.
        table: a text file with the columns ``angle``, ``laser_on``, ...; they take the place of the
            file's.
        columns: for frames in memory, their metadata: ``angle`` (degrees), ``laser_on`` (0 or 1),
            ...; one value a frame.
        valid_pixels: (n_X, n_Y) bool; False pixels are in no mask and in no spot. None: all are
            valid.
        mask: a file with such an image, as ``--mask``: FILE or FILE:PATH.
        mask_good: what marks a good pixel in it: 0, or 1 for anything else; None: as the format of
            the mask has it, if that is certain.
        file_mask: whether the pixel mask in the file of the frames counts.
        reject: regions that are left out, as ``--reject`` has them: ``"rect:X0,X1,Y0,Y1"``,
            ``"disc:X,Y,R"``, ``"border:N"``.
        valid_range: smallest and largest value that counts, either may be None; None: as the file
            has it.
        saturation: the smallest saturated value, counts; None: as the file has it, else the largest
            that frames of integers can hold.
        compression: of ``output``: gzip, lzf, none, or a filter of hdf5plugin where that is
            installed.
        backend: auto, gpu or cpu.
        threads: how many threads of the host are used, at least one a GPU; None: all cores.
        device: number of the GPU, or of several that share the work; None: the first.
        device_memory_limit: bytes of its memory (of each) that may be used; None: all that is free.
        memory_limit: bytes that frames and results may take; None: what is free.
        scratch: folder of a scratch file, for runs that do not fit in memory; None: that of
            ``output``.
        batch: frames whose masks are made at once; None: what suits.
        keep: which stacks the results have: some of raw, filtered, synced, labels, pixels.
        force: overwrite ``output``.

    Returns:
        The results; close them when done, or use them in a ``with`` statement.

    Raises:
        GpuSpotsError: one line that names the file, dataset or parameter, what was found and what
            was expected.
    """
    parameters = Parameters() if parameters is None else parameters
    if not isinstance(parameters, Parameters):
        raise ParameterError("parameters", f"{parameters!r} is not Parameters(...)")
    inputs = Inputs(
        frames_path=(frames_path,) if isinstance(frames_path, str) else tuple(frames_path or ()),
        angles_path=angles_path,
        laser_path=laser_path,
        table=None if table is None else Path(table),
        mask=None if mask is None else str(mask),
        mask_good=mask_good,
        file_mask=file_mask,
        reject=parse_regions(reject),
        valid_range=valid_range,
        saturation=saturation,
        columns=columns,
        valid_pixels=None if valid_pixels is None else np.asarray(valid_pixels, bool),
    )
    results = Output(None if output is None else Path(output), compression, frozenset(keep), force)
    resources = Resources(
        select_backend(backend, threads, device, device_memory_limit),
        ResourceLimits(memory_limit, batch),
        spool_for(results.path, None if scratch is None else Path(scratch)),
    )
    observer = PythonWarnings()
    with open_stack(frames, inputs, observer, resources.backend.workers) as stack:
        if results.path is None:
            return find_in_memory(stack, parameters, resources, results, observer)
        find_to_file(stack, parameters, resources, results, observer)
        return open_spots(results.path)


def convert(
    images: ImageRequest,
    output: str | Path | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
) -> Path:
    """Write a run of images as one HDF5 file, as ``gpu-spots convert`` does.

    Args:
        images: which images, and what is known of them.
        output: the file to write; None: as for the command.
        threads: how many read and compress; None: all cores.
        force: overwrite ``output``.

    Returns:
        The file's name.

    Raises:
        GpuSpotsError: one line that names the file or parameter, what was found and what was
            expected.
    """
    path = default_output(images, "mccd") if output is None else Path(output)
    workers = threads or default_workers()
    observer = PythonWarnings()
    write_converted(open_images(images, observer, workers), path, observer, workers, force=force)
    return path
