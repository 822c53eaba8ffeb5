"""Connected components of packed masks, by union-find on the device. Kernels: components.cu."""

from typing import Any

import numpy as np

from gpu_spots.cuda.packed import PackedMasks
from gpu_spots.cuda.toolkit import Toolkit, blocks_for
from gpu_spots.errors import BackendError
from gpu_spots.model import Components
from gpu_spots.spots.table import joined

THREADS, BLOCK_WORDS = 256, 1024
"""Sizes that are equal in components.cu."""
MOST_WORDS = 2**25
"""Words of masks that are labelled at a time. The pixels of more do not fit in 31 bits."""


def components(toolkit: Toolkit, masks: PackedMasks, connectivity: int) -> Components:
    """Return the components of each mask; see ``gpu_spots.backend.Operations.components``."""
    words_of_mask = masks.words.shape[1] * masks.words.shape[2]
    if words_of_mask > MOST_WORDS:
        raise BackendError(
            f"masks of {masks.words.shape[1]} x {masks.n_columns} pixels: the GPU labels at most "
            f"{32 * MOST_WORDS}"
        )
    step = MOST_WORDS // words_of_mask
    parts = [
        _components(toolkit, masks[begin : begin + step], connectivity)
        for begin in range(0, len(masks), step)
    ]
    return parts[0] if len(parts) == 1 else joined(parts)


def _components(toolkit: Toolkit, masks: PackedMasks, connectivity: int) -> Components:
    xp, words = toolkit.xp, masks.words
    n_masks, n_rows, row_words = words.shape
    n_words = words.size

    def launch(name: str, n_threads: int, *args: Any) -> None:
        toolkit.kernel("components", name)(blocks_for(n_threads, THREADS), (THREADS,), args)

    def scanned(values: Any) -> Any:
        """Return the sums of the values before each, and of all, (n + 1,) int64.

        Not CuPy's cumsum: it ignores that CUB may fail, and the kernels below would write anywhere.
        """
        begins = xp.empty(len(values) + 1, np.int64)
        launch("scan", THREADS, values, np.int32(len(values)), begins)
        return begins

    n_blocks = blocks_for(n_words, BLOCK_WORDS)[0]
    count_of_block = xp.empty(n_blocks, np.int32)
    launch("count_pixels", n_blocks * THREADS, words, np.int32(n_words), count_of_block)
    begin_of_block = scanned(count_of_block)
    n_pixels = int(toolkit.to_host(begin_of_block[-1:])[0])
    if not n_pixels:
        nothing = np.zeros(0, np.int64)
        return Components(
            nothing,
            np.zeros(1, np.int64),
            np.zeros((0, 4), np.int32),
            np.zeros(n_masks + 1, np.int64),
        )

    first_pixel, parent, position = (
        xp.empty(n_words, np.int32),
        xp.empty(n_pixels, np.int32),
        xp.empty(n_pixels, np.uint32),
    )
    launch(
        "list_pixels",
        n_blocks * THREADS,
        words,
        np.int32(n_words),
        begin_of_block,
        first_pixel,
        parent,
        position,
    )
    size = (np.int32(n_words), np.int32(row_words), np.int32(n_rows))
    launch("join_pixels", n_words, words, first_pixel, *size, np.int32(connectivity == 2), parent)
    roots_of_block = xp.empty(blocks_for(n_pixels, THREADS)[0], np.int32)
    launch("find_roots", n_pixels, np.int32(n_pixels), parent, roots_of_block)
    begin_of_block = scanned(roots_of_block)
    n_components = int(toolkit.to_host(begin_of_block[-1:])[0])

    component, size_of_component = xp.empty(n_pixels, np.int32), xp.zeros(n_components, np.int32)
    launch("number_roots", n_pixels, np.int32(n_pixels), parent, begin_of_block, component)
    launch("number_components", n_pixels, np.int32(n_pixels), parent, component, size_of_component)
    begin = scanned(size_of_component)
    # stable: pixels stay in raster order inside of a component
    order = xp.argsort(component, kind="stable")
    pixels, box, mask = (
        xp.empty(n_pixels, np.int32),
        xp.empty((n_components, 4), np.int32),
        xp.empty(n_components, np.int32),
    )
    size = (np.int32(row_words), np.int32(n_rows), np.int32(masks.n_columns))
    launch(
        "describe_components",
        32 * n_components,
        np.int32(n_components),
        begin,
        order,
        position,
        *size,
        pixels,
        box,
        mask,
    )
    with toolkit.host_copies((pixels, begin, box, mask)) as (short, begins, boxes, masks_there):
        first = np.searchsorted(masks_there, np.arange(n_masks + 1)).astype(np.int64, copy=False)
        return Components(
            short.astype(np.int64), begins.copy(), boxes.copy(), first, held=(pixels, begin, box)
        )
