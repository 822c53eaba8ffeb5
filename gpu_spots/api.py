"""The Python interface: find_spots on a file or on arrays."""

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gpu_spots.backend import select_backend
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.frames import ArrayStack, apply_inputs, open_run
from gpu_spots.files.images.image_list import ImageRequest, default_output
from gpu_spots.files.images.image_stack import open_images
from gpu_spots.files.output.compression import filter_options
from gpu_spots.files.output.converted import write_converted
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.files.output.spots_writer import STACKS
from gpu_spots.inputs import InputOptions, parse_regions
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.memory.workers import default_workers
from gpu_spots.parameters import STACK_NAMES, Parameters
from gpu_spots.run import Job, Stack, find_in_memory, find_to_file


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
    inputs = InputOptions(
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
    )
    filter_options(compression)
    if unknown := sorted(set(keep) - STACKS):
        raise ParameterError("keep", f"{unknown[0]!r} is not one of {', '.join(STACK_NAMES)}")
    folder = None if scratch is None else Path(scratch)
    chosen = select_backend(backend, threads, device, device_memory_limit)
    limits = ResourceLimits(memory_limit, batch)
    job = Job(parameters, chosen, PythonWarnings(), limits, folder, frozenset(keep))

    def find(stack: Stack) -> SpotsFile:
        if valid_pixels is not None:
            pixels = np.asarray(valid_pixels, bool)
            if pixels.shape != stack.shape[1:]:
                raise InputError(
                    f"valid_pixels has shape {pixels.shape}, expected that of a frame, {stack.shape[1:]}"
                )
            stack.validity = stack.validity.less(pixels)
            stack.record = {**stack.record, "masked_pixels": stack.validity.n_masked}
        if output is None:
            return find_in_memory(stack, job)
        find_to_file(stack, Path(output), job, compression=compression, force=force)
        return open_spots(output)

    if isinstance(frames, ImageRequest):
        if columns is not None or table is not None:
            name = "table" if columns is None else "columns"
            raise InputError(
                f"{name}: cannot be used with images; give their metadata in ImageRequest"
            )
        images = open_images(frames, job.observer, job.backend.workers)
        apply_inputs(images, inputs)
        return find(images)
    if not isinstance(frames, str | Path):
        if isinstance(frames, np.ma.MaskedArray):
            raise InputError(
                "frames: found a masked array, expected a plain array; give frames.data, with valid_pixels=~frames.mask.any(axis=0), "
                "or for floats frames.filled(numpy.nan)"
            )
        in_memory = ArrayStack(np.asarray(frames), columns)
        apply_inputs(in_memory, inputs)
        return find(in_memory)
    if columns is not None:
        raise InputError(
            "columns: only for frames in memory; a file has its own in the group lauecollect"
        )
    with open_run(frames, inputs) as stack:
        return find(stack)


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
