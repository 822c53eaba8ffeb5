"""Angles and laser states become blocks and pairs: which frames share a mask."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, given, one_of
from gpu_spots.model import Array, Columns, LocatedColumns

MIN_BLOCKS = 3
"""Fewer blocks cannot tell which of them has a spot."""
LARGEST_ANGLE = 1e12
"""Degrees, either way; what is beyond is no angle, and its 0.001 degrees would not fit 64 bits."""

_LASER_WORD = re.compile(r"(?<![a-z])(on|off)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Groups:
    """Frames that share a mask."""

    mask_of_frame: NDArray[np.int64]
    """(n_frames,) int64: index of each frame's mask; masks are numbered in the order of their first
    frame.
    """
    n_masks: int
    """Number of masks."""
    n_unpaired: int
    """Frames that found no partner and keep a mask of their own (pairs only)."""


def frames_alone(n_frames: int) -> Groups:
    """Return groups of one frame each."""
    return Groups(np.arange(n_frames), n_frames, 0)


def alone(groups: Groups, frames: NDArray[np.bool_]) -> Groups:
    """Return the groups where each of the marked ``frames``, (n_frames,) bool, is on its own."""
    n_frames = len(frames)
    keys = np.where(frames, groups.n_masks + np.arange(n_frames), groups.mask_of_frame)
    return replace(blocks(keys), n_unpaired=groups.n_unpaired)


def angle_keys(columns: Columns, n_frames: int, source: str) -> NDArray[np.int64]:
    """Return the angle of each frame, (n_frames,) int64, in 0.001 degrees.

    Frames with equal numbers are at the same angle.

    Raises `InputError` as `frame_angles` does.
    """
    return keys_of(frame_angles(columns, n_frames, source))


def keys_of(angles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return angles, degrees, as (n_frames,) int64 in 0.001 degrees."""
    return np.rint(angles * 1000).astype(np.int64)


def frame_angles(columns: Columns, n_frames: int, source: str) -> NDArray[np.float64]:
    """Return the angle of each frame, (n_frames,) float64, degrees.

    Raises `InputError` where ``angle`` is missing, is not a number, or is not one value a frame;
    ``source`` names the file in it.
    """
    if "angle" not in columns:
        why = (
            _why_missing(columns, "angle")
            or "lauecollect/angle is missing, expected one value per frame, degrees"
        )
        raise InputError(f"{source}: {why}{_remedy(columns, 'angle')}")
    column = _one_a_frame(columns, "angle", n_frames, source)
    if column.dtype.kind not in "iufSUO":
        raise InputError(
            f"{source}: {_where(columns, 'angle')} is {column.dtype}, expected degrees"
        )
    angles = np.array([_number(value) for value in column.tolist()], np.float64)
    bad = np.flatnonzero(~np.isfinite(angles) | (np.abs(angles) > LARGEST_ANGLE))
    if len(bad):
        value = _texts(column[bad[:1]])[0]
        raise InputError(
            f"{source}: {_where(columns, 'angle')} is {value!r} at frame {bad[0]}, expected degrees"
        )
    return angles


def laser_states(columns: Columns, n_frames: int, source: str) -> NDArray[np.bool_] | None:
    """Return the laser state of each frame, (n_frames,) bool, True for on.

    It comes from ``laser_on``, else from ``delay``, else from the names in ``file``.

    None where the metadata does not tell. Raises `InputError` for values that are neither.
    """
    if "laser_on" in columns:
        return _states_from_flags(
            _one_a_frame(columns, "laser_on", n_frames, source),
            f"{source}: {_where(columns, 'laser_on')}",
        )
    if "delay" in columns:
        return _states_from_delays(_one_a_frame(columns, "delay", n_frames, source))
    if "file" in columns:
        return _states_from_names(_one_a_frame(columns, "file", n_frames, source))
    return None


def is_laser_run(states: NDArray[np.bool_] | None) -> bool:
    """Return whether frames have both laser states. Other runs are dark."""
    return states is not None and bool(states.any()) and not bool(states.all())


def blocks(keys: NDArray[np.int64]) -> Groups:
    """Return groups of the frames of one angle, even if the angle occurs again later."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return Groups(order[inverse].astype(np.int64), len(first), 0)


def pairs(keys: NDArray[np.int64], states: NDArray[np.bool_]) -> Groups:
    """Return groups of neighbours in a block that differ in laser state.

    A frame joins the frame just before it in its block if that one is unpaired and of the opposite
    state; otherwise it opens a new mask: off, off, on, on gives {0}, {1, 2}, {3}.
    """
    mask_of_frame = np.empty(len(keys), np.int64)
    members: list[int] = []
    last_in_block: dict[int, int] = {}
    for frame, key in enumerate(keys.tolist()):
        previous = last_in_block.get(key)
        last_in_block[key] = frame
        if (
            previous is not None
            and members[mask_of_frame[previous]] == 1
            and states[previous] != states[frame]
        ):
            mask_of_frame[frame] = mask_of_frame[previous]
            members[mask_of_frame[previous]] = 2
        else:
            mask_of_frame[frame] = len(members)
            members.append(1)
    return Groups(mask_of_frame, len(members), members.count(1))


def frame_delays(columns: Columns, n_frames: int, source: str) -> Array | None:
    """Return the delay of each frame as the metadata have it; None: there are no delays.

    Raises `InputError` unless there is one value per frame.
    """
    return _one_a_frame(columns, "delay", n_frames, source) if "delay" in columns else None


def _one_a_frame(columns: Columns, name: str, n_frames: int, source: str) -> Array:
    column = np.asarray(columns[name])
    if column.shape != (n_frames,):
        where = _where(columns, name)
        raise InputError(
            f"{source}: {where} has shape {column.shape}, "
            f"expected one value for each of the {n_frames} frames"
        )
    return column


def _where(columns: Columns, name: str) -> str:
    """Return the origin of a column, for messages."""
    return (columns.origin if isinstance(columns, LocatedColumns) else {}).get(
        name, f"lauecollect/{name}"
    )


def _why_missing(columns: Columns, name: str) -> str | None:
    return columns.missing.get(name) if isinstance(columns, LocatedColumns) else None


def _number(value: Any) -> float:
    """Return a number; NaN if it is none."""
    try:
        return float(value) if isinstance(value, int | float | str | bytes) else math.nan
    except ValueError:
        return math.nan


def _texts(column: Array) -> list[str]:
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for value in column.tolist()
    ]


def _states_from_flags(column: Array, where: str) -> NDArray[np.bool_]:
    known = {
        "0": False,
        "1": True,
        "0.0": False,
        "1.0": True,
        "false": False,
        "true": True,
        "off": False,
        "on": True,
    }
    texts = [text.strip().lower() for text in _texts(column)]
    for frame, text in enumerate(texts):
        if text not in known:
            raise InputError(f"{where} is {text!r} at frame {frame}, expected 0, 1, off or on")
    return np.array([known[text] for text in texts], bool)


def _states_from_delays(column: Array) -> NDArray[np.bool_]:
    return np.array(
        [text.strip().lower() not in ("-", "off", "", "nan") for text in _texts(column)], bool
    )


def _states_from_names(column: Array) -> NDArray[np.bool_] | None:
    """Return the states from the last "on" or "off" in each name; None if a name has none."""
    found = [_LASER_WORD.findall(re.split(r"[/\\]", text)[-1]) for text in _texts(column)]
    return np.array([words[-1].lower() == "on" for words in found], bool) if all(found) else None


def check_angles(columns: Columns, n_frames: int, at_least: int, source: str) -> None:
    """Refuse a run with fewer different angles than asked for; 0 asks for nothing.

    Raises `InputError`, which says how many there are and how to switch the check off.
    """
    if not at_least:
        return
    remedy = f"use {given('angles', 0)} to skip this check"
    try:
        n_angles = len(np.unique(angle_keys(columns, n_frames, source)))
    except InputError as error:
        raise InputError(
            f"{error}; expected at least {at_least} different angles ({given('angles')}); {remedy}"
        ) from None
    if n_angles < at_least:
        raise InputError(
            f"{source}: {_where(columns, 'angle')} has {n_angles} different "
            f"angle{'s' * (n_angles != 1)}, expected at least {at_least} ({given('angles')}); "
            f"{remedy}"
        )


def group(sync: str, columns: Columns, n_frames: int, source: str) -> Groups:
    """Return the groups of ``sync``: none, pairs or blocks.

    Raises `InputError` where the run is not a laser run.
    """
    if sync == "none":
        return frames_alone(n_frames)
    states = _states_of_laser_run(columns, n_frames, source, given("sync", sync))
    keys = angle_keys(columns, n_frames, source)
    return blocks(keys) if sync == "blocks" else pairs(keys, states)


def blocks_to_compare(columns: Columns, n_frames: int, source: str) -> Groups:
    """Return the blocks whose frames the Kruskal-Wallis test compares.

    Raises `InputError` for a run that is not a laser run, has fewer than two blocks, or a block of
    a single frame, which it names.
    """
    _states_of_laser_run(columns, n_frames, source, given("method", "kruskal"))
    keys = angle_keys(columns, n_frames, source)
    found = blocks(keys)
    if found.n_masks < 2:
        raise InputError(
            f"{source}: all {n_frames} frames are at one angle, "
            f"{given('method', 'kruskal')} needs at least 2 angles"
        )
    sizes = np.bincount(found.mask_of_frame)
    if sizes.min() < 2:
        frame = int(np.flatnonzero(sizes[found.mask_of_frame] < 2)[0])
        raise InputError(
            f"{source}: only frame {frame} is at {keys[frame] / 1000:g} degrees, "
            f"{given('method', 'kruskal')} needs at least 2 frames at each angle"
        )
    return found


def repeated_blocks(columns: Columns, n_frames: int, source: str) -> Groups | None:
    """Return the blocks of a run whose angles repeat; None for any other run.

    At least `MIN_BLOCKS` blocks must have two frames or more, and more than half of the frames must
    be in such blocks. Raises `InputError` for an angle that is no number.
    """
    if "angle" not in columns:
        return None
    found = blocks(angle_keys(columns, n_frames, source))
    sizes = np.bincount(found.mask_of_frame)
    repeated = sizes >= 2
    enough = np.count_nonzero(repeated) >= MIN_BLOCKS and 2 * sizes[repeated].sum() > n_frames
    return found if enough else None


def _states_of_laser_run(
    columns: Columns, n_frames: int, source: str, who: str
) -> NDArray[np.bool_]:
    states = laser_states(columns, n_frames, source)
    if states is None or not is_laser_run(states):
        raise InputError(
            f"{source}: {who} needs a laser run, with frames of both laser states; "
            f"{_what_is_known(states, columns)}"
        )
    return states


def _what_is_known(states: Any, columns: Columns) -> str:
    if states is None:
        why = (
            _why_missing(columns, "laser_on")
            or "lauecollect has no laser_on, delay or file column with the laser states"
        )
        return f"{why}{_remedy(columns, 'laser_on')}"
    return f"all {len(states)} frames have the laser {'on' if states.all() else 'off'}"


def _remedy(columns: Columns, name: str) -> str:
    return f"; use {one_of(*columns.given_by[name])}" if isinstance(columns, LocatedColumns) else ""
