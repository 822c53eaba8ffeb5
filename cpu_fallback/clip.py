"""Clip of a pixel's values, or of its blocks of frames: docs/decisions/clip-background.md.

`cpu_fallback.clip_values` leaves out single values, `cpu_fallback.clip_blocks` blocks of frames.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.clip_blocks import TILE_VALUES, Comparison, moments_by_blocks
from cpu_fallback.clip_values import Counts, Floats, starts, store_sample, tile_pixels
from cpu_fallback.moments import Band, Tile, row_dtype, tiles
from cpu_fallback.trimmed import sorting_dtype
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
            if blocks is None:
                rows.sort(axis=1)
                start = starts(rows, tile.usable, method)
            else:
                start = Comparison(tile, blocks, method.block_shifts).mean
            if method.surface is not None:
                pixels = np.arange(tile.where.start, tile.where.stop)
                levels = method.surface.of_pixels(*np.divmod(pixels, frames.shape[2]))
            values = _less(tile.values, levels - (1 << FACTOR_BITS), start)
            levelled = Tile(tile.where, values, tile.usable)
            left = None
            if blocks is not None:
                left = Comparison(levelled, blocks, method.block_shifts).left()[blocks.of_frame]
        usable = np.ones(values.shape, bool) if tile.usable is None else tile.usable
        kept = usable if left is None else usable & left
        most = np.inf if band.is_float else np.iinfo(np.int64).max
        rows = np.where(kept, values, most).T
        rows.sort(axis=1)
        where, counts = np.arange(tile.where.start, tile.where.stop), kept.sum(axis=0)
        if left is not None:
            band.sample_counted(where, rows, counts, int)
            continue
        for count in np.unique(counts):
            alike = counts == count
            store_sample(band, where[alike], rows[alike, : int(count)], method)
    return band.moments()


def _less(values: Array, above: Counts, background: Floats) -> Array:
    """Return values (n, p) less ``above``, (n, 1) or (n, p) in 2^-16, times backgrounds (p,)."""
    if values.dtype.kind == "f":
        part = (above / 2**FACTOR_BITS) * background
        return (values.astype(np.float64) - part).astype(values.dtype)
    sixteenths = np.floor(16.0 * background).astype(np.int64)
    lowest = int(np.iinfo(values.dtype).min) - 2**30
    left = values - ((above * sixteenths + (1 << 19)) >> 20)
    return np.clip(left, lowest, lowest + 2**32 - 1)
