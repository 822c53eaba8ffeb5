"""Masks packed 32 pixels a word.

Bit ``j`` of word ``w`` of a row is the column ``32 * w + j``. Bits beyond the last column are
always 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 32


@dataclass(frozen=True, slots=True)
class PackedMasks:
    """A batch of masks."""

    words: Any
    """(k, n_X, ceil(n_Y / 32)) uint32, on the device; bits beyond the last column are 0."""
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


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Pack (n_X, n_Y) bool into (n_X, words) uint32, on the host."""
    n_bytes = words_for(mask.shape[1]) * WORD // 8
    packed = np.packbits(mask, axis=1, bitorder="little")
    whole = np.zeros((len(mask), n_bytes), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u4").astype(np.uint32, copy=False)
