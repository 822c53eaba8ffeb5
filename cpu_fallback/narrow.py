"""Pixels whose 8- or 16-bit values are close together: they are sorted as bytes, all at once.

Values less the smallest one of their pixel fit a byte, but those of spots, which are cut at the
largest. A sorting network (Batcher's merge exchange) compares whole rows of a tile as they are:
nothing is transposed, and each step is the same for all pixels.
"""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gpu_spots.model import Array

CUT = np.iinfo(np.uint8).max
"""Larger values are cut to this one."""
TILE_VALUES, FEWEST_PIXELS, MOST_PIXELS = 3 << 20, 1 << 12, 1 << 15
"""Values of a tile, and pixels. With fewer, threads wait for the interpreter."""
FEWEST_SORTED = 1 << 10
"""Pixels that are sorted at once, at least."""
ROWS = 32
"""Frames that are worked on at a time."""
SHORT = np.iinfo(np.uint16).max

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def tile_pixels(n_frames: int, n_pixels: int) -> int:
    """Return the pixels of a tile of a band: they are equally many in all."""
    most = max(FEWEST_PIXELS, min(TILE_VALUES // n_frames, MOST_PIXELS))
    return -(-n_pixels // -(-n_pixels // most))


class Sorter:
    """Room for bytes of ``n`` frames and ``p`` pixels, and the steps that sort them."""

    def __init__(self, n: int, p: int, memory: Bytes | None = None) -> None:
        """Prepare the steps. ``memory``: of a sorter for more pixels, for fewer of them."""
        self.n_pixels = p
        p += -p % 8  # copied eight at a time
        n_bytes, n_room = n * p, (n // 2 + 1) * p
        n_short = 2 * min(n, ROWS) * p
        self._memory = np.zeros(n_bytes + n_room + n_short, np.uint8) if memory is None else memory
        held, room, short = np.split(
            self._memory[: n_bytes + n_room + n_short], [n_bytes, n_bytes + n_room]
        )
        self.bytes: Bytes = held.reshape(n, p)
        """(n, p): values, in any order or, after `sort`, ascending."""
        self._short = short.view(np.uint16).reshape(-1, p)
        self._steps = []
        for low, high in _exchanges(self.bytes):
            some = room[: low.size].reshape(low.shape)
            self._steps.append((low, high, some, low.view(np.uint64), some.view(np.uint64)))
        self._narrower: Sorter | None = None

    def of_pixels(self, p: int) -> "Sorter | None":
        """Return a sorter for ``p`` pixels, in the same memory; None: they are too few."""
        n, half = len(self.bytes), -(-self.n_pixels // 2)
        if p > half:
            return self
        if half < FEWEST_SORTED:
            return None
        if self._narrower is None:
            self._narrower = Sorter(n, half, self._memory)
        return self._narrower.of_pixels(p)

    def load(self, values: Array, lowest: Array) -> None:
        """Take values (n, p) of 8 or 16 bits less ``lowest`` (p,), the smallest of each pixel."""
        n_pixels = values.shape[1]
        of_bytes = np.uint8 if values.itemsize == 1 else np.uint16
        cut = np.full(n_pixels, CUT, np.uint16)
        for begin in range(0, len(values), ROWS):
            some = values[begin : begin + ROWS]
            into = self.bytes[begin : begin + ROWS, :n_pixels]
            if of_bytes is np.uint8:
                # differences modulo 2^8 are right, as they fit
                np.subtract(some.view(np.uint8), lowest.view(np.uint8), out=into)
                continue
            short = self._short[: len(some), :n_pixels]
            np.subtract(some.view(np.uint16), lowest.view(np.uint16), out=short)
            np.minimum(short, cut, out=short)
            np.copyto(into, short, casting="unsafe")

    def sort(self) -> None:
        """Put the values of each pixel in ascending order."""
        for low, high, some, eight_low, eight in self._steps:
            np.minimum(low, high, out=some)
            np.maximum(low, high, out=high)
            np.copyto(eight_low, eight)

    def sums(self, begin: int, end: int, n_pixels: int) -> tuple[Floats, Floats]:
        """Return sums of sorted values ``begin`` to ``end``, and of their squares, (p,) float64."""
        total, square = np.zeros(n_pixels, np.uint32), np.zeros(n_pixels, np.uint32)
        for first in range(begin, end, ROWS):
            some = self.bytes[first : min(first + ROWS, end), :n_pixels]
            short = self._short[: len(some), :n_pixels]
            np.copyto(short, some)
            total += np.add.reduce(short, axis=0, dtype=np.uint16)
            # so many squares are below 2^16 together
            group = min(len(some), SHORT // max(1, int(some[-1].max(initial=0)) ** 2))
            for i in range(0, len(some), group):
                square += np.einsum("sp,sp->p", short[i : i + group], short[i : i + group])
        return total.astype(np.float64), square.astype(np.float64)


def _exchanges(values: Bytes) -> Iterator[tuple[Bytes, Bytes]]:
    """Yield the rows that are compared, step by step: the smaller value goes to the first ones.

    Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2 M.
    """
    n, bits = len(values), (len(values) - 1).bit_length()
    for p in (1 << i for i in reversed(range(bits))):
        q, r, d = 1 << (bits - 1), 0, p
        while d > 0:
            # rows i with i & p = r, which are runs of p rows, and rows i + d
            whole, rest = divmod(max(0, n - d - r), 2 * p)
            if rest >= p:
                whole, rest = whole + 1, 0
            if whole:
                shape, strides = (
                    (whole, p, values.shape[1]),
                    (2 * p * values.strides[0], *values.strides),
                )
                low, high = (as_strided(values[i:], shape, strides) for i in (r, r + d))
                yield low, high
            if rest:
                first = r + 2 * p * whole
                yield values[first : first + rest], values[first + d : first + d + rest]
            d, q, r = q - p, q >> 1, p
