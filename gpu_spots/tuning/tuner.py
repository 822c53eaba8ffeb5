"""Masks of single frames with other options of the finder, by the operations of the pipeline."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Backend
from gpu_spots.background.levels import LevelSampler
from gpu_spots.background.methods import Method
from gpu_spots.errors import InputError
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.masks.grouping import Groups
from gpu_spots.masks.kernels import kernels
from gpu_spots.masks.matched import significance_maps
from gpu_spots.masks.noise_map import NoiseMap, noise_map
from gpu_spots.masks.seed_levels import Calibration, Moments, Thresholds
from gpu_spots.matched_pass import GroupSignificance, light_of, seed_levels, sizes_of
from gpu_spots.memory.needs import Place
from gpu_spots.memory.plan import Plan
from gpu_spots.memory.shuffled import Transfer
from gpu_spots.memory.source import Source
from gpu_spots.memory.workers import Workers, in_order
from gpu_spots.model import (
    Array,
    Background,
    Components,
    Morphology,
    Surface,
    Validity,
)
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Stack
from gpu_spots.second_pass import background_of_masks
from gpu_spots.tuning import stored
from gpu_spots.tuning.cutoffs import Cutoffs, with_threshold
from gpu_spots.tuning.frame_cache import CACHE_BYTES, FrameCache
from gpu_spots.tuning.noise_frames import NoiseFrames

LIKELY_VALUES = tuple(float(value) for value in np.arange(4, 8.1, 0.5))
"""Significances whose tables are made in advance."""


@dataclass(frozen=True, slots=True)
class TunableRun:
    """A run with its background."""

    name: str
    """Name of the run, for messages."""
    frames: FrameCache
    """Frames of the run."""
    parameters: Parameters
    """Options of the run."""
    method: Method
    """Background method."""
    background: Background
    """Background of the run."""
    groups: Groups
    """Frames that share a mask."""
    values: Validity
    """Valid values of the frames, in their own counts."""
    factors: NDArray[np.int64] | None
    """(n_frames,) int64, 2^-16: what each frame is scaled by; None: frames are not scaled."""
    left_out: NDArray[np.bool_] | None = None
    """(n_frames,) bool: frames without beam, which have no spots; None: there are none."""
    surface: Surface | None = None
    """Levels of the pixels of frames; None: each frame has one level."""


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """Masks and spots of a frame, or of the group of frames that share its mask."""

    raw: NDArray[np.uint8]
    """(n_X, n_Y) uint8, 0 or 1: raw mask."""
    final: NDArray[np.uint8]
    """(n_X, n_Y) uint8, 0 or 1: mask that the spots come from."""
    spots: Components
    """Spots."""

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.spots.box)


def run_of_results(results: SpotsFile, stack: Stack) -> TunableRun:
    """Return the run of a spots file, with the background that is stored there.

    Args:
        results: The spots file.
        stack: Its frames.

    Raises:
        InputError: The file lacks what is needed, for example because it is from an older version.
    """
    parameters = stored.parameters_of(results)
    method = stored.method_of(results, parameters)
    factors = stored.factors_of(results, parameters)
    values = stored.values_of(results)
    is_scaled = factors is not None and method.scales_frames
    of_masks = values.of_scaled(stack.dtype) if is_scaled else values
    return TunableRun(
        name=results.name,
        frames=FrameCache(stack),
        parameters=parameters,
        method=method,
        background=stored.background_of(results, method, stack.dtype, of_masks),
        groups=stored.groups_of(results),
        values=values,
        factors=factors,
        left_out=stored.left_out_of(results),
        surface=results.surface,
    )


@dataclass(frozen=True, slots=True)
class _CachedSource(Source[Any, Any, Any]):
    """Source of single frames that are kept in memory."""

    frame: Callable[[int], Array] = np.empty
    """Returns a frame by its index."""

    def batch(self, begin: int, end: int) -> Any:
        return self.backend.upload(np.stack([self.frame(i) for i in range(begin, end)]))


class Tuner:
    """Masks of frames with any options of the finder.

    The background and the groups of frames stay those of the run. One thread computes at a time.
    """

    def __init__(self, run: TunableRun, backend: Backend) -> None:
        """Prepare the search.

        Args:
            run: The run.
            backend: Backend that computes.
        """
        self.run, self._backend = run, backend
        self._lock = threading.RLock()
        self._cutoffs = Cutoffs(run.background, run.method, run.parameters.cutoff, backend.workers)
        self._sources = {False: self._source(run.frames.__getitem__)}
        self._of_masks: Background | None = None
        self._prepared: tuple[Any, Any] | None = None
        self._levelled: dict[bool, tuple[int, list[Any]]] = {}
        self._matched: dict[bool, _Matched] = {}
        self._noise: NoiseMap | None = None

    def find(self, frame: int, parameters: Parameters, *, noise_only: bool = False) -> FoundMasks:
        """Return masks and spots of a frame, or of the group of frames that share its mask.

        Args:
            frame: Index of the frame.
            parameters: Options; those of the background and of the groups are not used.
            noise_only: Search the noise of the frames instead, where every spot is false.

        Raises:
            InputError: A frame cannot be read, or the noise of the run is unknown.
        """
        group = int(self.run.groups.mask_of_frame[frame])
        with self._lock:
            source = self._source_of(noise_only)
            if parameters.finder == "matched":
                return self._matched_of(parameters.streaks).find(
                    source, group, parameters.significance, noise_only=noise_only
                )
            return self._by_threshold(source, group, parameters)

    def warm_up(self, significance: float) -> None:
        """Prepare the matched finder, so that `find` answers at once afterwards."""
        with self._lock:
            matched = self._matched_of(streaks=False)
            for group in self.run.groups.mask_of_frame[:1].tolist():
                size = int(np.count_nonzero(self.run.groups.mask_of_frame == group))
                matched.seeds_of(size, significance)
        # tables are kept for the whole program; without the lock, as they take a second each
        for value in LIKELY_VALUES:
            for kernel in kernels(streaks=False):
                kernel.sum_of_counts.table(value)

    def _source_of(self, noise_only: bool) -> _CachedSource:
        if noise_only not in self._sources:
            run = self.run
            background = run.background
            n_used = background.n_sampled if background.n_used is None else background.n_used
            made = NoiseFrames(
                run.frames.__getitem__,
                self._noise_map(),
                n_used,
                run.values,
                run.factors,
                run.surface,
            )
            self._sources[True] = self._source(made.__getitem__)
        return self._sources[noise_only]

    def _source(self, frame: Callable[[int], Array]) -> _CachedSource:
        run, backend = self.run, self._backend
        stack = run.frames.stack
        plan = Plan(
            place=Place.FILE,
            threads=backend.workers,
            band_rows=stack.shape[1],
            batch_frames=1,
            piece_frames=1,
            n_bands=1,
            n_batches=stack.shape[0],
            host_bytes=0,
            device_bytes=None,
            scratch_bytes=0,
            decodings=1,
        )
        return _CachedSource(
            shape=stack.shape,
            dtype=stack.dtype,
            backend=backend,
            plan=plan,
            workers=Workers(plan.threads, kept=False),
            validity=run.values,
            saturation=None,
            sampler=LevelSampler(stack.shape, run.values),
            transfer=Transfer.of(stack, backend, is_direct=False),
            scales_frames=run.method.scales_frames,
            factors=run.factors,
            left_out=run.left_out,
            surface=run.surface,
            frame=frame,
        )

    def _by_threshold(
        self, source: _CachedSource, group: int, parameters: Parameters
    ) -> FoundMasks:
        backend = self._backend
        prepared = self._prepared_for(parameters)
        shape = source.shape[1:]
        raw, final = (backend.empty_masks(1, shape) for _ in range(2))
        invalid = None
        first = np.zeros(1, np.int64)
        for frames in self._frames_of(source, group, prepared):
            masks = backend.find_masks(frames, prepared)
            backend.union(raw, masks.raw, first)
            backend.union(final, masks.filtered, first)
            if masks.invalid is not None:
                invalid = backend.empty_masks(1, shape) if invalid is None else invalid
                backend.union(invalid, masks.invalid, first)
        if invalid is not None:
            final = backend.without(final, invalid)
        return _fetched(backend, raw, final, backend.components(final, parameters.connectivity))

    def _frames_of(self, source: _CachedSource, group: int, prepared: Any) -> Iterator[Any]:
        """Yield the frames of a group at the level of the run; those of one group are kept."""
        frames = np.flatnonzero(self.run.groups.mask_of_frame == group).tolist()
        noise_only = source is not self._sources[False]
        kept_group, kept = self._levelled.get(noise_only, (-1, []))
        if kept_group == group:
            yield from kept
            return
        may_keep = len(frames) * self.run.frames.frame_bytes <= CACHE_BYTES
        kept = []

        def levelled(frame: int) -> Any:
            return source.at_level(source.batch(frame, frame + 1), frame, frame + 1, prepared)

        for one in in_order(levelled, frames, self._backend.workers):
            if may_keep:
                kept.append(one)
            yield one
        if may_keep:
            self._levelled[noise_only] = group, kept

    def _prepared_for(self, parameters: Parameters) -> Any:
        """Return the background as the backend needs it; the last one is kept."""
        key = (
            parameters.cutoff,
            parameters.erosions,
            parameters.dilations,
            parameters.connectivity,
        )
        if self._prepared is None or self._prepared[0] != key:
            threshold = self._cutoffs.at(parameters.cutoff)
            if self._of_masks is None:
                self._of_masks = background_of_masks(self._sources[False], self.run.background)
            background = with_threshold(self._of_masks, threshold)
            morphology = Morphology(
                parameters.erosions, parameters.dilations, parameters.connectivity
            )
            self._prepared = key, self._backend.prepare(background, morphology, None)
        return self._prepared[1]

    def _noise_map(self) -> NoiseMap:
        run = self.run
        if self._noise is None:
            if run.background.noise_model is None:
                raise InputError(
                    f"{run.name}: the noise of the pixels is unknown, the false spots cannot be "
                    "estimated; find the spots again with this version of gpu-spots"
                )
            n_frames, source, method = run.frames.stack.shape[0], self._sources[False], run.method
            if not method.scales_frames and (relative := source.relative_levels) is not None:
                if run.left_out is not None:
                    relative = np.where(run.left_out, 0, relative)
                method = method.at_levels(relative, None, run.background.constant_part)
            self._noise = noise_map(run.background, method, n_frames)
        return self._noise

    def _matched_of(self, streaks: bool) -> "_Matched":
        if streaks not in self._matched:
            self._matched[streaks] = _Matched(
                self._noise_map(),
                self._sources[False],
                self._prepared_for(self.run.parameters),
                self.run.groups,
                streaks=streaks,
                in_groups=self.run.parameters.sync != "none",
            )
        return self._matched[streaks]


class _Matched:
    """The matched finder at any significance."""

    def __init__(
        self,
        noise: NoiseMap,
        source: _CachedSource,
        prepared: Any,
        groups: Groups,
        *,
        streaks: bool,
        in_groups: bool,
    ) -> None:
        self._noise, self._groups, self._streaks = noise, groups, streaks
        self._in_groups = in_groups
        self._prepared, self._backend = prepared, source.backend
        self._workers = source.plan.threads
        self._maps = significance_maps(noise, streaks=streaks, workers=self._workers)
        self._kept: dict[tuple[float, ...], list[Moments]] = {}
        self._significance = {False: GroupSignificance(source, prepared, self._maps)}
        self._calibration: Calibration | None = None
        self._of_group: dict[tuple[bool, int], Any] = {}
        self._most_kept = 2 * max(1, CACHE_BYTES // (4 * noise.mean.nbytes))
        self._seeds: tuple[tuple[int, float, float], Any] | None = None
        self._light = light_of(groups, source, noise.constant_part)

    def find(
        self, source: _CachedSource, group: int, significance: float, *, noise_only: bool
    ) -> FoundMasks:
        found = self._significance_of(source, group, noise_only=noise_only)
        size = int(sizes_of(self._groups, source.left_out)[group])
        seeds = self.seeds_of(size, significance, self._light[group])
        masks = self._backend.matched_masks(found, self._significance[False].maps, [seeds])
        return _fetched(self._backend, masks.raw, masks.filtered, masks.spots)

    def _significance_of(self, source: _CachedSource, group: int, *, noise_only: bool) -> Any:
        if (noise_only, group) not in self._of_group:
            if noise_only not in self._significance:
                self._significance[noise_only] = GroupSignificance(
                    source, self._prepared, self._maps
                )
            significance = self._significance[noise_only]
            while len(self._of_group) >= self._most_kept:
                del self._of_group[next(iter(self._of_group))]
            self._of_group[noise_only, group] = (
                significance.of_groups(self._groups, group, group + 1)
                if self._in_groups
                else significance.of_frames(source.batch(group, group + 1), group, group + 1)
            )
        return self._of_group[noise_only, group]

    def seeds_of(self, size: int, significance: float, light: float = 1.0) -> Any:
        """Return the seed levels of groups of a size and their light, as the backend has them."""
        key = size, significance, light
        if self._seeds is None or self._seeds[0] != key:
            thresholds = Thresholds(
                self._noise,
                significance,
                streaks=self._streaks,
                workers=self._workers,
                kept=self._kept,
            )
            if self._calibration is None:
                self._calibration = thresholds.calibrate(
                    *self._significance[False].sample(self._groups, thresholds.sampled_rows)
                )
            levels = seed_levels(thresholds, size, light, self._calibration)
            self._seeds = key, self._backend.prepare_seeds(levels)
        return self._seeds[1]


def _fetched(backend: Backend, raw: Any, final: Any, spots: Components) -> FoundMasks:
    of_raw, of_final = backend.fetch([raw, final])
    return FoundMasks(of_raw[0], of_final[0], replace(spots, held=None))
