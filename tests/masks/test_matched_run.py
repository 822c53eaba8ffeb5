"""Whole runs with ``--finder matched``: the same for every backend, batch and number of threads."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpu_fallback import CpuBackend
from gpu_spots import Parameters
from gpu_spots import find_spots as find
from gpu_spots.backend import Backend
from gpu_spots.errors import ParameterError
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.model import Validity
from gpu_spots.pipeline import find_spots
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, datasets, run

SHAPE = (70, 90)
N_ANGLES, N_REPEATS = 6, 4
COLUMNS = {
    "angle": np.repeat(np.arange(6.0), N_REPEATS)[:-1],
    "laser_on": np.tile([0, 1], 12)[:-1],
}
"""Six angles with two pairs each, but for the last frame, whose partner has none."""


def series(dtype: str = "uint16", level: float = 60.0, height: float = 300.0) -> NDArray[Any]:
    """Return frames on a sloping background.

    Each angle has its own spots, one of them at the border.
    """
    rng = np.random.default_rng(7)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = []
    for _ in range(N_ANGLES):
        spots = np.zeros(SHAPE)
        for centre in (*rng.uniform(6, SHAPE, (4, 2)), (0, rng.uniform(10, 80))):
            distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
            spots += height * np.exp(-distance / 2) / 6.28
        frames += [rng.poisson(level * (1 + y / 200) + spots) for _ in range(N_REPEATS)]
    return np.array(frames[:-1]).astype(dtype)


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_backends_agree(backend: Backend, sync: str, dtype: str) -> None:
    frames = series(dtype)
    validity = None
    if dtype == "int32":
        frames[np.random.default_rng(1).random(frames.shape) < 0.01] = -1
        validity = Validity(None, 0, None)
    parameters = Parameters.manual(
        angles=0, finder="matched", sync=sync, streaks=dtype == "float32"
    )
    expected = run(frames, parameters, CpuBackend(1), COLUMNS, validity)
    assert len(expected["spots/I"]) > 40
    assert_same(run(frames, parameters, backend, COLUMNS, validity), expected)


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_batches_and_threads_make_no_difference(sync: str) -> None:
    frames = series()
    order = np.random.default_rng(2).permutation(len(frames))  # blocks come in pieces
    columns = {name: values[order] for name, values in COLUMNS.items()}
    parameters = Parameters.manual(angles=0, finder="matched", sync=sync, normalise="level")

    def found(batch: int, threads: int) -> dict[str, NDArray[Any]]:
        with memory_file() as file:
            stack = ArrayStack(frames[order], columns)
            resources = Resources(CpuBackend(threads), ResourceLimits(batch=batch))
            sink = SpotsWriter(file, "memory", stack.shape, {})
            find_spots(stack, parameters, resources, sink, Notes())
            return datasets(file)

    expected = found(23, 1)
    for batch, threads in ((1, 1), (3, 2), (5, 3)):
        assert_same(found(batch, threads), expected)


def test_tables_and_images_agree() -> None:
    """Labels, masks, pixels and intensities agree.

    Touching spots have different labels.
    """
    frames = series(height=3000.0)
    with find(frames, Parameters.manual(angles=0, finder="matched"), backend="cpu") as results:
        average, pixels = results.avg.astype(np.float64), results.pixel_list
        for frame in range(results.n_frames):
            labels, spots = results.labels(frame), results.spots(frame)
            assert np.array_equal(labels > 0, results.mask(frame))
            seeds = results.mask(frame, "raw")
            assert not np.any(seeds & ~results.mask(frame)) or seeds.any()
            assert sorted(set(labels[labels > 0])) == spots["label"].tolist()
            for i, label in enumerate(spots["label"]):
                begin, end = spots["pixel_list_BE"][i]
                assert np.array_equal(np.flatnonzero(labels == label), pixels[begin:end])
                total = (frames[frame] - average)[labels == label].sum()
                assert spots["I"][i] == pytest.approx(total, rel=1e-5)


def test_blocks_show_what_no_frame_does() -> None:
    """A spot of 4 standard deviations a frame is found in the sum of the frames of its angle."""
    frames = series(height=125.0)
    alone = Parameters.manual(angles=0, finder="matched")
    with find(frames, alone, columns=COLUMNS, backend="cpu") as results:
        n_alone = results.n_spots
    together = Parameters.manual(angles=0, finder="matched", sync="blocks")
    with find(frames, together, columns=COLUMNS, backend="cpu") as results:
        assert results.n_spots > 2 * n_alone
        assert results.n_spots > 70
        assert results.info["finder"] == "matched"
        for kind in ("raw", "filtered", "synced"):
            assert np.array_equal(results.mask(0, kind), results.mask(3, kind))
        assert np.array_equal(results.mask(5), results.mask(5, "synced"))


def test_masks_of_groups_are_described() -> None:
    with memory_file() as file:
        stack = ArrayStack(series(), COLUMNS)
        parameters = Parameters.manual(angles=0, finder="matched", sync="pairs")
        sink = SpotsWriter(file, "memory", stack.shape, {})
        find_spots(stack, parameters, Resources(CpuBackend(1)), sink, Notes())
        assert file["masks_raw"].shape[0] == file["masks_synced"].shape[0] == 12
        assert "seed level" in file["masks_raw"].attrs["description"]
        assert "sum of the mask's frames" in file["masks_synced"].attrs["description"]


@pytest.mark.parametrize("value", [0, 1000])
def test_frames_that_are_all_alike_have_no_spots(backend: Backend, value: int) -> None:
    frames = np.full((8, 20, 30), value, np.uint16)
    frames[3, 10, 10] += 1
    found = run(frames, Parameters.manual(angles=0, finder="matched"), backend)
    assert found["frame2spotsBE"].tolist() == [[0, 0]] * 8


def test_a_static_spot_is_reported_not_found() -> None:
    rng = np.random.default_rng(3)
    x, y = np.mgrid[:128, :128]
    spot = 4000 * np.exp(-((x - 60) ** 2 + (y - 70) ** 2) / 8)
    frames = rng.poisson(np.broadcast_to(100 + spot, (20, 128, 128))).astype(np.uint16)
    notes = Notes()
    found = run(frames, Parameters.manual(angles=0, finder="matched"), CpuBackend(2), notes=notes)
    (warning,) = notes.warnings
    assert "1 spot" in warning
    places = found["spots/XY"]
    assert not np.any(np.hypot(*(places - (60, 70)).T) < 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("finder", "best"), ("significance", 2.9), ("significance", 12.5), ("significance", "high")],
)
def test_wrong_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError) as error:
        Parameters(**{name: value})
    assert error.value.name == name


def test_the_threshold_finder_does_not_depend_on_the_options_of_the_other() -> None:
    frames = series()
    expected = run(frames, Parameters.manual(angles=0), CpuBackend(1))
    other = Parameters.manual(angles=0, significance=9.0, streaks=True)
    assert_same(run(frames, other, CpuBackend(1)), expected)


def edge_cases() -> dict[str, tuple[NDArray[Any], Validity | None]]:
    rng = np.random.default_rng(0)
    shape = (9, 20, 30)
    return {
        "all pixels masked": (
            rng.poisson(5, shape).astype(np.uint16),
            Validity(np.zeros(shape[1:], bool)),
        ),
        "two frames": (rng.poisson(50, (2, 20, 30)).astype(np.uint16), None),
        "one row": (rng.poisson(50, (20, 1, 200)).astype(np.int16), None),
        "huge floats": (rng.normal(0, 1e300, shape), None),
        "negative floats": (rng.normal(-50, 1, (30, 20, 30)), None),
        "a single photon": (np.eye(270, 600, dtype=np.int32)[:1].repeat(9, 0), None),
        "infinite values": (np.full(shape, np.inf), None),
        "values that are not numbers": (np.full(shape, np.nan, np.float32), None),
    }


@pytest.mark.parametrize("name", edge_cases())
@pytest.mark.filterwarnings("error")
def test_edge_cases_have_no_spots(name: str) -> None:
    frames, validity = edge_cases()[name]
    if name == "a single photon":
        frames = frames.reshape(9, 20, 30) * (np.arange(9) == 4)[:, None, None]
    parameters = Parameters.manual(angles=0, finder="matched")
    assert not len(run(frames, parameters, CpuBackend(2), validity=validity)["spots/I"])
