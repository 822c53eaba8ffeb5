"""Matched finder on the CPU: significance, smoothed maps, seeds, basins and masks.

The rule, and why every number fits its type, is `docs/decisions/matched-finder.md`. Rows lie flat,
one behind the other with `MARGIN` columns before and after each, so that a smoothing step along
either axis is the sum of two shifted slices. Bands of rows stay in the cache.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cpu_fallback import packed
from cpu_fallback.packed import PackedMasks
from gpu_spots.masks.kernels import DIRECTIONS, kernels
from gpu_spots.masks.matched import (
    BITS,
    CLIP,
    FURTHEST,
    LARGEST_LEVEL,
    STEPS,
    ZERO,
    SignificanceMaps,
    group_scale,
    level_shift,
    rounding,
    surface_shift,
)
from gpu_spots.masks.matched_spots import MatchedMasks, list_spots
from gpu_spots.masks.seed_levels import SeedLevels
from gpu_spots.model import Array, Surface

MARGIN = 8
"""Rows and columns about a frame, at which the significance is that of the background."""
TILE = 1 << 18
"""Pixels of a band of rows: long enough that threads seldom wait for the interpreter."""
SMOOTHING = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32).ravel()
"""Weights of M1. Sums of them times significance are whole numbers below 2^24: exact in float32."""
LOWEST = np.int64(-(2**40))
"""Height of what is no seed, below any map."""

_own = threading.local()


@dataclass(frozen=True, slots=True)
class Significance:
    """Significance of the pixels of a batch of frames or groups."""

    values: NDArray[np.int16]
    """(n, n_X + 2 MARGIN, n_Y + 2 MARGIN) int16."""
    invalid: NDArray[np.uint64] | None
    """(n, n_X, words) packed: pixels without a valid value; None: there are none."""

    def __len__(self) -> int:
        """Number of frames or groups."""
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """n_X, n_Y."""
        return self.values.shape[1] - 2 * MARGIN, self.values.shape[2] - 2 * MARGIN


@dataclass(slots=True)
class Sums:
    """Sums of the significance over the frames of groups."""

    values: NDArray[np.int32]
    """(n, n_X, n_Y) int32."""
    invalid: NDArray[np.uint64] | None
    """(n, n_X, words) packed: pixels that have no valid value on some frame; None: none so far."""


def prepare_significance(maps: SignificanceMaps) -> SignificanceMaps:
    """Return the constants, which are where this backend computes."""
    return maps


def prepare_seeds(levels: SeedLevels) -> SeedLevels:
    """Return the seed levels, which are where this backend computes."""
    return levels


def significance(
    frames: Array, maps: SignificanceMaps, levels: NDArray[np.int64] | Surface | None
) -> Significance:
    """Return the significance of each frame, without zingers.

    See ``gpu_spots.backend.MatchedFinder``.
    """
    n_frames, n_x, n_y = frames.shape
    found = _empty(n_frames, (n_x, n_y))
    invalid = None
    if maps.validity is not None:
        invalid = np.zeros((n_frames, n_x, packed.words_for(n_y)), np.uint64)
    rows = max(1, TILE // n_y)
    width = n_y + 2 * MARGIN
    plain = np.empty((min(rows, n_x) + 2) * width + 2, np.int16)
    for begin in range(0, n_x, rows):
        end = min(begin + rows, n_x)
        first, last = max(0, begin - 1), min(n_x, end + 1)
        tile = plain[: (end - begin + 2) * width].reshape(-1, width)
        band = _Band(maps, slice(first, last), (last - first, n_y))
        for i, frame in enumerate(frames):
            tile[:] = ZERO
            inside = tile[first - (begin - 1) :][: last - first, MARGIN : MARGIN + n_y]
            level: int | NDArray[np.int32] | None = None
            if isinstance(levels, Surface):
                level = levels.of_rows(i, slice(first, last), n_y)
            elif levels is not None:
                level = int(levels[i])
            usable = band.significance(frame[first:last], inside, level)
            if invalid is not None and usable is not None:
                invalid[i, first:last] = packed.pack(~usable)
            without = _without_zingers(tile.reshape(-1), width)
            found.values[i, MARGIN + begin : MARGIN + end, MARGIN : MARGIN + n_y] = without[
                : (end - begin) * width
            ].reshape(-1, width)[:, MARGIN : MARGIN + n_y]
    return Significance(found.values, invalid)


def _empty(n: int, shape: tuple[int, int]) -> Significance:
    """Return arrays for a batch whose margins are filled."""
    values = np.empty((n, shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN), np.int16)
    for edge in (slice(None, MARGIN), slice(-MARGIN, None)):
        values[:, edge] = ZERO
        values[:, :, edge] = ZERO
    return Significance(values, None)


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


def _without_zingers(plain: NDArray[np.int16], width: int) -> NDArray[np.int16]:
    """Return ``min(p, m + (m >> 1))``, m the largest of the eight neighbours.

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
    np.minimum(largest, plain[width : width + inner], out=largest)
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
    return Sums(np.zeros((n, *shape), np.int32), None)


def add_significance(onto: Sums, found: Significance, which: NDArray[np.integer]) -> None:
    """Add that of each frame to the sum of its group; -1: to none."""
    for i, group in enumerate(which):
        if group < 0:
            continue
        inside = found.values[i, MARGIN:-MARGIN, MARGIN:-MARGIN]
        sums = onto.values[group]
        sums += inside
        sums -= np.int32(ZERO)
        if found.invalid is not None:
            if onto.invalid is None:
                onto.invalid = np.zeros((len(onto.values), *found.invalid.shape[1:]), np.uint64)
            onto.invalid[group] |= found.invalid[i]


def of_sums(sums: Sums, sizes: Sequence[int]) -> Significance:
    """Return the significance of groups of ``sizes`` frames each."""
    n, n_x, n_y = sums.values.shape
    found = _empty(n, (n_x, n_y))
    rows = max(4, TILE // n_y // 4 * 4)
    for begin in range(0, n_x, rows):
        end = min(begin + rows, n_x)
        up = rounding(slice(begin, end), n_y).astype(np.int32)
        for i, size in enumerate(sizes):
            limit, factor = group_scale(size)
            wide = np.clip(sums.values[i, begin:end], np.int32(-limit), np.int32(limit))
            wide *= np.int32(factor)
            wide += up
            wide >>= np.int32(BITS)
            wide += np.int32(ZERO)
            found.values[i, MARGIN + begin : MARGIN + end, MARGIN : MARGIN + n_y] = wide
    return Significance(found.values, sums.invalid)


class _Smoother:
    """Smoothed maps of a band of rows of one frame, in room of this thread."""

    def __init__(self, width: int, rows: int, streaks: bool) -> None:
        self.reach = 8 if streaks else 7
        self._width, self._streaks = width, streaks
        n = (rows + 2 * self.reach) * width
        names = ("clipped", "fine", "middle", "a", "b", "c")
        self._clipped, self._fine, self._middle, self._a, self._b, self._c = (
            _buffer(name, n) for name in names
        )

    def __call__(self, values: NDArray[np.int16], rows: int) -> Iterator[NDArray[np.int16]]:
        """Yield the maps of the rows in the middle of ``values``, one after the other.

        Each is (rows, n_Y) int16 and lasts until the next is asked for.

        Args:
            values: (rows + 2 reach, width) int16, contiguous.
            rows: how many rows.
        """
        w, a, b, c = self._width, self._a, self._b, self._c
        flat = values.reshape(-1)
        clipped = np.clip(flat, np.int16(-CLIP), np.int16(CLIP), out=self._clipped[: len(flat)])
        fine = _smoothed(_smoothed(clipped, w, a, b, 0), 1, a, self._fine, 0)
        yield self._inside(fine, w + 1, rows)
        middle = _smoothed(_smoothed(fine, w, a, b, 2), 1, a, self._middle, 2)
        yield self._inside(middle, 2 * w + 2, rows)
        coarse = middle
        for step, into in ((2 * w, b), (2 * w, c), (2, b), (2, c)):
            coarse = _smoothed(coarse, step, a, into, 2)
        yield self._inside(coarse, 6 * w + 6, rows)
        if self._streaks:
            for dx, dy in DIRECTIONS:
                step, line = dx * w + dy, fine
                for times, into in ((1, b), (1, c), (2, b), (2, c)):
                    line = _smoothed(line, times * step, a, into, 2)
                yield self._inside(line, w + 1 + 6 * step, rows)

    def _inside(self, flat: NDArray[np.int16], begin: int, rows: int) -> NDArray[np.int16]:
        """Return the columns of the frame from a map whose first value is at ``begin``."""
        start, width = self.reach * self._width - begin, self._width
        return flat[start : start + rows * width].reshape(rows, width)[:, MARGIN:-MARGIN]


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


def _bands(shape: tuple[int, int], reach: int) -> Iterator[tuple[int, int, slice]]:
    """Yield rows from begin to end, and those of a batch with margins that they need."""
    rows = max(1, TILE // shape[1])
    for begin in range(0, shape[0], rows):
        end = min(begin + rows, shape[0])
        yield begin, end, slice(begin + MARGIN - reach, end + MARGIN + reach)


def smoothed_maps(found: Significance, prepared: SignificanceMaps) -> NDArray[np.int16]:
    """Return the smoothed maps of each frame or group, (n, maps, n_X, n_Y) int16."""
    n_x, n_y = found.shape
    streaks = prepared.streaks
    width = n_y + 2 * MARGIN
    maps = np.empty((len(found), len(kernels(streaks=streaks)), n_x, n_y), np.int16)
    smoother = _Smoother(width, min(n_x, max(1, TILE // n_y)), streaks)
    for begin, end, rows in _bands(found.shape, smoother.reach):
        for i, values in enumerate(found.values):
            for k, smooth in enumerate(smoother(values[rows], end - begin)):
                maps[i, k, begin:end] = smooth
    return maps


def matched_masks(
    found: Significance, maps: SignificanceMaps, levels: Sequence[SeedLevels]
) -> MatchedMasks[PackedMasks]:
    """Return seeds and the spots that grow from them; see ``gpu_spots.backend.MatchedFinder``."""
    n_x, n_y = found.shape
    raw = np.zeros((len(found), n_x, packed.words_for(n_y)), np.uint64)
    smoother = _Smoother(n_y + 2 * MARGIN, min(n_x, max(1, TILE // n_y)), maps.streaks)
    for begin, end, rows in _bands(found.shape, smoother.reach):
        seeds, above = np.empty((end - begin, n_y), bool), np.empty((end - begin, n_y), bool)
        for i, values in enumerate(found.values):
            for k, smooth in enumerate(smoother(values[rows], end - begin)):
                np.greater_equal(smooth, levels[i].seed[k][begin:end], out=above if k else seeds)
                if k:
                    np.logical_or(seeds, above, out=seeds)
            raw[i, begin:end] = packed.pack(seeds)
    if found.invalid is not None:
        raw &= ~found.invalid
    masks, pixels, spots = [], [], []
    for i in range(len(found)):
        of_spots, names = _Spots(found, i, maps, levels[i]).grown(raw[i])
        masks.append(np.full(len(of_spots), i))
        pixels.append(of_spots)
        spots.append(names)
    none = np.zeros(0, np.int64)
    mask, pixel = np.concatenate([none, *masks]), np.concatenate([none, *pixels])
    return MatchedMasks(
        raw=PackedMasks(raw, n_y),
        filtered=PackedMasks(_packed(mask, pixel, raw.shape, n_y), n_y),
        invalid=None if found.invalid is None else PackedMasks(found.invalid, n_y),
        spots=list_spots(mask, pixel, np.concatenate([none, *spots]), len(found), n_y),
    )


def _packed(
    mask: NDArray[np.int64], pixel: NDArray[np.int64], shape: tuple[int, ...], n_y: int
) -> NDArray[np.uint64]:
    """Return masks with these pixels set."""
    words = np.zeros(shape, np.uint64)
    if len(pixel):
        x, y = np.divmod(pixel, n_y)
        at = (mask * shape[1] + x) * shape[2] + (y >> 6)
        bit = np.uint64(1) << (y & 63).astype(np.uint64)
        order = np.argsort(at, kind="stable")
        at, bit = at[order], bit[order]
        first = np.flatnonzero(np.diff(at, prepend=-1))
        words.reshape(-1)[at[first]] = np.bitwise_or.reduceat(bit, first)
    return words


class _Spots:
    """Basins and masks of one frame or group; pixels are numbered with the margins."""

    def __init__(
        self, found: Significance, i: int, maps: SignificanceMaps, levels: SeedLevels
    ) -> None:
        self._values = found.values[i].reshape(-1)
        self._width, self._shape = found.values.shape[2], found.shape
        self._invalid = None if found.invalid is None else found.invalid[i]
        self._usable, self._levels = maps.usable, levels

    def grown(self, seeds: packed.Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pixels of the spots as flat indices, and the pixel that names each spot."""
        n_y = self._shape[1]
        flat = packed.set_pixels(seeds[None], n_y)
        if not len(flat):
            return flat, flat
        x, y = np.divmod(flat, n_y)
        pixels = (x + MARGIN) * self._width + y + MARGIN
        height = self._heights(pixels)
        top = self._tops(pixels, height)
        peak = height[top]
        inside = (peak > 0) & (10 * height >= peak)
        pixels, names, peaks = pixels[inside], pixels[top][inside], peak[inside]
        pixels, names = self._grow(pixels, names, peaks)
        x, y = np.divmod(pixels, self._width)
        return (x - MARGIN) * n_y + y - MARGIN, names

    def _heights(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return M1 of pixels without the limits of seeds, times 256, less the background."""
        w, values = self._width, self._values
        octets = values.itemsize
        windows = as_strided(
            values,
            (len(values) - 4 * w - 4, 5, 5),
            (octets, w * octets, octets),
            writeable=False,
        )
        near = windows[pixels - 2 * w - 2].reshape(-1, 25).astype(np.float32)
        near -= ZERO
        return np.einsum("ij,j->i", near, SMOOTHING).astype(np.int64)

    def _at(self, of_frame: Array, pixels: NDArray[np.int64]) -> Array:
        """Return values of a map of the frame."""
        x, y = np.divmod(pixels, self._width)
        return of_frame[x - MARGIN, y - MARGIN]

    def _tops(self, pixels: NDArray[np.int64], height: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each seed the number of the seed at the top of its spot."""
        n = len(pixels)
        ahead = _ahead(pixels, self._width)
        back = np.full((4, n + 1), n)
        for behind, other in zip(back, ahead, strict=True):
            behind[other] = np.arange(n)
        back = back[:, :n]
        heights = np.append(height, LOWEST)
        # raster order: the first of equals wins
        right, down_left, down, down_right = ahead
        left, up_right, up, up_left = back
        to, best = np.full(n, n), np.full(n, LOWEST - 1)
        for other in (
            *(up_left, up, up_right, left),
            *(np.arange(n), right, down_left, down, down_right),
        ):
            value = heights[other]
            higher = value > best
            to[higher], best[higher] = other[higher], value[higher]
        root = _followed(to)

        side, there = np.concatenate([np.arange(n)] * 4), ahead.reshape(-1)
        linked = there < n
        side, there = side[linked], there[linked]
        a, b = root[side], root[there]
        apart = a != b
        side, there, a, b = side[apart], there[apart], a[apart], b[apart]
        saddle = np.minimum(height[side], height[there])
        a_is_lower = (height[a] < height[b]) | ((height[a] == height[b]) & (a > b))
        lower, higher_root = np.where(a_is_lower, a, b), np.where(a_is_lower, b, a)
        order = np.lexsort((higher_root, -saddle, lower))
        first = order[np.flatnonzero(np.diff(lower[order], prepend=-1))]
        lower, higher_root, saddle = lower[first], higher_root[first], saddle[first]
        peak = height[lower]
        drop, at = peak - saddle, pixels[lower]
        noise = 256 * self._at(self._levels.variance, at).astype(np.int64)
        noise += self._at(self._levels.own, at).astype(np.int64) * np.maximum(peak, 0)
        joins = (10 * saddle >= 9 * peak) | (256 * drop * drop < noise)
        onto = np.arange(n)
        onto[lower[joins]] = higher_root[joins]
        return _followed(onto)[root]

    def _grow(
        self, pixels: NDArray[np.int64], names: NDArray[np.int64], peaks: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of the masks, grown step by step; a pixel goes to the spot of the lowest name.

        The last step takes pixels of any height.
        """
        w = self._width
        taken: NDArray[np.bool_] | None = getattr(_own, "taken", None)
        if taken is None or len(taken) < len(self._values):
            taken = _own.taken = np.zeros(len(self._values), bool)
        offsets = np.array([-w - 1, -w, -w + 1, -1, 1, w - 1, w, w + 1])
        all_pixels, all_names, all_peaks = [pixels], [names], [peaks]
        taken[pixels] = True
        for step in range(STEPS + 1):
            if step == STEPS:
                pixels, names, peaks = map(np.concatenate, (all_pixels, all_names, all_peaks))
            beside = (pixels[:, None] + offsets).reshape(-1)
            free = np.flatnonzero(~taken[beside])
            beside, of = beside[free], free >> 3
            free_ones, where = np.unique(beside, return_inverse=True)
            allowed = self._allowed(free_ones)
            if step < STEPS:
                height = np.full(len(free_ones), LOWEST)
                height[allowed] = self._heights(free_ones[allowed])
                variance = np.zeros(len(free_ones), np.int64)
                variance[allowed] = self._at(self._levels.variance, free_ones[allowed])
                high = (height > 0) & (height * height >= variance)
                joins = np.flatnonzero(high[where] & (50 * height[where] >= peaks[of]))
            else:
                joins = np.flatnonzero(allowed[where])
            order = joins[np.lexsort((names[of[joins]], where[joins]))]
            first = order[np.flatnonzero(np.diff(where[order], prepend=-1))]
            pixels, names, peaks = beside[first], names[of[first]], peaks[of[first]]
            taken[pixels] = True
            all_pixels.append(pixels)
            all_names.append(names)
            all_peaks.append(peaks)
        pixels, names = np.concatenate(all_pixels), np.concatenate(all_names)
        taken[pixels] = False
        return pixels, names

    def _allowed(self, pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels are in the frame, usable, and have a valid value."""
        (n_x, n_y), (x, y) = self._shape, np.divmod(pixels, self._width)
        x, y = x - MARGIN, y - MARGIN
        allowed = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
        x, y = np.where(allowed, x, 0), np.where(allowed, y, 0)
        if self._usable is not None:
            allowed &= self._usable[x, y]
        if self._invalid is not None:
            allowed &= (self._invalid[x, y >> 6] >> (y & 63).astype(np.uint64)) & 1 == 0
        return allowed


def _ahead(pixels: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the neighbours right, below left, below and below right, (4, n) int64.

    A neighbour that is not in the list is ``n``.

    Args:
        pixels: (n,) int64, ascending.
        width: from one row to the next.
    """
    n = len(pixels)
    listed = np.append(pixels, np.iinfo(np.int64).max)
    ahead = np.full((4, n), n)
    at = np.arange(1, n + 1)
    ahead[0] = np.where(listed[at] == pixels + 1, at, n)
    at = np.searchsorted(pixels, pixels + (width - 1))
    for k, step in enumerate((width - 1, width, width + 1), 1):
        there = listed[np.minimum(at, n)] == pixels + step
        ahead[k] = np.where(there, at, n)
        at = at + there
    return ahead


def _followed(to: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the end of each pointer."""
    while not np.array_equal(to, nearer := to[to]):
        to = nearer
    return to
