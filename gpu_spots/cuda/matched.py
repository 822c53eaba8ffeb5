"""Matched finder on the device: significance, smoothed maps, seeds, basins and masks.

The rule is `docs/decisions/matched-finder.md`. Kernels: matched.cu and basins.cu; seeds are
numbered by components.cu.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.packed import PackedMasks, pack, words_for
from gpu_spots.cuda.scale import surface_on_device
from gpu_spots.cuda.seeds import numbered
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, frame_stride, uploaded
from gpu_spots.masks.kernels import kernels
from gpu_spots.masks.matched import BITS, STEPS, SignificanceMaps, group_scale, level_shift
from gpu_spots.masks.matched_spots import MatchedMasks, list_spots
from gpu_spots.masks.seed_levels import SeedLevels
from gpu_spots.model import Surface, Validity

THREADS, TILE_X, TILE_Y = 256, 32, 64
"""Sizes that are equal in matched.cu."""
MOST_WORDS = 2**25
"""Words of masks at a time: pixels of more could not be numbered in 31 bits."""


@dataclass(frozen=True, slots=True)
class PreparedSignificance:
    """`SignificanceMaps` on the device."""

    gain: Any
    offset: Any
    low: Any
    high: Any
    level: Any
    usable: Any
    """(n_X, words) uint32: pixels that may be in masks; None: all."""
    validity: Validity | None
    dtype: np.dtype[Any]
    streaks: bool

    @property
    def types(self) -> dict[str, int | str]:
        """Macros of the kernels."""
        is_float = self.dtype.kind == "f"
        return {
            "FRAME": c_type(self.dtype),
            "IS_FLOAT": int(is_float),
            "BOUND": "f64" if is_float else "i64",
            "STREAKS": int(self.streaks),
        }


@dataclass(frozen=True, slots=True)
class PreparedSeeds:
    """`SeedLevels` on the device."""

    seed: Any
    """(maps, n_X, n_Y) int16."""
    variance: Any
    """(n_X, n_Y) int32."""
    own: Any
    """(n_X, n_Y) int32."""


@dataclass(frozen=True, slots=True)
class Significance:
    """Significance of the pixels of a batch of frames or groups."""

    values: Any
    """(n, n_X, n_Y) int16, contiguous."""
    invalid: Any
    """(n, n_X, words) uint32: pixels without a valid value; None: there are none."""

    def __len__(self) -> int:
        """Number of frames or groups."""
        return len(self.values)


@dataclass(slots=True)
class Sums:
    """Sums of the significance over the frames of groups."""

    values: Any
    """(n, n_X, n_Y) int32."""
    invalid: PackedMasks | None
    """Pixels that have no valid value on some frame; None: none so far."""
    types: dict[str, int | str]
    """Macros of the kernels."""


def prepare_significance(toolkit: Toolkit, maps: SignificanceMaps) -> PreparedSignificance:
    """Copy the constants to the device."""

    def there(values: Any) -> Any:
        return None if values is None else uploaded(toolkit, values, values.dtype)

    return PreparedSignificance(
        there(maps.gain),
        there(maps.offset),
        there(maps.low),
        there(maps.high),
        there(maps.level),
        None if maps.usable is None else toolkit.to_device(pack(maps.usable)),
        maps.validity,
        maps.dtype,
        maps.streaks,
    )


def prepare_seeds(toolkit: Toolkit, levels: SeedLevels) -> PreparedSeeds:
    """Copy the seed levels of groups of a size to the device."""
    shape = (len(levels.seed), *levels.variance.shape)
    seed = toolkit.xp.empty(shape, np.int16)
    for k, values in enumerate(levels.seed):
        with toolkit.staging(seed[k : k + 1]) as slot:
            np.copyto(slot[0], values)
    return PreparedSeeds(
        seed,
        uploaded(toolkit, levels.variance, np.int32),
        uploaded(toolkit, levels.own, np.int32),
    )


def significance(
    toolkit: Toolkit,
    frames: Any,
    prepared: PreparedSignificance,
    levels: NDArray[np.int64] | Surface | None,
    rows: Sequence[tuple[int, int]] | None = None,
) -> Significance:
    """Return the significance of each frame, without zingers.

    See ``gpu_spots.backend.MatchedFinder``. All ``rows`` are computed: a device is fast.
    """
    n_frames, n_rows, n_columns = frames.shape
    values = toolkit.xp.empty(frames.shape, np.int16)
    is_float, checked = prepared.dtype.kind == "f", prepared.validity is not None
    invalid = (
        toolkit.xp.empty((n_frames, n_rows, words_for(n_columns)), np.uint32) if checked else None
    )
    bound = np.float64 if is_float else np.int64
    shifts = floats = surface = None
    if isinstance(levels, Surface):
        surface = surface_on_device(toolkit, levels, n_columns)
    elif levels is not None and is_float:
        floats = toolkit.to_device(levels / 2.0**BITS)
    elif levels is not None:
        shifts = toolkit.to_device(np.array([level_shift(int(each)) for each in levels], np.int32))
    defines = prepared.types | ({} if surface is None else {"SURFACE": 1})
    toolkit.kernel("matched", "significance", **defines)(
        _tiles(frames.shape),
        (THREADS,),
        (
            *(frames, np.int64(frame_stride(frames)), np.int32(n_rows), np.int32(n_columns)),
            *(prepared.gain, prepared.offset, prepared.low, prepared.high, prepared.level),
            *(shifts, floats, surface, np.int32(checked)),
            *map(bound, (prepared.validity or Validity()).bounds(prepared.dtype)),
            *(values, invalid),
        ),
    )
    return Significance(values, invalid)


def _tiles(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the grid for frames of (n, n_X, n_Y)."""
    return -(-shape[2] // TILE_Y), -(-shape[1] // TILE_X), shape[0]


def empty_sums(
    toolkit: Toolkit, prepared: PreparedSignificance, n: int, shape: tuple[int, int]
) -> Sums:
    """Return sums of no frames."""
    return Sums(toolkit.xp.zeros((n, *shape), np.int32), None, prepared.types)


def add_significance(
    toolkit: Toolkit, onto: Sums, found: Significance, which: NDArray[np.int64]
) -> None:
    """Add that of each frame to the sum of its group; -1: to none."""
    n_rows, n_columns = found.values.shape[1:]
    n_pixels = n_rows * n_columns
    add = toolkit.kernel("matched", "add_significance", **onto.types)
    for i, group in enumerate(which):
        if group < 0:
            continue
        args = (found.values[i], np.int32(n_pixels), onto.values[int(group)])
        add(blocks_for(n_pixels, THREADS), (THREADS,), args)
        if found.invalid is None:
            continue
        if onto.invalid is None:
            shape = (len(onto.values), *found.invalid.shape[1:])
            onto.invalid = PackedMasks(toolkit.xp.zeros(shape, np.uint32), n_columns)
        one, n_words = toolkit.to_device(np.array([group], np.int32)), found.invalid[0].size
        toolkit.kernel("union", "unite")(
            blocks_for(n_words, THREADS),
            (THREADS,),
            (found.invalid[i], one, np.int32(1), np.int64(n_words), onto.invalid.words),
        )


def of_sums(toolkit: Toolkit, sums: Sums, sizes: Sequence[int]) -> Significance:
    """Return the significance of groups of ``sizes`` frames each."""
    n_pixels, n_columns = sums.values[0].size, sums.values.shape[2]
    values = toolkit.xp.empty(sums.values.shape, np.int16)
    for i, size in enumerate(sizes):
        limit, factor = group_scale(size)
        scale = (np.int32(n_columns), np.int32(limit), np.int32(factor))
        args = (sums.values[i], np.int32(n_pixels), *scale, values[i])
        kernel = toolkit.kernel("matched", "of_sum", **sums.types)
        kernel(blocks_for(n_pixels, THREADS), (THREADS,), args)
    return Significance(values, None if sums.invalid is None else sums.invalid.words)


def smoothed_maps(
    toolkit: Toolkit, found: Significance, prepared: PreparedSignificance
) -> NDArray[np.int16]:
    """Return the smoothed maps of each frame or group, (n, maps, n_X, n_Y) int16, on the host."""
    n, n_rows, n_columns = found.values.shape
    n_maps = len(kernels(streaks=prepared.streaks))
    maps = toolkit.xp.empty((n, n_maps, n_rows, n_columns), np.int16)
    _smooth(toolkit, found, prepared, None, None, maps)
    on_host: NDArray[np.int16] = toolkit.to_host(maps)
    return on_host


def _smooth(
    toolkit: Toolkit,
    found: Significance,
    prepared: PreparedSignificance,
    seeds: PreparedSeeds | None,
    raw: Any,
    maps: Any,
) -> None:
    _, n_rows, n_columns = found.values.shape
    toolkit.kernel("matched", "smoothed", **prepared.types)(
        _tiles(found.values.shape),
        (THREADS,),
        (
            *(found.values, np.int32(n_rows), np.int32(n_columns)),
            *(None if seeds is None else seeds.seed, found.invalid, raw, maps),
        ),
    )


def matched_masks(
    toolkit: Toolkit,
    found: Significance,
    prepared: PreparedSignificance,
    levels: Sequence[PreparedSeeds],
) -> MatchedMasks[PackedMasks]:
    """Return seeds and the spots that grow from them; see ``gpu_spots.backend.MatchedFinder``."""
    n, n_rows, n_columns = found.values.shape
    shape = (n, n_rows, words_for(n_columns))
    raw, filtered = toolkit.xp.empty(shape, np.uint32), toolkit.xp.empty(shape, np.uint32)
    masks, pixels, spots = [], [], []
    begin = 0
    for _, same in groupby(levels, id):
        stretch = list(same)
        step = max(1, MOST_WORDS // (n_rows * shape[2]))
        for first in range(begin, begin + len(stretch), step):
            part = slice(first, min(first + step, begin + len(stretch)))
            some = Significance(
                found.values[part], None if found.invalid is None else found.invalid[part]
            )
            _smooth(toolkit, some, prepared, stretch[0], raw[part], None)
            position, spot = _grown(toolkit, some, prepared, stretch[0], raw[part], filtered[part])
            row, word = np.divmod(position >> 5, shape[2])
            mask, x = np.divmod(row, n_rows)
            masks.append(mask + part.start)
            pixels.append(x * n_columns + 32 * word + (position & 31))
            spots.append(spot)
        begin += len(stretch)
    none = np.zeros(0, np.int64)
    return MatchedMasks(
        raw=PackedMasks(raw, n_columns),
        filtered=PackedMasks(filtered, n_columns),
        invalid=None if found.invalid is None else PackedMasks(found.invalid, n_columns),
        spots=list_spots(
            np.concatenate([none, *masks]),
            np.concatenate([none, *pixels]),
            np.concatenate([none, *spots]),
            n,
            n_columns,
        ),
    )


def _grown(
    toolkit: Toolkit,
    found: Significance,
    prepared: PreparedSignificance,
    seeds: PreparedSeeds,
    raw: Any,
    filtered: Any,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fill ``filtered``; return position, 32 * word + bit, and spot of each of its pixels."""
    xp = toolkit.xp
    _, n_rows, row_words = raw.shape
    n_words, n_columns = raw.size, found.values.shape[2]
    size = (np.int32(n_rows), np.int32(n_columns), np.int32(row_words))

    def launch(name: str, n_threads: int, *args: Any) -> None:
        toolkit.kernel("basins", name)(blocks_for(n_threads, THREADS), (THREADS,), args)

    listed = numbered(toolkit, raw)
    n, position, words = listed.n, listed.position, (raw, listed.first)
    count = np.int32(n)
    height, to, root, top, onto = (xp.empty(max(1, n), np.int32) for _ in range(5))
    saddle = xp.zeros(max(1, n), np.uint64)
    if n:
        launch("find_heights", n, count, position, found.values, *size, height)
        launch("climb", n, count, position, *words, height, *size, to)
        launch("follow", n, count, None, to, root)
        launch("find_saddles", n, count, position, *words, height, root, *size, saddle)
        noise = (seeds.variance, seeds.own)
        launch("join_basins", n, count, position, height, root, saddle, *noise, *size, onto)
        launch("follow", n, count, root, onto, top)
    owner = xp.empty(32 * n_words, np.int32)
    # the last of the steps ends in `filtered`
    now, other = (filtered, xp.empty(raw.shape, np.uint32))[:: 1 if STEPS % 2 else -1]
    launch("begin_masks", n_words, np.int32(n_words), *words, height, top, now, owner)
    for variance in (*(seeds.variance,) * STEPS, None):
        launch(
            "grow", n_words, np.int32(n_words), now, height, found.values, prepared.usable,
            found.invalid, variance, *size, other, owner,
        )  # fmt: skip
        now, other = other, now
    final = numbered(toolkit, filtered)
    if not final.n:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    spot = xp.empty(final.n, np.int32)
    launch("gather_owners", final.n, np.int32(final.n), final.position, owner, spot)
    with toolkit.host_copies((final.position, spot)) as (positions, spots):
        return positions.astype(np.int64), spots.astype(np.int64)
