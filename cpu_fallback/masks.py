"""Masks packed 64 pixels a word: thresholds, erosions, dilations and unions by shifts and ANDs.

Bit ``j`` of word ``w`` of a row is the column ``64 * w + j``. Bits beyond the last column are
always 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.validity import valid_values
from gpu_spots.model import Array, Background, FoundMasks, Morphology, PackedImages, Validity

Words = NDArray[np.uint64]
WORD = 64
ONE, LAST = np.uint64(1), np.uint64(WORD - 1)
NOT_FIRST, NOT_LAST = ~ONE, ~(ONE << LAST)
"""All bits of a word but its first, or its last."""


@dataclass(frozen=True, slots=True)
class PackedMasks:
    """A batch of masks."""

    words: Words
    """(k, n_X, ceil(n_Y / 64)) uint64."""
    n_columns: int
    """n_Y."""

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.words)

    def __getitem__(self, masks: slice) -> "PackedMasks":
        """Some of the masks, as a view."""
        return PackedMasks(self.words[masks], self.n_columns)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which values make a mask, in the form that compares fastest."""

    limits: Array
    """(n_X, n_Y): a value stands out if it is greater than this; the frames' own type where it can
    be, as mixed types compare slowly.
    """
    valid: Words | None
    """(n_X, words): pixels that are not masked; None: all."""
    value_range: Validity | None
    """Which values count; None: all values of all pixels that are not masked do."""
    morphology: Morphology


def words_for(n_columns: int) -> int:
    """Words of a row."""
    return -(-n_columns // WORD)


def pack(mask: NDArray[np.bool_]) -> Words:
    """(..., n_Y) bool to (..., words) uint64."""
    n_columns = mask.shape[-1]
    n_bytes = words_for(n_columns) * 8
    packed = np.packbits(mask, axis=-1, bitorder="little")
    if packed.shape[-1] < n_bytes:
        packed = np.concatenate(
            [packed, np.zeros((*mask.shape[:-1], n_bytes - packed.shape[-1]), np.uint8)], axis=-1
        )
    return packed.view("<u8").astype(np.uint64, copy=False)


def rules(background: Background, morphology: Morphology) -> Rules:
    """Return what masks need of a background."""
    valid = background.validity.pixels
    return Rules(
        limits=_limits(background.threshold, background.max.dtype),
        valid=None if valid is None else pack(valid),
        value_range=background.validity if background.gaps else None,
        morphology=morphology,
    )


def _limits(threshold: Array, dtype: np.dtype) -> Array:
    """Return the map ``b`` for which ``value > b`` is ``value >= threshold``, for all frame values."""
    if dtype.kind != "f":
        lowest = np.iinfo(dtype).min
        below = threshold.astype(np.int64) - 1
        # "always", at the type's minimum, has no value below it: keep the wider type there
        return below.astype(dtype) if below.min(initial=lowest) >= lowest else below
    with np.errstate(over="ignore"):
        rounded = threshold.astype(dtype)
        rounded = np.where(rounded < threshold, np.nextafter(rounded, dtype.type(np.inf)), rounded)
        # NaN stays NaN, which nothing is greater than
        return np.nextafter(rounded, dtype.type(-np.inf))


def find_masks(frames: Array, rules: Rules) -> FoundMasks[PackedMasks]:
    """Find raw and filtered masks; see ``gpu_spots.backend.Operations.find_masks``.

    Frames are compared one by one, packed masks are cleaned together.
    """
    n_frames, n_rows, n_columns = frames.shape
    raw = np.empty((n_frames, n_rows, words_for(n_columns)), np.uint64)
    invalid = None if rules.value_range is None else np.zeros_like(raw)
    above = np.empty((n_rows, n_columns), bool)
    for i, frame in enumerate(frames):
        np.greater(frame, rules.limits, out=above)
        usable = None if rules.value_range is None else valid_values(frame, rules.value_range)
        if invalid is not None and usable is not None:
            above &= usable
            invalid[i] = pack(~usable)
        raw[i] = pack(above)
    morphology = rules.morphology
    filtered = _repeated(
        lambda words: erode(words, morphology.connectivity), raw, morphology.erosions
    )
    filtered = _repeated(
        lambda words: dilate(words, morphology.connectivity, n_columns),
        filtered,
        morphology.dilations,
    )
    if rules.valid is not None:
        filtered = filtered & rules.valid
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
    """OR masks onto others, one by one, as frames of one mask may follow each other."""
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


def erode(words: Words, connectivity: int) -> Words:
    """One binary erosion of each mask (k, n_X, words); outside of the frame is False."""
    row, after = _neighbours(words)
    row &= after
    row &= words
    above_and_below = row if connectivity == 2 else words
    result = row.copy()
    result[:, 1:] &= above_and_below[:, :-1]
    result[:, :-1] &= above_and_below[:, 1:]
    result[:, 0] = 0
    result[:, -1] = 0
    return result


def dilate(words: Words, connectivity: int, n_columns: int) -> Words:
    """One binary dilation of each mask (k, n_X, words); nothing grows outside of the frame."""
    row, after = _neighbours(words)
    row |= after
    row |= words
    if n_columns % WORD:
        row[..., -1] &= (ONE << np.uint64(n_columns % WORD)) - ONE
    above_and_below = row if connectivity == 2 else words
    result = row.copy()
    result[:, 1:] |= above_and_below[:, :-1]
    result[:, :-1] |= above_and_below[:, 1:]
    return result


def _neighbours(words: Words) -> tuple[Words, Words]:
    """For each pixel the one before it, and the one after it, in its row.

    Bits go from word to word as if all rows were one, which is twice as fast; what came from
    another row is then taken away.
    """
    flat, before, after = words.reshape(-1), words << ONE, words >> ONE
    before.reshape(-1)[1:] |= flat[:-1] >> LAST
    before[..., 0] &= NOT_FIRST
    after.reshape(-1)[:-1] |= flat[1:] << LAST
    after[..., -1] &= NOT_LAST
    return before, after


def set_pixels(words: Words, n_columns: int) -> NDArray[np.int64]:
    """(p,) int64, ascending: flat index ``(mask * n_X + X) * n_Y + Y`` of every set bit of (k, n_X, words)."""
    flat = words.reshape(-1)
    occupied = np.flatnonzero(flat)
    bits = np.flatnonzero(_unpacked(flat[occupied]).view(bool))
    which, column = bits >> 6, bits & (WORD - 1)
    word = occupied[which]
    if n_columns % WORD == 0:
        return (word << 6) + column
    row = word // words.shape[-1]
    return row * n_columns + (word - row * words.shape[-1]) * WORD + column


def _unpacked(words: Words) -> NDArray[np.uint8]:
    """Return the bits of some words, 64 values 0 or 1 each."""
    return np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
