"""Opening of a run: an HDF5 file, images, or frames in memory."""

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.frames import ArrayStack, largest_value, open_run
from gpu_spots.files.images.image_list import ImageRequest
from gpu_spots.files.images.image_stack import ImageStack, open_images
from gpu_spots.files.layouts.detector import DetectorFacts
from gpu_spots.files.layouts.metadata import given_to_frames_in_memory
from gpu_spots.files.validity import valid_values
from gpu_spots.inputs import Inputs
from gpu_spots.protocols import Observer, Stack

Separate = TypeVar("Separate", ArrayStack, ImageStack)


def open_stack(
    frames: str | Path | ImageRequest | ArrayLike, inputs: Inputs, observer: Observer, workers: int
) -> AbstractContextManager[Stack]:
    """Open a run, with all that its file and the user say of it.

    Args:
        frames: name of an HDF5 file, a request for images, or frames in memory: (n_frames, n_X,
            n_Y), counts.
        inputs: options of the input.
        observer: is told of images that are looked at, and gets warnings.
        workers: threads that look at images.

    Raises:
        InputError: there are no frames, they cannot be read, or the inputs do not fit them.
        ParameterError: an input is missing, wrong, or cannot be used with such frames.
    """
    if isinstance(frames, str | Path):
        if inputs.columns is not None:
            raise InputError(
                "columns: only for frames in memory; a file has its own in the group lauecollect"
            )
        return open_run(frames, inputs)
    if isinstance(frames, ImageRequest):
        for name in ("columns", "table"):
            if getattr(inputs, name) is not None:
                raise InputError(
                    f"{name}: cannot be used with images; give their metadata in ImageRequest"
                )
        return nullcontext(_with_inputs(open_images(frames, observer, workers), inputs))
    if isinstance(frames, np.ma.MaskedArray):
        raise InputError(
            "frames: found a masked array, expected a plain array; give frames.data, with "
            "valid_pixels=~frames.mask.any(axis=0), or for floats frames.filled(numpy.nan)"
        )
    return nullcontext(_with_inputs(ArrayStack(np.asarray(frames), inputs.columns), inputs))


def _with_inputs(stack: Separate, inputs: Inputs) -> Separate:
    """Return a stack of frames that are in no HDF5 file, with what the user says of it."""
    for name in ("frames_path", "angles_path", "laser_path"):
        if getattr(inputs, name):
            raise ParameterError(name, "can only be used with frames in an HDF5 file")
    columns = given_to_frames_in_memory(stack.columns, stack.shape[0], inputs)
    is_largest = stack.saturation == largest_value(stack.dtype)
    facts = DetectorFacts(
        low=stack.validity.low,
        low_from="negative values mark pixels without a value",
        saturation=stack.saturation,
        saturation_from=f"the largest value of {stack.dtype}" if is_largest else "the header",
    )
    values = valid_values(stack.source, stack.shape[1:], stack.dtype, facts, inputs)
    complete = copy(stack)
    complete.columns = columns
    complete.validity, complete.saturation = values.validity, values.saturation
    complete.notes = values.notes
    complete.provenance = replace(stack.provenance, record=values.record)
    return complete
