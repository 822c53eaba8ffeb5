"""Matched finder on the CPU: significance, smoothed maps, seeds, basins and masks.

The rule, and why every number fits its type, is `docs/decisions/matched-finder.md`. Rows lie flat,
one behind the other with `MARGIN` columns before and after each, so that a smoothing step along
either axis is the sum of two shifted slices. Bands of rows stay in the cache.
"""

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpu_fallback import packed
from cpu_fallback.basins import MARGIN, OCTET, Basins
from cpu_fallback.packed import PackedMasks
from gpu_spots.masks.kernels import DIRECTIONS, kernels
from gpu_spots.masks.matched import (
    BITS,
    CLIP,
    FURTHEST,
    LARGEST_LEVEL,
    ZERO,
    SignificanceMaps,
    group_scale,
    grown_at_once,
    level_shift,
    rounding,
    surface_shift,
)
from gpu_spots.masks.matched_spots import MatchedMasks, list_spots
from gpu_spots.masks.seed_levels import NEVER, SeedLevels
from gpu_spots.model import Array, Surface

TILE = 1 << 18
"""Pixels of a band of rows: long enough that threads seldom wait for the interpreter."""
_own = threading.local()
Rows = Sequence[tuple[int, int]]
"""Begin and end of stretches of rows."""


@dataclass(frozen=True, slots=True)
class Significance:
    """Significance of the pixels of a batch of frames or groups."""

    values: NDArray[np.int16]
    """(n, n_X + 2 MARGIN, width) int16: `MARGIN` columns before, and as many or more after."""
    invalid: NDArray[np.uint64] | None
    """(n, n_X, words) packed: pixels without a valid value; None: there are none."""
    n_columns: int
    """n_Y."""
    rows: Rows
    """Stretches of rows of which smoothed maps are needed."""

    def __len__(self) -> int:
        """Number of frames or groups."""
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """n_X, n_Y."""
        return self.values.shape[1] - 2 * MARGIN, self.n_columns


@dataclass(slots=True)
class Sums:
    """Sums of the significance over the frames of groups."""

    values: NDArray[np.int32]
    """(n, n_X, n_Y) int32: sums of values, of which each has `ZERO` more than what it means."""
    added: NDArray[np.int64]
    """(n,) int64: number of frames so far."""
    invalid: NDArray[np.uint64] | None
    """(n, n_X, words) packed: pixels that have no valid value on some frame; None: none so far."""
    rows: Rows
    """Stretches of rows of which smoothed maps are needed."""


def prepare_significance(maps: SignificanceMaps) -> SignificanceMaps:
    """Return the constants, which are where this backend computes."""
    return maps


def prepare_seeds(levels: SeedLevels) -> SeedLevels:
    """Return the seed levels in rows like those of smoothed maps: no margin has seeds."""
    n_x, n_y = levels.variance.shape

    def in_rows(seed: NDArray[np.int16]) -> NDArray[np.int16]:
        rows = np.full((n_x, _width(n_y)), NEVER, np.int16)
        rows[:, MARGIN : MARGIN + n_y] = seed
        return rows

    return replace(levels, seed=tuple(in_rows(seed) for seed in levels.seed))


def significance(
    frames: Array,
    maps: SignificanceMaps,
    levels: NDArray[np.int64] | Surface | None,
    rows: Rows | None = None,
) -> Significance:
    """Return the significance of each frame, without zingers.

    See ``gpu_spots.backend.MatchedFinder``.
    """
    n_frames, n_x, n_y = frames.shape
    found, invalid = _empty(n_frames, (n_x, n_y)), None
    if maps.validity is not None:
        invalid = np.zeros((n_frames, n_x, packed.words_for(n_y)), np.uint64)
    width, inside = _width(n_y), slice(MARGIN, MARGIN + n_y)
    plain = np.full((_rows_of_tile(n_x, n_y) + 2) * width, ZERO, np.int16)
    rows = [(0, n_x)] if rows is None else rows
    for begin, end in _bands((n_x, n_y), rows, MARGIN):
        first, last = max(0, begin - 1), min(n_x, end + 1)
        tile = plain[: (end - begin + 2) * width].reshape(-1, width)
        if last == n_x:
            tile[-1] = ZERO
        band = _Band(maps, slice(first, last), (last - first, n_y))
        for i, frame in enumerate(frames):
            of_band = tile[first - (begin - 1) :][: last - first, inside]
            level: int | NDArray[np.int32] | None = None
            if isinstance(levels, Surface):
                level = levels.of_rows(i, slice(first, last), n_y)
            elif levels is not None:
                level = int(levels[i])
            usable = band.significance(frame[first:last], of_band, level)
            if invalid is not None and usable is not None:
                invalid[i, first:last] = packed.pack(~usable)
            # whole rows, which is faster: their margins are at the background and stay so
            into = found[i, MARGIN + begin : MARGIN + end].reshape(-1)
            plain_rows = tile[1:-1].reshape(-1)
            np.minimum(_most_of_zingers(tile.reshape(-1), width), plain_rows, out=into)
    return Significance(found, invalid, n_y, rows)


def _empty(n: int, shape: tuple[int, int]) -> NDArray[np.int16]:
    """Return an array for the significance of a batch, whose margins are filled.

    It is the last one of this thread if that is not used any more: fresh memory costs more time
    than the computation of what it holds.
    """
    room: NDArray[np.int16] | None = getattr(_own, "room", None)
    lent: weakref.ref[NDArray[np.int16]] | None = getattr(_own, "lent", None)
    is_free = lent is None or lent() is None
    is_alike = getattr(_own, "shape", None) == shape
    if room is None or not is_alike or len(room) < n or not is_free:
        room = np.empty((n, shape[0] + 2 * MARGIN, _width(shape[1])), np.int16)
        room[:, :MARGIN] = room[:, -MARGIN:] = ZERO
        room[:, :, :MARGIN] = room[:, :, MARGIN + shape[1] :] = ZERO
    values = room[:n]
    _own.room, _own.shape, _own.lent = room, shape, weakref.ref(values)
    return values


def _width(n_columns: int) -> int:
    """Return the length of a row with its margins: whole octets."""
    return -(-n_columns // OCTET) * OCTET + 2 * MARGIN


class _Band:
    """The constants of a band of rows, and room for its values."""

    def __init__(self, maps: SignificanceMaps, rows: slice, shape: tuple[int, int]) -> None:
        self._maps, self._rows = maps, rows
        is_float = maps.dtype.kind == "f"
        self._gain, self._offset = maps.gain[rows], maps.offset[rows]
        self._wide = np.empty(shape, np.float64 if is_float else np.int32)
        if is_float:
            self._zero = ZERO + rounding(rows, shape[1]) / 2.0**BITS
        else:
            self._limited = np.empty(shape, maps.dtype)
            self._shift = np.empty(shape, np.int32)

    def significance(
        self, frame: Array, into: NDArray[np.int16], level: int | NDArray[np.int32] | None
    ) -> NDArray[np.bool_] | None:
        """Compute the significance of each value; return which values are valid, None: all."""
        maps = self._maps
        usable = None if maps.validity is None else maps.validity.allows(frame)
        if maps.dtype.kind == "f":
            self._of_floats(frame, into, level)
        else:
            self._of_integers(frame, into, level)
        if usable is not None:
            into[~usable] = ZERO
        return usable

    def _of_integers(
        self, frame: Array, into: NDArray[np.int16], level: int | NDArray[np.int32] | None
    ) -> None:
        maps, wide, limited = self._maps, self._wide, self._limited
        assert maps.high is not None
        assert maps.level is not None
        np.minimum(frame, maps.high[self._rows], out=limited)
        if maps.low is not None:
            np.maximum(limited, maps.low[self._rows], out=limited)
        np.copyto(wide, limited, casting="unsafe")
        np.multiply(wide, self._gain, out=wide)
        np.subtract(wide, self._offset, out=wide)
        if isinstance(level, np.ndarray):
            np.subtract(wide, surface_shift(maps.level[self._rows], level), out=wide)
        elif level is not None and level != 1 << BITS:
            factor, up, largest = level_shift(level)
            shift = self._shift
            if largest < LARGEST_LEVEL:
                np.clip(maps.level[self._rows], -largest, largest, out=shift)
                np.multiply(shift, np.int32(factor), out=shift)
            else:
                np.multiply(maps.level[self._rows], np.int32(factor), out=shift)
            if up >= 0:
                np.left_shift(shift, np.int32(up), out=shift)
            else:
                np.right_shift(shift, np.int32(-up), out=shift)
            np.subtract(wide, shift, out=wide)
        np.right_shift(wide, np.int32(BITS), out=wide)
        np.copyto(into, wide, casting="unsafe")

    def _of_floats(
        self, frame: Array, into: NDArray[np.int16], level: int | NDArray[np.int32] | None
    ) -> None:
        wide = self._wide
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._offset, (1 << BITS if level is None else level) / 2.0**BITS, out=wide)
            np.subtract(frame, wide, out=wide)
            np.multiply(wide, self._gain, out=wide)
            np.add(wide, self._zero, out=wide)
            np.floor(wide, out=wide)
            np.clip(wide, -FURTHEST, FURTHEST, out=wide)
            np.nan_to_num(wide, copy=False, nan=ZERO)
        np.copyto(into, wide, casting="unsafe")


def _most_of_zingers(plain: NDArray[np.int16], width: int) -> NDArray[np.int16]:
    """Return ``m + (m >> 1)``, m the largest of the eight neighbours.

    The first and the last row are left out.

    Columns of the margin hold anything but are not used.
    """
    n = len(plain)
    beside, around = _buffer("zingers", n), _buffer("zingers 2", n)
    third = _buffer("zingers 3", n)
    # along a row: of the two beside, and of all three
    np.maximum(plain[: n - 2], plain[2:], out=beside[1 : n - 1])
    np.maximum(beside[1 : n - 1], plain[1 : n - 1], out=around[1 : n - 1])
    beside[0] = beside[n - 1] = around[0] = around[n - 1] = ZERO
    inner = n - 2 * width
    largest = third[:inner]
    np.maximum(around[:inner], around[2 * width :], out=largest)
    np.maximum(largest, beside[width : width + inner], out=largest)
    half = around[:inner]
    np.right_shift(largest, np.int16(1), out=half)
    np.add(largest, half, out=largest)
    return largest


def _buffer(name: str, n: int) -> NDArray[np.int16]:
    """Return the array of this thread for ``n`` values. It is kept for the next call."""
    room: NDArray[np.int16] | None = getattr(_own, name, None)
    if room is None or len(room) < n:
        room = np.empty(n, np.int16)
        setattr(_own, name, room)
    return room[:n]


def empty_sums(prepared: SignificanceMaps, n: int, shape: tuple[int, int]) -> Sums:
    """Return sums of no frames."""
    return Sums(np.zeros((n, *shape), np.int32), np.zeros(n, np.int64), None, [(0, shape[0])])


def add_significance(onto: Sums, found: Significance, which: NDArray[np.integer]) -> None:
    """Add that of each frame to the sum of its group; -1: to none."""
    added = [(i, group) for i, group in enumerate(which.tolist()) if group >= 0]
    onto.rows, columns = found.rows, slice(MARGIN, MARGIN + found.n_columns)
    # all frames of a band of rows: their sums stay in the cache
    for begin, end in _bands(found.shape, found.rows, MARGIN):
        rows = slice(MARGIN + begin, MARGIN + end)
        for i, group in added:
            onto.values[group, begin:end] += found.values[i, rows, columns]
    for i, group in added:
        onto.added[group] += 1
        if found.invalid is not None:
            if onto.invalid is None:
                onto.invalid = np.zeros((len(onto.values), *found.invalid.shape[1:]), np.uint64)
            onto.invalid[group] |= found.invalid[i]


def of_sums(sums: Sums, sizes: Sequence[int]) -> Significance:
    """Return the significance of groups of ``sizes`` frames each."""
    n, n_x, n_y = sums.values.shape
    found = _empty(n, (n_x, n_y))
    for begin, end in _bands((n_x, n_y), sums.rows, MARGIN):
        up = rounding(slice(begin, end), n_y).astype(np.int32)
        for i, size in enumerate(sizes):
            limit, factor = group_scale(size)
            wide = sums.values[i, begin:end] - np.int32(ZERO * sums.added[i])
            np.clip(wide, np.int32(-limit), np.int32(limit), out=wide)
            wide *= np.int32(factor)
            wide += up
            wide >>= np.int32(BITS)
            wide += np.int32(ZERO)
            found[i, MARGIN + begin : MARGIN + end, MARGIN : MARGIN + n_y] = wide
    return Significance(found, sums.invalid, n_y, sums.rows)


class _Smoother:
    """Smoothed maps of a band of rows of one frame, in room of this thread."""

    def __init__(self, n_columns: int, rows: int, streaks: bool) -> None:
        self.reach = 8 if streaks else 7
        width = _width(n_columns)
        self._width, self._streaks = width, streaks
        n = (rows + 2 * self.reach) * width
        names = ("clipped", "fine", "middle", "a", "b", "c")
        self._clipped, self._fine, self._middle, self._a, self._b, self._c = (
            _buffer(name, n) for name in names
        )

    def __call__(
        self, values: NDArray[np.int16], begin: int, end: int
    ) -> Iterator[NDArray[np.int16]]:
        """Yield the maps of a band of rows, one after the other.

        Each is (rows, width) int16, contiguous, and lasts until the next is asked for.

        Args:
            values: (n_X + 2 MARGIN, width) int16, contiguous: significance of a frame.
            begin: first row of the band.
            end: end of it.
        """
        w, a, b, c = self._width, self._a, self._b, self._c
        rows = end - begin
        flat = values[begin + MARGIN - self.reach : end + MARGIN + self.reach].reshape(-1)
        clipped = np.clip(flat, np.int16(-CLIP), np.int16(CLIP), out=self._clipped[: len(flat)])
        fine = _smoothed(_smoothed(clipped, w, a, b, 0), 1, a, self._fine, 0)
        yield self._rows_of(fine, w + 1, rows)
        middle = _smoothed(_smoothed(fine, w, a, b, 2), 1, a, self._middle, 2)
        yield self._rows_of(middle, 2 * w + 2, rows)
        coarse = middle
        for step, into in ((2 * w, b), (2 * w, c), (2, b), (2, c)):
            coarse = _smoothed(coarse, step, a, into, 2)
        yield self._rows_of(coarse, 6 * w + 6, rows)
        if self._streaks:
            for dx, dy in DIRECTIONS:
                step, line = dx * w + dy, fine
                for times, into in ((1, b), (1, c), (2, b), (2, c)):
                    line = _smoothed(line, times * step, a, into, 2)
                yield self._rows_of(line, w + 1 + 6 * step, rows)

    def _rows_of(self, flat: NDArray[np.int16], begin: int, rows: int) -> NDArray[np.int16]:
        """Return the rows of a map whose first value is at ``begin``."""
        start, width = self.reach * self._width - begin, self._width
        return flat[start : start + rows * width].reshape(rows, width)


def _smoothed(
    flat: NDArray[np.int16],
    step: int,
    between: NDArray[np.int16],
    into: NDArray[np.int16],
    shift: int,
) -> NDArray[np.int16]:
    """Return ``(x[i] + 2 x[i + step] + x[i + 2 step]) >> shift``, shorter by two steps."""
    n = len(flat)
    pairs, result = between[: n - step], into[: n - 2 * step]
    np.add(flat[: n - step], flat[step:], out=pairs)
    np.add(pairs[: n - 2 * step], pairs[step:], out=result)
    if shift:
        np.right_shift(result, np.int16(shift), out=result)
    return result


def _rows_of_tile(n_x: int, n_y: int) -> int:
    return min(n_x, max(1, TILE // n_y))


def _bands(shape: tuple[int, int], rows: Rows, more: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of bands of stretches of rows, and of ``more`` rows on both sides."""
    step, done = _rows_of_tile(*shape), 0
    for first, last in rows:
        last = min(last + more, shape[0])
        for begin in range(max(done, first - more), last, step):
            yield begin, min(begin + step, last)
        done = last


def smoothed_maps(found: Significance, prepared: SignificanceMaps) -> NDArray[np.int16]:
    """Return the smoothed maps of each frame or group, (n, maps, n_X, n_Y) int16.

    Rows that are not needed have any values.
    """
    n_x, n_y = found.shape
    streaks = prepared.streaks
    maps = np.empty((len(found), len(kernels(streaks=streaks)), n_x, n_y), np.int16)
    smoother = _Smoother(n_y, _rows_of_tile(n_x, n_y), streaks)
    for begin, end in _bands(found.shape, found.rows, 0):
        for i, values in enumerate(found.values):
            for k, smooth in enumerate(smoother(values, begin, end)):
                maps[i, k, begin:end] = smooth[:, MARGIN : MARGIN + n_y]
    return maps


def matched_masks(
    found: Significance, maps: SignificanceMaps, levels: Sequence[SeedLevels]
) -> MatchedMasks[PackedMasks]:
    """Return seeds and the spots that grow from them; see ``gpu_spots.backend.MatchedFinder``."""
    n_x, n_y = found.shape
    n_octets, width = -(-n_y // OCTET), _width(n_y)
    octets = np.zeros((len(found), n_x, packed.words_for(n_y) * packed.WORD // OCTET), np.uint8)
    smoother = _Smoother(n_y, _rows_of_tile(n_x, n_y), maps.streaks)
    for begin, end in _bands(found.shape, found.rows, 0):
        seeds, above = np.empty((end - begin, width), bool), np.empty((end - begin, width), bool)
        for i, values in enumerate(found.values):
            for k, smooth in enumerate(smoother(values, begin, end)):
                np.greater_equal(smooth, levels[i].seed[k][begin:end], out=above if k else seeds)
                if k:
                    np.logical_or(seeds, above, out=seeds)
            bits = np.packbits(seeds, bitorder="little").reshape(end - begin, -1)
            octets[i, begin:end, :n_octets] = bits[:, MARGIN // OCTET :][:, :n_octets]
    raw = packed.words(octets)
    if found.invalid is not None:
        raw &= ~found.invalid
    filtered = np.empty_like(raw)
    usable = None if maps.usable is None else packed.pack(maps.usable)
    lists: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for some in _alike(levels, grown_at_once(len(found), n_x * n_y)):
        invalid = None if found.invalid is None else found.invalid[some]
        basins = Basins(found.values[some], invalid, usable, levels[some.start], n_y)
        grown = basins.grown(raw[some], filtered[some])
        for each, values in zip(
            lists, (grown.mask + some.start, grown.pixel, grown.spot), strict=True
        ):
            each.append(values)
        del grown
    mask, pixel, spot = (np.concatenate(each) for each in lists)
    del lists
    return MatchedMasks(
        raw=PackedMasks(raw, n_y),
        filtered=PackedMasks(filtered, n_y),
        invalid=None if found.invalid is None else PackedMasks(found.invalid, n_y),
        spots=list_spots(mask, pixel, spot, len(found), n_y),
    )


def _alike(levels: Sequence[SeedLevels], most: int) -> Iterator[slice]:
    """Yield stretches of at most ``most`` frames or groups that have the same levels."""
    begin = 0
    for i in range(1, len(levels) + 1):
        if i == len(levels) or levels[i] is not levels[begin] or i - begin == most:
            yield slice(begin, i)
            begin = i
