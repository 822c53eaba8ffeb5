"""Masks: thresholds, erosions and dilations, unions."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.packed import PackedMasks, Words, dilate, erode, pack, words_for
from cpu_fallback.prepared import Prepared
from gpu_spots.model import Array, FoundMasks, PackedImages


def find_masks(frames: Array, prepared: Prepared) -> FoundMasks[PackedMasks]:
    """Find raw and filtered masks; see ``gpu_spots.backend.Operations.find_masks``.

    Frames are compared one by one, packed masks are cleaned together.
    """
    n_frames, n_rows, n_columns = frames.shape
    raw = np.empty((n_frames, n_rows, words_for(n_columns)), np.uint64)
    invalid = None if prepared.value_range is None else np.zeros_like(raw)
    above = np.empty((n_rows, n_columns), bool)
    for i, frame in enumerate(frames):
        np.greater(frame, prepared.limits, out=above)
        usable = None if prepared.value_range is None else prepared.value_range.allows(frame)
        if invalid is not None and usable is not None:
            above &= usable
            invalid[i] = pack(~usable)
        raw[i] = pack(above)
    morphology = prepared.morphology
    filtered = _repeated(
        lambda words: erode(words, morphology.connectivity), raw, morphology.erosions
    )
    filtered = _repeated(
        lambda words: dilate(words, morphology.connectivity, n_columns),
        filtered,
        morphology.dilations,
    )
    if prepared.valid is not None:
        filtered = filtered & prepared.valid
    if invalid is not None:
        filtered = filtered & ~invalid
    return FoundMasks(
        raw=PackedMasks(raw, n_columns),
        filtered=PackedMasks(filtered, n_columns),
        invalid=None if invalid is None else PackedMasks(invalid, n_columns),
    )


def empty_masks(n_masks: int, shape: tuple[int, int]) -> PackedMasks:
    """Return masks with no pixel set."""
    return PackedMasks(np.zeros((n_masks, shape[0], words_for(shape[1])), np.uint64), shape[1])


def union(onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]) -> None:
    """Combine masks with others by OR, one by one: several frames may have one mask."""
    for words, mask in zip(masks.words, mask_of_frame, strict=True):
        onto.words[mask] |= words


def without(masks: PackedMasks, invalid: PackedMasks) -> PackedMasks:
    """Return the pixels of ``masks`` that are not in ``invalid``, mask by mask."""
    return PackedMasks(masks.words & ~invalid.words, masks.n_columns)


def fetch(masks: Sequence[PackedMasks]) -> list[PackedImages]:
    """Return views of the words as bytes."""
    return [
        PackedImages(each.words.astype("<u8", copy=False).view(np.uint8), each.n_columns)
        for each in masks
    ]


def _repeated(step: Callable[[Words], Words], words: Words, times: int) -> Words:
    """Repeat a step; what it no longer changes, it never will."""
    for _ in range(times):
        before, words = words, step(words)
        if np.array_equal(before, words):
            break
    return words
