"""Clip of a pixel's values, or of its blocks of frames: docs/decisions/clip-background.md.

`cpu_fallback.clip_values` leaves out single values, `cpu_fallback.clip_blocks` blocks of frames.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback import clip_short, narrow
from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.clip_blocks import TILE_VALUES, store_blocks
from cpu_fallback.clip_narrow import Narrow, narrowed
from cpu_fallback.clip_short import compare
from cpu_fallback.clip_values import Counts, Floats, Sums, starts, store_samples, tile_pixels
from cpu_fallback.moments import Band, Tile, fill, places, row_dtype, tiles, transpose
from cpu_fallback.trimmed import sorting_dtype
from gpu_spots.background.clip import LEVELLINGS
from gpu_spots.background.methods import Clip
from gpu_spots.model import FACTOR_BITS, Array, FloatMoments, IntegerMoments, Validity

AT_ONCE = 1 << 17
"""Values that are levelled at a time: what comes in between stays in the cache. With fewer, threads
wait for the interpreter.
"""
MOST_CHANGED = 2
"""If levelling changes a value of fewer than one in so many pixels, only these are levelled."""


def clip_moments(frames: Array, method: Clip, validity: Validity) -> IntegerMoments | FloatMoments:
    """Return the moments of a band; see ``cpu_fallback.background.moments``."""
    if method.levels is not None and not method.levels.all():
        return _of_some_frames(frames, method, validity)
    if method.levels is not None:
        return _levelled(Band(frames, validity), frames, method, validity)
    if method.block_of_frame is not None:
        return _by_blocks(frames, method, validity)
    band, sorter = Band(frames, validity), _sorter(frames, method)
    size = tile_pixels(len(frames)) if sorter is None else sorter.n_pixels
    for tile in tiles(frames, validity, size):
        band.extremes(tile)
        _store_values(band, tile, narrowed(tile, sorter), method)
    return band.moments()


def _sorter(frames: Array, method: Clip, size: int | None = None) -> narrow.Sorter | None:
    """Return room for tiles of pixels whose values may be narrow; None: they are not.

    ``size``: pixels of a tile; None: as many as is fastest.
    """
    n_frames = len(frames)
    is_short = frames.dtype.kind != "f" and frames.dtype.itemsize <= 2
    if not is_short or method.start.kept[n_frames] < 2:
        return None
    size = narrow.tile_pixels(n_frames, frames[0].size) if size is None else size
    return narrow.Sorter(n_frames, min(size, frames[0].size))


def _store_values(
    band: Band,
    tile: Tile,
    found: Narrow | None,
    method: Clip,
    low: Sums | None = None,
    base: Counts | None = None,
) -> None:
    """Store the statistics of a tile after the clip of values.

    Args:
        band: receiver of the statistics.
        tile: the values.
        found: the same, ascending; None: they are not narrow.
        method: the clip.
        low: sums of the first values of ``found``; None: unknown.
        base: (p,): what was subtracted from 8- or 16-bit values, of which invalid ones are the
            largest; None: nothing.
    """
    if found is not None:
        left = found.store(band, tile.where, method, low)
        tile, base = tile.of(left), None if base is None else base[left]
    if tile.values.shape[1]:
        rows = _sorted(tile.values, tile.usable if base is None else None)
        store_samples(band, tile, rows, method, base)


def _sorted(
    values: Array, usable: NDArray[np.bool_] | None, dtype: np.dtype[Any] | None = None
) -> Array:
    """Return values (n, p) in ascending rows (p, n), valid ones first."""
    rows = np.empty(values.shape[::-1], sorting_dtype(values.dtype) if dtype is None else dtype)
    fill(values, usable, rows)
    rows.sort(axis=1)
    return rows


def _by_blocks(frames: Array, method: Clip, validity: Validity) -> IntegerMoments | FloatMoments:
    """Return the moments of a band whose blocks are compared."""
    assert method.block_of_frame is not None
    blocks, band = FrameBlocks.of(method.block_of_frame), Band(frames, validity)
    size = clip_short.tile_pixels(len(frames), frames.dtype, blocks, validity)
    sorter = _sorter(frames, method, size)
    for tile in tiles(frames, validity, size):
        band.extremes(tile)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            comparison = compare(tile, blocks, method.block_shifts)
        store_blocks(band, tile, comparison, blocks, sorter)
    return band.moments()


def _of_some_frames(
    frames: Array, method: Clip, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Return the moments of a band without the frames whose level is 0."""
    assert method.levels is not None
    with_beam = np.flatnonzero(method.levels)
    some = method.of_frames(with_beam)
    _, n_rows, n_columns = frames.shape
    n_values = narrow.TILE_VALUES if frames.dtype.itemsize <= 2 else TILE_VALUES
    step = max(1, n_values // (len(with_beam) * n_columns))
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
    is_short = not band.is_float and frames.dtype.itemsize <= 2
    # levelled values may be beyond the type of the frames
    band.is_wide = not band.is_float
    above = method.levels.astype(np.int64) - (1 << FACTOR_BITS)
    blocks = None if method.block_of_frame is None else FrameBlocks.of(method.block_of_frame)
    n_frames, sorter = len(frames), None
    if blocks is not None:
        step = clip_short.tile_pixels(len(frames), frames.dtype, blocks, validity)
        sorter = _sorter(frames, method, step)
    elif method.surface is None and (sorter := _sorter(frames, method)) is not None:
        step = sorter.n_pixels
    else:
        step = tile_pixels(n_frames)
    of_rows = sorting_dtype(frames.dtype) if is_short else row_dtype(frames.dtype)
    for tile in tiles(frames, validity, step):
        band.extremes(tile)
        pixels = places(tile.where)
        if method.surface is not None:
            values = _less_surface(tile, method, blocks, np.divmod(pixels, frames.shape[2]))
            _store_levelled(band, pixels, values, tile.usable, blocks, method)
            continue
        comparison, found, low, rows = None, None, None, tile.values[:0]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if blocks is not None:
                comparison = compare(tile, blocks, method.block_shifts)
                start = comparison.start(method)
            else:
                found = narrowed(tile, sorter)
                start, low, rows = _starts(tile, found, method, of_rows, is_short=is_short)
            start = method.following(start)
        if not is_short:
            _store_any(band, pixels, tile.values, tile.usable, above, start, blocks, method)
            continue
        changed = np.flatnonzero(np.logical_or(*_least_and_most(above, start)))
        if MOST_CHANGED * len(changed) > len(pixels):
            del comparison
            _store_short(band, tile, above, start, blocks, method, sorter)
            continue
        kept = _extremes(band, pixels[changed])
        if comparison is not None and blocks is not None:
            store_blocks(band, tile, comparison, blocks, sorter)
        elif found is not None:
            _store_values(band, tile, found, method, low)
        else:
            store_samples(band, tile, rows, method, low=low)
        if len(changed):
            _set_extremes(band, pixels[changed], kept)
            some = tile.of(changed)
            _store_short(band, some, above, start[changed], blocks, method, sorter)
    return band.moments()


def _starts(
    tile: Tile,
    found: Narrow | None,
    method: Clip,
    of_rows: np.dtype[Any],
    *,
    is_short: bool,
) -> tuple[Floats, Sums | None, Array]:
    """Return the backgrounds (p,) that single values are levelled by, at first.

    And the sums of the values that they come from, and the values, ascending, (p, n), if they are
    not ``found``, else none.
    """
    if found is None:
        rows = _sorted(tile.values, tile.usable, of_rows)
        return *starts(rows, tile.usable, method, is_short=is_short), rows
    start, low, unknown = found.starts(method)
    if len(unknown):
        some = tile.of(unknown)
        rows = _sorted(some.values, some.usable)
        start[unknown], _ = starts(rows, some.usable, method, is_short=True)
    return start, low, tile.values[:0]


def _extremes(band: Band, where: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the maxima of some pixels, and the frames they are on."""
    return band.max[where], band.arg[where]


def _set_extremes(band: Band, where: NDArray[np.int64], found: tuple[Array, Array]) -> None:
    """Set them again, as a pixel that was taken for masked lost them."""
    band.max[where], band.arg[where] = found


def _least_and_most(above: Counts, start: Floats) -> tuple[Counts, Counts]:
    """Return bounds of what is subtracted of the values of each pixel, (p,) int64 each.

    They are what is subtracted on the darkest frame and on the brightest one, in any order.
    """
    sixteenths = _sixteenths(start)
    return _part(int(above.min()), sixteenths), _part(int(above.max()), sixteenths)


def _bounds(tile: Tile, above: Counts, start: Floats) -> tuple[Counts, NDArray[np.int64]]:
    """Return a lower bound of the levelled values of each pixel, (p,) int64.

    And the pixels whose values may be 2^16 or more above it.
    """
    values, usable = tile.values, tile.usable
    if usable is None:
        least, most = tile.lowest, tile.largest
    else:
        limits = np.iinfo(values.dtype)
        least = values.min(axis=0, where=usable, initial=limits.max)
        most = values.max(axis=0, where=usable, initial=limits.min)
    parts = _least_and_most(above, start)
    lowest = least - np.maximum(*parts)
    return lowest, np.flatnonzero(most - np.minimum(*parts) - lowest >= 1 << 16)


def _store_short(
    band: Band,
    tile: Tile,
    above: Counts,
    start: Floats,
    blocks: FrameBlocks | None,
    method: Clip,
    sorter: narrow.Sorter | None = None,
) -> None:
    """Store the statistics of the levelled values of a tile of 8- or 16-bit values."""
    lowest, far = _bounds(tile, above, start)
    where = places(tile.where)[far]
    rest, extremes = tile.of(far), _extremes(band, where)
    levelled = replace(tile, values=_less_short(tile.values, above, start, lowest))
    if tile.usable is not None:
        levelled.values[~tile.usable] = np.iinfo(np.uint16).max
    if blocks is None:
        _store_values(band, levelled, narrowed(levelled, sorter, lowest), method, base=lowest)
    else:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            comparison = compare(levelled, blocks, method.block_shifts, lowest)
        store_blocks(band, levelled, comparison, blocks, sorter, is_levelled=True)
    if len(far):
        _set_extremes(band, where, extremes)
        _store_any(band, where, rest.values, rest.usable, above, start[far], blocks, method)


def _less_short(values: Array, above: Counts, start: Floats, lowest: Counts) -> NDArray[np.uint16]:
    """Return levelled values (n, p) less ``lowest`` (p,), modulo 2^16."""
    sixteenths = _sixteenths(start)
    largest = int(np.abs(above).max()) * int(np.abs(sixteenths).max(initial=0))
    kind = np.int32 if largest < (1 << 31) - (1 << 19) else np.int64
    above, sixteenths = above.astype(kind), sixteenths.astype(kind)
    values = values.astype(f"{values.dtype.kind}2").view(np.uint16)
    values -= lowest.astype(np.uint16)
    at_once = max(1, AT_ONCE // values.shape[1])
    part = np.empty((min(at_once, len(values)), values.shape[1]), kind)
    short = np.empty(part.shape, np.uint16)
    for begin in range(0, len(values), at_once):
        some = values[begin : begin + at_once]
        of_some, of_short = part[: len(some)], short[: len(some)]
        np.multiply(above[begin : begin + at_once, None], sixteenths, out=of_some)
        of_some += kind(1 << 19)
        of_some >>= kind(20)
        np.copyto(of_short, of_some, casting="unsafe")
        some -= of_short
    return values


def _less_surface(
    tile: Tile,
    method: Clip,
    blocks: FrameBlocks | None,
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Array:
    """Return the values of a tile, levelled several times, each time by a better background.

    ``place``: row in the band and column of each pixel.
    """
    assert method.surface is not None
    above = method.surface.of_pixels(*place) - (1 << FACTOR_BITS)
    # then no value is cut at the ends of its range, and what was subtracted before cancels out
    is_small = tile.values.dtype.kind != "f" and tile.values.itemsize <= 2
    is_small = is_small and int(np.abs(above).max(initial=0)) < 1 << 24
    values, before = tile.values, None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(LEVELLINGS):
            if blocks is not None:
                levelled = Tile(tile.where, values, tile.usable)
                start = compare(levelled, blocks, method.block_shifts).start(method)
            else:
                rows = _ascending(values, tile.usable)
                start, _ = starts(rows, tile.usable, method, is_short=False)
            start = method.following(start)
            if is_small:
                values = tile.values - _part(above, _sixteenths(start))
                continue
            values = _less(values, tile.values.dtype, above, start, before)
            before = start
    return values


def _ascending(values: Array, kept: NDArray[np.bool_] | None) -> Array:
    """Return the values (n, p) that are kept in ascending rows (p, n), others behind them.

    Integers have 32 bits where they fit, which are sorted faster than 64.
    """
    kind, largest = _type_of(values)
    rows = np.empty(values.shape[::-1], kind)
    transpose(values, rows)
    if kept is not None:
        np.copyto(rows, largest, where=~kept.T)
    rows.sort(axis=1)
    return rows


def _type_of(values: Array) -> tuple[np.dtype[Any], float | int]:
    """Return the type in which values are sorted, and its largest value."""
    if values.dtype.kind == "f":
        return np.dtype(np.float64), np.inf
    limits = np.iinfo(np.int32)
    if limits.min <= values.min(initial=0) and values.max(initial=0) < limits.max:
        return np.dtype(np.int32), limits.max
    return np.dtype(np.int64), np.iinfo(np.int64).max


def _store_any(
    band: Band,
    where: NDArray[np.int64],
    values: Array,
    usable: NDArray[np.bool_] | None,
    above: Counts,
    start: Floats,
    blocks: FrameBlocks | None,
    method: Clip,
) -> None:
    """Store the statistics of the levelled values (n, p) of some pixels, of any type."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = _less(values, values.dtype, above[:, None], start)
    _store_levelled(band, where, values, usable, blocks, method)


def _store_levelled(
    band: Band,
    where: NDArray[np.int64],
    values: Array,
    usable: NDArray[np.bool_] | None,
    blocks: FrameBlocks | None,
    method: Clip,
) -> None:
    """Store the statistics of values (n, p) that are levelled."""
    left = None
    if blocks is not None:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            levelled = Tile(slice(0, len(where)), values, usable)
            left = compare(levelled, blocks, method.block_shifts).left()[blocks.of_frame]
    usable = np.ones(values.shape, bool) if usable is None else usable
    kept = usable if left is None else usable & left
    rows = _ascending(values, None if kept.all() else kept)
    if left is not None:
        band.sample_counted(where, rows, kept.sum(axis=0), int)
        return
    store_samples(band, Tile(where, values, usable), rows, method)


def _less(
    values: Array,
    dtype: np.dtype[Any],
    above: Counts,
    background: Floats,
    before: Floats | None = None,
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
    left = values - _part(above, _sixteenths(background))
    if before is not None:
        left += _part(above, _sixteenths(before))
    lowest = int(np.iinfo(dtype).min) - 2**30
    return np.clip(left, lowest, lowest + 2**32 - 1, out=left)


def _sixteenths(background: Floats) -> Counts:
    """Return the background, counts, in 1/16, rounded down."""
    return np.floor(16.0 * background).astype(np.int64)


def _part(above: Counts | int, sixteenths: Counts) -> Counts:
    """Return what is subtracted of a value: ``above``, in 2^-16, times the background."""
    part = above * sixteenths
    part += 1 << 19
    part >>= 20
    return part
