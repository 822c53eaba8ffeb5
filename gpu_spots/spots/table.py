"""Component sums become the table of spots."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import (
    FACTOR_BITS,
    Array,
    Background,
    Components,
    FixedPointMean,
    Measurements,
    SpotTable,
)
from gpu_spots.spots.properties import (
    ComponentSums,
    joined_sums,
    spot_columns,
)


def intensities(
    measured: Measurements,
    mean: FixedPointMean | NDArray[np.float64],
    factors: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the sum of I - background of each spot, (s,) float64, counts.

    For integer frames it is exact up to one division: ``(scale * sum(I) - sum(B)) / scale``.

    ``factors``: (s,) int64, the factor of each row's frame, where frames were scaled: the
    background is then that of scaled counts, and ``(factor * scale * sum(I) - 2^16 * sum(B)) /
    (factor * scale)`` brings it to the frame's own.
    """
    if not isinstance(mean, FixedPointMean):
        return np.asarray(measured.total, np.float64)
    total, high, low = measured.total, measured.background_high, measured.background_low
    assert high is not None
    assert low is not None
    if (
        factors is None
        and _largest(total) * mean.scale + (_largest(high) << 32) + _largest(low) < 2**63
    ):
        return (total * mean.scale - (high << 32) - low).astype(np.float64) / mean.scale
    # beyond 64 bits Python's integers go on, and float() rounds them once, to nearest even
    one = 1 if factors is None else 2**FACTOR_BITS
    rows = zip(
        total.tolist(),
        high.tolist(),
        low.tolist(),
        [1] * len(total) if factors is None else factors.tolist(),
        strict=True,
    )
    exact = [(f * mean.scale * i - one * ((h << 32) + b), f * mean.scale) for i, h, b, f in rows]
    return np.array(
        [float(numerator) / float(denominator) for numerator, denominator in exact], np.float64
    )


def _largest(values: NDArray[np.int64]) -> int:
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


class SpotTableBuilder:
    """Spots, added batch by batch. Masks are added in their order, and so are frames."""

    def __init__(
        self,
        n_columns: int,
        dtype: np.dtype[Any],
        background: Background,
        factors: NDArray[np.int64] | None = None,
    ) -> None:
        """Prepare an empty table.

        Args:
            n_columns: n_Y of the frames.
            dtype: type of the frames.
            background: background of the run; its maps are not kept.
            factors: (n_frames,) int64, 2^-16: factor of each frame; None: frames are not scaled.
        """
        self._n_columns = n_columns
        self._dtype = dtype
        mean = background.mean
        self._scale = mean.scale if isinstance(mean, FixedPointMean) else None
        self._noise = background.noise_model
        self._factors = factors
        self._n_pixels = 0
        self._ranges: list[NDArray[np.int64]] = []
        self._boxes: list[NDArray[np.int32]] = []
        self._counts: list[NDArray[np.int32]] = []
        self._covered: list[NDArray[np.int64]] = []
        self._sums: list[ComponentSums] = []
        self._intensity: list[NDArray[np.float64]] = []
        self._measured: list[Measurements] = []
        self._mask_of_frame: list[NDArray[np.int64]] = []

    def add_components(self, found: Components, sums: ComponentSums) -> None:
        """Add the components of the next masks, whose pixels follow those of the masks before."""
        self._sums.append(sums)
        self._ranges.append(np.stack([found.begin[:-1], found.begin[1:]], axis=1) + self._n_pixels)
        self._boxes.append(found.box)
        self._counts.append(found.counts)
        self._covered.append(np.diff(found.begin[found.first]))
        self._n_pixels += len(found.pixels)

    def add_measurements(
        self,
        intensity: NDArray[np.float64],
        measured: Measurements,
        mask_of_frame: NDArray[np.int64],
    ) -> None:
        """Add the spots of the next frames, by frame, then label."""
        self._intensity.append(intensity)
        self._measured.append(measured)
        self._mask_of_frame.append(mask_of_frame)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Number of components of each mask so far, (n_masks,) int32."""
        return np.concatenate([np.zeros(0, np.int32), *self._counts])

    @property
    def covered(self) -> NDArray[np.int64]:
        """Number of pixels in the components of each mask so far, (n_masks,) int64."""
        return np.concatenate([np.zeros(0, np.int64), *self._covered])

    def table(self) -> SpotTable:
        """Return the columns of all spots, masks and frames."""
        counts = self.counts.astype(np.int64)
        mask_of_frame = np.concatenate(self._mask_of_frame)
        measured = Measurements.joined(self._measured)
        intensity = np.concatenate(self._intensity)
        spots_of_frame = counts[mask_of_frame]
        frame = np.repeat(np.arange(len(mask_of_frame)), spots_of_frame)
        end = np.cumsum(spots_of_frame)
        begin = end - spots_of_frame
        label = np.arange(len(frame)) - begin[frame]
        component = (np.cumsum(counts) - counts)[mask_of_frame[frame]] + label
        box = np.concatenate(self._boxes)[component]
        properties = spot_columns(
            measured,
            intensity,
            joined_sums(self._sums),
            component,
            box,
            self._scale,
            None if self._factors is None else self._factors[frame],
            self._dtype,
            self._noise,
        )
        overload = measured.overload
        table = {
            "masks/counts": self.counts,
            "spots/I": intensity,
            "spots/XY": np.stack(np.divmod(measured.peak, self._n_columns), axis=1).astype(
                np.int32
            ),
            "spots/box": box,
            "spots/frame": frame.astype(np.int32),
            "spots/label": (label + 1).astype(np.int32),
            "spots/mask": mask_of_frame[frame].astype(np.int32),
            "spots/pixel_list_BE": np.concatenate(self._ranges)[component],
            "spots/overload": None if overload is None else overload.astype(np.int32),
            **{f"spots/{name}": values for name, values in properties.items()},
            "per_frame/mask": mask_of_frame.astype(np.int32),
            "per_frame/n_spots": spots_of_frame.astype(np.int32),
            "frame2spotsBE": np.stack([begin, end], axis=1),
        }
        return {path: values for path, values in table.items() if values is not None}


def label_image(found: Components, mask: int, shape: tuple[int, int]) -> Array:
    """Return the labels of the components of one mask, (n_X, n_Y), 0 elsewhere.

    The type is uint16, or uint32 for more than 65535 components.
    """
    begin = found.begin[found.first[mask] : found.first[mask + 1] + 1]
    n_spots = len(begin) - 1
    image = np.zeros(shape, np.uint16 if n_spots <= 65535 else np.uint32)
    labels = np.arange(1, n_spots + 1, dtype=image.dtype)
    image.reshape(-1)[found.pixels[begin[0] : begin[-1]]] = np.repeat(labels, np.diff(begin))
    return image


def joined(parts: list[Components]) -> Components:
    """Return the components of consecutive batches of masks as those of one batch."""

    def offsets(names: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return running begins of consecutive stretches, given by their begins and ends."""
        lengths = [np.diff(begins) for begins in names]
        return np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))

    return Components(
        pixels=np.concatenate([part.pixels for part in parts]),
        begin=offsets([part.begin for part in parts]),
        box=np.concatenate([part.box for part in parts]),
        first=offsets([part.first for part in parts]),
    )
