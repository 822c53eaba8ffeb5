"""Pairs of neighbouring pixels in sparse images."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def neighbours(
    image: Indices, pixel: Indices, shape: tuple[int, ...]
) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of pixels that share an edge or a corner, in four parts, one a direction.

    Args:
        image: (p,) int64: index of the image of each pixel, ascending.
        pixel: (p,) int64: flat index of each pixel in its image, ascending inside an image.
        shape: (n_X, n_Y) of the images.

    Yields:
        Positions in ``pixel`` of the first and of the second pixel of each pair; the first one
        comes first in raster order.
    """
    if not len(pixel):
        return
    n_rows, n_columns = shape
    place = image * (n_rows * n_columns) + pixel
    column = pixel % n_columns
    at = np.flatnonzero((np.diff(place) == 1) & (column[:-1] < n_columns - 1))
    yield at, at + 1
    has_row_below = pixel < (n_rows - 1) * n_columns
    other = np.searchsorted(place, place + (n_columns - 1))
    for step, is_inside in (
        (-1, column > 0),
        (0, has_row_below),
        (1, column < n_columns - 1),
    ):
        is_there = place[np.minimum(other, len(place) - 1)] == place + (n_columns + step)
        at = np.flatnonzero(is_there & has_row_below & is_inside)
        yield at, other[at]
        other = other + is_there
