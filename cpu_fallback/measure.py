"""Sums and maxima over components, for every frame that shares the components' mask."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.prepared import Prepared
from gpu_spots.model import (
    FACTOR_BITS,
    HALF_BITS,
    Array,
    Components,
    FixedPointMean,
    Measurements,
)
from gpu_spots.spots.neighbours import neighbours

PIECE = 1 << 15
"""Pixels of spots that are worked on at a time: what comes in between stays in the cache."""


@dataclass(frozen=True, slots=True)
class _Spots:
    """Pixels of the spots of a batch: the components once for every frame that has them."""

    pixels: NDArray[np.int64]
    """(p,) int64: flat index in the frame."""
    begin: NDArray[np.int64]
    """(s,) int64: first pixel of each spot."""
    frame: NDArray[np.int64]
    """(p,) int64: frame of each pixel."""
    box: NDArray[np.int32]
    """(s, 4) int32: as in `Components`."""

    @property
    def length(self) -> NDArray[np.int64]:
        """(s,) int64: number of pixels of each spot."""
        return np.diff(self.begin, append=len(self.pixels))


def measure(
    frames: Array,
    components: Components,
    mask_of_frame: NDArray[np.integer],
    prepared: Prepared,
    factors: NDArray[np.integer] | None,
    *,
    with_values: bool = False,
) -> Measurements:
    """Measure every frame's components; see ``gpu_spots.backend.Operations.measure``."""
    counts = np.diff(components.begin[components.first])[mask_of_frame]
    parts = []
    for begin, end in _stretches(counts, PIECE):
        some = None if factors is None else factors[begin:end]
        masks = mask_of_frame[begin:end]
        parts.append(
            _measure(frames[begin:end], components, masks, prepared, some, with_values=with_values)
        )
    return parts[0] if len(parts) == 1 else Measurements.joined(parts)


def _stretches(counts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of stretches of frames with at most ``most`` pixels, or of one frame."""
    begin, n = 0, 0
    for frame, count in enumerate(counts.tolist()):
        if n and n + count > most:
            yield begin, frame
            begin, n = frame, 0
        n += count
    yield begin, len(counts)


def _measure(
    frames: Array,
    components: Components,
    mask_of_frame: NDArray[np.integer],
    prepared: Prepared,
    factors: NDArray[np.integer] | None,
    *,
    with_values: bool,
) -> Measurements:
    """Measure the components of a few frames."""
    mean, saturation = prepared.mean, prepared.saturation
    frame_shape = frames.shape[1:]
    spots = _repeated(components, mask_of_frame)
    pixels, begin = spots.pixels, spots.begin
    is_exact = isinstance(mean, FixedPointMean)
    is_wide = is_exact and frames.dtype.itemsize == 4
    if not len(begin):
        none, no_sums = np.zeros(0, np.int64), np.zeros((5, 0), np.int64)
        return Measurements(
            total=none if is_exact else np.zeros(0),
            background_high=none if is_exact else None,
            background_low=none if is_exact else None,
            peak=none,
            overload=None if saturation is None else none,
            largest=none if is_exact else np.zeros(0),
            n_maxima=none,
            moments=no_sums if is_exact else np.zeros((5, 0)),
            moments_high=no_sums if is_wide else None,
            values=np.zeros(0, frames.dtype.newbyteorder("=")) if with_values else None,
        )
    spot = np.repeat(np.arange(len(begin)), spots.length)
    found = frames.reshape(-1)[pixels + spots.frame * (frame_shape[0] * frame_shape[1])]
    values = found.astype(np.int64 if is_exact else np.float64)
    largest = np.maximum.reduceat(values, begin)
    peak = pixels[_first_of(values == largest[spot], begin)]
    overload = (
        None
        if saturation is None
        else np.add.reduceat(found >= np.float64(saturation), begin, dtype=np.int64)
    )
    n_maxima = _count_maxima(values, largest, spot, spots, frame_shape)
    places = _places(spots, spot, frame_shape[1])
    if isinstance(mean, FixedPointMean):
        lower = values & (2**HALF_BITS - 1) if is_wide else values
        return Measurements(
            total=np.add.reduceat(values, begin),
            background_high=_sum_of(mean.high, pixels, begin),
            background_low=_sum_of(mean.low, pixels, begin),
            peak=peak,
            overload=overload,
            largest=largest,
            n_maxima=n_maxima,
            moments=_exact_moments(lower, places, begin),
            moments_high=_exact_moments(values >> HALF_BITS, places, begin) if is_wide else None,
            values=found if with_values else None,
        )
    background = mean.reshape(-1)[pixels]
    # values may be as large as the type allows
    with np.errstate(over="ignore", invalid="ignore"):
        if factors is not None:
            background *= (2**FACTOR_BITS / factors)[spots.frame]
        difference = values - background
        # bincount adds one value after the other, in a defined order; reduceat adds in pairs
        total = np.bincount(spot, weights=difference)
        x, y = places
        moments = np.stack(
            [np.bincount(spot, weights=difference * u) for u in (x, y, x * x, y * y, x * y)]
        )
    return Measurements(
        total=total,
        background_high=None,
        background_low=None,
        peak=peak,
        overload=overload,
        largest=largest,
        n_maxima=n_maxima,
        moments=moments,
        moments_high=None,
        values=found if with_values else None,
    )


def _repeated(components: Components, mask_of_frame: NDArray[np.integer]) -> _Spots:
    """Return the components' pixels once for every frame."""
    first, last = components.first[mask_of_frame], components.first[mask_of_frame + 1]
    pixel_first, pixel_last = components.begin[first], components.begin[last]
    length = pixel_last - pixel_first
    frame = np.repeat(np.arange(len(mask_of_frame)), length)
    if np.array_equal(mask_of_frame, np.arange(len(components.first) - 1)):
        return _Spots(components.pixels, components.begin[:-1], frame, components.box)
    shift = np.cumsum(length) - length - pixel_first
    spans = list(zip(first, last, shift, strict=True))
    return _Spots(
        pixels=np.concatenate(
            [components.pixels[a:b] for a, b in zip(pixel_first, pixel_last, strict=True)]
        ),
        begin=np.concatenate([components.begin[a:b] + s for a, b, s in spans]),
        frame=frame,
        box=np.concatenate([components.box[a:b] for a, b, _ in spans]),
    )


def _first_of(hit: NDArray[np.bool_], begin: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the first hit of each spot."""
    hits = np.flatnonzero(hit)
    return hits[np.searchsorted(hits, begin)]


def _sum_of(
    mean: Array | None, pixels: NDArray[np.int64], begin: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return exact sums of a background map over components."""
    if mean is None:
        return np.zeros(len(begin), np.int64)
    return np.add.reduceat(mean.reshape(-1)[pixels].astype(np.int64), begin)


def _places(
    spots: _Spots, spot: NDArray[np.int64], n_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return x and y of each pixel in the box of its spot."""
    row = spots.pixels // n_columns
    column = spots.pixels - row * n_columns
    return row - spots.box[spot, 0], column - spots.box[spot, 2]


def _exact_moments(
    values: NDArray[np.int64],
    places: tuple[NDArray[np.int64], NDArray[np.int64]],
    begin: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return sums of value * u, (5, s), for u of `Measurements.moments`."""
    x, y = places
    by_x, by_y = values * x, values * y
    return np.stack(
        [np.add.reduceat(part, begin) for part in (by_x, by_y, by_x * x, by_y * y, by_x * y)]
    )


def _count_maxima(
    values: Array,
    largest: Array,
    spot: NDArray[np.int64],
    spots: _Spots,
    frame_shape: tuple[int, ...],
) -> NDArray[np.int64]:
    """Return the number of local maxima of each spot.

    A pixel that is at least half as high as the largest one has higher neighbours only among such
    pixels, so no other pixels are compared.
    """
    least = np.minimum.reduceat(values, spots.begin)
    is_float = values.dtype.kind == "f"
    half = (0.5 * largest + 0.5 * least if is_float else largest + least)[spot]
    high = np.flatnonzero((values if is_float else 2 * values) >= half)
    value, spot = values[high], spot[high]
    is_beaten = np.zeros(len(high), bool)
    for at, other in neighbours(spot, spots.pixels[high], frame_shape):
        # the lower one, or of equals the second
        is_lower = value[other] > value[at]
        is_beaten[at[is_lower]] = True
        is_beaten[other[~is_lower]] = True
    return np.bincount(spot[~is_beaten], minlength=len(spots.begin))
