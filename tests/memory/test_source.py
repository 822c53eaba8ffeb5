"""Frames from every place: no place changes a result."""

import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from factories.frames import frames_of
from factories.plans import COLUMNS, LAYOUTS, MODES, force, results, saved
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.methods import METHODS
from gpu_spots.errors import OutputError
from gpu_spots.files.frames import ArrayStack, open_run
from gpu_spots.files.hdf5.chunk_writer import ImageWriter
from gpu_spots.files.output.scratch import scratch_file
from gpu_spots.memory.needs import Place
from gpu_spots.memory.source import open_source
from gpu_spots.model import FixedPointMean, Morphology, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, background_of, datasets, listing

pytestmark = pytest.mark.on_two_devices

Results = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def in_memory() -> Callable[[Backend, str], Results]:
    """Return a function that gives the results of frames in memory, computed once per mode."""
    known: dict[tuple[int, str], Results] = {}

    def of(backend: Backend, mode: str) -> Results:
        key = id(backend), mode
        if key not in known:
            stack = ArrayStack(moved(), COLUMNS)
            known[key] = results(stack, MODES[mode], backend, Path(), Notes())
        return known[key]

    return of


def moved() -> np.ndarray:
    """Frames of which some have a higher level."""
    frames = frames_of(np.dtype("uint16"), (30, 25, 45), seed=5)
    frames[7:9] += 9
    return frames


@pytest.mark.parametrize("place", [Place.MEMORY, Place.FILE, Place.SCRATCH, Place.DEVICE])
@pytest.mark.parametrize("mode", MODES)
def test_the_place_of_frames_makes_no_difference(
    backend: Backend,
    mode: str,
    place: Place,
    in_memory: Callable[[Backend, str], Results],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, notes = in_memory(backend, mode), Notes()
    force(monkeypatch, place=place, band_rows=7, batch_frames=4, threads=3)
    with open_run(saved(tmp_path / "x.h5", moved(), **LAYOUTS["gzip blocks"])) as stack:
        found = results(stack, MODES[mode], backend, tmp_path, notes)
    assert found.keys() == expected.keys()
    assert len(found["spots/I"]) > 20
    assert_same(found, expected)
    assert {path.name for path in tmp_path.iterdir()} == {"x.h5"}
    assert notes.stages[0] == ("levels" if place == Place.FILE else "read", 30)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint16", ">i4", "float32"])
def test_rows_of_every_layout(
    dtype: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(np.dtype(dtype).newbyteorder("="), (21, 37, 45), seed=2)
    with open_run(saved(tmp_path / "x.h5", frames.astype(dtype), **LAYOUTS[layout])) as stack:
        for first, last in ((0, 37), (0, 1), (36, 37), (5, 19), (8, 16), (16, 31), (20, 20)):
            for begin, end in ((0, 21), (4, 5), (3, 12)):
                into = np.empty((end - begin, last - first, 45), stack.dtype)
                stack.read_rows(begin, end, first, last, into)
                assert np.array_equal(into, frames[begin:end, first:last])
        with pytest.raises(ValueError, match="rows 3 to 38"):
            stack._readers[0].read_rows(0, 1, 3, 38, np.empty((1, 35, 45), stack.dtype))
    force(monkeypatch, place=Place.FILE, band_rows=10)
    with open_run(tmp_path / "x.h5") as stack:
        assert stack.is_decoded == (layout in ("contiguous", "plain chunks"))
        found = results(stack, MODES["none"], CpuBackend(2), tmp_path, Notes())
    in_memory = ArrayStack(frames, {name: column[:21] for name, column in COLUMNS.items()})
    assert_same(found, results(in_memory, MODES["none"], CpuBackend(1), tmp_path, Notes()))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is read as Linux tells it"
)
def test_a_stack_four_times_larger_than_the_limit(tmp_path: Path) -> None:
    # 32 bits a value: the memory of the frames counts here, and half as many values take less time
    source, shape = tmp_path / "run__mccd.h5", (80, 900, 1024)
    noise = np.random.default_rng(1).poisson(40, (shape[1], 64)).astype(np.uint32)
    noise = np.tile(noise, shape[2] // 64)  # gzip is many times faster where values come again
    with h5py.File(source, "w") as file:
        frames = file.create_dataset(
            "frames", shape, np.uint32, chunks=(1, *shape[1:]), compression="gzip"
        )
        writer = ImageWriter(frames)
        for i in range(len(frames)):
            noise = np.roll(noise, 7001)
            image = noise.copy()
            image[8 * i : 8 * i + 6, 6 * i : 6 * i + 6] = 300
            writer.store(i, writer.compress(image))
    limit = int(np.prod(shape))  # of four bytes each
    program = (
        "from gpu_spots.cli import lu_hdf2spots\n"
        "try: lu_hdf2spots()\n"
        "finally: print(next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if "
        "line.startswith('VmHWM')))"
    )
    arguments = [sys.executable, "-c", program, str(source), "-a", "0", "--threads", "2", "--quiet"]
    peaks = {}
    for name, more in {"free": [], "limited": ["--memory-limit", f"{limit}B"]}.items():
        done = subprocess.run(
            [*arguments, *more, "-o", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        peaks[name] = int(done.stdout)
    assert peaks["limited"] <= limit + 300e6
    assert peaks["free"] > limit + 300e6
    with h5py.File(tmp_path / "free") as free, h5py.File(tmp_path / "limited") as limited:
        assert len(free["spots/I"]) >= 80
        assert_same(datasets(limited), datasets(free))


def test_no_room_for_a_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, dtype = (3, 4, 5), np.dtype("uint16")
    with (
        pytest.raises(
            OutputError, match=r"nowhere: the scratch file cannot be written: No such file"
        ),
        scratch_file(tmp_path / "nowhere", shape, dtype),
    ):
        pass
    with (
        pytest.raises(
            OutputError,
            match=r"a scratch file needs \d+\.\d\d GiB, .* are free; use scratch to name another "
            r"folder",
        ),
        scratch_file(tmp_path, (10**6, 10**5, 10**4), dtype),
    ):
        pass
    with scratch_file(tmp_path, shape, dtype) as scratch:
        assert not listing(tmp_path)
        frames = np.arange(60, dtype=dtype).reshape(shape)
        scratch.write(1, frames[1:])
        scratch.write(0, frames[:1])
        rows = np.empty((2, 2, 5), dtype)
        scratch.read_rows(1, 3, 1, 3, rows)
        assert np.array_equal(rows, frames[1:3, 1:3])
        monkeypatch.setattr(
            "os.pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OutputError, match="scratch file cannot be written: No space left"):
            scratch.write(0, frames)


@pytest.mark.parametrize("how", ["as they are", "scaled", "levelled"])
@pytest.mark.parametrize("place", [Place.MEMORY, Place.FILE, Place.SCRATCH, Place.DEVICE])
def test_bands_and_batches_are_parts_of_the_stack(place: Place, how: str, tmp_path: Path) -> None:
    """Scaled frames are those times factors in 2^-16, rounded; batches come as they are.

    With ``-m clip`` bands come as they are too, and batches lose a part of their background.
    """
    frames, backend = frames_of(np.dtype("uint16"), (30, 37, 45), seed=4), CpuBackend(2)
    factors = 65536 + 1000 * np.arange(30)
    method = METHODS["clip" if how == "levelled" else "n_removed"].for_run(
        Parameters.manual(), {}, 30, "run"
    )
    mean = FixedPointMean(2**32, np.full((37, 45), 20), np.zeros((37, 45), np.uint32))
    background = background_of(np.ones((37, 45), np.int32), frames.dtype, mean)
    background = replace(background, follows=np.full((37, 45), 320))
    prepared = backend.prepare(background, Morphology(0, 0, 1), None)
    banded = expected = frames
    if how == "scaled":
        banded = expected = backend.scaled(frames, factors, Validity())
    elif how == "levelled":
        levels = np.rint(2**32 / factors).astype(np.int64)
        expected = backend.levelled(frames, levels, Validity(), prepared)
        assert not np.array_equal(expected, frames)
    with open_run(saved(tmp_path / "x.h5", frames, **LAYOUTS["gzip strips"])) as stack:
        spool = partial(scratch_file, tmp_path)
        made = pipeline.plan_run(stack, MODES["none"], Resources(backend, open_spool=spool))
        made = replace(made, place=place)
        with open_source(stack, backend, made, method, spool, Notes()) as source:
            source = source if how == "as they are" else source.scaled_by(factors)
            for begin, end in ((0, 37), (8, 16), (3, 22), (36, 37)):
                assert np.array_equal(source.band(begin, end), banded[:, begin:end])
            for begin, end in ((0, 30), (4, 5), (11, 29)):
                batch = source.batch(begin, end)
                assert np.array_equal(batch, frames[begin:end])
                at_level = source.at_level(batch, begin, end, prepared)
                assert np.array_equal(at_level, expected[begin:end])


def test_memory_of_bands_is_used_again_until_their_walk_ends(tmp_path: Path) -> None:
    """Threads outlive their walk, and would keep the memory through the rest of the run."""
    backend, places, bands = CpuBackend(1), set[int](), list[weakref.ref[np.ndarray]]()
    frames = frames_of(np.dtype("uint16"), (30, 36, 45), seed=4)
    method = METHODS["n_removed"].for_run(Parameters.manual(), {}, 30, "run")
    with open_run(saved(tmp_path / "x.h5", frames, **LAYOUTS["gzip strips"])) as stack:
        made = pipeline.plan_run(stack, MODES["none"], Resources(backend))
        made = replace(made, place=Place.FILE)
        with open_source(stack, backend, made, method, None, Notes()) as source:

            def look(begin: int) -> threading.Thread:
                band = source.band(begin, begin + 9)
                places.add(band.ctypes.data)
                bands.append(weakref.ref(band))
                return threading.current_thread()

            threads = set(source.in_order(look, range(0, 36, 9)))
            assert [thread.is_alive() for thread in threads] == [True]
            assert (len(bands), len(places)) == (4, 1)
            assert [band() for band in bands] == [None] * 4
