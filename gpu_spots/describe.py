"""Description of a run before its frames are read: what it is, and what find can do with it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gpu_spots.background.methods import METHODS
from gpu_spots.errors import InputError
from gpu_spots.files.storage import storage_of
from gpu_spots.masks import grouping
from gpu_spots.model import LocatedColumns
from gpu_spots.parameters import SYNCS, Parameters
from gpu_spots.protocols import Stack

Description = dict[str, Any]
"""Description of a run, of types that JSON can store."""

DEFAULTS = Parameters()


def describe(stack: Stack) -> Description:
    """Return everything that is known of a run before its frames are read.

    Keys: ``file``, ``layout``, ``frames`` (see `storage_of`), ``masked_pixels``, ``mask`` (what
    masks them), ``valid_range``, ``saturation``, ``angles``, ``laser``, ``blocks``, ``pairs``,
    ``find`` (which values -m and -S may have, else why not), ``options`` (those that find needs),
    ``problems`` (for which find would refuse the run) and ``notes``. What is not there is None.
    """
    angles, laser = _angles(stack), _laser(stack)
    blocks, pairs = _blocks(stack), _pairs(stack)
    possible = _possible(stack)
    record = stack.provenance.record
    all_masked = stack.validity.pixels is not None and not stack.validity.pixels.any()
    return {
        "file": stack.provenance.input_file,
        "layout": stack.provenance.layout,
        "frames": storage_of(stack),
        "masked_pixels": stack.validity.n_masked,
        "mask": {name: record[name] for name in MASKS if name in record} or None,
        "valid_range": {name: record[name] for name in RANGE if name in record} or None,
        "saturation": None
        if stack.saturation is None
        else {"value": stack.saturation, "from": record.get("saturation_from", "")},
        "angles": angles,
        "laser": laser,
        "blocks": blocks,
        "pairs": pairs,
        "find": possible,
        "options": _options(angles, laser, possible),
        "problems": _problems(stack, possible),
        "notes": [*stack.notes, *(["all pixels are masked"] if all_masked else [])],
    }


MASKS = (
    "file_mask",
    "file_mask_pixels",
    "mask",
    "mask_good",
    "mask_pixels",
    "reject",
    "reject_pixels",
)
RANGE = ("valid_low", "valid_low_from", "valid_high", "valid_high_from")


def _angles(stack: Stack) -> Description:
    columns = stack.columns
    try:
        keys = grouping.angle_keys(columns, stack.shape[0], stack.source)
    except InputError as error:
        return {"missing": _without_source(error, stack)}
    return {
        "from": _origin(columns, "angle"),
        "different": len(np.unique(keys)),
        "lowest": float(keys.min() / 1000),
        "highest": float(keys.max() / 1000),
    }


def _laser(stack: Stack) -> Description:
    try:
        states = grouping.laser_states(stack.columns, stack.shape[0], stack.source)
    except InputError as error:
        return {"missing": _without_source(error, stack)}
    if states is None:
        why = (
            stack.columns.missing.get("laser_on")
            if isinstance(stack.columns, LocatedColumns)
            else None
        )
        return {"missing": why or "no column laser_on, delay or file with the laser states"}
    name = next(name for name in ("laser_on", "delay", "file") if name in stack.columns)
    return {
        "from": _origin(stack.columns, name),
        "off": int((~states).sum()),
        "on": int(states.sum()),
    }


def _blocks(stack: Stack) -> Description | None:
    try:
        found = grouping.blocks(grouping.angle_keys(stack.columns, stack.shape[0], stack.source))
    except InputError:
        return None
    sizes = np.bincount(found.mask_of_frame)
    return {"number": found.n_masks, "smallest": int(sizes.min()), "largest": int(sizes.max())}


def _pairs(stack: Stack) -> Description | None:
    try:
        found = grouping.group("pairs", stack.columns, stack.shape[0], stack.source)
    except InputError:
        return None
    return {"number": found.n_masks - found.n_unpaired, "frames_without_partner": found.n_unpaired}


def _possible(stack: Stack) -> Mapping[str, str | None]:
    """Return for each value of -m and -S the reason why find cannot use it; None: it can."""
    n_frames, columns = stack.shape[0], stack.columns
    run = columns, n_frames, stack.source
    checks: dict[str, Callable[[], object]] = {
        **{f"-m {name}": partial(method.check, DEFAULTS, *run) for name, method in METHODS.items()},
        **{f"-S {sync}": partial(grouping.group, sync, *run) for sync in SYNCS},
        f"-a {DEFAULTS.angles}": lambda: grouping.check_angles(
            columns, n_frames, DEFAULTS.angles, stack.source
        ),
    }
    return {name: _why_not(check, stack) for name, check in checks.items()}


def _why_not(check: Callable[[], object], stack: Stack) -> str | None:
    try:
        check()
    except InputError as error:
        return _without_source(error, stack)
    return None


def _options(
    angles: Description, laser: Description, possible: Mapping[str, str | None]
) -> list[str]:
    """Return the options of find that suit the run."""
    options = []
    if possible["-S blocks"] is None and laser.get("on") and laser.get("off"):
        options += ["-S", "blocks"]
    if possible[f"-a {DEFAULTS.angles}"] is not None:
        options += ["-a", str(angles.get("different", 0))]
    return options


def _problems(stack: Stack, possible: Mapping[str, str | None]) -> list[str]:
    """Return the problems for which find refuses the run with any options."""
    found = [possible[f"-m {DEFAULTS.method}"], _why_not(stack.check_whole, stack)]
    return [problem for problem in found if problem]


def _origin(columns: Mapping[str, Any], name: str) -> str:
    """Return the place of a column; empty: unknown."""
    place = columns.origin.get(name, "") if isinstance(columns, LocatedColumns) else ""
    return f"/{place}" if place.startswith("lauecollect/") else place


def _without_source(error: InputError, stack: Stack) -> str:
    """Return the text of an error without the name of the file, which is shown already."""
    text = str(error).removeprefix(f"{stack.source}: ")
    return text.removeprefix(f"{stack.provenance.input_file}: ")
