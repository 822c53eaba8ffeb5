"""Columns of the group ``per_frame`` that follow from the metadata of a run."""

import math
import re
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError
from gpu_spots.masks import grouping
from gpu_spots.model import Array, Columns

SECONDS = {"": 0, "s": 0, "ms": -3, "us": -6, "µs": -6, "μs": -6, "ns": -9, "ps": -12, "fs": -15}
"""Powers of ten by the units of a delay."""
_DELAY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµμ]*)", re.IGNORECASE)


def frame_columns(columns: Columns, n_frames: int, source: str) -> dict[str, Array]:
    """Return what the metadata say of each frame, by path in the spots file.

    Metadata that are missing, or that cannot be understood, are unknown here: only what needs them
    refuses them.

    Args:
        columns: metadata of the run.
        n_frames: number of frames.
        source: name of the file, for messages.
    """
    angles = states = None
    with suppress(InputError):
        angles = grouping.frame_angles(columns, n_frames, source)
    with suppress(InputError):
        states = grouping.laser_states(columns, n_frames, source)
    block = np.full(n_frames, -1, np.int32)
    partner = np.full(n_frames, -1, np.int32)
    if angles is not None:
        keys = grouping.keys_of(angles)
        block = grouping.blocks(keys).mask_of_frame.astype(np.int32)
        if states is not None and grouping.is_laser_run(states):
            partner = _partners(grouping.pairs(keys, states).mask_of_frame)
    return {
        "per_frame/angle": np.full(n_frames, np.nan) if angles is None else angles,
        "per_frame/laser_on": np.full(n_frames, -1, np.int8)
        if states is None
        else states.astype(np.int8),
        "per_frame/delay": _delays(columns, states, n_frames),
        "per_frame/block": block,
        "per_frame/partner": partner,
    }


def _partners(mask_of_frame: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the other frame of each frame's pair; -1: none."""
    partner = np.full(len(mask_of_frame), -1, np.int32)
    order = np.argsort(mask_of_frame, kind="stable")
    first = np.flatnonzero(np.diff(mask_of_frame[order]) == 0)
    partner[order[first]] = order[first + 1]
    partner[order[first + 1]] = order[first]
    return partner


def _delays(
    columns: Columns, states: NDArray[np.bool_] | None, n_frames: int
) -> NDArray[np.float64]:
    """Return the delay of each frame, s: 0 where the laser is off, NaN where it is not known."""
    delays = np.full(n_frames, np.nan)
    if states is None:
        return delays
    with suppress(InputError):  # `delay_warning` has told it
        if (column := grouping.frame_delays(columns, n_frames, "")) is not None:
            delays[:] = [seconds(value) for value in column.tolist()]
    delays[~states] = 0.0
    return delays


def delay_warning(columns: Columns, n_frames: int, source: str) -> str | None:
    """Return a warning if the delays of a run cannot be used; they are unknown then."""
    try:
        grouping.frame_delays(columns, n_frames, source)
    except InputError as error:
        return f"{error}; delays are unknown"
    return None


def seconds(delay: object) -> float:
    """Return a delay in seconds: a number, or a text such as ``100ps`` or ``1.5 us``.

    NaN for everything else.

    Examples:
        >>> seconds("100ps")
        1e-10
        >>> seconds(b"-2 ns"), seconds("on")
        (-2e-09, nan)
    """
    if isinstance(delay, int | float):
        return float(delay)
    text = delay.decode(errors="replace") if isinstance(delay, bytes) else str(delay)
    found = _DELAY.fullmatch(text.strip())
    if found is None or found[2].lower() not in SECONDS:
        return math.nan
    number, _, exponent = found[1].lower().partition("e")
    # one conversion from text, so that it is rounded once
    return float(f"{number}e{int(exponent or 0) + SECONDS[found[2].lower()]}")
