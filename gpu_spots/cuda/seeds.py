"""Set pixels of masks, numbered in raster order on the device. Kernels: components.cu."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, blocks_for

THREADS, BLOCK_WORDS = 256, 1024
"""Sizes that are equal in components.cu."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """Set pixels of some masks."""

    n: int
    """Number of set pixels."""
    first: Any
    """(words,) int32: number of the first pixel of each word."""
    position: Any
    """(n,) uint32: 32 * word + bit; ascending."""


def numbered(toolkit: Toolkit, words: Any) -> Numbered:
    """Number the set pixels of masks, (n, n_X, words) uint32, contiguous."""
    xp, n_words = toolkit.xp, words.size
    n_blocks = blocks_for(n_words, BLOCK_WORDS)[0]

    def launch(name: str, n_threads: int, *args: Any) -> None:
        toolkit.kernel("components", name)(blocks_for(n_threads, THREADS), (THREADS,), args)

    count, begin = xp.empty(n_blocks, np.int32), xp.empty(n_blocks + 1, np.int64)
    launch("count_pixels", n_blocks * THREADS, words, np.int32(n_words), count)
    launch("scan", THREADS, count, np.int32(n_blocks), begin)
    n = int(toolkit.to_host(begin[-1:])[0])
    first, parent = xp.empty(n_words, np.int32), xp.empty(max(1, n), np.int32)
    position = xp.empty(max(1, n), np.uint32)
    launch(
        "list_pixels", n_blocks * THREADS, words, np.int32(n_words), begin, first, parent, position
    )
    return Numbered(n, first, position[:n])
