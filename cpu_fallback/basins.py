"""Basins of seeds in the matched finder, and the masks that grow from them.

The rule is `docs/decisions/matched-finder.md`. All steps work on lists of pixels.
"""

import threading

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cpu_fallback import packed
from gpu_spots.masks.matched import STEPS, ZERO
from gpu_spots.masks.seed_levels import SeedLevels
from gpu_spots.model import Array

MARGIN = 8
"""Rows and columns about a frame, at which the significance is that of the background."""
SMOOTHING = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32).ravel()
"""Weights of M1. Sums of them times significance are whole numbers below 2^24: exact in float32."""
LOWEST = np.int64(-(2**40))
"""Height of what is no seed, below any map."""


_own = threading.local()


class Basins:
    """Basins and masks of some frames or groups; pixels are numbered with the margins."""

    def __init__(
        self,
        values: NDArray[np.int16],
        invalid: packed.Words | None,
        usable: NDArray[np.bool_] | None,
        levels: SeedLevels,
    ) -> None:
        """Take the significance of frames or groups that have the same levels.

        Args:
            values: (k, n_X + 2 MARGIN, n_Y + 2 MARGIN) int16.
            invalid: (k, n_X, words) packed: pixels without a valid value; None: there are none.
            usable: (n_X, n_Y) bool: pixels that may be in masks; None: all.
            levels: Their levels.
        """
        self._values, self._width = values.reshape(-1), values.shape[2]
        self._of_frame = values[0].size
        self._shape = values.shape[1] - 2 * MARGIN, values.shape[2] - 2 * MARGIN
        self._invalid, self._usable, self._levels = invalid, usable, levels

    def grown(
        self, seeds: packed.Words, first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return mask and flat index of each pixel of a spot, and the seed that names the spot.

        Args:
            seeds: (k, n_X, words) packed.
            first: Number of the first mask.
        """
        (n_x, n_y), flat = self._shape, packed.set_pixels(seeds, self._shape[1])
        if not len(flat):
            return flat, flat, flat
        row = flat // n_y
        frame = row // n_x
        pixels = frame * (self._of_frame - n_x * self._width) + row * self._width
        pixels += flat - row * n_y + (MARGIN * self._width + MARGIN)
        height, near = self._heights(pixels), _neighbours(pixels, self._width)
        top = self._tops(pixels, height, near)
        peak = height[top]
        inside = (peak > 0) & (10 * height >= peak)
        grown, of = self._grow(pixels, height, top, inside, near)
        frame, x, y = self._places(grown)
        return frame + first, x * n_y + y, pixels[of]

    def _places(
        self, pixels: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return frame, X and Y of pixels, which may be in the margin."""
        row = pixels // self._width
        frame = pixels // self._of_frame
        x = row - frame * (self._of_frame // self._width) - MARGIN
        return frame, x, pixels - row * self._width - MARGIN

    def _heights(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return M1 of pixels without the limits of seeds, times 256, less the background."""
        w, octets = self._width, self._values.itemsize
        shape, strides = (len(self._values) - 4 * w - 4, 5, 5), (octets, w * octets, octets)
        windows = as_strided(self._values, shape, strides, writeable=False)
        near = windows[pixels - (2 * w + 2)].reshape(-1, 25).astype(np.float32)
        near -= ZERO
        return np.einsum("ij,j->i", near, SMOOTHING).astype(np.int64)

    def _at(self, of_frame: Array, pixels: NDArray[np.int64]) -> Array:
        """Return values of a map of the frame."""
        _, x, y = self._places(pixels)
        return of_frame[x, y]

    def _tops(
        self, pixels: NDArray[np.int64], height: NDArray[np.int64], near: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return for each seed the number of the seed at the top of its spot."""
        n = len(pixels)
        heights = np.append(height, LOWEST)
        # raster order: the first of equals wins
        to, best = np.full(n, n), np.full(n, LOWEST - 1)
        for other in (*near[:4], np.arange(n), *near[4:]):
            value = heights.take(other)
            np.copyto(to, other, where=value > best)
            np.maximum(best, value, out=best)
        root = _followed(to)

        roots = np.append(root, n)
        sides, theres = [], []
        for other in near[4:]:
            b = roots.take(other)
            side = np.flatnonzero((b != root) & (b < n))
            sides.append(side)
            theres.append(other[side])
        side, there = np.concatenate(sides), np.concatenate(theres)
        a, b = root[side], root[there]
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
        self,
        seeds: NDArray[np.int64],
        height: NDArray[np.int64],
        top: NDArray[np.int64],
        inside: NDArray[np.bool_],
        near: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pixels of the masks, and the numbers of the seeds at the top of their spots.

        They grow step by step from the seeds that are ``inside``; a pixel goes to the spot of the
        first top. The last step takes pixels of any height. Pairs of a pixel beside a mask and the
        top of the mask are one number: the pixel, then ``bits`` of the top.
        """
        w, n = self._width, len(seeds)
        taken: NDArray[np.bool_] | None = getattr(_own, "taken", None)
        if taken is None or len(taken) < len(self._values):
            taken = _own.taken = np.zeros(len(self._values), bool)
        offsets = np.array([-w - 1, -w, -w + 1, -1, 1, w - 1, w, w + 1])
        bits, ones = n.bit_length(), (1 << n.bit_length()) - 1
        outside = np.append(~inside, True)
        parts = []
        for offset, other in zip(offsets.tolist(), near, strict=True):
            side = np.flatnonzero(outside.take(other) & inside)
            parts.append((seeds[side] + offset) << bits | top[side])
        pixels, of = seeds[inside], top[inside]
        all_pixels, all_of = [pixels], [of]
        every: list[NDArray[np.int64]] = []
        taken[pixels] = True
        for step in range(STEPS + 1):
            if step:
                beside = (pixels[:, None] + offsets).reshape(-1)
                free = np.flatnonzero(~taken.take(beside))
                parts = [beside[free] << bits | of[free >> 3]]
            if step == STEPS:
                parts = [pairs[~taken.take(pairs >> bits)] for pairs in every] + parts
            pairs = np.concatenate(parts)
            pairs.sort()
            pairs = pairs[np.flatnonzero(np.diff(pairs, prepend=-1))]
            every.append(pairs)
            beside, of = pairs >> bits, pairs & ones
            new = np.diff(beside, prepend=-1) != 0
            free_ones, where = beside[new], np.cumsum(new) - 1
            allowed = self._allowed(free_ones)
            if step < STEPS:
                free_height = np.full(len(free_ones), LOWEST)
                free_height[allowed] = self._heights(free_ones[allowed])
                variance = np.zeros(len(free_ones), np.int64)
                variance[allowed] = self._at(self._levels.variance, free_ones[allowed])
                high = (free_height > 0) & (free_height * free_height >= variance)
                joins = np.flatnonzero(high[where] & (100 * free_height[where] >= height[of]))
            else:
                joins = np.flatnonzero(allowed[where])
            joins = joins[np.flatnonzero(np.diff(where[joins], prepend=-1))]
            pixels, of = beside[joins], of[joins]
            taken[pixels] = True
            all_pixels.append(pixels)
            all_of.append(of)
        pixels, of = np.concatenate(all_pixels), np.concatenate(all_of)
        taken[pixels] = False
        return pixels, of

    def _allowed(self, pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels are in the frame, usable, and have a valid value."""
        (n_x, n_y), (frame, x, y) = self._shape, self._places(pixels)
        allowed = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
        x, y = np.where(allowed, x, 0), np.where(allowed, y, 0)
        if self._usable is not None:
            allowed &= self._usable[x, y]
        if self._invalid is not None:
            allowed &= (self._invalid[frame, x, y >> 6] >> (y & 63).astype(np.uint64)) & 1 == 0
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


def _neighbours(pixels: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the numbers of the eight neighbours in raster order, (8, n) int64; ``n``: not listed.

    See `_ahead`.
    """
    n = len(pixels)
    ahead = _ahead(pixels, width)
    back = np.full((4, n + 1), n)
    for behind, other in zip(back, ahead, strict=True):
        behind[other] = np.arange(n)
    return np.concatenate([back[:0:-1, :n], back[:1, :n], ahead])


def _followed(to: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the end of each pointer."""
    while not np.array_equal(to, nearer := to[to]):
        to = nearer
    return to
