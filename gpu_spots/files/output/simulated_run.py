"""Simulated runs on disk: the stack in LaueUtil's layout, with the group ``truth`` beside it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.lauecollect import GROUP, Column, write_columns
from gpu_spots.files.output.new_file import new_output, writing
from gpu_spots.files.output.spots_writer import STRIP
from gpu_spots.model import Array
from gpu_spots.simulate.run import BIAS, Design, Schedule, SimulatedRun, TrueSpots, Truth

TRUTH = "truth"
"""Group of the true spots."""
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "none": {},
}
"""How frames can be stored, and what HDF5 is told for it."""

TRUE_SPOT_COLUMNS = {
    "XY": (
        "centre of the spot, X and Y; a whole number is the middle of a pixel; frames are indexed [X, Y]",
        "pixels",
    ),
    "block": (
        "index of the angle at which the spot is seen; it is on all frames of that block",
        None,
    ),
    "angle": ("that angle", "degrees"),
    "I": ("total intensity without laser, before the scales of the frame", "counts"),
    "response": ("response to the laser, on/off - 1", None),
    "sigma": ("sigma of the elliptical Gaussian along its major and its minor axis", "pixels"),
    "orientation": ("direction of the major axis, from +X towards +Y", "degrees"),
    "snr": (
        "expected signal-to-noise of the spot integrated on one frame without laser: I / sqrt(gain * I + A * (gain * B + read^2)), "
        "A = 4 pi sigma_major sigma_minor (pixels in the 2-sigma ellipse), B = background above the bias at the centre",
        None,
    ),
}
"""Datasets of ``truth`` with one row for a spot of a block: the fields of `TrueSpots`, their
descriptions and units.
"""


def write_run(
    path: Path,
    run: SimulatedRun,
    *,
    compression: str = "gzip",
    force: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Draw the frames of ``run`` and write them, with ``lauecollect`` and ``truth``.

    The file appears under its name when it is complete.

    Args:
        path: the file to write.
        run: from `simulate_run`.
        compression: of the frames, one of `COMPRESSIONS`.
        force: replace a file that exists.
        progress: called after each frame.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    with new_output(path, force=force) as file:
        with writing(file, path):
            write_columns(file, _log_columns(run.design, run.truth.schedule))
            write_columns(
                file,
                _true_columns(run),
                TRUTH,
                "what was simulated: the options as attributes, the spots and the scales as datasets",
            )
            file[TRUTH].attrs.update(asdict(run.design))
            frames = _create_frames(file, run.design, COMPRESSIONS[compression])
        for index, frame in enumerate(run.frames()):
            with writing(file, path):
                frames[index] = frame
            progress()


def read_truth(path: Path) -> Truth:
    """The truth of a run that `write_run` wrote.

    Raises:
        InputError: the file cannot be read, or has no truth.
    """
    with open_hdf5(path) as file:

        def values(name: str) -> Array:
            return read_values(_dataset(file, name, path), f"{path}: {name}")

        spots = {name: values(f"{TRUTH}/{name}") for name in TRUE_SPOT_COLUMNS}
        schedule = [
            values(name)
            for name in (
                f"{TRUTH}/frame_block",
                *(f"{GROUP}/{name}" for name in ("angle", "laser_on", "repeat")),
            )
        ]
        shape = _dataset(file, "frames", path).shape
    pairs = ("XY", "sigma")
    of_spots = {
        found.shape[:1]
        for name, found in spots.items()
        if found.shape[1:] == ((2,) if name in pairs else ())
    }
    if len(shape) != 3 or {found.shape for found in schedule} != {shape[:1]} or len(of_spots) != 1:
        raise InputError(
            f"{path}: is a damaged simulated run: "
            "the lengths of its frames, columns and true spots differ"
        )
    if any(found.dtype.kind not in "biuf" for found in (*spots.values(), *schedule)):
        raise InputError(
            f"{path}: is a damaged simulated run: its columns or true spots are not numbers"
        )
    return Truth(shape[1:], Schedule(*schedule), TrueSpots(**spots))


def _create_frames(file: h5py.File, design: Design, compression: dict[str, Any]) -> h5py.Dataset:
    n_X, n_Y = design.size
    chunks = (1, min(STRIP, n_X), n_Y)
    frames = file.create_dataset(
        "frames", (design.n_frames, n_X, n_Y), np.uint16, chunks=chunks, **compression
    )
    frames.attrs["description"] = "simulated frames, indexed [frame, X, Y]"
    frames.attrs["units"] = "counts"
    frames.attrs["bias"] = BIAS
    return frames


def _log_columns(design: Design, schedule: Schedule) -> dict[str, Column]:
    """Columns of the log, one value per frame."""
    on = schedule.laser_on.astype(bool)
    states = [f"{'on' if x else 'off'}_" if design.laser else "" for x in on]
    names = [
        f"sim_{a:07.3f}_{state}{r}.mccd"
        for a, state, r in zip(schedule.angle, states, schedule.repeat, strict=True)
    ]
    delays = np.array(["100ps" if x else "-" for x in on], object)
    return {
        "angle": _column(schedule.angle, "rotation angle of the crystal", "degrees"),
        "laser_on": _column(schedule.laser_on, "1 with laser, 0 without"),
        "delay": _column(delays, "from laser to X-ray pulse; -: no laser pulse"),
        "file": _column(np.array(names, object), "name that the image would have"),
        "repeat": _column(
            schedule.repeat, "number of the frame, or of the off/on pair, at its angle, from 1"
        ),
    }


def _true_columns(run: SimulatedRun) -> dict[str, Column]:
    """Datasets of the group ``truth``."""
    spots, detector = run.truth.spots, run.detector
    return {
        **{
            name: _column(getattr(spots, name), description, units)
            for name, (description, units) in TRUE_SPOT_COLUMNS.items()
        },
        "frame_block": _column(run.truth.schedule.block, "index of each frame's angle"),
        "scale": _column(
            run.scale, "scale of the whole picture above the bias on each frame (drift)"
        ),
        "spot_scale": _column(
            run.spot_scale, "scale of the spots on each frame, on top of that (jitter)"
        ),
        "hot": _column(detector.hot, "pixels with a large constant signal, X and Y", "pixels"),
        "dead": _column(detector.dead, "pixels that are 0 on every frame, X and Y", "pixels"),
    }


def _column(values: Array, description: str, units: str | None = None) -> Column:
    return Column(values, units, {"description": description})


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: has no dataset {name}; expected a simulated run")
    return found
