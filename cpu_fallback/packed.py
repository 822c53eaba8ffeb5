"""Masks packed 64 pixels a word: erosions and dilations by shifts and ANDs.

Bit ``j`` of word ``w`` of a row is the column ``64 * w + j``. Bits beyond the last column are
always 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD = 64
ONE, LAST = np.uint64(1), np.uint64(WORD - 1)
NOT_FIRST, NOT_LAST = ~ONE, ~(ONE << LAST)
"""All bits of a word except the first, or except the last."""


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
        """Return some of the masks, as a view."""
        return PackedMasks(self.words[masks], self.n_columns)


def words_for(n_columns: int) -> int:
    """Return the number of words of a row."""
    return -(-n_columns // WORD)


def pack(mask: NDArray[np.bool_]) -> Words:
    """Pack (..., n_Y) bool into (..., words) uint64."""
    n_columns = mask.shape[-1]
    n_bytes = words_for(n_columns) * 8
    packed = np.packbits(mask, axis=-1, bitorder="little")
    if packed.shape[-1] < n_bytes:
        packed = np.concatenate(
            [packed, np.zeros((*mask.shape[:-1], n_bytes - packed.shape[-1]), np.uint8)], axis=-1
        )
    return words(packed)


def octets(words: Words) -> NDArray[np.uint8]:
    """Return (..., words) uint64 as (..., 8 words) uint8, a view where the machine allows it."""
    return words.astype("<u8", copy=False).view(np.uint8)


def words(octets: NDArray[np.uint8]) -> Words:
    """Return (..., 8 words) uint8, contiguous, as (..., words) uint64."""
    return octets.view("<u8").astype(np.uint64, copy=False)


def bits(octets: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the bits of some octets, 8 each."""
    return np.unpackbits(octets, bitorder="little").view(np.bool_)


def erode(words: Words, connectivity: int) -> Words:
    """Return each mask (k, n_X, words) after one binary erosion; outside of the frame is False."""
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
    """Return each mask (k, n_X, words) after one binary dilation, cut at the frame's border."""
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
    """Return for each pixel the one before it and the one after it in its row.

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
    """Return the flat index of every set bit of (k, n_X, words): (p,) int64, ascending.

    The index is ``(mask * n_X + X) * n_Y + Y``.
    """
    flat = words.reshape(-1)
    occupied = np.flatnonzero(flat)
    set_bits = np.flatnonzero(bits(octets(flat[occupied])))
    which, column = set_bits >> 6, set_bits & (WORD - 1)
    word = occupied[which]
    if n_columns % WORD == 0:
        return (word << 6) + column
    row = word // words.shape[-1]
    return row * n_columns + (word - row * words.shape[-1]) * WORD + column
