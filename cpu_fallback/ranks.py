"""Ranks of many pixels at once, as integers, and what is left of them when values leave.

A centred rank is twice the rank less n + 1: the number of values that are smaller less the number
that are larger, ties included.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array

TABLE_FROM = 20
"""Number of values from which on looking up ranks is faster than comparing each pair."""


def centred_ranks(
    rows: Array, dtype: np.dtype[Any], usable: NDArray[np.bool_] | None, place: NDArray[np.int64]
) -> Array:
    """Return the centred rank of each value among the valid ones of its pixel, (n, p).

    The type is int16 for up to 2^15 values, else int32. The rank of an invalid value is 0.

    ``rows`` (p, n) hold the values, all within ``dtype``; ``usable`` (n, p), None: all are. Column
    ``i`` of rows becomes row ``place[i]``.

    Values are sorted together with their place, and then by it, once with ascending places among
    equals and once with descending ones: the sum of both positions is the same for all equals. Four
    sorts are faster than one and a walk along its ties.
    """
    n = rows.shape[1]
    bits = max(1, (n - 1).bit_length())
    keys = _ordered_keys(rows, dtype, usable, bits)
    twice = _positions(keys | place.astype(keys.dtype), bits)
    keys |= (n - 1 - place).astype(keys.dtype)
    twice += _positions(keys, bits)[:, ::-1]
    # wraps where negative, as the signed view expects
    twice -= (
        np.uint32(n - 1)
        if usable is None
        else usable.sum(axis=0, dtype=np.uint32)[:, None] - np.uint32(1)
    )
    ranks = np.empty((n, len(rows)), np.int16 if n <= 2**15 else np.int32)
    np.copyto(ranks, twice.view(np.int32).T, casting="unsafe")
    if usable is not None:
        ranks[place] *= usable
    return ranks


def _ordered_keys(
    rows: Array, dtype: np.dtype[Any], usable: NDArray[np.bool_] | None, bits: int
) -> Array:
    """Return unsigned integers in the order of the values; invalid ones are above all others.

    Their last ``bits`` bits are free.
    """
    if dtype == np.float64:
        rows, dtype = _dense(rows), np.dtype(np.uint16)
    width = 8 * dtype.itemsize
    integer = np.uint32 if width + 1 + bits <= 32 else np.uint64
    if dtype.kind == "f":
        pattern = (rows + dtype.type(0)).view(np.uint32)  # no negative zero
        keys = np.where(pattern >> 31, ~pattern, pattern | np.uint32(1 << 31)).astype(integer)
    else:
        keys = rows.astype(integer)
        if dtype.kind == "i":
            keys += integer(1 << (width - 1))
    keys <<= integer(bits)
    if usable is not None:
        keys[~usable.T] = 1 << (width + bits)
    return keys


def _dense(rows: Array) -> NDArray[np.uint16]:
    """Return the number of different values below each value of rows (p, n), n <= 2^16."""
    order = rows.argsort(axis=1)
    ascending = np.take_along_axis(rows, order, axis=1)
    below = np.zeros(rows.shape, np.uint16)
    np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1, dtype=np.uint16, out=below[:, 1:])
    codes = np.empty_like(below)
    np.put_along_axis(codes, order, below, axis=1)
    return codes


def _positions(keys: Array, bits: int) -> NDArray[np.uint32]:
    """Sort rows of keys in place, and return the new position of each.

    The last ``bits`` bits of a key are its number.
    """
    keys.sort(axis=1)
    keys &= keys.dtype.type((1 << bits) - 1)
    by_number = keys.astype(np.uint32, copy=False)
    by_number <<= np.uint32(bits)
    by_number |= np.arange(keys.shape[1], dtype=np.uint32)
    by_number.sort(axis=1)
    by_number &= np.uint32((1 << bits) - 1)
    return by_number


def order_codes(ranks: Array) -> Array:
    """Return short integers in the order of the ranks (n, p) of valid values.

    The type is uint8 for up to 256 values, else uint16.
    """
    n = len(ranks)
    # ranks that differ do so by two at least; the unsigned view wraps back where the sum is
    # positive
    return ((ranks.view(f"u{ranks.itemsize}") + n) >> 1).astype(np.uint8 if n <= 256 else np.uint16)


def forget(
    ranks: Array, codes: Array, gone: Array, counts: NDArray[np.bool_] | None = None
) -> None:
    """Take the comparisons with values that leave out of the ranks of all others, in place.

    ``ranks`` and ``codes`` (n, p) of the others; ``gone`` (k, p) codes of those that leave;
    ``counts`` (k, p): which of these are usable.
    """
    if len(gone) < TABLE_FROM:
        ranks -= _compared_one_by_one(codes, gone, counts)
    else:
        ranks -= _looked_up(codes, gone, counts, ranks.dtype)


def _compared_one_by_one(
    codes: Array, gone: Array, counts: NDArray[np.bool_] | None
) -> NDArray[np.int8]:
    """Return how many of the values ``gone`` are below a value less how many are above it.

    The result is (n, p) int8.
    """
    above = below = gone
    if counts is not None:
        # nothing is above the largest code, nothing is below 0
        above, below = np.where(counts, gone, np.iinfo(gone.dtype).max), np.where(counts, gone, 0)
    balance, differs = np.zeros(codes.shape, np.int8), np.empty(codes.shape, bool)
    for high, low in zip(above, below, strict=True):
        np.greater(codes, high, out=differs)
        balance += differs.view(np.int8)
        np.less(codes, low, out=differs)
        balance -= differs.view(np.int8)
    return balance


def _looked_up(
    codes: Array, gone: Array, counts: NDArray[np.bool_] | None, dtype: np.dtype[Any]
) -> Array:
    """Return the ranks (n, p) from a table of every code of a pixel."""
    pixels = np.arange(codes.shape[1])
    beyond = max(int(codes.max()), int(gone.max())) + 1
    table = np.zeros((beyond + 2, len(pixels)), dtype)
    table[0] = -len(gone) if counts is None else -np.count_nonzero(counts, axis=0)
    flat = table.reshape(-1)
    rows = gone.astype(np.intp)
    if counts is not None:
        rows[~counts] = beyond
    for row in rows:
        # one more from its own code on, as it is not above; and one more after it, as it is below
        flat[row * len(pixels) + pixels] += 1
        flat[(row + 1) * len(pixels) + pixels] += 1
    for before, here in pairwise(table):  # faster than cumsum
        here += before
    at = codes.astype(np.intp)
    at *= len(pixels)
    at += pixels
    return flat.take(at, mode="clip")
