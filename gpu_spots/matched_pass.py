"""Second pass of ``--finder matched``: significance, seeds, spots and sums, batch by batch.

With groups of frames the significance of each group is added up first, so that spots are found
which no single frame shows. The rule is `docs/decisions/matched-finder.md`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Prepared
from gpu_spots.background.methods import Method
from gpu_spots.columns import Flag
from gpu_spots.masks.brightness import light_of_groups
from gpu_spots.masks.grouping import Groups, frames_alone
from gpu_spots.masks.matched import SignificanceMaps, significance_maps
from gpu_spots.masks.noise_map import noise_map
from gpu_spots.masks.seed_levels import NEVER, SAMPLE_FRAMES, Calibration, SeedLevels, Thresholds
from gpu_spots.memory.source import Source
from gpu_spots.memory.workers import Span, Stopwatch, with_retry
from gpu_spots.model import (
    FACTOR_BITS,
    Array,
    Background,
    Components,
    ConstantPart,
    Frames,
    Masks,
    Measurements,
    SpotTable,
)
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Sink
from gpu_spots.second_pass import Images, SecondPass, Sums
from gpu_spots.spots.profiles import Weighted, WeightedSums
from gpu_spots.spots.properties import ComponentSums
from gpu_spots.spots.table import joined
from gpu_spots.spots.zingers import Cleaned, Indices, zingers


@dataclass(frozen=True, slots=True)
class _Spots:
    """Spots of a batch of frames, each frame with a mask of its own."""

    found: Components
    intensity: NDArray[np.float64]
    """(s,) float64, counts."""
    measured: Measurements
    weighted: Weighted | None
    of_components: ComponentSums | None
    """Sums of the maps over them. They and ``weighted`` are None where noise is not known."""
    cleaned: Cleaned | None
    """What zingers have been left out; None: there are none."""


class MatchedPass(SecondPass[Frames, Masks, Prepared]):
    """Spots of each frame or group by their significance, and their sums."""

    def __init__(
        self,
        source: Source[Frames, Masks, Prepared],
        background: Background,
        method: Method,
        parameters: Parameters,
        sink: Sink,
        observer: Observer,
        watch: Stopwatch,
    ) -> None:
        super().__init__(source, background, parameters, sink, observer, watch)
        threads = source.plan.threads
        of = noise_map(background, method, source.shape[0])
        self._thresholds = Thresholds(
            of, parameters.significance, streaks=parameters.streaks, workers=threads
        )
        maps = significance_maps(of, streaks=parameters.streaks, workers=threads)
        self._significance = GroupSignificance(source, self.prepared, maps)

    def frame_by_frame(self) -> SpotTable:
        """Find the spots of every frame and measure them, while it is at hand."""
        n_frames = self.source.shape[0]
        self.sink.expect_matched(None)
        seeds = self._seeds(frames_alone(n_frames))

        def one_batch(begin: int, end: int) -> tuple[Images, tuple[Sums, Weighted | None]]:
            on_device = self.source.batch(begin, end)
            masks = self.backend.matched_masks(
                self._significance.of_frames(on_device, begin, end),
                self._significance.maps,
                seeds[begin:end],
            )
            spots = self._measured_alone(on_device, masks.spots, begin, end)
            kinds = {"raw": masks.raw, "filtered": masks.filtered}
            images = self._fetch(kinds, spots.found, masks.invalid, spots.of_components)
            if spots.cleaned is not None:
                _mark(images, spots.cleaned)
            sums = spots.intensity, replace(spots.measured, values=None)
            return images, (sums, spots.weighted)

        parts = []
        for begin, end, ((intensity, measured), weighted) in self._in_batches(
            "masks and spots", n_frames, "frames", one_batch
        ):
            self.table.add_measurements(intensity, measured, np.arange(begin, end))
            parts += [] if weighted is None else [weighted]
        table = self.table.table()
        if not parts:
            return table
        weighted = Weighted.joined(parts)
        errors = weighted.errors(table["spots/I"], table["spots/sigma"])
        return {**table, **weighted.centroids(), **errors}

    def _measured_alone(
        self, on_device: Frames, found: Components, begin: int, end: int
    ) -> "_Spots":
        """Measure the spots of frames from ``begin`` to ``end``, without zingers."""
        each = np.arange(end - begin)

        def measured(some: Components) -> Sums:
            return self._measure(
                on_device, some, each, begin, end, with_values=self.weights_centroids
            )

        intensity, sums = measured(found)
        found, cleaned = replace(found, held=None), None
        if len(removed := self._zingers(found, sums.values, begin, end)):
            cleaned = Cleaned.of(found, removed, self.shape[1])
            intensity[cleaned.spots], again = measured(cleaned.changed)
            sums, found = cleaned.measured(sums, again), cleaned.found
        weighted, of_components = self._weighted(found, sums, begin, end)
        return _Spots(found, intensity, sums, weighted, of_components, cleaned)

    def _zingers(self, found: Components, values: Array | None, begin: int, end: int) -> Indices:
        """Return the pixels that zingers hit on some frames, as numbers in ``found.pixels``.

        ``values``: `Measurements.values`; None: noise is not known, and so no zinger is.
        """
        if values is None or self.noise_model is None:
            return np.zeros(0, np.int64)
        gain, (_, n_columns) = self.noise_model.gain, self.shape
        background = self.maps.mean_at(found.pixels)
        variance = np.maximum(self.maps.variance_at(found.pixels), gain**2 / 4)
        surface, factors = self.source.surface_of_spots, self.source.factors
        of_frames = found.begin[found.first].tolist()
        for frame, pixels in enumerate(map(slice, of_frames[:-1], of_frames[1:]), begin):
            if surface is not None:
                place = np.divmod(found.pixels[pixels], n_columns)
                below, part = background[pixels], self.maps.constant_part
                background[pixels] = surface.background(frame, *place, below, part)
            elif factors is not None:
                background[pixels] *= 2**FACTOR_BITS / factors[frame]
        return zingers(found, n_columns, values - background, variance, gain)

    def _weighted(
        self, found: Components, measured: Measurements, begin: int, end: int
    ) -> tuple[Weighted | None, ComponentSums | None]:
        """Return the weighted sums of the spots of some frames, and the sums over the components.

        They are None where noise is not known.
        """
        if measured.values is None or self.noise_model is None:
            return None, None
        of_components = self.maps.no_sums(found)
        each, factors = np.arange(end - begin), self.source.factors
        surface = self.source.surface_of_spots
        of_batch = None if factors is None else factors[begin:end]
        sums = WeightedSums(
            found,
            self.maps,
            self.noise_model,
            each,
            of_batch,
            with_intensities=False,
            surface=None if surface is None else surface[begin:end],
            sums=of_components,
        )
        sums.add(measured.values)
        return sums.columns(), of_components

    def in_groups(self, groups: Groups) -> SpotTable:
        """Find the spots of the sum of each group, and measure them on each of its frames.

        The frames are read twice.
        """
        self.sink.expect_matched(groups.n_masks)
        seeds = self._seeds(groups)

        def one_batch(begin: int, end: int) -> tuple[Images, Components]:
            masks = self.backend.matched_masks(
                self._significance.of_groups(groups, begin, end),
                self._significance.maps,
                seeds[begin:end],
            )
            found = replace(masks.spots, held=None)
            kinds = {"raw": masks.raw, "filtered": masks.filtered, "synced": masks.filtered}
            return self._fetch(kinds, found, masks.invalid), found

        batches = self._in_batches("masks", groups.n_masks, "masks", one_batch)
        return self._measured_on_frames(groups, joined([found for *_, found in batches]))

    def _seeds(self, groups: Groups) -> list[Any]:
        """Return the seed levels of each group, as the backend has them."""
        calibration = self._thresholds.calibrate(
            *self._significance.sample(groups, self._thresholds.sampled_rows)
        )

        @cache
        def of_groups(size: int, light: float) -> Any:
            levels = seed_levels(self._thresholds, size, light, calibration)
            return with_retry(lambda: self.backend.prepare_seeds(levels), self.backend.release)

        sizes = sizes_of(groups, self.source.left_out).tolist()
        light = light_of(groups, self.source, self.source.constant_part)
        return [of_groups(*each) for each in zip(sizes, light, strict=True)]


def _mark(images: Images, cleaned: Cleaned) -> None:
    """Take zingers out of the masks that are written, and flag their spots."""
    if "filtered" in images.masks:
        images.masks["filtered"].clear(cleaned.masks, cleaned.pixels)
    assert images.sums is not None
    images.sums.flags[cleaned.spots] |= int(Flag.ZINGER)


def light_of(
    groups: Groups, source: Source[Any, Any, Any], part: ConstantPart | None
) -> list[float]:
    """Return the light of each group over that of the mean frame, as `light_of_groups` does."""
    if source.scales_frames or (levels := source.relative_levels) is None:
        return [1.0] * groups.n_masks
    return light_of_groups(levels, groups.mask_of_frame, source.left_out, part)


def seed_levels(
    thresholds: Thresholds, size: int, light: float, calibration: Calibration
) -> SeedLevels:
    """Return the seed levels of groups of a size; no value reaches those of size 0."""
    levels = thresholds.levels(max(1, size), calibration, light)
    if size:
        return levels
    return replace(levels, seed=tuple(np.full_like(seed, NEVER) for seed in levels.seed))


def sizes_of(groups: Groups, left_out: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return the number of frames of each group, 0 for a frame that is left out."""
    sizes = np.bincount(groups.mask_of_frame)
    if left_out is not None:
        sizes[groups.mask_of_frame[left_out]] = 0
    return sizes


class GroupSignificance(Generic[Frames, Masks, Prepared]):
    """Significance of the frames and groups of a source."""

    def __init__(
        self,
        source: Source[Frames, Masks, Prepared],
        prepared: Prepared,
        maps: SignificanceMaps,
    ) -> None:
        """Put the constants where the backend computes.

        Args:
            source: Frames.
            prepared: Background, as the backend prepared it.
            maps: Constants of the significance.
        """
        self._source, self._prepared = source, prepared
        self._backend = source.backend
        self.maps = with_retry(
            lambda: self._backend.prepare_significance(maps), self._backend.release
        )
        """The constants, as the backend has them."""

    def sample(self, groups: Groups, rows: Sequence[Span]) -> tuple[Iterator[Array], int]:
        """Return what `Thresholds.calibrate` measures.

        The smoothed maps of some groups of the most frequent size (ties: the smallest), and this
        size.

        Args:
            groups: Groups of frames.
            rows: Stretches of rows that are needed; others may be anything.
        """
        sizes = sizes_of(groups, self._source.left_out)
        size = int(np.argmax(np.bincount(sizes[sizes > 0])))
        alike = np.flatnonzero(sizes == size)
        places = np.linspace(0, len(alike) - 1, min(SAMPLE_FRAMES, len(alike)))

        def maps_of(group: int) -> Array:
            def once() -> Array:
                found = self.of_groups(groups, group, group + 1, rows)
                return self._backend.smoothed_maps(found, self.maps)[0]

            return with_retry(once, self._backend.release)

        def maps() -> Iterator[Array]:
            chosen = alike[np.unique(places.astype(np.int64))].tolist()
            # one for each thread: more would wait in memory
            at_once = self._source.plan.threads
            for i in range(0, len(chosen), at_once):
                yield from self._source.in_order(maps_of, chosen[i : i + at_once])

        return maps(), size

    def of_groups(
        self, groups: Groups, begin: int, end: int, rows: Sequence[Span] | None = None
    ) -> Any:
        """Return the significance of the groups from ``begin`` to ``end``.

        ``rows``: as in `gpu_spots.backend.MatchedFinder.significance`.
        """
        inside = (groups.mask_of_frame >= begin) & (groups.mask_of_frame < end)
        frames = np.flatnonzero(inside)
        which = groups.mask_of_frame[frames] - begin
        sums = self._backend.empty_sums(self.maps, end - begin, self._source.shape[1:])
        for first, last in _stretches(frames, self._source.plan.batch_frames):
            a, b = int(frames[first]), int(frames[last - 1]) + 1
            on_device = self._source.batch(a, b)
            self._backend.add_significance(
                sums, self.of_frames(on_device, a, b, rows), which[first:last]
            )
        return self._backend.of_sums(sums, np.bincount(which, minlength=end - begin).tolist())

    def of_frames(
        self, on_device: Frames, begin: int, end: int, rows: Sequence[Span] | None = None
    ) -> Any:
        """Return the significance of each of some frames, at the level of each.

        ``rows``: as in `gpu_spots.backend.MatchedFinder.significance`.
        """
        levels = self._source.background_levels
        if levels is not None:
            return self._backend.significance(on_device, self.maps, levels[begin:end], rows)
        frames = self._source.at_level(on_device, begin, end, self._prepared)
        return self._backend.significance(frames, self.maps, None, rows)


def _stretches(frames: NDArray[np.int64], longest: int) -> Iterator[Span]:
    """Yield begin and end of stretches of consecutive frames in a list, of at most ``longest``."""
    begin = 0
    for i in range(1, len(frames) + 1):
        if i == len(frames) or frames[i] != frames[i - 1] + 1 or i - begin == longest:
            yield begin, i
            begin = i
