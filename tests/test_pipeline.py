"""Bands, batches and pieces of the pipeline: no size changes a result."""

from pathlib import Path

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from factories.frames import frames_of
from factories.plans import COLUMNS, MODES, Device, force, results
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.errors import OutOfDeviceMemory
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import Notes, assert_same

pytestmark = pytest.mark.on_two_devices


@pytest.mark.parametrize("mode", MODES)
def test_batches_that_are_encoded_in_pieces_make_no_difference(
    backend: Backend, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(np.dtype("uint16"), (30, 37, 45), seed=9)
    stack = ArrayStack(frames, COLUMNS)
    force(monkeypatch, batch_frames=30, piece_frames=30, threads=1)
    expected = results(stack, MODES[mode], backend, tmp_path, Notes())
    # pieces that do not divide batches, which do not divide the frames
    force(monkeypatch, batch_frames=7, piece_frames=3, threads=3)
    notes = Notes()
    assert_same(results(stack, MODES[mode], backend, tmp_path, notes), expected)
    assert notes.done == sum(total for _, total in notes.stages)


def test_batches_in_pieces_are_halved_where_a_device_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(np.dtype("uint16"), (30, 37, 45), seed=9)
    stack = ArrayStack(frames, COLUMNS)
    expected: dict[str, np.ndarray] = {}
    for frames_of_batch in (30, 4):
        force(monkeypatch, batch_frames=16, piece_frames=3, threads=2)
        found = results(
            stack,
            Parameters.manual(angles=0, erosions=0),
            Device(frames=frames_of_batch),
            tmp_path,
            Notes(),
        )
        assert_same(found, expected or found)
        expected = found


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_half_as_much_is_tried_where_a_device_is_full(sync: str, tmp_path: Path) -> None:
    frames, parameters = (
        frames_of(np.dtype("uint16"), (30, 37, 45), seed=9),
        Parameters.manual(angles=0, sync=sync),
    )
    expected = results(ArrayStack(frames, COLUMNS), parameters, CpuBackend(2), tmp_path, Notes())
    backend, notes = Device(rows=3, frames=2, united=1), Notes()
    assert_same(
        results(ArrayStack(frames, COLUMNS), parameters, backend, tmp_path, notes), expected
    )
    assert backend.released > 10
    assert notes.done == sum(total for _, total in notes.stages)
    for full in (Device(rows=0), Device(frames=0), *([] if sync == "none" else [Device(united=0)])):
        with pytest.raises(OutOfDeviceMemory):
            results(ArrayStack(frames, COLUMNS), parameters, full, tmp_path, Notes())


def test_the_summary_counts_spots_frame_by_frame(tmp_path: Path) -> None:
    """1, 2 and 4 spots of one pixel, and none on the rest."""
    frames = np.random.default_rng(2).integers(48, 52, (20, 12, 13)).astype(np.uint16)
    for frame, n_spots in ((3, 1), (4, 2), (9, 4)):
        frames[frame, 2 : 2 + 2 * n_spots : 2, 5] = 900
    with memory_file() as file:
        writer = SpotsWriter(file, "memory", frames.shape, {})
        parameters = Parameters.manual(angles=0, n=30, erosions=0, dilations=0, cutoff=20)
        found = pipeline.find_spots(
            ArrayStack(frames), parameters, Resources(CpuBackend(2)), writer, Notes()
        )
    assert (found.n_frames, found.n_spots, found.spots_per_frame) == (20, 7, (0, 0.0, 4))
    assert (found.scales, found.n_bytes) == (None, frames.nbytes)
    assert set(found.seconds) >= {"background", "write"}


def test_frames_without_a_partner_are_a_warning(tmp_path: Path) -> None:
    frames = frames_of(np.dtype("uint16"), (30, 37, 45), seed=9)
    columns = {"angle": np.arange(30) // 6 * 2.0, "laser_on": np.arange(30) % 2}
    columns["laser_on"][7] = 0
    notes = Notes()
    results(ArrayStack(frames, columns), MODES["pairs"], CpuBackend(2), tmp_path, notes)
    assert [warning for warning in notes.warnings if "partner" in warning] == [
        "2 of 30 frames have no off/on partner at their angle and keep a mask of their own"
    ]
