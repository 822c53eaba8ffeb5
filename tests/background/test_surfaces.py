"""Surfaces of ``--normalise surface``: interpolation, fit, and what becomes of spots."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpu_fallback import CpuBackend
from gpu_spots.backend import Backend
from gpu_spots.background.methods import METHODS
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.model import ConstantPart, Surface, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.pipeline import find_spots
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, datasets, run
from reference_clip import levels_between

SHAPE = (100, 150)
GAIN, BIAS = 2.0, 20.0
SPOTS = np.array([[20, 30], [50, 120], [80, 70], [31, 95], [66, 22]])
INTENSITY = 1500.0


def test_levels_between_knots() -> None:
    rng = np.random.default_rng(1)
    knots = rng.integers(1 << 12, 1 << 20, (3, 3, 4)).astype(np.int32)
    surface, shape = Surface(knots, 6), (70, 150)
    expected = levels_between(knots, 6, shape)
    x, y = np.indices(shape).reshape(2, -1)
    assert np.array_equal(surface.of_pixels(x, y).reshape(expected.shape), expected)
    assert np.array_equal(surface.below(60).of_pixels(x[:150], y[:150]), expected[:, 60])
    for frame in range(3):
        found = surface.of_rows(frame, slice(50, 70), shape[1])
        assert found.dtype == np.int32
        assert np.array_equal(found, expected[frame, 50:])
        assert np.array_equal(surface[frame:].below(50).of_rows(0, slice(0, 20), 150), found)


def test_largest_levels_fit_32_bits() -> None:
    surface = Surface(np.full((1, 2, 2), 1 << 20, np.int32), 10)
    assert (surface.of_rows(0, slice(0, 1024), 1024) == 1 << 20).all()


def test_change_of_the_shape() -> None:
    """Frames that rise by 1/4 to the right, fall by it, rise by half as much, or are not fitted."""
    one = 1 << 16
    rise = one + np.array([-one // 8, 0, one // 8])
    frames = [rise, rise[::-1], (one + rise) // 2, [one] * 3]
    knots = np.array([[each] * 2 for each in frames], np.int32)
    change = Surface(knots, 6).shape_change(64, 128)
    of_edges = np.array([1.0, -1.0, 0.5]) / 8
    assert change == pytest.approx(np.std(of_edges) * math.sqrt(2 / 3), rel=0.02)
    # a knot that is outside of the frame does not count, but the edge does
    assert Surface(knots, 6).shape_change(1, 65) == pytest.approx(
        np.std(of_edges) * math.sqrt(2 / 9), rel=0.05
    )
    assert Surface(knots[3:], 6).shape_change(64, 128) == 0


def test_background_on_a_frame() -> None:
    surface = Surface(np.full((1, 2, 2), 98304, np.int32), 6)
    x = np.array([3, 4])
    found = surface.background(0, x, x, np.array([50.0, 150.0]), ConstantPart(0.1, 50.0))
    # half of B + 0.1 (B - 50) more
    assert found.tolist() == [75.0, 230.0]


def frames_of(changes: NDArray[Any], *, seed: int = 0) -> NDArray[np.uint16]:
    """Frames with a bias, a beam that drifts, a gradient that changes, and spots."""
    rng = np.random.default_rng(seed)
    x, y = np.indices(SHAPE)
    gradient = (y - 75) / 75
    shape = 500 + 100 * np.sin(x / 30)
    frames = []
    for i, change in enumerate(changes):
        light = shape * (1 + change * gradient) * (1 + 0.1 * np.sin(i))
        for sx, sy in SPOTS + (i // 3) * np.array([3, 5]) % 40 - 10:
            profile = np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / 3) / (3 * np.pi)
            light += INTENSITY * profile
        frames.append(rng.poisson(light / GAIN) * GAIN + BIAS + rng.normal(0, 3, SHAPE))
    return np.rint(frames).astype(np.uint16)


CHANGES = 0.08 * np.sin(np.arange(24) * 0.7)
FRAMES = frames_of(CHANGES)


@pytest.fixture(scope="module")
def found() -> dict[str, NDArray[Any]]:
    """Results of a run whose background changes its shape, with contrast and centre."""
    notes = Notes()
    with memory_file() as file:
        stack = ArrayStack(FRAMES, None, None, None)
        sink = SpotsWriter(file, "memory", stack.shape, {})
        parameters = Parameters(normalise="surface", angles=0)
        find_spots(stack, parameters, Resources(CpuBackend(2)), sink, notes)
        attributes = file["per_frame/level"].attrs
        part = np.array([attributes.get(name, 0.0) for name in ("contrast", "centre")])
        assert notes.warnings == []
        return {**datasets(file), "part": part}


@pytest.fixture(scope="module")
def levels(found: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Levels of all pixels of that run over the run's."""
    knots = np.rint(found["per_frame/surface"] * 65536).astype(np.int32)
    return np.asarray(levels_between(knots, 6, SHAPE) / 65536, np.float64)


def wrong(results: dict[str, NDArray[Any]]) -> int:
    """Number of spots that are far from all true ones."""
    true = SPOTS + (results["spots/frame"] // 3)[:, None, None] * np.array([3, 5]) % 40 - 10
    apart = np.abs(results["spots/XY"][:, None] - true).max(axis=2).min(axis=1)
    return int(np.count_nonzero(apart > 4))


def test_spots_on_a_background_that_changes_its_shape(found: dict[str, NDArray[Any]]) -> None:
    level = run(FRAMES, Parameters(angles=0), CpuBackend(2))
    assert wrong(level) > 100
    assert wrong(found) <= 2
    assert len(found["spots/I"]) > 0.8 * len(SPOTS) * len(FRAMES)
    pull = (found["spots/I"] - INTENSITY) / found["spots/sigma"]
    assert abs(np.median(pull)) < 0.3


def test_surfaces_have_the_shape_of_the_background(
    found: dict[str, NDArray[Any]], levels: NDArray[Any]
) -> None:
    levels = levels / levels.mean(axis=(1, 2), keepdims=True)
    change = np.polyfit(np.arange(SHAPE[1]) / 75 - 1, levels[:, 50].T, 1)[0]
    assert np.allclose(change - change.mean(), CHANGES - CHANGES.mean(), atol=0.008)


def test_intensities_are_less_the_surface(
    found: dict[str, NDArray[Any]], levels: NDArray[Any]
) -> None:
    """Sums over the pixels of each spot, from what the file has."""
    average = found["stats/avg"].astype(np.float64)
    noise = found["stats/noise"].astype(np.float64)
    contrast, centre = found["part"]
    following = np.clip(average + contrast * (average - centre), 0, 2 * average)
    for row in range(0, len(found["spots/I"]), 7):
        frame, (begin, end) = found["spots/frame"][row], found["spots/pixel_list_BE"][row]
        at = np.unravel_index(found["spots/pixel_list"][begin:end], SHAPE)
        below = average[at] + (levels[frame][at] - 1) * following[at]
        left = FRAMES[frame][at] - below
        assert np.isclose(found["spots/I"][row], left.sum(), rtol=1e-6, atol=0.02)
        assert np.isclose(found["spots/background"][row], below.sum(), rtol=1e-6)
        mean = (left * at[0]).sum() / left.sum(), (left * at[1]).sum() / left.sum()
        moment = (left * (at[0] - mean[0]) ** 2).sum() / left.sum()
        assert np.isclose(found["spots/moments"][row, 0], moment, rtol=1e-3)
        assert noise[at].min() > 0


def test_a_round_detector_has_a_bias() -> None:
    """Pixels beyond the edge have no counts, and so no bias; cells at the edge have both."""
    rng = np.random.default_rng(6)
    shape, bias = (150, 200), 1000.0
    x, y = np.indices(shape)
    radius = np.hypot(x - 75, y - 100)
    light = 500 * np.exp(-((radius / 60) ** 2)) + 60 * (radius < 60) + 60
    levels = 1 + 0.03 * rng.standard_normal(24)
    method = METHODS["clip"].for_run(Parameters(normalise="surface", angles=0), {}, 24, "run")
    sampler = method.sampler((24, *shape), np.dtype(np.uint16), Validity())
    for i, level in enumerate(levels):
        counts = bias + level * light + rng.normal(0, np.sqrt(6 + 0.07 * light))
        frame = np.rint(np.where(radius < 74, counts, 0)).astype(np.uint16)
        sampler.see(i, frame[sampler.rows])
    sampler.finish()
    part = sampler.constant_part
    assert part is not None
    assert part.contrast == pytest.approx(bias / (part.centre - bias), rel=0.03)


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_equal_on_every_backend(backend: Backend, sync: str) -> None:
    angles = np.arange(12) // 3
    parameters = Parameters(normalise="surface", angles=0, sync=sync)
    frames = FRAMES[:12, :40, :70].copy()
    frames[3] //= 20  # without beam
    columns = {"angle": angles, "laser_on": np.arange(12) % 2}
    expected = run(frames, parameters, CpuBackend(2), columns)
    assert np.isnan(expected["per_frame/scale"][3])
    assert_same(run(frames, parameters, backend, columns), expected)


def test_frames_that_show_no_shape_have_one_level() -> None:
    frames, notes = np.full((9, 70, 66), 40, np.uint16), Notes()
    parameters = Parameters(normalise="surface", angles=0)
    found = run(frames, parameters, CpuBackend(2), notes=notes)
    assert "per_frame/surface" not in found
    assert any(line.startswith("frame levels: the shape of the") for line in notes.warnings)


def test_errors_name_the_normalisation_that_was_given() -> None:
    frames = np.zeros((9, 20, 22), np.uint16)
    parameters = Parameters(normalise="surface", angles=0, finder="threshold")
    with pytest.raises(InputError, match="normalise='surface': found a level of 0 counts"):
        run(frames, parameters, CpuBackend(2))


def test_methods_that_multiply_frames_are_refused() -> None:
    with pytest.raises(ParameterError, match="normalise: 'surface' can only be used with method="):
        Parameters(method="kruskal", normalise="surface")
