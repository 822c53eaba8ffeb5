"""Simulated runs on disk, with the group ``truth`` beside the frames.

This module also reads the spots files that are scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.columns import Flag
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.lauecollect import GROUP, Column, write_columns
from gpu_spots.files.output.new_file import new_output, writing
from gpu_spots.files.output.nexus import add_frames
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.files.output.spots_writer import STRIP
from gpu_spots.model import Array
from gpu_spots.simulate.design import KINDS, LARGEST, Design
from gpu_spots.simulate.run import SimulatedRun
from gpu_spots.simulate.score import Found
from gpu_spots.simulate.truth import Conditions, Schedule, TrueSpots, Truth, lone_spots, steady

TRUTH = "truth"
"""Group of the true spots."""
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "none": {},
}
"""Compressions of the frames, with their arguments for h5py."""

TRUE_SPOT_COLUMNS = {
    "XY": (
        "centre of the spot, X and Y; a whole number is the middle of a pixel; frames are indexed "
        "[X, Y]",
        "pixels",
    ),
    "block": (
        "index of the angle at which the spot is seen; it is on all frames of that block",
        None,
    ),
    "angle": ("that angle", "degrees"),
    "I": ("total intensity without laser, before the scales of the frame", "counts"),
    "response": ("response to the laser, on/off - 1", None),
    "sigma": (
        "sigma of the spot along its major and its minor axis; of a Moffat profile: of the "
        "Gaussian "
        "that is as wide at half its height",
        "pixels",
    ),
    "orientation": ("direction of the major axis, from +X towards +Y", "degrees"),
    "snr": (
        "expected signal-to-noise of the spot integrated on one frame without laser: I / sqrt(gain "
        "* I + A * (gain * B + read^2)), "
        "A = 4 pi sigma_major sigma_minor (pixels in the 2-sigma ellipse), B = background above "
        "the bias at the centre",
        None,
    ),
}
"""Datasets of ``truth`` with one row for a spot of a block: the first fields of `TrueSpots`, their
descriptions and units.
"""
MORE_COLUMNS = {
    "responses": ("response to the laser at each delay, on/off - 1", None),
    "fraction": ("part of the intensity that is counted; less than 1 at gaps and in shadows", None),
    "snr_matched": (
        "signal-to-noise ratio on one frame without laser as an exact matched filter sees it: "
        "sqrt(sum(s^2 / v)), s = counts of the spot, v = gain * (s + B) + read^2 + 1/12 = variance "
        "of the pixel; with correlated noise sum(w s) / sqrt(w C w), w = s / v",
        None,
    ),
    "profile": (f"shape, an index into {', '.join(KINDS)}", None),
    "partner": ("row of the equal spot beside it; -1: none", None),
}
"""Datasets of ``truth`` that files of earlier versions do not have: the other fields of
`TrueSpots`.
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
            write_columns(file, _log_columns(run.design, run.truth))
            write_columns(
                file,
                _true_columns(run),
                TRUTH,
                "what was simulated: the options as attributes, the spots and the scales as "
                "datasets",
            )
            file[TRUTH].attrs.update(dict(_flat(asdict(run.design))))
            frames = _create_frames(file, run.design, COMPRESSIONS[compression])
            add_frames(file, "simulated run", has_angles=True)
        for index, frame in enumerate(run.frames()):
            with writing(file, path):
                frames[index] = frame
            progress()


def is_simulated(path: Path) -> bool:
    """Return whether a run has the group of the true spots. Raises `InputError`."""
    with open_hdf5(path) as file:
        return isinstance(member(file, TRUTH), h5py.Group)


def read_truth(path: Path) -> Truth:
    """Return the truth of a run that `write_run` wrote.

    Raises:
        InputError: the file cannot be read, or has no truth.
    """
    with open_hdf5(path) as file:

        def values(name: str) -> Array:
            return read_values(_dataset(file, name, path), f"{path}: {name}")

        columns = {name: values(f"{TRUTH}/{name}") for name in TRUE_SPOT_COLUMNS}
        if all(member(file, f"{TRUTH}/{name}") is not None for name in MORE_COLUMNS):
            columns |= {name: values(f"{TRUTH}/{name}") for name in MORE_COLUMNS}
        names = [f"{TRUTH}/frame_block"]
        names += [f"{GROUP}/{name}" for name in ("angle", "laser_on", "repeat")]
        schedule = [values(name) for name in names]
        shape = _dataset(file, "frames", path).shape
        conditions = None
        if member(file, f"{TRUTH}/frame_delay") is not None:
            per_frame = ("frame_delay", "scale", "spot_scale", "shift")
            conditions = [values(f"{TRUTH}/{name}") for name in (*per_frame, "static")]
            radius = float(values(f"{TRUTH}/static_radius"))
    dimensions = {"XY": 2, "sigma": 2, "responses": 2}
    of_spots = {
        found.shape[:1]
        for name, found in columns.items()
        if found.ndim == dimensions.get(name, 1)
        and (name not in ("XY", "sigma") or found.shape[1] == 2)
    }
    per_frame_shapes = {found.shape[:1] for found in (*schedule, *(conditions or [])[:4])}
    right = all(found.ndim == dimensions.get(name, 1) for name, found in columns.items())
    if len(shape) != 3 or per_frame_shapes != {shape[:1]} or len(of_spots) != 1 or not right:
        raise InputError(
            f"{path}: is a damaged simulated run: "
            "the lengths of its frames, columns and true spots differ"
        )
    numbers = (*columns.values(), *schedule, *(conditions or []))
    if any(found.dtype.kind not in "biuf" for found in numbers):
        raise InputError(
            f"{path}: is a damaged simulated run: its columns or true spots are not numbers"
        )
    frames = Schedule(*schedule)
    if conditions is None:
        known = steady(frames)
    else:
        delay, scale, spot_scale, shift, static = conditions
        known = Conditions(delay, scale * spot_scale, shift, static, radius)
    complete = "partner" in columns
    return Truth(
        shape[1:], frames, TrueSpots(**columns) if complete else lone_spots(**columns), known
    )


def read_found(path: Path) -> Found:
    """Return what a score needs of a spots file.

    The place of a spot is its centroid if the file has it, else the mean of its pixels.

    Raises:
        InputError: the file cannot be read, is not a spots file, or has no lists of pixels.
    """
    with open_spots(path) as file:
        shape, table = file.avg.shape, file.spots()
        try:
            pixels = file.pixel_list
        except KeyError as error:
            raise InputError(str(error.args[0])) from None
    if pixels.size and not 0 <= pixels.min() <= pixels.max() < shape[0] * shape[1]:
        raise InputError(
            f"{path}: spots/pixel_list has pixels outside of the frame; the file is damaged"
        )
    ranges = table["pixel_list_BE"]
    if ranges.size and not 0 <= ranges.min() <= ranges.max() <= len(pixels):
        raise InputError(
            f"{path}: spots/pixel_list_BE has ends outside of spots/pixel_list; the file is damaged"
        )
    centres = _mask_centres(ranges, pixels, shape[1])
    XY = _optional(path, "centroid", centres.shape)
    sigma = _optional(path, "sigma", centres.shape[:1])
    flags = _optional(path, "flags", centres.shape[:1], "u")
    on_one_frame = None if flags is None else flags & Flag.ONE_FRAME != 0
    XY = centres if XY is None else XY
    return Found(shape, file.frame_ranges, XY, table["I"], sigma, ranges, pixels, on_one_frame)


def _optional(path: Path, name: str, shape: tuple[int, ...], kind: str = "f") -> Array | None:
    """Return a column of the spots that not every spots file has, or None.

    ``kind``: kind of its type, as in NumPy.
    """
    with open_hdf5(path) as file:
        found = member(file, f"spots/{name}")
        if not isinstance(found, h5py.Dataset):
            return None
        values = read_values(found, f"{path}: spots/{name}")
    if values.shape != shape or values.dtype.kind != kind:
        raise InputError(
            f"{path}: spots/{name} is {values.dtype} {values.shape}, expected numbers {shape}; "
            "the file is damaged"
        )
    return values


def _mask_centres(ranges: Array, pixels: Array, n_Y: int) -> Array:
    """Return the mean X and Y of each spot's pixels, (n, 2) float64."""
    sums = np.zeros((len(pixels) + 1, 2))
    np.cumsum(np.column_stack(np.divmod(pixels, n_Y)), axis=0, out=sums[1:])
    begin, end = ranges.T
    return (sums[end] - sums[begin]) / np.maximum(end - begin, 1)[:, None]


def _create_frames(file: h5py.File, design: Design, compression: dict[str, Any]) -> h5py.Dataset:
    n_X, n_Y = design.size
    frames = file.create_dataset(
        "frames",
        (design.n_frames, n_X, n_Y),
        design.detector.dtype,
        chunks=(1, min(STRIP, n_X), n_Y),
        **compression,
    )
    frames.attrs["description"] = "simulated frames, indexed [frame, X, Y]"
    frames.attrs["units"] = "counts"
    frames.attrs["bias"] = design.detector.bias
    frames.attrs.update(_bounds(design))
    return frames


def _bounds(design: Design) -> dict[str, int]:
    """Return the attributes that tell valid and saturated values, as ``gpu-spots convert`` does."""
    detector, found = design.detector, {}
    markers = [detector.dead_value, *([detector.gap_value] if detector.modules else [])]
    if detector.dtype == "int32" and min(markers) < 0:
        found["valid_min"] = 0
    if detector.dtype == "uint32" and min(markers) < 0:
        found["valid_max"] = LARGEST["uint32"] - 1
    if detector.saturation is not None:
        found["saturation"] = detector.saturation
    return found


def _log_columns(design: Design, truth: Truth) -> dict[str, Column]:
    """Return the columns of the log, one value per frame."""
    schedule = truth.schedule
    on = schedule.laser_on.astype(bool)
    states = [f"{'on' if x else 'off'}_" if design.laser else "" for x in on]
    delays = ["-" if delay < 0 else design.delays[delay] for delay in truth.conditions.delay]
    if len(design.delays) > 1:
        states = [
            "off_" if delay == "-" else f"{delay}_" if design.laser else "" for delay in delays
        ]
    names = [
        f"sim_{a:07.3f}_{state}{r}.mccd"
        for a, state, r in zip(schedule.angle, states, schedule.repeat, strict=True)
    ]
    return {
        "angle": _column(schedule.angle, "rotation angle of the crystal", "degrees"),
        "laser_on": _column(schedule.laser_on, "1 with laser, 0 without"),
        "delay": _column(np.array(delays, object), "from laser to X-ray pulse; -: no laser pulse"),
        "file": _column(np.array(names, object), "name that the image would have"),
        "repeat": _column(
            schedule.repeat,
            "number of the frame, or of the off/on pair, at its angle and delay, from 1",
        ),
    }


def _true_columns(run: SimulatedRun) -> dict[str, Column]:
    """Return the datasets of the group ``truth``."""
    spots, detector, conditions = run.truth.spots, run.detector, run.truth.conditions
    return {
        **{
            name: _column(getattr(spots, name), description, units)
            for name, (description, units) in (TRUE_SPOT_COLUMNS | MORE_COLUMNS).items()
        },
        "frame_block": _column(run.truth.schedule.block, "index of each frame's angle"),
        "frame_delay": _column(conditions.delay, "index of each frame's delay; -1 without laser"),
        "scale": _column(
            run.scale, "scale of the whole picture above the bias on each frame (drift)"
        ),
        "spot_scale": _column(
            run.spot_scale, "scale of the spots on each frame, on top of that (jitter)"
        ),
        "shift": _column(conditions.shift, "displacement of all spots on each frame", "pixels"),
        "bias": _column(run.bias, "value of a pixel without light on each frame", "counts"),
        "static": _column(
            conditions.static, "centres of spots that are on all frames, X and Y", "pixels"
        ),
        "static_radius": _column(
            np.asarray(conditions.static_radius), "half the width of the largest of them", "pixels"
        ),
        "hot": _column(detector.hot, "pixels with a large constant signal, X and Y", "pixels"),
        "dead": _column(detector.dead, "pixels without a signal, X and Y", "pixels"),
        "flickering": _column(
            detector.flickering, "pixels that are bright on some frames, X and Y", "pixels"
        ),
    }


def _column(values: Array, description: str, units: str | None = None) -> Column:
    return Column(values, units, {"description": description})


def _flat(options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield options and those of their groups by name, for attributes."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif isinstance(value, tuple) and isinstance(value[0], str):
            yield name, list(value)
        elif value is not None:
            yield name, value


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: has no dataset {name}; expected a simulated run")
    return found
