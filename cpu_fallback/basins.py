"""Basins of seeds in the matched finder, and the masks that grow from them.

The rule is `docs/decisions/matched-finder.md`. All steps work on **octets**: 8 pixels of a row side
by side. Only octets that masks can reach are listed, row by row, so that neighbours in a row are
neighbours in the list, and most steps compare slices of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpu_fallback import packed
from gpu_spots.masks.matched import STEPS, ZERO
from gpu_spots.masks.seed_levels import SeedLevels

MARGIN = 8
"""Rows and columns about a frame, at least, at which the significance is that of the background."""
OCTET = 8
"""Pixels of an octet: what a mask grows in all its steps, and two more for heights."""
LOWEST, HIGHEST = np.int32(-(2**31)), np.int32(2**31 - 1)
"""Heights below and above that of any pixel."""
UNIT_OF_HEIGHT = np.int64(2**32)
"""A unit of height in a number that has the height and the place of a pixel."""

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Grown:
    """Pixels of the spots of some frames or groups, in raster order."""

    mask: Indices
    """(p,) int64: mask of each pixel."""
    pixel: Indices
    """(p,) int64: its flat index in the mask."""
    spot: Indices
    """(p,) int64: its spot, a number that no other spot has."""


class Basins:
    """Basins and masks of some frames or groups that have the same levels."""

    def __init__(
        self,
        values: NDArray[np.int16],
        invalid: packed.Words | None,
        usable: packed.Words | None,
        levels: SeedLevels,
        n_columns: int,
    ) -> None:
        """Take the significance.

        Args:
            values: (k, n_X + 2 MARGIN, width) int16, contiguous; the width is a multiple of 8.
            invalid: (k, n_X, words) packed: pixels without a valid value; None: there are none.
            usable: (n_X, words) packed: pixels that may be in masks; None: all.
            levels: Their levels.
            n_columns: n_Y.
        """
        self._values = values.reshape(-1, OCTET)
        self._shape = len(values), values.shape[1], values.shape[2] // OCTET
        self._invalid, self._usable, self._levels = invalid, usable, levels
        self._n_columns = n_columns

    def grown(self, seeds: packed.Words, filtered: packed.Words) -> Grown:
        """Return the pixels of spots, whose masks are numbered from 0.

        Args:
            seeds: (k, n_X, words) packed.
            filtered: (k, n_X, words) packed: the masks, which are filled here.
        """
        octets = _Octets(packed.octets(seeds), self._shape, self._n_columns)
        if not len(octets.seeds):
            filtered[:] = 0
            return Grown(octets.seeds, octets.seeds, octets.seeds)
        height = self._heights(octets)
        spot = self._grow(octets, height, self._tops(octets, height))
        taken = spot < len(octets.seeds)
        octets.store(np.packbits(taken, bitorder="little"), filtered)
        pixels = np.flatnonzero(taken)
        of = pixels >> 3
        return Grown(octets.frame[of], octets.in_frame(pixels), spot[pixels].astype(np.int64))

    def _heights(self, octets: "_Octets") -> NDArray[np.int32]:
        """Return M1 of pixels without the limits of seeds, times 256, less the background.

        Of an octet without neighbour in its row, those of the outer two pixels mean nothing.
        """
        along = np.zeros((len(octets.listed), OCTET), np.int32)
        for step, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            of_row = self._values.take(octets.listed + step * self._shape[2], axis=0)
            along += of_row * np.int32(weight)
        flat = along.reshape(-1)
        height = np.full(len(flat) + OCTET, LOWEST)
        inner = height[2 : -2 - OCTET]
        np.multiply(flat[2:-2], np.int32(6), out=inner)
        beside = flat[1:-3] + flat[3:-1]
        beside *= np.int32(4)
        inner += beside
        np.add(flat[:-4], flat[4:], out=beside)
        inner += beside
        inner -= np.int32(256 * ZERO)
        return height

    def _tops(self, octets: "_Octets", height: NDArray[np.int32]) -> Indices:
        """Return for each seed the number, among the seeds, of that at the top of its spot."""
        seeds = octets.seeds
        n = len(seeds)
        # of equals the first is the highest
        highest = height.take(seeds) * UNIT_OF_HEIGHT - seeds
        for other in octets.neighbours(seeds):
            of_other = height.take(other) * UNIT_OF_HEIGHT - other
            np.maximum(highest, of_other, out=highest, where=octets.is_seed.take(other))
        number = np.full(len(height), n, np.int32)
        number[seeds] = np.arange(n)
        root = _followed(number.take(-highest & (UNIT_OF_HEIGHT - 1)).astype(np.int64))

        number[seeds] = root
        sides, theres, roots = [], [], []
        below = octets.below(seeds)
        for other in (seeds + 1, below - 1, below, below + 1):
            of_other = number.take(other)
            at = np.flatnonzero((of_other != root) & (of_other < n))
            sides.append(at)
            theres.append(other[at])
            roots.append(of_other[at])
        side, there, b = (np.concatenate(parts) for parts in (sides, theres, roots))
        a, of_seed = root[side], height.take(seeds).astype(np.int64)
        saddle = np.minimum(of_seed[side], height[there])
        a_is_lower = (of_seed[a] < of_seed[b]) | ((of_seed[a] == of_seed[b]) & (a > b))
        lower, higher_root = np.where(a_is_lower, a, b), np.where(a_is_lower, b, a)
        order = np.lexsort((higher_root, -saddle, lower))
        first = order[np.flatnonzero(np.diff(lower[order], prepend=-1))]
        lower, higher_root, saddle = lower[first], higher_root[first], saddle[first]
        peak, at = of_seed[lower], octets.in_frame(seeds[lower])
        drop = peak - saddle
        noise = 256 * _at(self._levels.variance, at)
        noise += _at(self._levels.own, at) * np.maximum(peak, 0)
        joins = (10 * saddle >= 9 * peak) | (256 * drop * drop < noise)
        onto = np.arange(n)
        onto[lower[joins]] = higher_root[joins]
        return _followed(onto)[root]

    def _grow(
        self, octets: "_Octets", height: NDArray[np.int32], top: Indices
    ) -> NDArray[np.int32]:
        """Return the number of the seed that is the top of the spot of each pixel.

        Pixels in no mask have the number of seeds. Masks grow step by step from the seeds that are
        high enough; a pixel goes to the spot of the first top. The last step takes pixels of any
        height.
        """
        seeds, n = octets.seeds, len(octets.seeds)
        peaks = np.append(height.take(seeds), HIGHEST)
        inside = (peaks[top] > 0) & (10 * peaks[:-1] >= peaks[top])
        spot = np.full(len(height) + 1, n, np.int32)
        spot[seeds[inside]] = top[inside]
        taken = spot[:-1] < n
        free = octets.allowed(self._usable, self._invalid)
        free[taken] = False
        high, tested = free & (height > 0), np.zeros(len(free), bool)
        for step in range(STEPS + 1):
            beside = octets.spread(taken)
            beside &= high if step < STEPS else free
            pixels = np.flatnonzero(beside)
            if step < STEPS:
                new = pixels[~tested[pixels]]
                tested[new] = True
                of_new = height[new].astype(np.int64)
                high[new] = of_new * of_new >= _at(self._levels.variance, octets.in_frame(new))
                pixels = pixels[high[pixels]]
            first, least = np.full(len(pixels), n, np.int32), 100 * height[pixels]
            for other in octets.neighbours(pixels):
                tops = spot.take(other)
                if step < STEPS:
                    tops[least < peaks.take(tops)] = n
                np.minimum(first, tops, out=first)
            joins = first < n
            pixels = pixels[joins]
            spot[pixels] = first[joins]
            taken[pixels], free[pixels], high[pixels] = True, False, False
        return spot[: -1 - OCTET]


class _Octets:
    """List of the octets of some frames that masks can reach from seeds.

    A pixel has the number of its octet in the list, times 8, and its place in the octet. What is
    not listed has the octet behind the list, which has no seeds and is in no mask.
    """

    listed: Indices
    """(m,) int64: flat index of each octet, margins included."""
    frame: Indices
    """(m,) int64: frame of each octet."""
    is_seed: Bools
    """(8 m + 8,) bool: seeds."""
    seeds: Indices
    """(n,) int64: numbers of the seeds, ascending."""

    def __init__(
        self, seeds: NDArray[np.uint8], shape: tuple[int, int, int], n_columns: int
    ) -> None:
        """List the octets of seeds, one more on each side, and as many rows as masks grow.

        Args:
            seeds: (k, n_X, octets) uint8, bits of the seeds.
            shape: frames, rows, and octets of a row, margins included.
            n_columns: n_Y.
        """
        _, n_rows, in_row = shape
        self._n_rows, self._n_columns = seeds.shape[1], n_columns
        self._in_frame = -(-n_columns // OCTET)
        bits = np.zeros(shape, np.uint8)
        bits[:, MARGIN:-MARGIN, 1 : 1 + self._in_frame] = seeds[..., : self._in_frame]
        reached = (bits != 0).reshape(-1)
        # one octet along the row, then 1 + 2 + 3 rows
        for step in (1, in_row, 2 * in_row, 3 * in_row):
            before = reached.copy()
            reached[step:] |= before[:-step]
            reached[:-step] |= before[step:]
        self.listed = np.flatnonzero(reached)
        m = len(self.listed)
        number = np.full(len(reached), m, np.int32)
        number[self.listed] = np.arange(m)
        self._above, self._below = (
            np.append(number.take(self.listed + step), m) for step in (-in_row, in_row)
        )
        row = self.listed // in_row
        self.frame = row // n_rows
        self._x = row - self.frame * n_rows - MARGIN
        self._octet = self.listed - row * in_row - 1
        self.is_seed = packed.bits(np.append(bits.reshape(-1).take(self.listed), np.uint8(0)))
        self.seeds = np.flatnonzero(self.is_seed)

    def in_frame(self, pixels: Indices) -> Indices:
        """Return the flat indices of pixels in their frames."""
        octet = pixels >> 3
        first = self._x * self._n_columns + (self._octet << 3)
        return first.take(octet) + (pixels & 7)

    def allowed(self, usable: packed.Words | None, invalid: packed.Words | None) -> Bools:
        """Return which pixels are in the frame, usable, and have a valid value."""
        last = self._in_frame - 1
        inside = np.flatnonzero(
            (self._x >= 0) & (self._x < self._n_rows) & (self._octet >= 0) & (self._octet <= last)
        )
        frame, x, octet = self.frame[inside], self._x[inside], self._octet[inside]
        bits = np.full(len(inside), 255, np.uint8)
        bits[octet == last] = 255 >> (-self._n_columns % OCTET)
        if usable is not None:
            bits &= packed.octets(usable)[x, octet]
        if invalid is not None:
            bits &= ~packed.octets(invalid)[frame, x, octet]
        every = np.zeros(len(self.listed) + 1, np.uint8)
        every[inside] = bits
        return packed.bits(every)

    def store(self, bits: NDArray[np.uint8], masks: packed.Words) -> None:
        """Fill the masks of the frames with the bits of octets."""
        octets = np.zeros((*masks.shape[:2], masks.shape[2] * (packed.WORD // OCTET)), np.uint8)
        some = np.flatnonzero(bits)
        octets[self.frame[some], self._x[some], self._octet[some]] = bits[some]
        masks[:] = packed.words(octets)

    def below(self, pixels: Indices) -> Indices:
        """Return the pixels below some pixels."""
        return (self._below.take(pixels >> 3) << 3) + (pixels & 7)

    def neighbours(self, pixels: Indices) -> Iterator[Indices]:
        """Yield each of the eight neighbours of pixels, (p,) int64."""
        above = (self._above.take(pixels >> 3) << 3) + (pixels & 7)
        for middle in (above, self.below(pixels)):
            yield from (middle - 1, middle, middle + 1)
        yield from (pixels - 1, pixels + 1)

    def spread(self, taken: Bools) -> Bools:
        """Return which pixels are taken, or beside one that is."""
        row = taken.copy()
        row[1:] |= taken[:-1]
        row[:-1] |= taken[1:]
        octets, result = row.view(np.uint64), row.copy()  # an octet of truth values is one number
        for other in (self._above, self._below):
            result |= octets.take(other).view(bool)
        return result


def _at(of_frame: NDArray[np.int32], pixels: Indices) -> Indices:
    """Return values of a map of the frame."""
    return of_frame.reshape(-1).take(pixels).astype(np.int64)


def _followed(to: Indices) -> Indices:
    """Return the end of each pointer."""
    while not np.array_equal(to, nearer := to.take(to)):
        to = nearer
    return to
