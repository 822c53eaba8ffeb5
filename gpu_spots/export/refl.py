"""DIALS reflection table (.refl), version 1: one msgpack object."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, OutputError, given
from gpu_spots.export.experiment import write_experiment
from gpu_spots.export.format import ExportOptions, Format, Source, Target
from gpu_spots.files.output.new_file import new_binary_file
from gpu_spots.masks import grouping
from gpu_spots.model import Array

VERSION = 1
"""Version of the format. Version 2 differs in shoeboxes only."""
STRONG, OVERLOADED = 32, 1024
"""Bits of ``flags``."""
TYPES = {
    # type in the file: little-endian NumPy type, values per row
    "bool": ("?", 1),
    "int": ("<i4", 1),
    "std::size_t": ("<u8", 1),
    "double": ("<f8", 1),
    "int6": ("<i4", 6),
    "vec3<double>": ("<f8", 3),
}
"""Types of columns."""
PIXEL_VARIANCE = 1 / 12
"""Variance of a position that is only known to the pixel, pixels^2. DIALS adds it to others."""
LARGEST = 2**32 - 1
"""Bytes of a column, at most (msgpack)."""


class Refl(Format):
    """Reflection table as dials.find_spots writes it, without shoeboxes.

    ``identifiers`` is empty, so that any ``.expt`` fits. With a geometry, an ``.expt`` is written
    too, and ``identifiers`` has the one of its experiment.
    """

    name = "refl"
    title = "DIALS reflection table"
    reader = "DIALS, laue-dials, reciprocalspaceship"
    ending = "__strong.refl"
    written = (
        "`xyzobs.px`, `intensity.sum`, `bbox`, `flags`, `n_signal`; "
        "all other columns under their own names"
    )
    left_out = (
        "shoeboxes; without a geometry experiments (`.expt`), which `dials.import` makes from the "
        "images"
    )
    options = ("one_per_angle", "geometry")

    def second_output(self, output: Path, options: ExportOptions) -> Path | None:
        """Return the name of the ``.expt`` file if a geometry is given."""
        return output.with_suffix(".expt") if options.geometry else None

    def write(self, source: Source, target: Target) -> None:
        """Write the table, and the experiment if there is one; see `Format.write`."""
        frames = _frames(source)
        identifier = ""
        if target.second is not None:
            identifier = write_experiment(source, frames, target.second)
        rows, image = _rows(source, frames)
        columns = _columns(source, rows, image)
        with new_binary_file(target.path, target.name) as file:
            _write(file, columns, len(rows), target.name, identifier)


def _columns(source: Source, rows: NDArray[np.int64], image: Array) -> dict[str, tuple[str, Array]]:
    """Return type and values of each column, for some rows of the table of spots."""
    table = {name: values[rows] for name, values in source.columns.items()}
    n_rows = len(rows)
    X, Y = source.positions[rows].T
    z = image[table["frame"]]
    intensity = table["I"]
    if "sigma" in table:
        variance = table["sigma"] ** 2
    else:
        variance = np.abs(intensity)
        source.notes.append(
            "intensity.sum.variance is the intensity, as in dials.find_spots: "
            "the file has no spots/sigma"
        )
    flags = np.full(n_rows, STRONG, np.uint64)
    if "overload" in table:
        flags[table["overload"] > 0] |= np.uint64(OVERLOADED)
    spread = [np.full(n_rows, PIXEL_VARIANCE) for _ in range(3)]
    if "centroid_sigma_X" in table:
        spread[0] += table["centroid_sigma_Y"] ** 2
        spread[1] += table["centroid_sigma_X"] ** 2
    box = [table[name] for name in ("Y_begin", "Y_end", "X_begin", "X_end")]
    columns: dict[str, tuple[str, Array]] = {
        "bbox": ("int6", np.stack([*box, z, z + 1], axis=1)),
        "flags": ("std::size_t", flags),
        "id": ("int", np.zeros(n_rows)),
        "intensity.sum.value": ("double", intensity),
        "intensity.sum.variance": ("double", variance),
        "panel": ("std::size_t", np.zeros(n_rows)),
        "xyzobs.px.value": ("vec3<double>", np.stack([Y + 0.5, X + 0.5, z + 0.5], axis=1)),
        "xyzobs.px.variance": ("vec3<double>", np.stack(spread, axis=1)),
    }
    if source.n_pixels is not None:
        columns["n_signal"] = ("int", source.n_pixels[rows])
    used = ("I", "n_pixels", "X_begin", "X_end", "Y_begin", "Y_end")
    for name, values in source.extra_columns(used, tuple(columns)).items():
        columns[name] = (_type_of(values.dtype), values[rows])
    return dict(sorted(columns.items()))


def _type_of(dtype: np.dtype[Any]) -> str:
    """Return the type of a column that DIALS has no name for."""
    if dtype.kind == "b":
        return "bool"
    if np.can_cast(dtype, np.int32):
        return "int"
    return "std::size_t" if dtype.kind == "u" else "double"


def _rows(source: Source, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the table to write, and the number of each frame in the sequence."""
    image = np.full(source.results.n_frames, -1, np.int64)
    image[frames] = np.arange(len(frames))
    ranges = source.results.frame_ranges[frames]
    rows = [np.arange(begin, end) for begin, end in ranges.tolist()]
    return np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64), image


def _frames(source: Source) -> NDArray[np.int64]:
    """Return the frames of the sequence, in its order."""
    n_frames = source.results.n_frames
    choice = source.options.one_per_angle
    if choice is None:
        angles = source.frame_angles
        known = np.array([]) if angles is None else np.round(angles[np.isfinite(angles)], 3)
        if len(np.unique(known)) < len(known):
            source.notes.append(
                "angles repeat; for laue-dials, which needs one image per angle, "
                f"use {given('one_per_angle')}"
            )
        return np.arange(n_frames)
    return _one_per_angle(source, choice)


def _one_per_angle(source: Source, choice: str) -> NDArray[np.int64]:
    """Return one frame of each angle, in the order of the angles.

    Raises `InputError` if the angles or the laser states are not known, or no frame is left.
    """
    results = source.results
    keys = grouping.angle_keys(results.columns, results.n_frames, source.name)
    is_allowed = np.ones(results.n_frames, bool)
    number = 1
    if choice in ("off", "on"):
        states = grouping.laser_states(results.columns, results.n_frames, source.name)
        if states is None:
            raise InputError(
                f"{source.name}: the laser states are unknown, expected them for "
                f"{given('one_per_angle', choice)}; give the number of the frame at its angle"
            )
        is_allowed = states == (choice == "on")
    else:
        number = int(choice)
    frames = np.array(
        [
            members[number - 1]
            for key in np.unique(keys)
            if len(members := np.flatnonzero((keys == key) & is_allowed)) >= number
        ],
        np.int64,
    )
    if not len(frames):
        raise InputError(
            f"{source.name}: no frame is left by {given('one_per_angle', choice)}, "
            "expected one at each angle; choose another"
        )
    _describe(source, keys, frames)
    return frames


def _describe(source: Source, keys: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
    """Note which images make the sequence."""
    angles = keys[frames] / 1000
    steps = np.unique(np.diff(keys[frames]))
    step = f", step {steps[0] / 1000:g}" if len(steps) == 1 else ""
    source.notes.append(
        f"one frame per angle: {len(frames)} of {source.results.n_frames} frames, "
        f"angles {angles[0]:g} to {angles[-1]:g} degrees{step}; column frame has their numbers"
    )
    if len(steps) > 1:
        source.notes.append(
            f"steps between the angles differ ({steps[0] / 1000:g} to {steps[-1] / 1000:g} "
            "degrees): one scan cannot describe them"
        )
    missing = len(np.unique(keys)) - len(frames)
    if missing:
        angles_are = "angle without such a frame is" if missing == 1 else "angles without one are"
        source.notes.append(f"{missing} {angles_are} left out")


def _write(
    file: BinaryIO,
    columns: dict[str, tuple[str, Array]],
    n_rows: int,
    output: str,
    identifier: str,
) -> None:
    """Write the table as msgpack."""
    file.write(b"\x93" + _text("dials::af::reflection_table") + _integer(VERSION))
    known = _header_of_map(1) + _integer(0) + _text(identifier) if identifier else b"\x80"
    file.write(b"\x83" + _text("identifiers") + known)
    file.write(_text("nrows") + _integer(n_rows))
    file.write(_text("data") + _header_of_map(len(columns)))
    for name, (kind, values) in columns.items():
        dtype, width = TYPES[kind]
        n_bytes = n_rows * width * np.dtype(dtype).itemsize
        if n_bytes > LARGEST:
            raise OutputError(
                f"{output}: column {name} has {n_bytes} bytes, expected at most {LARGEST} in a "
                "DIALS reflection table; use the format parquet"
            )
        file.write(_text(name) + b"\x92" + _text(kind) + b"\x92" + _integer(n_rows))
        file.write(_header_of_bytes(n_bytes))
        for part in _parts(values, dtype):
            file.write(part)


def _parts(values: Array, dtype: str, rows: int = 1 << 20) -> Iterator[bytes]:
    """Yield the bytes of a column."""
    for begin in range(0, len(values), rows):
        yield np.ascontiguousarray(values[begin : begin + rows], dtype).tobytes()


def _text(text: str) -> bytes:
    """Return a string as msgpack."""
    data = text.encode()
    head = bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])
    return head + data


def _integer(value: int) -> bytes:
    """Return an integer that is not negative as msgpack, in its shortest form."""
    if value < 128:
        return bytes([value])
    for head, form, limit in (
        (b"\xcc", ">B", 2**8),
        (b"\xcd", ">H", 2**16),
        (b"\xce", ">I", 2**32),
    ):
        if value < limit:
            return head + struct.pack(form, value)
    return b"\xcf" + struct.pack(">Q", value)


def _header_of_map(length: int) -> bytes:
    """Return the beginning of a map of that many entries as msgpack."""
    return bytes([0x80 | length]) if length < 16 else b"\xde" + struct.pack(">H", length)


def _header_of_bytes(length: int) -> bytes:
    """Return the beginning of binary data of that many bytes as msgpack."""
    for head, form, limit in ((b"\xc4", ">B", 2**8), (b"\xc5", ">H", 2**16)):
        if length < limit:
            return head + struct.pack(form, length)
    return b"\xc6" + struct.pack(">I", length)
