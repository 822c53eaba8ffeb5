"""Masks: thresholds, erosions and dilations, unions.

Kernels: masks.cu, union.cu.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.packed import PackedMasks, words_for
from gpu_spots.cuda.prepared import Prepared
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, frame_stride
from gpu_spots.model import FETCH_BYTES, FoundMasks, Morphology, PackedImages, Validity

THREADS, TILE_WORDS, TILE_ROWS = 256, 32, 64
"""Sizes that are equal in masks.cu."""
STEPS = 8
"""Erosions and dilations of one launch, limited by the halo of a tile in shared memory."""


def find_masks(toolkit: Toolkit, frames: Any, prepared: Prepared) -> FoundMasks[PackedMasks]:
    """Return raw and filtered masks; see ``gpu_spots.backend.Operations.find_masks``."""
    n_frames, n_rows, n_columns = frames.shape
    shape = (n_frames, n_rows, words_for(n_columns))
    raw, filtered = toolkit.xp.empty(shape, np.uint32), toolkit.xp.empty(shape, np.uint32)
    checked = prepared.value_range is not None
    invalid = toolkit.xp.empty(shape, np.uint32) if checked else None
    bound = np.float64 if frames.dtype.kind == "f" else np.int64
    types = {
        "FRAME": c_type(frames.dtype),
        "LIMIT": c_type(prepared.limits.dtype),
        "BOUND": c_type(np.dtype(bound)),
    }
    find = toolkit.kernel("masks", "find_masks", **types)
    size = (np.int32(n_rows), np.int32(n_columns))
    square = np.int32(prepared.morphology.connectivity == 2)
    (erosions, dilations), *others = _launches(prepared.morphology, n_rows, n_columns)
    find(
        *_tiles(shape),
        (
            *(
                frames,
                np.int64(frame_stride(frames)),
                prepared.limits,
                *size,
                np.int32(_loads_wide(frames)),
                np.int32(checked),
            ),
            *(
                *map(bound, (prepared.value_range or Validity()).bounds(frames.dtype)),
                prepared.valid,
                np.int32(erosions),
                np.int32(dilations),
                square,
            ),
            *(np.int32(not others), raw, filtered, invalid),
        ),
        shared_mem=_shared(erosions + dilations),
    )
    if others:
        clean, other = (
            toolkit.kernel("masks", "clean_masks", **types),
            toolkit.xp.empty(shape, np.uint32),
        )
        for i, (erosions, dilations) in enumerate(others, 1):
            steps = (np.int32(erosions), np.int32(dilations), square, np.int32(i == len(others)))
            clean(
                *_tiles(shape),
                (filtered, *size, prepared.valid, invalid, *steps, other),
                shared_mem=_shared(erosions + dilations),
            )
            filtered, other = other, filtered
    return FoundMasks(
        raw=PackedMasks(raw, n_columns),
        filtered=PackedMasks(filtered, n_columns),
        invalid=PackedMasks(invalid, n_columns) if checked else None,
    )


def empty_masks(toolkit: Toolkit, n_masks: int, shape: tuple[int, int]) -> PackedMasks:
    """Return masks of zeros."""
    return PackedMasks(
        toolkit.xp.zeros((n_masks, shape[0], words_for(shape[1])), np.uint32), shape[1]
    )


def union(
    toolkit: Toolkit, onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]
) -> None:
    """Combine masks with others by OR; see ``gpu_spots.backend.Operations.union``."""
    n_words = onto.words.shape[1] * onto.words.shape[2]
    which = toolkit.to_device(np.asarray(mask_of_frame, np.int32))
    unite = toolkit.kernel("union", "unite")
    args = (masks.words, which, np.int32(len(masks)), np.int64(n_words), onto.words)
    unite(blocks_for(n_words, THREADS), (THREADS,), args)


def without(toolkit: Toolkit, masks: PackedMasks, invalid: PackedMasks) -> PackedMasks:
    """Return the pixels of ``masks`` that are not in ``invalid``, mask by mask."""
    left, n_words = toolkit.xp.empty(masks.words.shape, np.uint32), masks.words.size
    subtract = toolkit.kernel("union", "subtract")
    subtract(
        blocks_for(n_words, THREADS),
        (THREADS,),
        (masks.words, invalid.words, np.int64(n_words), left),
    )
    return PackedMasks(left, masks.n_columns)


def fetch(toolkit: Toolkit, masks: Sequence[PackedMasks]) -> list[PackedImages]:
    """Copy masks to the host: all kinds of some frames in one transfer.

    Each kind has the same number of masks.
    """
    if not masks:
        return []
    on_host = [np.empty(each.words.shape, np.uint32) for each in masks]
    step = max(1, FETCH_BYTES // max(1, sum(each.words[:1].nbytes for each in masks)))
    for begin in range(0, len(masks[0]), step):
        some = slice(begin, begin + step)
        with toolkit.host_copies([each.words[some] for each in masks]) as copies:
            for words, copied in zip(on_host, copies, strict=True):
                np.copyto(words[some], copied)
    return [
        PackedImages(words.astype("<u4", copy=False).view(np.uint8), each.n_columns)
        for words, each in zip(on_host, masks, strict=True)
    ]


def _launches(morphology: Morphology, n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """Yield the erosions and dilations of each launch; there is at least one launch.

    So many erosions that nothing is left, and dilations that everything is set, are enough.
    """
    erosions = min(morphology.erosions, (min(n_rows, n_columns) + 1) // 2)
    dilations = min(morphology.dilations, n_rows + n_columns)
    while True:
        now = min(erosions, STEPS), min(dilations, STEPS - min(erosions, STEPS))
        yield now
        erosions, dilations = erosions - now[0], dilations - now[1]
        if not erosions + dilations:
            return


def _tiles(shape: tuple[int, int, int]) -> tuple[tuple[int, int, int], tuple[int]]:
    """Return grid and block for masks of (n, n_X, words)."""
    return (-(-shape[2] // TILE_WORDS), -(-shape[1] // TILE_ROWS), shape[0]), (THREADS,)


def _shared(halo: int) -> int:
    """Return the bytes of shared memory for two tiles with halo and a word on either side."""
    return 2 * ((TILE_ROWS + 2 * halo) * (TILE_WORDS + 2) + 2) * 4


def _loads_wide(frames: Any) -> bool:
    """Return True if groups of 8 values are aligned to their size."""
    n_columns, address = frames.shape[2], frames.data.ptr
    aligned = address % min(16, 8 * frames.dtype.itemsize) == 0
    return bool(
        aligned and n_columns % 8 == 0 and (len(frames) == 1 or frame_stride(frames) % 8 == 0)
    )
