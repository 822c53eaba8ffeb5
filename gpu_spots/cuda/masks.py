"""Masks on the device, packed 32 pixels a word: thresholds, erosions, dilations, unions.

Kernels: masks.cu, union.cu.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, frame_stride, uploaded
from gpu_spots.model import Array, Background, FoundMasks, Morphology, Validity

WORD = 32
THREADS, TILE_WORDS, TILE_ROWS = 256, 32, 64
"""As in masks.cu."""
STEPS = 8
"""Erosions and dilations of one launch: rows of halo that a tile in shared memory has room for."""
FETCH_BYTES = 1 << 23
"""Bytes of packed masks that come to the host at a time, as in `gpu_spots.memory.plan`."""


@dataclass(frozen=True, slots=True)
class PackedMasks:
    """A batch of masks."""

    words: Any
    """(k, n_X, ceil(n_Y / 32)) uint32, on the device, or on the host once fetched; bits beyond the
    last column are 0.
    """
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
    """Which values make a mask."""

    limits: Any
    """(n_X, n_Y), on the device: integer values stand out above it, float values at or above it."""
    valid: Any
    """(n_X, words) uint32, on the device: pixels that are not masked; None: all."""
    value_range: Validity | None
    """Which values count; None: all values of all pixels that are not masked do."""
    morphology: Morphology


def words_for(n_columns: int) -> int:
    """Words of a row."""
    return -(-n_columns // WORD)


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """(n_X, n_Y) bool to (n_X, words) uint32, on the host."""
    n_bytes = words_for(mask.shape[1]) * WORD // 8
    packed = np.packbits(mask, axis=1, bitorder="little")
    whole = np.zeros((len(mask), n_bytes), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u4").astype(np.uint32, copy=False)


def fetch(toolkit: Toolkit, masks: Sequence[PackedMasks]) -> list[PackedMasks]:
    """Return masks, the same number of each, packed on the host: an eighth of the bytes is copied."""
    if not masks:
        return []
    on_host = [PackedMasks(np.empty(each.words.shape, np.uint32), each.n_columns) for each in masks]
    step = max(1, FETCH_BYTES // max(1, sum(each.words[:1].nbytes for each in masks)))
    for begin in range(0, len(masks[0]), step):
        some = slice(begin, begin + step)
        with toolkit.lend_all([each.words[some] for each in masks]) as lent:
            for each, words in zip(on_host, lent, strict=True):
                np.copyto(each.words[some], words)
    return on_host


def unpack(masks: PackedMasks) -> NDArray[np.uint8]:
    """A byte a pixel, of masks on the host."""
    words = masks.words.astype("<u4", copy=False)
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little", count=masks.n_columns)


def rules(toolkit: Toolkit, background: Background, morphology: Morphology) -> Rules:
    """What masks need, on the device."""
    valid = background.validity.pixels
    return Rules(
        limits=_limits(toolkit, background.threshold, background.max.dtype)
        if background.held is None
        else background.held.below,
        valid=None if valid is None else toolkit.to_device(pack(valid)),
        value_range=background.validity if background.gaps else None,
        morphology=morphology,
    )


def _limits(toolkit: Toolkit, threshold: Array, dtype: np.dtype[Any]) -> Any:
    """A threshold as a map that values of ``dtype`` are compared with."""
    if dtype.kind == "f":
        return uploaded(toolkit, threshold, threshold.dtype)
    # the frames' own type where it can be, as it is read fastest; what lets every value pass has no
    # value below it
    lowest = np.iinfo(dtype).min
    fits = threshold.min(initial=lowest + 1) > lowest
    return uploaded(
        toolkit,
        threshold,
        dtype if fits else np.int64,
        lambda slot, rows: np.subtract(rows, 1, out=slot, casting="unsafe"),
    )


def find_masks(toolkit: Toolkit, frames: Any, rules: Rules) -> FoundMasks:
    """Raw and filtered masks of each frame; see ``gpu_spots.backend.Backend.find_masks``."""
    n_frames, n_rows, n_columns = frames.shape
    shape = (n_frames, n_rows, words_for(n_columns))
    raw, filtered = toolkit.xp.empty(shape, np.uint32), toolkit.xp.empty(shape, np.uint32)
    checked = rules.value_range is not None
    invalid = toolkit.xp.empty(shape, np.uint32) if checked else None
    bound = np.float64 if frames.dtype.kind == "f" else np.int64
    types = {
        "FRAME": c_type(frames.dtype),
        "LIMIT": c_type(rules.limits.dtype),
        "BOUND": c_type(np.dtype(bound)),
    }
    find = toolkit.kernel("masks", "find_masks", **types)
    size = (np.int32(n_rows), np.int32(n_columns))
    square = np.int32(rules.morphology.connectivity == 2)
    (erosions, dilations), *others = _launches(rules.morphology, n_rows, n_columns)
    find(
        *_tiles(shape),
        (
            *(
                frames,
                np.int64(frame_stride(frames)),
                rules.limits,
                *size,
                np.int32(_loads_wide(frames)),
                np.int32(checked),
            ),
            *(
                *map(bound, (rules.value_range or Validity()).bounds(frames.dtype)),
                rules.valid,
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
                (filtered, *size, rules.valid, invalid, *steps, other),
                shared_mem=_shared(erosions + dilations),
            )
            filtered, other = other, filtered
    return FoundMasks(
        raw=PackedMasks(raw, n_columns),
        filtered=PackedMasks(filtered, n_columns),
        invalid=PackedMasks(invalid, n_columns) if checked else None,
    )


def empty_masks(toolkit: Toolkit, n_masks: int, shape: tuple[int, int]) -> PackedMasks:
    """Words of zeros."""
    return PackedMasks(
        toolkit.xp.zeros((n_masks, shape[0], words_for(shape[1])), np.uint32), shape[1]
    )


def union(
    toolkit: Toolkit, onto: PackedMasks, masks: PackedMasks, mask_of_frame: NDArray[np.integer]
) -> None:
    """OR masks onto others; see ``gpu_spots.backend.Backend.union``."""
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


def _launches(morphology: Morphology, n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """Erosions and dilations of each launch, one at least.

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
    """Grid and block for masks of (n, n_X, words)."""
    return (-(-shape[2] // TILE_WORDS), -(-shape[1] // TILE_ROWS), shape[0]), (THREADS,)


def _shared(halo: int) -> int:
    """Bytes of shared memory: two tiles with their halo, and a word before and after each."""
    return 2 * ((TILE_ROWS + 2 * halo) * (TILE_WORDS + 2) + 2) * 4


def _loads_wide(frames: Any) -> bool:
    """Whether groups of 8 values lie at multiples of their size."""
    n_columns, address = frames.shape[2], frames.data.ptr
    aligned = address % min(16, 8 * frames.dtype.itemsize) == 0
    return bool(
        aligned and n_columns % 8 == 0 and (len(frames) == 1 or frame_stride(frames) % 8 == 0)
    )
