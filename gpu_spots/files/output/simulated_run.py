"""Simulated runs on disk: the stack in LaueUtil's layout, with the group ``truth`` beside it; and what a score needs of a spots file."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.output.new_file import (
    NewFile,
    check_output,
    complete_or_absent,
    new_file,
    uninterrupted,
)
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.model import Array
from gpu_spots.simulate.design import KINDS, LARGEST, Design
from gpu_spots.simulate.run import SimulatedRun
from gpu_spots.simulate.score import Found
from gpu_spots.simulate.truth import Conditions, Schedule, TrueSpots, Truth, lone_spots, steady

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "none": {},
}
"""How frames can be stored, and what HDF5 is told for it."""
CHUNK_ROWS = 128
"""Rows of a chunk: a frame can be decompressed by several threads, and a column of pixels through
the run without reading all of it.
"""

SPOT_COLUMNS = {
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
    "sigma": (
        "sigma of the spot along its major and its minor axis; of a Moffat profile: of the Gaussian "
        "that is as wide at half its height",
        "pixels",
    ),
    "orientation": ("direction of the major axis, from +X towards +Y", "degrees"),
    "snr": (
        "expected signal-to-noise of the spot integrated on one frame without laser: I / sqrt(gain * I + A * (gain * B + read^2)), "
        "A = 4 pi sigma_major sigma_minor (pixels in the 2-sigma ellipse), B = background above the bias at the centre",
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
    check_output(path, (), force)
    with complete_or_absent(path) as part, new_file(part, str(path)) as file:
        with uninterrupted():
            _write_columns(file.create_group("lauecollect"), run.design, run.truth)
            _write_truth(file.create_group("truth"), run)
        _write_frames(file, run, COMPRESSIONS[compression], progress)


def read_truth(path: Path) -> Truth:
    """The truth of a run that `write_run` wrote.

    Raises:
        InputError: the file cannot be read, or has no truth.
    """
    with open_hdf5(path) as file:

        def values(name: str) -> Array:
            return read_values(_dataset(file, name, path), f"{path}: {name}")

        columns = {name: values(f"truth/{name}") for name in SPOT_COLUMNS}
        if all(f"truth/{name}" in file for name in MORE_COLUMNS):
            columns |= {name: values(f"truth/{name}") for name in MORE_COLUMNS}
        names = ["truth/frame_block"]
        names += [f"lauecollect/{name}" for name in ("angle", "laser_on", "repeat")]
        schedule = [values(name) for name in names]
        shape = _dataset(file, "frames", path).shape
        conditions = None
        if "truth/frame_delay" in file:
            per_frame = ("frame_delay", "scale", "spot_scale", "shift")
            conditions = [values(f"truth/{name}") for name in (*per_frame, "static")]
            radius = float(values("truth/static_radius"))
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
    XY = centres if XY is None else XY
    return Found(shape, file.frame_ranges, XY, table["I"], sigma, ranges, pixels)


def _optional(path: Path, name: str, shape: tuple[int, ...]) -> Array | None:
    """Return a column of the spots that not every spots file has, or None."""
    with open_hdf5(path) as file:
        found = member(file, f"spots/{name}")
        if not isinstance(found, h5py.Dataset):
            return None
        values = read_values(found, f"{path}: spots/{name}")
    if values.shape != shape or values.dtype.kind != "f":
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


def _write_frames(
    file: NewFile, run: SimulatedRun, compression: dict[str, Any], progress: Callable[[], None]
) -> None:
    n_X, n_Y = run.design.size
    chunks = (1, min(CHUNK_ROWS, n_X), n_Y)
    with uninterrupted():
        frames = file.create_dataset(
            "frames",
            (run.design.n_frames, n_X, n_Y),
            run.design.detector.dtype,
            chunks=chunks,
            **compression,
        )
        frames.attrs["description"] = "simulated frames, indexed [frame, X, Y]"
        frames.attrs["units"] = "counts"
        frames.attrs["bias"] = run.design.detector.bias
        for name, value in _bounds(run.design).items():
            frames.attrs[name] = value
    for index, frame in enumerate(run.frames()):
        with uninterrupted():
            frames[index] = frame
        file.check()
        progress()


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


def _write_columns(group: h5py.Group, design: Design, truth: Truth) -> None:
    """Write one column of the log a dataset, as LaueUtil has them."""
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
    _write(group, "angle", schedule.angle, "rotation angle of the crystal", "degrees")
    _write(group, "laser_on", schedule.laser_on, "1 with laser, 0 without")
    _write(
        group,
        "delay",
        np.array(delays, object),
        "from laser to X-ray pulse; -: no laser pulse",
    )
    _write(group, "file", np.array(names, object), "name that the image would have")
    _write(
        group,
        "repeat",
        schedule.repeat,
        "number of the frame, or of the off/on pair, at its angle, from 1",
    )


def _write_truth(group: h5py.Group, run: SimulatedRun) -> None:
    group.attrs["description"] = (
        "what was simulated: the options as attributes, the spots and the scales as datasets"
    )
    for name, value in _flat(asdict(run.design)):
        group.attrs[name] = value
    for name, (description, units) in (SPOT_COLUMNS | MORE_COLUMNS).items():
        _write(group, name, getattr(run.truth.spots, name), description, units)
    _write(group, "frame_block", run.truth.schedule.block, "index of each frame's angle")
    _write(
        group, "scale", run.scale, "scale of the whole picture above the bias on each frame (drift)"
    )
    _write(
        group,
        "spot_scale",
        run.spot_scale,
        "scale of the spots on each frame, on top of that (jitter)",
    )
    conditions = run.truth.conditions
    _write(group, "frame_delay", conditions.delay, "index of each frame's delay; -1 without laser")
    _write(group, "shift", conditions.shift, "displacement of all spots on each frame", "pixels")
    _write(group, "bias", run.bias, "value of a pixel without light on each frame", "counts")
    _write(group, "static", conditions.static, "centres of spots that are on all frames", "pixels")
    radius = np.float64(conditions.static_radius)
    _write(group, "static_radius", np.asarray(radius), "half their width", "pixels")
    flickering = run.detector.flickering
    _write(group, "flickering", flickering, "pixels that are bright on some frames", "pixels")
    _write(group, "hot", run.detector.hot, "pixels with a large constant signal, X and Y", "pixels")
    _write(group, "dead", run.detector.dead, "pixels that are 0 on every frame, X and Y", "pixels")


def _flat(options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield options and those of their groups by name, for attributes."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif isinstance(value, tuple) and isinstance(value[0], str):
            yield name, list(value)
        elif value is not None:
            yield name, value


def _write(
    group: h5py.Group, name: str, data: NDArray[Any], description: str, units: str | None = None
) -> None:
    dataset = group.create_dataset(
        name, data=data, dtype=h5py.string_dtype() if data.dtype == object else None
    )
    dataset.attrs["description"] = description
    if units:
        dataset.attrs["units"] = units


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: has no dataset {name}; expected a simulated run")
    return found
