"""Clip of a pixel's values, or of its blocks of frames: docs/decisions/clip-background.md.

`cpu_fallback.clip_values` leaves out single values, `cpu_fallback.clip_blocks` blocks of frames.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.clip_blocks import TILE_VALUES, Comparison, moments_by_blocks
from cpu_fallback.clip_values import Counts, Floats, starts, store_sample, tile_pixels
from cpu_fallback.moments import Band, Tile, row_dtype, tiles
from cpu_fallback.trimmed import sorting_dtype
from gpu_spots.background.clip import LEVELLINGS
from gpu_spots.background.methods import Clip
from gpu_spots.model import FACTOR_BITS, Array, FloatMoments, IntegerMoments, Validity


def clip_moments(frames: Array, method: Clip, validity: Validity) -> IntegerMoments | FloatMoments:
    """Return the moments of a band; see ``cpu_fallback.background.moments``."""
    if method.levels is not None and not method.levels.all():
        return _of_some_frames(frames, method, validity)
    if method.levels is not None:
        return _levelled(Band(frames, validity), frames, method, validity)
    if method.block_of_frame is not None:
        return moments_by_blocks(frames, method, validity)
    band, size = Band(frames, validity), tile_pixels(len(frames))
    buffer = np.empty((min(size, frames[0].size), len(frames)), sorting_dtype(frames.dtype))
    for tile in tiles(frames, validity, size):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        rows.sort(axis=1)
        if tile.usable is None:
            store_sample(band, tile.where, rows, method)
            continue
        where, counts = np.arange(tile.where.start, tile.where.stop), tile.usable.sum(axis=0)
        for count in np.unique(counts):
            alike = counts == count
            store_sample(band, where[alike], rows[alike, : int(count)], method)
    return band.moments()


def _of_some_frames(
    frames: Array, method: Clip, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Return the moments of a band without the frames whose level is 0."""
    assert method.levels is not None
    with_beam = np.flatnonzero(method.levels)
    some = method.of_frames(with_beam)
    _, n_rows, n_columns = frames.shape
    step = max(1, TILE_VALUES // (len(with_beam) * n_columns))
    parts = [
        clip_moments(
            frames[with_beam, row : row + step], some.below(row), validity.rows(row, row + step)
        )
        for row in range(0, n_rows, step)
    ]
    maps: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(parts[0])
        if isinstance(getattr(parts[0], field.name), np.ndarray)
    }
    maps["arg"] = np.where(maps["kept"] > 0, with_beam[maps["arg"]], 0).astype(np.int32)
    return replace(parts[0], **maps, gaps=any(part.gaps for part in parts))


def _levelled(
    band: Band, frames: Array, method: Clip, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Moments of a band whose frames are brought to one level by the background of each pixel."""
    assert method.levels is not None
    # levelled values may be beyond the type of the frames
    band.is_wide = not band.is_float
    levels = method.levels.astype(np.int64)[:, None]
    blocks = None if method.block_of_frame is None else FrameBlocks.of(method.block_of_frame)
    n_frames = len(frames)
    step = max(1, TILE_VALUES // n_frames)
    buffer = np.empty((min(step, frames[0].size), n_frames), row_dtype(frames.dtype))
    for tile in tiles(frames, validity, step):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if method.surface is not None:
                pixels = np.arange(tile.where.start, tile.where.stop)
                levels = method.surface.of_pixels(*np.divmod(pixels, frames.shape[2]))
            values, before = tile.values, None
            for again in range(1 if method.surface is None else LEVELLINGS):
                levelled = Tile(tile.where, values, tile.usable)
                if blocks is not None:
                    start = Comparison(levelled, blocks, method.block_shifts).mean
                else:
                    ascending = _ascending(values, tile.usable) if again else rows
                    ascending.sort(axis=1)
                    start = starts(ascending, tile.usable, method)
                above = levels - (1 << FACTOR_BITS)
                values = _less(values, frames.dtype, above, start, before)
                before = start
            levelled = Tile(tile.where, values, tile.usable)
            left = None
            if blocks is not None:
                left = Comparison(levelled, blocks, method.block_shifts).left()[blocks.of_frame]
        usable = np.ones(values.shape, bool) if tile.usable is None else tile.usable
        kept = usable if left is None else usable & left
        rows = _ascending(values, kept)
        rows.sort(axis=1)
        where, counts = np.arange(tile.where.start, tile.where.stop), kept.sum(axis=0)
        if left is not None:
            band.sample_counted(where, rows, counts, int)
            continue
        for count in np.unique(counts):
            alike = counts == count
            store_sample(band, where[alike], rows[alike, : int(count)], method)
    return band.moments()


def _ascending(values: Array, kept: NDArray[np.bool_] | None) -> Array:
    """Return the values (n, p) that are kept as rows (p, n), others as the largest of the type."""
    if kept is None:
        return np.ascontiguousarray(values.T)
    most = np.inf if values.dtype.kind == "f" else np.iinfo(np.int64).max
    return np.where(kept, values, most).T


def _less(
    values: Array, dtype: np.dtype[Any], above: Counts, background: Floats, before: Floats | None
) -> Array:
    """Return values (n, p) less ``above``, (n, 1) or (n, p) in 2^-16, times backgrounds (p,).

    ``dtype``: type of the frames. ``before``: background by which the values were levelled before.
    """
    if dtype.kind == "f":
        part = (above / 2**FACTOR_BITS) * background
        if before is None:
            return (values.astype(np.float64) - part).astype(dtype)
        more = (above / 2**FACTOR_BITS) * before - part
        return (values.astype(np.float64) + more).astype(dtype)
    left = values - _part(above, background)
    if before is not None:
        left += _part(above, before)
    lowest = int(np.iinfo(dtype).min) - 2**30
    return np.clip(left, lowest, lowest + 2**32 - 1)


def _part(above: Counts, background: Floats) -> Counts:
    """Return ``above``, in 2^-16, times backgrounds, in whole counts."""
    sixteenths = np.floor(16.0 * background).astype(np.int64)
    return (above * sixteenths + (1 << 19)) >> 20
