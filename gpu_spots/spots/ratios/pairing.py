"""Pairs of frames, and of the intensities of a spot on them."""

import math
from dataclasses import dataclass

import numpy as np

from gpu_spots.spots.ratios.tables import (
    Floats,
    FramePairs,
    FrameStates,
    Indices,
    Keys,
    PairTable,
    SpotRows,
)

MATCH_DISTANCE = 3.0
"""Largest distance, pixels, of a spot at an angle from the same spot in another mask."""


def pair_frames(frames: FrameStates) -> FramePairs:
    """Return pairs of a laser-off and a laser-on frame of the same mask.

    The pairs of the run come first. Frames that it left over, as in bursts (off, off, on, on), are
    paired with those of their mask in the order of the frames. Each frame is in at most one pair.
    """
    index = np.arange(len(frames.mask))
    is_known = (frames.laser_on >= 0) & (frames.block >= 0)
    partner = frames.partner
    mutual = (
        is_known
        & (frames.laser_on == 0)
        & (partner >= 0)
        & (frames.mask[partner] == frames.mask)
        & (frames.laser_on[partner] == 1)
        & is_known[partner]
    )
    first, second = index[mutual].tolist(), partner[mutual].tolist()
    is_left = is_known.copy()
    is_left[first + second] = False
    waiting: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for frame in index[is_left].tolist():
        key = int(frames.mask[frame]), int(frames.block[frame])
        waiting.setdefault(key, ([], []))[int(frames.laser_on[frame])].append(frame)
    for off, on in waiting.values():
        for a, b in zip(off, on, strict=False):
            first.append(a)
            second.append(b)
    order = np.argsort(np.minimum(first, second), kind="stable") if first else np.zeros(0, int)
    return FramePairs(np.array(first, np.int64)[order], np.array(second, np.int64)[order])


def same_state_pairs(frames: FrameStates, laser_on: int) -> FramePairs:
    """Return pairs of consecutive frames of a mask in the same laser state, with the same delay."""
    waiting: dict[tuple[int, int, float], int] = {}
    first, second = [], []
    for frame in np.flatnonzero((frames.laser_on == laser_on) & (frames.block >= 0)).tolist():
        delay = float(frames.delay[frame])
        known = -math.inf if math.isnan(delay) else delay
        key = int(frames.mask[frame]), int(frames.block[frame]), known
        earlier = waiting.pop(key, None)
        if earlier is None:
            waiting[key] = frame
        else:
            first.append(earlier)
            second.append(frame)
    return FramePairs(np.array(first, np.int64), np.array(second, np.int64))


@dataclass(frozen=True, slots=True)
class Places:
    """Spots of masks, and the spots of earlier masks of the same angle that they are."""

    of_row: Indices
    """(n_spots,) int64: index of the spot of the mask, of each spot on a frame."""
    mask: Indices
    """(c,) int64: mask of each spot of a mask."""
    label: Indices
    """(c,) int64: its label."""
    reference: Indices
    """(c,) int64: the same reflection in the first mask of its angle that has it."""
    distance: Floats
    """(c,) float64, pixels: distance from it."""


def matched_places(spots: SpotRows, frames: FrameStates) -> Places:
    """Match the spots of the masks of an angle by their positions."""
    mask = frames.mask[spots.frame]
    n_labels = int(spots.label.max(initial=0)) + 1
    codes, of_row = np.unique(mask * n_labels + spots.label, return_inverse=True)
    n = len(codes)
    counts = np.bincount(of_row, minlength=n)
    centre = np.stack(
        [np.bincount(of_row, spots.position[:, axis], n) / counts for axis in range(2)], axis=1
    )
    mask_of, label_of = np.divmod(codes, n_labels)
    block_of_mask = dict(zip(frames.mask.tolist(), frames.block.tolist(), strict=True))
    reference, distance = np.arange(n), np.zeros(n)
    masks_of: dict[int, list[int]] = {}
    for one, block in sorted(block_of_mask.items()):
        masks_of.setdefault(block, []).append(one)
    for block, masks in masks_of.items():
        if block < 0 or len(masks) < 2:
            continue
        known = np.flatnonzero(mask_of == masks[0])
        for one in masks[1:]:
            new = np.flatnonzero(mask_of == one)
            if len(known) and len(new):
                ahead, to = nearest(centre[known], centre[new])
                _, back = nearest(centre[new], centre[known])
                near = np.flatnonzero(ahead <= MATCH_DISTANCE)
                both = near[back[to[near]] == near]
                reference[new[both]] = known[to[both]]
                distance[new[both]] = ahead[both]
            known = np.concatenate([known, new[reference[new] == new]])
    return Places(of_row, mask_of, label_of, reference, distance)


def nearest(places: Floats, of: Floats) -> tuple[Floats, Indices]:
    """Return distance and index of the nearest of some places, (n, 2), of each of others."""
    from scipy.spatial import cKDTree  # here, as it loads slowly

    distance, index = cKDTree(places).query(of)
    return np.asarray(distance, np.float64), np.asarray(index, np.int64)


def pair_table(
    spots: SpotRows, frames: FrameStates, places: Places, chosen: FramePairs
) -> tuple[PairTable, Keys]:
    """Return the pairs of intensities of some pairs of frames, and the keys of the reflections."""
    begin = np.searchsorted(spots.frame, np.arange(len(frames.mask) + 1))
    n_spots = np.diff(begin)[chosen.first]
    pair = np.repeat(np.arange(len(chosen)), n_spots)
    within = np.arange(len(pair)) - (np.cumsum(n_spots) - n_spots)[pair]
    # the frames of a mask have the same labels, in the same order
    off = begin[chosen.first][pair] + within
    on = begin[chosen.second][pair] + within
    place = places.of_row[off]
    delays, delay = np.unique(frames.delay[chosen.second], return_inverse=True)
    code = places.reference[place] * max(len(delays), 1) + delay[pair]
    codes, ratio = np.unique(code, return_inverse=True)
    order = np.lexsort([pair, ratio])
    ratio, pair, off, on, place = (each[order] for each in (ratio, pair, off, on, place))
    starts = np.searchsorted(ratio, np.arange(len(codes)))
    reference, of_delay = np.divmod(codes, max(len(delays), 1))
    shared = np.minimum(spots.shared[off], spots.shared[on])
    table = PairTable(
        ratio=ratio,
        pair=pair,
        rank=np.arange(len(ratio)) - starts[ratio],
        off=off,
        on=on,
        distance=places.distance[place],
        I_off=spots.intensity[off],
        I_on=spots.intensity[on],
        var_off=np.maximum(spots.sigma[off] ** 2 - shared, 0),
        var_on=np.maximum(spots.sigma[on] ** 2 - shared, 0),
        shared=shared,
        rejected=np.zeros(len(ratio), np.uint8),
        n_ratios=len(codes),
    )
    frame = chosen.first[pair[starts]]
    return table, Keys(
        mask=places.mask[reference],
        label=places.label[reference],
        delay=delays[of_delay],
        block=frames.block[frame],
        angle=frames.angle[frame],
    )
