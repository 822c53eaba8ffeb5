"""Frames that a spots file was made from, found as its group ``info`` records them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from gpu_spots.errors import InputError, given
from gpu_spots.files.frames import open_hdf5, open_run
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.inputs import Inputs
from gpu_spots.protocols import Stack


@contextmanager
def open_frames(results: SpotsFile, path: Path | None = None) -> Iterator[Stack]:
    """Open the run that a spots file was made from.

    Args:
        results: The spots file.
        path: HDF5 file of the run. None: the file that ``info`` names, or one of that name in the
            folder of the spots file.

    Raises:
        InputError: There is no such file, it cannot be read, or its frames have another shape
            than those of the spots file.
    """
    path = recorded_run(results) if path is None else path
    with open_run(path, Inputs(frames_path=_frames_path(path, results.info))) as stack:
        expected = (results.n_frames, *results.avg.shape)
        if stack.shape != expected:
            raise InputError(
                f"{path}: frames have shape {stack.shape}, expected {expected} as in "
                f"{results.name}; give the run with {given('frames_from')}"
            )
        yield stack


def recorded_run(results: SpotsFile) -> Path:
    """Return the HDF5 file of the run of a spots file. Raises `InputError` if it is not found."""
    info = results.info
    recorded, remedy = _text(info.get("input_file", "")), f"give it with {given('frames_from')}"
    if not recorded:
        raise InputError(
            f"{results.name}: the file of the frames is not recorded in info; {remedy}"
        )
    if _text(info.get("layout", "")) == "images":
        raise InputError(
            f"{results.name}: the frames are images ({recorded}), expected an HDF5 file; "
            f"write one with gpu-spots convert, and {remedy}"
        )
    path, moved = recorded_inputs(results)
    if path.is_file():
        return path
    if not moved.is_file():
        raise InputError(
            f"{results.name}: its frames are not found: no file {path}, nor {moved}; {remedy}"
        )
    return moved


def recorded_inputs(results: SpotsFile) -> tuple[Path, ...]:
    """Return where the input of a spots file may be: as recorded, and in the same folder."""
    recorded = _text(results.info.get("input_file", ""))
    return (Path(recorded), Path(results.name).parent / Path(recorded).name) if recorded else ()


def link_to_frames(results: SpotsFile, group: h5py.Group, name: str) -> str | None:
    """Make a link in an HDF5 file to the frames of a spots file.

    Args:
        results: The spots file.
        group: Group of the new file.
        name: Name of the link in it.

    Returns:
        None if the link was made, else the reason why not.
    """
    try:
        path = recorded_run(results)
    except InputError:
        return "the file of the frames is not found"
    dataset = _frames_path(path, results.info)
    if not dataset:
        return "the frames are not in one dataset"
    group[name] = h5py.ExternalLink(str(path.absolute()), dataset[0])
    return None


def _frames_path(path: Path, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the recorded dataset of the frames if the file has it; empty: it has to be found."""
    recorded = _text(info.get("frames_path", ""))
    with open_hdf5(path) as file:
        has_it = recorded and isinstance(member(file, recorded), h5py.Dataset)
    return (recorded,) if has_it else ()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
