"""Pictures of frames and maps: 8-bit grey levels, binned, as PNG; outlines and runs of masks.

A picture has the orientation of the array: X down, Y to the right. Arrays only: no file is read or
written here. PNG files are compressed by the codecs of HDF5: a frame of 2048 x 2048 takes a tenth
of the time that an image library takes.
"""

import base64
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import ParameterError
from gpu_spots.files.hdf5.codecs import compress
from gpu_spots.model import Array

SCALES = ("linear", "sqrt", "log")
"""Scales of the contrast."""
REDUCTIONS = ("max", "mean")
"""Ways to combine pixels by binning."""
PALETTES = ("grey", "inverted", "heat")
"""Colours of the grey levels."""
N_LEVELS = 254
"""Number of grey levels of a picture."""
OVERLOADED, INVALID = 254, 255
"""Levels of pixels that are saturated, and of pixels without a valid value."""
SAMPLE = 1 << 16
"""Values that percentiles are taken from."""
STEPS = 1 << 16
"""Steps between the limits that are told apart."""

Grey = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Runs = NDArray[np.int32]

_OVERLOADED_COLOUR, _INVALID_COLOUR = (255, 0, 170), (70, 105, 160)
_HEAT = ((0, 0, 4), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
"""Colours at equal distances; their lightness increases evenly."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Limits and scale of a picture. Raises `ParameterError` for an unknown scale."""

    low: float
    """Value of the first grey level, counts."""
    high: float
    """Value of the last grey level, counts."""
    scale: str = "linear"
    """One of `SCALES`."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ParameterError("scale", f"{self.scale!r} is not one of {', '.join(SCALES)}")


def contrast_of(
    image: Array,
    valid: Bools | None = None,
    percentiles: tuple[float, float] = (1.0, 99.8),
    scale: str = "linear",
) -> Contrast:
    """Return limits that suit an image, from a sample of its pixels.

    Args:
        image: (n_X, n_Y), counts.
        valid: (n_X, n_Y) bool: pixels to look at. None: all.
        percentiles: Percentages of the pixels below each limit.
        scale: One of `SCALES`.

    Returns:
        Two finite limits, of which the second is larger.
    """
    step = max(1, math.isqrt(image.size // SAMPLE))
    values = image[::step, ::step]
    if valid is not None:
        chosen = valid[::step, ::step]
        # pixels that are valid may be few, and between the sampled ones
        values = values[chosen] if chosen.any() else image[valid]
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return Contrast(0.0, 1.0, scale)
    low, high = (float(limit) for limit in np.percentile(values, percentiles))
    least = max(abs(low) * 2.0**-20, 2.0**-100)
    return Contrast(low, high if high - low >= least else low + max(1.0, least), scale)


def binned(
    image: Array, factor: int, how: str = "max", valid: Bools | None = None
) -> tuple[Array, Bools | None]:
    """Combine squares of pixels. Pixels that are not valid are left out.

    Args:
        image: (n_X, n_Y), counts.
        factor: Side of the squares, pixels. Squares at the end may be smaller.
        how: ``"max"``, which keeps small spots, or ``"mean"``.
        valid: (n_X, n_Y) bool. None: all pixels.

    Returns:
        (ceil(n_X / factor), ceil(n_Y / factor)), the image's type, or float32 for ``"mean"``; and
        which of these pixels have a valid one, bool, or None if all have.

    Raises:
        ParameterError: ``how`` is not one of `REDUCTIONS`.
    """
    if how not in REDUCTIONS:
        raise ParameterError("how", f"{how!r} is not one of {', '.join(REDUCTIONS)}")
    if factor <= 1:
        return (image if how == "max" else image.astype(np.float32)), valid
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            valid = finite if valid is None else valid & finite
    if how == "max":
        if valid is not None:
            lowest = -np.inf if image.dtype.kind == "f" else np.iinfo(image.dtype).min
            image = np.where(valid, image, image.dtype.type(lowest))
        return _reduced(image, factor, np.maximum), _any(valid, factor)
    values = image.astype(np.float32)
    if valid is None:
        rows, columns = (_sizes(n, factor) for n in image.shape)
        return _reduced(values, factor, np.add) / np.outer(rows, columns).astype(np.float32), None
    values[~valid] = 0
    counts = _reduced(valid.astype(np.float32), factor, np.add)
    return _reduced(values, factor, np.add) / np.maximum(counts, 1), counts > 0


def grey_levels(
    image: Array,
    contrast: Contrast,
    valid: Bools | None = None,
    saturation: float | None = None,
) -> Grey:
    """Return the grey level of each pixel.

    Args:
        image: (n_X, n_Y), counts.
        contrast: Limits and scale. The logarithmic scale begins at the lower limit, or at 1 count
            or 1/10000 of the upper limit where the lower one is below these.
        valid: (n_X, n_Y) bool. None: all pixels.
        saturation: Smallest saturated value, counts. None: unknown.

    Returns:
        (n_X, n_Y) uint8: from 0 to ``N_LEVELS - 1``; `OVERLOADED` for saturated pixels; `INVALID`
        for pixels that are not valid, and for values that are not finite.
    """
    if image.dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        # one level for each value that there is
        table = _levels(np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float64), contrast)
        if saturation is not None:
            table[max(0, math.ceil(saturation)) :] = OVERLOADED
        levels: Grey = table[image]
    else:
        is_short = image.dtype in (np.dtype(np.float32), np.dtype(np.int16))
        kind = np.float32 if is_short else np.float64
        part = (STEPS - 1) / (contrast.high - contrast.low)
        with np.errstate(invalid="ignore", over="ignore"):
            steps: Array = np.subtract(image, kind(contrast.low), dtype=kind) * kind(part)
            np.clip(steps, 0, STEPS - 1, out=steps)
            finite = np.isfinite(image) if image.dtype.kind == "f" else None
            if finite is not None:
                steps[np.isnan(steps)] = 0
            values = contrast.low + np.arange(STEPS) / part
            levels = _levels(values, contrast)[np.rint(steps).astype(np.uint16)]
        if saturation is not None:
            levels[image >= saturation] = OVERLOADED
        if finite is not None:
            levels[~finite] = INVALID
    if valid is not None:
        levels[~valid] = INVALID
    return levels


def png(levels: Grey, palette: str = "grey", *, small: bool = False) -> bytes:
    """Return a PNG file.

    Args:
        levels: (n_X, n_Y) uint8, from `grey_levels`.
        palette: One of `PALETTES`. Saturated and invalid pixels have colours of their own.
        small: Compress more, which takes up to a second for 2048 x 2048.

    Returns:
        Bytes of the file. Row X = 0 is at the top.

    Raises:
        ParameterError: There is no such palette.
    """
    n_rows, n_columns = levels.shape
    rows = np.zeros((n_rows, n_columns + 1), np.uint8)  # the first byte is the filter: none
    rows[:, 1:] = levels
    pixels = compress(rows)
    if small:
        others = [zlib.compress(rows.tobytes(), 9)]
        rows[1:, 1:] = levels[1:] - levels[:-1]
        rows[:, 0] = 2  # the difference from the row above
        others.append(zlib.compress(rows.tobytes(), 9))
        pixels = min(pixels, *others, key=len)
    header = struct.pack(">IIBBBBB", n_columns, n_rows, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", _colours(palette).tobytes()),
        (b"IDAT", pixels),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(picture: bytes) -> str:
    """Return a PNG file as the address of an image in a page."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def runs(mask: Array) -> Runs:
    """Return the runs of pixels of a mask along its rows.

    Args:
        mask: (n_X, n_Y), bool or a type whose values other than 0 are in the mask.

    Returns:
        (n, 3) int32: X, Y begin, Y end (exclusive), in raster order.

    Examples:
        >>> import numpy as np
        >>> runs(np.array([[0, 1, 1, 0], [1, 0, 0, 1]])).tolist()
        [[0, 1, 3], [1, 0, 1], [1, 3, 4]]
    """
    n_rows, n_columns = mask.shape
    padded = np.zeros((n_rows, n_columns + 1), np.int8)  # no run goes on in the next row
    padded[:, :-1] = mask != 0
    change = np.diff(padded.reshape(-1), prepend=np.int8(0))
    begin, end = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    row, first = np.divmod(begin, n_columns + 1)
    return np.stack([row, first, first + (end - begin)], axis=1).astype(np.int32)


def runs_of_pixels(pixels: NDArray[np.integer], n_columns: int) -> Runs:
    """Return the runs of the pixels of a spot.

    Args:
        pixels: (p,) flat indices ``X * n_columns + Y``, ascending, as in ``spots/pixel_list``.
        n_columns: Length of the frame along Y.

    Returns:
        (n, 3) int32: X, Y begin, Y end (exclusive).
    """
    if not len(pixels):
        return np.zeros((0, 3), np.int32)
    flat = np.asarray(pixels, np.int64)
    row, column = np.divmod(flat, n_columns)
    is_first = np.r_[True, (np.diff(flat) != 1) | (np.diff(row) != 0)]
    is_last = np.r_[is_first[1:], True]
    found = np.stack([row[is_first], column[is_first], column[is_last] + 1], axis=1)
    return found.astype(np.int32)


def outlines(labels: Array) -> tuple[Runs, Runs]:
    """Return the lines between pixels of different labels, along both axes.

    Args:
        labels: (n_X, n_Y), bool, or integers with 0 outside of the spots.

    Returns:
        Lines along Y, (n, 3) int32: X, Y begin, Y end; and lines along X, (m, 3) int32: Y, X begin,
        X end. Coordinates are those of the edges of pixels: pixel X extends from X to X + 1.
    """
    n_rows, n_columns = labels.shape
    padded = np.zeros((n_rows + 2, n_columns + 2), labels.dtype)
    padded[1:-1, 1:-1] = labels
    along_y = padded[1:, 1:-1] != padded[:-1, 1:-1]
    along_x = padded[1:-1, 1:] != padded[1:-1, :-1]
    return runs(along_y), runs(np.ascontiguousarray(along_x.T))


def outline_path(labels: Array, X: int = 0, Y: int = 0) -> str:
    """Return the outlines of labels as the path of an SVG image, in which x is Y and y is X.

    Args:
        labels: (n_X, n_Y), as in `outlines`.
        X: Row of the first pixel of ``labels`` in the picture.
        Y: Its column.

    Examples:
        >>> import numpy as np
        >>> outline_path(np.array([[1]]), X=5, Y=8)
        'M8 5h1M8 6h1M8 5v1M9 5v1'
    """
    along_y, along_x = outlines(labels)
    return "".join(
        [f"M{Y + begin} {X + row}h{end - begin}" for row, begin, end in along_y.tolist()]
        + [f"M{Y + column} {X + begin}v{end - begin}" for column, begin, end in along_x.tolist()]
    )


def _reduced(image: Array, factor: int, combine: np.ufunc) -> Array:
    """Combine squares of pixels by maxima or sums: by strides, as reshaped maxima are slow."""
    result = image[::factor, ::factor].copy()
    for row in range(min(factor, image.shape[0])):
        for column in range(min(factor, image.shape[1])):
            if row or column:
                part = image[row::factor, column::factor]
                place = result[: part.shape[0], : part.shape[1]]
                combine(place, part, out=place)
    return result


def _any(valid: Bools | None, factor: int) -> Bools | None:
    return None if valid is None else _reduced(valid, factor, np.logical_or)


def _sizes(n: int, factor: int) -> NDArray[np.int64]:
    """Return the number of pixels of each bin along an axis."""
    return np.minimum(factor, n - np.arange(0, n, factor))


def _levels(values: NDArray[np.float64], contrast: Contrast) -> Grey:
    """Return the grey level of each of some values."""
    low, high = contrast.low, contrast.high
    if contrast.scale == "log":
        low = max(low, min(1.0, high * 1e-4), 2.0**-1000)
        high = max(high, low * (1 + 2.0**-20))
        part = np.log(np.maximum(values, low) / low) / math.log(high / low)
    else:
        part = np.clip((values - low) / (high - low), 0, 1)
        part = np.sqrt(part) if contrast.scale == "sqrt" else part
    return np.rint(np.clip(part, 0, 1) * (N_LEVELS - 1)).astype(np.uint8)


def _colours(palette: str) -> Grey:
    """Return the colours of all levels, (256, 3) uint8."""
    if palette not in PALETTES:
        raise ParameterError("palette", f"{palette!r} is not one of {', '.join(PALETTES)}")
    part = np.linspace(0, 1, N_LEVELS)
    if palette == "heat":
        places = np.linspace(0, 1, len(_HEAT))
        found = np.stack([np.interp(part, places, one) for one in zip(*_HEAT, strict=True)], axis=1)
    else:
        found = np.repeat((part if palette == "grey" else 1 - part)[:, None] * 255, 3, axis=1)
    return np.vstack([np.rint(found), _OVERLOADED_COLOUR, _INVALID_COLOUR]).astype(np.uint8)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
