"""Summary of a spots file: what was found, from what, and how."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.columns import NOISE_ATTRIBUTES, SURFACE
from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.heaps import attributes
from gpu_spots.files.hdf5.tree import FAILURES, datasets_below, member
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.output.nexus import ENTRY
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.parameters import has_effect

RANGES = "frame2spotsBE"
"""Dataset that only spots files have."""
RESULTS = {
    RANGES: ("a spots file", "input_file"),
    "ratios/R": ("a ratios file", "spots_file"),
    "merged/R": ("a file of merged ratios", ""),
}
"""Files of results by a dataset that only they have; attribute of info with their source."""
METHOD = (
    *("finder", "sync", "n", "alpha", "cutoff", "erosions", "dilations", "structure"),
    *("significance", "streaks", "normalise"),
)
"""Attributes of info that say how spots were looked for, besides the method."""
DEPTH = 3
"""Groups in groups that a spots file has."""


def is_spots_file(file: h5py.File) -> bool:
    """Return whether a file is the output of find, and not a run."""
    return _has_results(file, RANGES)


def why_no_run(file: h5py.File) -> str | None:
    """Return the message for a file of results in the place of a run; None: it has none."""
    path = next((path for path in RESULTS if _has_results(file, path)), None)
    if path is None:
        return None
    kind, attribute = RESULTS[path]
    source = _plain(_attributes(file).get(attribute, ""))
    of = f" of {source}" if source else ""
    return (
        f"{file.filename}: is {kind}, the results{of}, expected a run; give the run itself, "
        f"or choose a dataset of this file with {given('frames_path')}"
    )


def _has_results(file: h5py.File, path: str) -> bool:
    return isinstance(member(file, path), h5py.Dataset) and member(file, "frames") is None


def summarise(file: h5py.File) -> dict[str, Any]:
    """Return a summary of a spots file, in types that JSON has. No masks are read.

    Keys: ``file``, ``layout`` ("spots file"), ``frames``, ``spots``, ``spots_per_frame`` (``min``,
    ``median``, ``max``), ``method``, ``options`` (those that had an effect), ``backend``,
    ``device``, ``date``, ``shape_change`` (of the background, relative, rms), ``noise``,
    ``input_file``, ``program``, ``datasets`` (path to shape and type). What the file does not say
    is None.

    Raises:
        InputError: the file is damaged.
    """
    try:
        ranges = read_values(file[RANGES], f"{file.filename}: {RANGES}")
        if (
            ranges.ndim != 2
            or ranges.shape[1] != 2
            or ranges.dtype.kind not in "iu"
            or not len(ranges)
        ):
            raise InputError(
                f"{file.filename}: {RANGES} is {ranges.dtype} {ranges.shape}, expected integers "
                "(n_frames, 2)"
            )
        counts = ranges[:, 1] - ranges[:, 0]
        known = {name: _plain(value) for name, value in _attributes(file).items()}
        noise = {name: _plain(value) for name, value in _attributes(file, "noise").items()}
        found = datasets_below(file, "", DEPTH)
        datasets = {
            path: f"{item.shape} {'text' if item.dtype.kind == 'O' else item.dtype}"
            for path, item in found
            if not path.startswith(f"/{ENTRY}/")  # links to others, and axes
        }
    except FAILURES as error:
        raise InputError(f"{file.filename}: cannot be read: {hdf5_reason(error)}") from error
    change = None
    if f"/{SURFACE.path}" in datasets:
        results = SpotsFile(file)
        if (surface := results.surface) is not None:
            change = surface.shape_change(*results.shape[1:])
    program = " ".join(str(known[name]) for name in ("program", "version") if name in known)
    return {
        "file": str(Path(file.filename)),
        "layout": "spots file",
        "frames": len(counts),
        "spots": int(counts.sum()),
        "spots_per_frame": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
        },
        "method": known.get("method"),
        "options": {
            name: known[name] for name in METHOD if name in known and has_effect(name, known)
        },
        "shape_change": change,
        "noise": {name: noise.get(name) for name in NOISE_ATTRIBUTES} if noise else None,
        "backend": known.get("backend"),
        "device": known.get("device"),
        "date": known.get("start_time"),
        "input_file": known.get("input_file"),
        "frames_path": known.get("frames_path"),
        "program": program or None,
        "datasets": datasets,
    }


def _attributes(file: h5py.File, group: str = "info") -> dict[str, Any]:
    found = member(file, group)
    return attributes(found) if found is not None else {}


def _plain(value: Any) -> Any:
    """Return an attribute in a type that JSON has."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
