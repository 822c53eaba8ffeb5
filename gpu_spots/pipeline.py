"""Order of the steps of a run.

The first pass calculates the background of each pixel, in bands of rows of all frames. The second
pass makes masks, components, sums and the table of spots, in batches of frames. The backend
computes and the sink writes; this module uses only their protocols.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_spots.background import levels, static_spots
from gpu_spots.background.methods import METHODS, Method, Outcome
from gpu_spots.columns import STATS
from gpu_spots.errors import OutOfDeviceMemory
from gpu_spots.first_pass import compute_background
from gpu_spots.masks import grouping
from gpu_spots.matched_pass import MatchedPass
from gpu_spots.memory.needs import Place, Work
from gpu_spots.memory.plan import Plan, make_plan
from gpu_spots.memory.source import Source, open_source
from gpu_spots.memory.workers import Stopwatch, in_order
from gpu_spots.model import FACTOR_BITS, Array, Background, SpotTable
from gpu_spots.noise_model import NoiseModel
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Observer, Sink, Stack
from gpu_spots.resources import Resources
from gpu_spots.second_pass import SecondPass
from gpu_spots.spots.frames import delay_warning, frame_columns


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of a run."""

    n_frames: int
    """Frames of the run."""
    n_spots: int
    """Rows of the table of spots."""
    spots_per_frame: tuple[int, float, int]
    """Minimum, median and maximum over the frames."""
    method: Method
    """Background method."""
    outcome: Outcome | None
    """Summary of the method; None: there is none."""
    noise: NoiseModel | None
    """Noise model of the run; None: unknown."""
    scales: tuple[float, float] | None
    """Smallest and largest factor of a frame; None: frames were not scaled."""
    shape_change: float | None
    """Relative change of the shape of the background, rms; None: frames have no surfaces."""
    plan: Plan
    """Plan of the run."""
    seconds: dict[str, float]
    """Wall time of each stage, in order: read, background, masks and spots, write."""
    n_bytes: int
    """Size of the stack."""


def groups_of(stack: Stack, parameters: Parameters) -> grouping.Groups:
    """Return the groups of frames that share a mask.

    Raises:
        InputError: the run lacks the angles or the laser states that the parameters require.
    """
    grouping.check_angles(stack.columns, stack.shape[0], parameters.angles, stack.source)
    return grouping.group(parameters.sync, stack.columns, stack.shape[0], stack.source)


def plan_run(stack: Stack, parameters: Parameters, resources: Resources) -> Plan:
    """Return the plan by which `find_spots` processes a run.

    Raises:
        InputError: the memory is too small, or the parameters do not fit the run.
    """
    groups = groups_of(stack, parameters)
    n_masks = None if parameters.sync == "none" else groups.n_masks
    method = method_of(stack, parameters)
    is_matched = parameters.finder == "matched"
    work = Work(method, parameters.normalise != "none", n_masks, is_matched)
    limits = replace(resources.limits, may_spool=resources.open_spool is not None)
    return make_plan(stack, work, resources.backend, limits)


def method_of(stack: Stack, parameters: Parameters) -> Method:
    """Return the background method for a run. Raises `InputError` where it does not fit the run."""
    return METHODS[parameters.method].for_run(
        parameters, stack.columns, stack.shape[0], stack.source
    )


def find_spots(
    stack: Stack,
    parameters: Parameters,
    resources: Resources,
    sink: Sink,
    observer: Observer,
) -> Summary:
    """Find the spots of a stack in two passes over its frames, and write the results.

    Args:
        stack: frames and metadata of the run.
        parameters: options of the method.
        resources: backend, limits and scratch files.
        sink: destination of the results.
        observer: receiver of progress and warnings.

    Raises:
        InputError: the parameters do not fit the run (too few angles or frames, no laser states),
            or there is too little memory.
    """
    n_frames, n_pixels = stack.shape[0], stack.shape[1] * stack.shape[2]
    groups = groups_of(stack, parameters)
    watch = Stopwatch()
    with ExitStack() as opened:
        source, method, background, outcome = learn_background(
            stack, parameters, resources, observer, watch, opened
        )
        with watch.stage("write"):
            if source.left_out is not None:
                groups = grouping.alone(groups, source.left_out)
            sink.write_levels(
                source.sampler.levels,
                source.factors,
                source.left_out,
                source.constant_part,
                source.surface,
            )
            noise = background.noise_model
            if noise is not None:
                sink.write_noise(noise)
            for name, encoded in in_order(
                lambda item: (item[0], sink.encode(lambda: item[1])),
                _maps(background),
                source.workers,
            ):
                sink.write_map(name, encoded)
        with watch.stage("masks and spots"):
            second = (
                MatchedPass(source, background, method, parameters, sink, observer, watch)
                if parameters.finder == "matched"
                else SecondPass(source, background, parameters, sink, observer, watch)
            )
            sparse, n_good = (
                static_spots.is_sparse(background),
                n_pixels - background.validity.n_masked,
            )
            clipped = background.flagged is not None
            del background  # most of it is not needed any more
            table = (
                second.frame_by_frame() if parameters.sync == "none" else second.in_groups(groups)
            )
    if message := static_spots.cover_warning(
        second.table.covered,
        n_good,
        sparse=sparse,
        clipped=clipped,
        matched=parameters.finder == "matched",
        surface=source.surface is not None,
    ):
        observer.warn(message)
    with watch.stage("write"):
        sink.write_spots({**table, **frame_columns(stack.columns, n_frames, stack.source)})
    return _summary(stack, table, method, outcome, noise, source, watch)


def learn_background(
    stack: Stack,
    parameters: Parameters,
    resources: Resources,
    observer: Observer,
    watch: Stopwatch,
    opened: ExitStack,
) -> tuple[Source[Any, Any, Any], Method, Background, Outcome | None]:
    """Calculate the background of a stack: the first pass over its frames.

    Args:
        stack: frames and metadata of the run.
        parameters: options of the method.
        resources: backend, limits and scratch files.
        observer: receiver of progress and warnings.
        watch: takes the time of each stage.
        opened: until it is closed, the frames stay where the plan keeps them.

    Returns:
        The frames for the second pass, the background method, the background, and what the method
        did.

    Raises:
        InputError: see `find_spots`.
    """
    n_frames = stack.shape[0]
    groups, method = groups_of(stack, parameters), method_of(stack, parameters)
    for warning in method.warnings(n_frames, stack.source):
        observer.warn(warning)
    if message := delay_warning(stack.columns, n_frames, stack.source):
        observer.warn(message)
    if groups.n_unpaired:
        observer.warn(
            f"{groups.n_unpaired} of {n_frames} frames have no off/on partner at their angle and "
            "keep a mask of their own"
        )

    def read(allowed: Resources) -> Source[Any, Any, Any] | None:
        backend, plan = allowed.backend, plan_run(stack, parameters, allowed)
        try:
            return opened.enter_context(
                open_source(stack, backend, plan, method, allowed.open_spool, observer)
            )
        except OutOfDeviceMemory as error:
            if plan.place != Place.DEVICE:
                raise
            observer.warn(f"{error}; GPU memory ran out, reading the frames in parts instead")
        # only here, because the error kept the frames that were read
        backend.release()
        return None

    with watch.stage("read"):
        source = read(resources) or read(
            replace(resources, limits=replace(resources.limits, may_stay=False))
        )
        assert source is not None
    with watch.stage("background"):
        if parameters.normalise != "none":
            source = _scaled(source, parameters, stack.source, observer)
            is_unknown = source.factors is not None and source.surface is None
            if is_unknown and parameters.normalise == "surface":
                observer.warn(levels.no_surface_warning())
            if (relative := source.relative_levels) is not None:
                if source.left_out is not None:
                    relative = np.where(source.left_out, 0, relative)
                method = method.at_levels(relative, source.surface, source.constant_part)
        elif message := source.sampler.drift_warning():
            observer.warn(message)
        background = compute_background(source, method, parameters.cutoff, observer)
        background = replace(background, static=static_spots.static_places(background))
        for message in static_spots.background_warnings(background, n_frames):
            observer.warn(message)
        outcome = method.outcome(background)
        if outcome and outcome.warning:
            observer.warn(outcome.warning)
    return source, method, background, outcome


def _scaled(
    source: Source[Any, Any, Any], parameters: Parameters, name: str, observer: Observer
) -> Source[Any, Any, Any]:
    """Return the frames, scaled to the level of the run.

    After ``-m clip``, the matched finder leaves out frames without beam, and does not scale frames
    whose level means nothing. Raises `InputError` where frames cannot be scaled.
    """
    found = source.sampler.levels
    if source.scales_frames or parameters.finder != "matched":
        return source.scaled_by(levels.factors(found, name, parameters.normalise))
    if not source.sampler.can_scale():
        observer.warn(levels.unscaled_warning(levels.run_level(found)))
        return source
    factors, left_out = levels.factors_with_beam(found)
    if not left_out.any():
        return source.scaled_by(factors)
    if np.count_nonzero(~left_out) < 2:
        return source.scaled_by(
            levels.factors(found, name, parameters.normalise)
        )  # which is an error
    observer.warn(levels.left_out_warning(found, left_out))
    return source.scaled_by(factors, left_out)


def _maps(background: Background) -> Iterator[tuple[str, Array]]:
    """Yield name and values of each map of the background that is written."""
    for record in STATS:
        if (values := getattr(background, record.name)) is not None:
            yield record.name, values


def _summary(
    stack: Stack,
    table: SpotTable,
    method: Method,
    outcome: Outcome | None,
    noise: NoiseModel | None,
    source: Source[Any, Any, Any],
    watch: Stopwatch,
) -> Summary:
    factors, surface = source.factors, source.surface
    per_frame = np.diff(table["frame2spotsBE"], axis=1)
    return Summary(
        n_frames=stack.shape[0],
        n_spots=len(table["spots/I"]),
        spots_per_frame=(int(per_frame.min()), float(np.median(per_frame)), int(per_frame.max())),
        method=method,
        outcome=outcome,
        noise=noise,
        scales=None
        if factors is None
        else (float(factors.min()) / 2**FACTOR_BITS, float(factors.max()) / 2**FACTOR_BITS),
        shape_change=None if surface is None else surface.shape_change(*stack.shape[1:]),
        plan=source.plan,
        seconds=watch.seconds,
        n_bytes=int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize,
    )
