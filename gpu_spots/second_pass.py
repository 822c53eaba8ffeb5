"""Second pass over the frames: masks, their components, and the sums of the spots."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Prepared
from gpu_spots.background.noise import mean_counts
from gpu_spots.columns import Flag
from gpu_spots.masks.grouping import Groups
from gpu_spots.memory.needs import spans
from gpu_spots.memory.source import Source
from gpu_spots.memory.workers import Stopwatch, in_halves, in_order, with_retry
from gpu_spots.model import (
    FACTOR_BITS,
    Array,
    Background,
    Components,
    FoundMasks,
    Frames,
    Masks,
    Measurements,
    Morphology,
    PackedImages,
    SpotTable,
    following,
)
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Sink
from gpu_spots.spots.one_frame import stand_out
from gpu_spots.spots.profiles import WeightedSums
from gpu_spots.spots.properties import ComponentMaps, ComponentSums
from gpu_spots.spots.table import SpotTableBuilder, intensities, joined, label_image

AT_ONCE = 1 << 16
"""Pixels that are worked on at a time: what comes in between stays in the cache."""

Result = TypeVar("Result")
Sums = tuple[NDArray[np.float64], Measurements]
"""Intensities and other measurements of the spots of a batch."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images of consecutive masks that are to be written, on the host."""

    masks: dict[str, PackedImages]
    """Masks by kind, of the kinds that the sink keeps."""
    found: Components | None = None
    """Components of the masks; None: labels are not written with them."""
    sums: ComponentSums | None = None
    """Properties of the components that are the same on every frame."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Images of masks and labels that are ready for the sink."""

    masks: dict[str, list[Any]]
    labels: list[Any]


def background_of_masks(
    source: Source[Frames, Masks, Prepared], background: Background
) -> Background:
    """Return the background as masks by thresholds need it.

    Levelled frames need the part of the background that follows the levels, and have marks in place
    of invalid values.
    """
    if source.background_levels is None:
        return background
    pixels = background.validity.pixels
    marked = replace(source.validity.of_scaled(source.dtype), pixels=pixels)
    is_float = source.dtype.kind == "f"
    follows = np.empty(source.shape[1:], np.float64 if is_float else np.int64)
    for begin, end in spans(len(follows), max(1, AT_ONCE // follows.shape[1])):
        rows = slice(begin, end)
        part = following(mean_counts(background.mean, rows), background.constant_part)
        follows[rows] = part if is_float else np.floor(16.0 * part)
    return replace(background, validity=marked, follows=follows)


@dataclass(frozen=True, slots=True)
class _Piece(Generic[Result]):
    """Consecutive images of a batch that are encoded together."""

    begin: int
    """Index of the first mask of the batch."""
    first: int
    """Index of the first image in the batch."""
    last: int
    """Index after the last image in the batch."""
    is_last: bool
    """True: the batch ends with these images."""
    images: Images
    """Images of the whole batch, with its components."""
    result: Result
    """Result of the whole batch."""
    encoded: _Encoded | None
    """The images, ready for the sink; None: they are not encoded yet."""


class SecondPass(Generic[Frames, Masks, Prepared]):
    """Computation of masks, components and sums, in batches of frames.

    Worker threads compute and encode. Only the calling thread writes, in order.
    """

    def __init__(
        self,
        source: Source[Frames, Masks, Prepared],
        background: Background,
        parameters: Parameters,
        sink: Sink,
        observer: Observer,
        watch: Stopwatch,
    ) -> None:
        self.source = source
        self.shape = source.shape[1:]
        self.connectivity = parameters.connectivity
        self.mean = background.mean
        self.backend = source.backend
        if parameters.finder == "threshold":
            background = background_of_masks(source, background)
        morphology = Morphology(parameters.erosions, parameters.dilations, parameters.connectivity)
        self.prepared = with_retry(
            lambda: self.backend.prepare(background, morphology, source.saturation),
            self.backend.release,
        )
        self.sink = sink
        self.observer = observer
        self.watch = watch
        # spots by threshold are apart, unless corners do not connect them
        may_touch = parameters.finder == "matched" or parameters.connectivity == 1
        self.maps = ComponentMaps.of(background, may_touch=may_touch)
        self.noise_model = background.noise_model
        self.weights_centroids = parameters.finder == "matched" and self.noise_model is not None
        self.table = SpotTableBuilder(self.shape[1], source.dtype, background, source.factors)

    def frame_by_frame(self) -> SpotTable:
        """Label the filtered mask of each frame and measure its spots, in one pass."""

        def one_batch(begin: int, end: int) -> tuple[Images, Sums]:
            on_device = self.source.batch(begin, end)
            masks = self._find_masks(on_device, begin, end)
            found = self.backend.components(masks.filtered, self.connectivity)
            sums = self._measure(on_device, found, np.arange(end - begin), begin, end)
            # results that wait to be written hold no device memory
            found = replace(found, held=None)
            kinds = {"raw": masks.raw, "filtered": masks.filtered}
            return self._fetch(kinds, found, masks.invalid), sums

        for begin, end, (intensity, measured) in self._in_batches(
            "masks and spots", self.source.shape[0], "frames", one_batch
        ):
            self.table.add_measurements(intensity, measured, np.arange(begin, end))
        return self.table.table()

    def in_groups(self, groups: Groups) -> SpotTable:
        """Label the union of the masks of each group, and measure its spots on each frame.

        The frames are read once for the masks, and once more for the sums.
        """
        self.sink.expect_synced(groups.n_masks)
        return self._measured_on_frames(groups, self._label(*self._synced_masks(groups)))

    def _measured_on_frames(self, groups: Groups, found: Components) -> SpotTable:
        """Measure the spots of groups on each of their frames."""
        weighted = None
        if self.noise_model is not None:
            weighted = WeightedSums(
                found,
                self.maps,
                self.noise_model,
                groups.mask_of_frame,
                self.source.factors,
                with_intensities=True,
                surface=self.source.surface_of_spots,
            )

        def one_batch(begin: int, end: int) -> tuple[Images, Sums]:
            on_device = self.source.batch(begin, end)
            return Images({}), self._measure(
                on_device, found, groups.mask_of_frame[begin:end], begin, end, with_values=True
            )

        for begin, end, (intensity, measured) in self._in_batches(
            "spots", self.source.shape[0], "frames", one_batch
        ):
            mask_of_frame = groups.mask_of_frame[begin:end]
            if weighted is not None:
                assert measured.values is not None
                weighted.add(measured.values)
            self.table.add_measurements(intensity, replace(measured, values=None), mask_of_frame)
        table = self.table.table()
        if weighted is None:
            return table
        table = {**table, "spots/flags": self._flags(table)}
        sums = weighted.columns(partial(in_order, workers=self.source.plan.threads))
        centroids = sums.centroids() if self.weights_centroids else {}
        prf = {"spots/I_prf": sums.intensity, "spots/sigma_prf": sums.sigma}
        return {**table, **prf, **centroids}

    def _flags(self, table: SpotTable) -> Array:
        """Return the flags of spots with that of those that stand out on one frame."""
        scale: Array | float = 1.0
        if self.source.factors is not None:
            scale = self.source.factors[table["spots/frame"]] / 2**FACTOR_BITS
        found = stand_out(
            table["spots/mask"],
            table["spots/label"],
            scale * table["spots/I"],
            scale * table["spots/sigma"],
        )
        return table["spots/flags"] | np.where(found, Flag.ONE_FRAME, 0).astype(np.uint16)

    def _synced_masks(self, groups: Groups) -> tuple[Masks, Masks | None]:
        """Return the union of the filtered masks of each group, and its invalid pixels, if any.

        Pixels that are invalid on any frame of the group are excluded from the union.
        """
        synced = self._empty_masks(groups)
        invalid: Masks | None = None

        def one_batch(begin: int, end: int) -> tuple[Images, FoundMasks[Masks]]:
            masks = self._find_masks(self.source.batch(begin, end), begin, end)
            return self._fetch({"raw": masks.raw, "filtered": masks.filtered}), masks

        for begin, end, masks in self._in_batches(
            "masks", self.source.shape[0], "frames", one_batch
        ):
            mask_of_frame = groups.mask_of_frame[begin:end]
            self._unite(synced, masks.filtered, mask_of_frame)
            if masks.invalid is not None:
                invalid = self._empty_masks(groups) if invalid is None else invalid
                self._unite(invalid, masks.invalid, mask_of_frame)
        if invalid is None:
            return synced, None
        return with_retry(
            lambda: self.backend.without(synced, invalid), self.backend.release
        ), invalid

    def _empty_masks(self, groups: Groups) -> Masks:
        return with_retry(
            lambda: self.backend.empty_masks(groups.n_masks, self.shape), self.backend.release
        )

    def _unite(self, onto: Masks, masks: Masks, mask_of_frame: NDArray[np.int64]) -> None:
        """Unite masks of frames with those of their groups.

        If a device is full, this is done in halves, because masks may be copied to another device.
        """

        def some(begin: int, end: int) -> None:
            self.backend.union(onto, masks[begin:end], mask_of_frame[begin:end])

        in_halves(some, (0, len(masks)), self.backend.release)

    def _label(self, synced: Masks, invalid: Masks | None) -> Components:
        """Return the components of all synced masks, and write the masks and labels."""

        def one_batch(begin: int, end: int) -> tuple[Images, Components]:
            found = replace(
                self.backend.components(synced[begin:end], self.connectivity), held=None
            )
            of_batch = None if invalid is None else invalid[begin:end]
            return self._fetch({"synced": synced[begin:end]}, found, of_batch), found

        return joined(
            [found for *_, found in self._in_batches("labels", len(synced), "masks", one_batch)]
        )

    def _in_batches(
        self,
        stage: str,
        total: int,
        unit: str,
        one_batch: Callable[[int, int], tuple[Images, Result]],
    ) -> Iterator[tuple[int, int, Result]]:
        """Compute batches of ``total`` frames or masks, and write their images.

        Yields begin, end and the result of each batch, in order, after its images were written.
        """
        self.observer.stage(stage, total, unit)
        run = self.source.plan
        # batches of a device are large, so other threads encode them in pieces
        in_pieces = run.piece_frames < run.batch_frames

        def computed(begin: int, end: int) -> tuple[Images, Result, _Encoded | None]:
            images, result = one_batch(begin, end)
            return images, result, None if in_pieces else self._encode(images, 0, end - begin)

        def encode(piece: _Piece[Result]) -> tuple[_Piece[Result], _Encoded]:
            return piece, piece.encoded or self._encode(piece.images, piece.first, piece.last)

        batches = spans(total, run.batch_frames)
        with closing(
            self.source.in_order(
                partial(in_halves, computed, release=self.backend.release), batches
            )
        ) as parts:
            pieces = (
                _Piece(begin, first, last, last == end - begin, images, result, encoded)
                for part in parts
                for (begin, end), (images, result, encoded) in part
                for first, last in spans(end - begin, run.piece_frames)
            )
            for piece, encoded in (
                in_order(encode, pieces, run.threads) if in_pieces else map(encode, pieces)
            ):
                self._write(piece, encoded)
                if piece.is_last:
                    yield piece.begin, piece.begin + piece.last, piece.result
                self.observer.advance(piece.last - piece.first)

    def _find_masks(self, on_device: Frames, begin: int, end: int) -> FoundMasks[Masks]:
        frames = self.source.at_level(on_device, begin, end, self.prepared)
        return self.backend.find_masks(frames, self.prepared)

    def _measure(
        self,
        on_device: Frames,
        found: Components,
        mask_of_frame: NDArray[np.int64],
        begin: int,
        end: int,
        *,
        with_values: bool = False,
    ) -> Sums:
        """Measure the spots of the frames from ``begin`` to ``end``.

        Intensities are in the counts of the frames, not in scaled counts.
        """
        factors = None if self.source.factors is None else self.source.factors[begin:end]
        measured = self.backend.measure(
            on_device, found, mask_of_frame, self.prepared, factors, with_values=with_values
        )
        of_row = None if factors is None else np.repeat(factors, found.counts[mask_of_frame])
        intensity = intensities(measured, self.mean, of_row)
        surface = self.source.surface_of_spots
        if surface is None:
            return intensity, measured
        assert factors is not None
        excess = self.maps.excess(found, mask_of_frame, surface[begin:end], factors)
        return intensity - excess[0], replace(measured, excess=excess)

    def _fetch(
        self,
        masks: dict[str, Masks],
        found: Components | None = None,
        invalid: Masks | None = None,
        sums: ComponentSums | None = None,
    ) -> Images:
        """Bring the masks that the sink keeps to the host, and sum over the components.

        ``sums``: sums over the components without flags of neighbours; None: not known yet.
        """
        kinds = [kind for kind in masks if kind in self.sink.keep]
        images = dict(zip(kinds, self.backend.fetch([masks[kind] for kind in kinds]), strict=True))
        if found is None:
            return Images(images)
        (on_host,) = [None] if invalid is None else self.backend.fetch([invalid])
        return Images(images, found, self.maps.sums(found, on_host, sums))

    def _encode(self, images: Images, first: int, last: int) -> _Encoded:
        """Make images of some masks, and of their labels, ready for the sink, if it keeps them."""
        found = images.found
        return _Encoded(
            masks={
                kind: [self.sink.encode(partial(packed.__getitem__, i)) for i in range(first, last)]
                for kind, packed in images.masks.items()
            },
            labels=[
                self.sink.encode(partial(label_image, found, i, self.shape))
                for i in range(first, last)
            ]
            if found is not None and "labels" in self.sink.keep
            else [],
        )

    def _write(self, piece: _Piece[Any], encoded: _Encoded) -> None:
        """Write some images of a batch, and after the last ones the components of the batch."""
        found, begin = piece.images.found, piece.begin + piece.first
        with self.watch.stage("write"):
            for kind, masks in encoded.masks.items():
                self.sink.write_masks(kind, begin, masks)
            if found is not None:
                if encoded.labels:
                    counts = found.counts[piece.first : piece.last]
                    self.sink.write_labels(begin, counts, encoded.labels)
                if piece.is_last:
                    if "pixels" in self.sink.keep:
                        self.sink.write_pixels(found.pixels)
                    assert piece.images.sums is not None
                    self.table.add_components(found, piece.images.sums)
