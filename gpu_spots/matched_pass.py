"""Second pass of ``--finder matched``: significance, seeds, spots and sums, batch by batch.

With groups of frames the significance of each group is added up first, so that spots are found
which no single frame shows. The rule is `docs/decisions/matched-finder.md`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Prepared
from gpu_spots.background.methods import Method
from gpu_spots.masks.grouping import Groups, frames_alone
from gpu_spots.masks.matched import (
    NEVER,
    SAMPLE_FRAMES,
    Calibration,
    Thresholds,
    significance_maps,
)
from gpu_spots.masks.noise_map import noise_map
from gpu_spots.memory.source import Source
from gpu_spots.memory.workers import Span, Stopwatch, at_last
from gpu_spots.model import Array, Background, Components, Frames, Masks, SpotTable
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Sink
from gpu_spots.second_pass import Images, SecondPass, Sums
from gpu_spots.spots.table import joined


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
        constant_part, threads = source.sampler.constant_part, source.plan.threads
        is_levelled = source.background_levels is not None
        of = noise_map(background, method, source.shape[0], constant_part, is_levelled=is_levelled)
        self._thresholds = Thresholds(
            of, parameters.significance, streaks=parameters.streaks, workers=threads
        )
        maps = significance_maps(of, streaks=parameters.streaks, workers=threads)
        self._maps = at_last(lambda: self.backend.prepare_significance(maps), self.backend.release)

    def frame_by_frame(self) -> SpotTable:
        """Find the spots of every frame and measure them, while it is at hand."""
        n_frames = self.source.shape[0]
        self.sink.expect_matched(None)
        seeds = self._seeds(frames_alone(n_frames))

        def one_batch(begin: int, end: int) -> tuple[Images, Sums]:
            on_device = self.source.batch(begin, end)
            masks = self.backend.matched_masks(
                self._significance(on_device, begin, end), self._maps, seeds[begin:end]
            )
            sums = self._measure(on_device, masks.spots, np.arange(end - begin), begin, end)
            found = replace(masks.spots, held=None)
            return self._fetch({"raw": masks.raw, "filtered": masks.filtered}, found), sums

        for begin, end, (intensity, measured) in self._walk(
            "masks and spots", n_frames, "frames", one_batch
        ):
            self.table.add_measurements(intensity, measured, np.arange(begin, end))
        return self.table.table()

    def in_groups(self, groups: Groups) -> SpotTable:
        """Find the spots of the sum of each group, and measure them on each of its frames.

        The frames are read twice.
        """
        self.sink.expect_matched(groups.n_masks)
        seeds = self._seeds(groups)

        def one_batch(begin: int, end: int) -> tuple[Images, Components]:
            masks = self.backend.matched_masks(
                self._of_groups(groups, begin, end),
                self._maps,
                seeds[begin:end],
            )
            found = replace(masks.spots, held=None)
            kinds = {"raw": masks.raw, "filtered": masks.filtered, "synced": masks.filtered}
            return self._fetch(kinds, found), found

        walk = self._walk("masks", groups.n_masks, "masks", one_batch)
        return self._measured_on_frames(groups, joined([found for *_, found in walk]))

    def _seeds(self, groups: Groups) -> list[Any]:
        """Return the seed levels of each group, as the backend has them.

        No value of a frame without beam reaches its seed level.
        """
        calibration, sizes = self._calibrated(groups), self._sizes(groups)

        @cache
        def of_size(size: int) -> Any:
            levels = self._thresholds.levels(max(1, size), calibration)
            if not size:
                never = tuple(np.full_like(seed, NEVER) for seed in levels.seed)
                levels = replace(levels, seed=never)
            return at_last(lambda: self.backend.prepare_seeds(levels), self.backend.release)

        return [of_size(size) for size in sizes.tolist()]

    def _sizes(self, groups: Groups) -> NDArray[np.int64]:
        """Return the number of frames of each group, 0 for a frame without beam."""
        sizes = np.bincount(groups.mask_of_frame)
        if self.source.left_out is not None:
            sizes[groups.mask_of_frame[self.source.left_out]] = 0
        return sizes

    def _calibrated(self, groups: Groups) -> Calibration:
        """Measure the maps of some groups of the most frequent size; of equals the smallest."""
        sizes = self._sizes(groups)
        size = int(np.argmax(np.bincount(sizes[sizes > 0])))
        alike = np.flatnonzero(sizes == size)
        places = np.linspace(0, len(alike) - 1, min(SAMPLE_FRAMES, len(alike)))

        def maps() -> Iterator[Array]:
            for group in alike[np.unique(places.astype(np.int64))]:
                yield self.backend.smoothed_maps(
                    self._of_groups(groups, group, group + 1), self._maps
                )[0]

        return self._thresholds.calibrate(maps(), size)

    def _of_groups(self, groups: Groups, begin: int, end: int) -> Any:
        """Return the significance of the groups from ``begin`` to ``end``."""
        inside = (groups.mask_of_frame >= begin) & (groups.mask_of_frame < end)
        frames = np.flatnonzero(inside)
        which = groups.mask_of_frame[frames] - begin
        sums = self.backend.empty_sums(self._maps, end - begin, self.shape)
        for first, last in _stretches(frames, self.source.plan.batch_frames):
            a, b = int(frames[first]), int(frames[last - 1]) + 1
            on_device = self.source.batch(a, b)
            self.backend.add_significance(
                sums, self._significance(on_device, a, b), which[first:last]
            )
        return self.backend.of_sums(sums, np.bincount(which, minlength=end - begin).tolist())

    def _significance(self, on_device: Frames, begin: int, end: int) -> Any:
        """Return the significance of some frames, at the level of each."""
        levels = self.source.background_levels
        if levels is not None:
            return self.backend.significance(on_device, self._maps, levels[begin:end])
        frames = self.source.at_level(on_device, begin, end, self.prepared)
        return self.backend.significance(frames, self._maps, None)


def _stretches(frames: NDArray[np.int64], longest: int) -> Iterator[Span]:
    """Yield begin and end of stretches of consecutive frames in a list, of at most ``longest``."""
    begin = 0
    for i in range(1, len(frames) + 1):
        if i == len(frames) or frames[i] != frames[i - 1] + 1 or i - begin == longest:
            yield begin, i
            begin = i
