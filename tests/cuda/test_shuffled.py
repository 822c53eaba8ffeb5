"""Frames that are sent to a device shuffled, and unshuffled there.

Results do not change.
"""

import os
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_fallback import CpuBackend
from emulator.arrays import MEMORY
from factories.frames import frames_of
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda import shuffle as cuda_shuffle
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run
from gpu_spots.files.hdf5 import chunks, codecs
from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.memory import needs, plan
from gpu_spots.memory.needs import Place, Work
from gpu_spots.memory.plan import make_plan
from gpu_spots.model import FRAME_DTYPES
from gpu_spots.parameters import Parameters
from gpu_spots.protocols import Shuffled
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, chunk_offset, datasets, fetched, write_run

SHAPE = (24, 36, 45)
WIDE = [dtype for dtype in FRAME_DTYPES if dtype.itemsize > 1]
GZIP = {"shuffle": True, "compression": "gzip"}
SHUFFLED: dict[str, dict[str, Any]] = {
    "frames": {"chunks": (1, 36, 45), **GZIP},
    "strips": {"chunks": (1, 12, 45), **GZIP},
    "rows": {"chunks": (1, 1, 45), **GZIP},
    "frames without gzip": {"chunks": (1, 36, 45), "shuffle": True},
    "strips without gzip": {"chunks": (1, 9, 45), "shuffle": True},
}
IN_ORDER: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip alone": {"chunks": (1, 36, 45), "compression": "gzip"},
    "strips that are cut off": {"chunks": (1, 16, 45), **GZIP},
    "parts of rows": {"chunks": (1, 36, 15), **GZIP},
    "several frames": {"chunks": (2, 36, 45), **GZIP},
    "another filter": {"chunks": (1, 36, 45), "shuffle": True, "compression": "lzf"},
    "checksums": {"chunks": (1, 36, 45), "fletcher32": True, **GZIP},
}


def saved(path: Path, frames: np.ndarray, **layout: Any) -> Path:
    """A laser run on disk."""

    def edit(file: h5py.File) -> None:
        del file["frames"]
        file.create_dataset("frames", data=frames, **layout)

    return write_run(path, edit, frames)


def results(
    path: Path, backend: Backend, parameters: Parameters | None = None, notes: Notes | None = None
) -> dict[str, np.ndarray]:
    """Return all datasets of a run."""
    with memory_file() as file, open_run(path) as stack:
        pipeline.find_spots(
            stack,
            parameters or Parameters.manual(angles=0),
            Resources(backend),
            SpotsWriter(file, "memory", stack.shape, {}),
            notes or Notes(),
        )
        return datasets(file)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the number of chunks unshuffled on the device and on the host."""
    counted: Counter[str] = Counter()
    on_device, on_host = cuda_shuffle.unshuffle, codecs.unshuffle
    lock = threading.Lock()

    def count_device(toolkit: Any, shuffled: Any, into: Any) -> None:
        with lock:
            counted["device"] += len(shuffled)
        on_device(toolkit, shuffled, into)

    def count_host(*given: Any) -> None:
        with lock:
            counted["host"] += 1
        on_host(*given)

    monkeypatch.setattr(cuda_shuffle, "unshuffle", count_device)
    monkeypatch.setattr(chunks, "unshuffle", count_host)
    return counted


def force(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Give every plan these fields."""
    monkeypatch.setattr(pipeline, "make_plan", lambda *given: replace(make_plan(*given), **fields))


@pytest.mark.parametrize("layout", SHUFFLED)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_shuffled_frames_are_put_in_order_on_the_device(
    device_backend: Backend, dtype: np.dtype, layout: str, tmp_path: Path, calls: Counter[str]
) -> None:
    path = saved(tmp_path / "run.h5", frames_of(dtype, SHAPE, seed=dtype.num), **SHUFFLED[layout])
    found = results(path, device_backend)
    assert calls == {"device": 24 * 36 // SHUFFLED[layout]["chunks"][1]}
    assert_same(found, results(path, CpuBackend(2)))
    assert calls["host"] > 0


@pytest.mark.parametrize("layout", IN_ORDER)
def test_other_layouts_come_in_order(
    device_backend: Backend, layout: str, tmp_path: Path, calls: Counter[str]
) -> None:
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("int32"), SHAPE, seed=4), **IN_ORDER[layout]
    )
    found = results(path, device_backend)
    assert calls["device"] == 0
    assert_same(found, results(path, CpuBackend(2)))


@pytest.mark.parametrize("dtype", [">u2", ">f8", "u1"])
def test_other_byte_orders_and_single_bytes_come_in_order(
    device_backend: Backend, dtype: str, tmp_path: Path, calls: Counter[str]
) -> None:
    frames = frames_of(np.dtype(dtype).newbyteorder("="), SHAPE, seed=5).astype(dtype)
    path = saved(tmp_path / "run.h5", frames, **SHUFFLED["frames"])
    found = results(path, device_backend)
    assert calls["device"] == 0
    assert_same(found, results(path, CpuBackend(2)))


@pytest.mark.parametrize(("skipped", "n_on_device"), [(1, 0), (2, 24), (3, 0)])
def test_a_chunk_that_skips_a_filter(
    device_backend: Backend, skipped: int, n_on_device: int, tmp_path: Path, calls: Counter[str]
) -> None:
    """Bit 0 is shuffle: one chunk that skips it, and all frames come in order. Bit 1 is gzip."""
    frames = frames_of(np.dtype("uint16"), SHAPE, seed=6)
    path = saved(tmp_path / "run.h5", frames, **SHUFFLED["frames"])
    with h5py.File(path, "r+") as file:
        data = frames[5].tobytes() if skipped & 1 else codecs.shuffle(frames[5]).tobytes()
        file["frames"].id.write_direct_chunk(
            (5, 0, 0), data if skipped & 2 else zlib.compress(data), filter_mask=skipped
        )
        assert np.array_equal(file["frames"][5], frames[5])
    found = results(path, device_backend)
    assert calls["device"] == n_on_device
    assert_same(found, results(path, CpuBackend(2)))


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("layout", ["frames", "strips"])
@pytest.mark.parametrize(
    "mode", [{}, {"sync": "pairs", "normalise": "level"}], ids=["dark", "pairs, scaled"]
)
def test_every_place_of_frames(
    device_backend: Backend,
    mode: dict[str, Any],
    layout: str,
    place: Place,
    tmp_path: Path,
    calls: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bands of 7 rows cut through strips, so the host puts them in order.

    Batches are whole frames. In other places frames are in order.
    """
    path, parameters = (
        saved(
            tmp_path / "run.h5", frames_of(np.dtype("uint16"), SHAPE, seed=7), **SHUFFLED[layout]
        ),
        Parameters.manual(angles=0, **mode),
    )
    expected = results(path, CpuBackend(2), parameters)
    calls.clear()
    force(monkeypatch, place=place, band_rows=7, batch_frames=5, threads=3)
    if place == Place.SCRATCH:
        from gpu_spots.files.output.scratch import scratch_file

        find: Callable[..., Any] = pipeline.find_spots
        monkeypatch.setattr(
            pipeline,
            "find_spots",
            lambda stack, parameters, resources, *rest: find(
                stack,
                parameters,
                replace(resources, open_spool=lambda *of: scratch_file(tmp_path, *of)),
                *rest,
            ),
        )
    assert_same(results(path, device_backend, parameters), expected)
    stretches = 24 * (1 if layout == "frames" else 3)
    n_walks = {Place.DEVICE: 1, Place.FILE: 1 if not mode else 2}.get(place, 0)
    assert calls["device"] == n_walks * stretches
    assert (calls["host"] == 0) == (place == Place.DEVICE)


def test_bands_of_whole_strips(
    device_backend: Backend, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host puts no chunk in order, for levels, bands and batches.

    There are three bands, read ten frames at a time.
    """
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("uint16"), SHAPE, seed=7), **SHUFFLED["strips"]
    )
    expected = results(path, CpuBackend(2))
    calls.clear()
    force(monkeypatch, place=Place.FILE, band_rows=12, batch_frames=5)
    monkeypatch.setattr(needs, "PIECE_BYTES", 10 * 12 * 45 * 2)
    assert_same(results(path, device_backend), expected)
    assert calls == {"device": 2 * 24 * 3}


def test_more_chunks_than_a_launch_takes(
    device_backend: Backend, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("float32"), SHAPE, seed=8), **SHUFFLED["rows"]
    )
    expected = results(path, CpuBackend(2))
    monkeypatch.setattr(cuda_shuffle, "MOST_CHUNKS", 5)
    assert_same(results(path, device_backend), expected)


@pytest.mark.parametrize(
    ("place", "n_times"), [(Place.DEVICE, 2), (Place.FILE, 2), (Place.MEMORY, 0)]
)
def test_two_devices(
    place: Place,
    n_times: int,
    make_backend: Callable[[str], Backend],
    tmp_path: Path,
    calls: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each device puts frames in order: all, or those of the bands and batches of its threads."""
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("int16"), SHAPE, seed=17), **SHUFFLED["strips"]
    )
    expected = results(path, CpuBackend(2))
    calls.clear()
    force(monkeypatch, place=place, band_rows=12, batch_frames=5)
    assert_same(results(path, make_backend("two emulated")), expected)
    assert calls["device"] == n_times * 24 * 3
    assert (calls["host"] == 0) == (place != Place.MEMORY)


@pytest.mark.parametrize(
    ("chunks", "n_on_device"), [(((1, 36, 45), (1, 36, 45)), 20), (((1, 36, 45), (1, 12, 45)), 0)]
)
def test_a_stack_of_several_datasets(
    device_backend: Backend,
    chunks: tuple[tuple[int, int, int], ...],
    n_on_device: int,
    tmp_path: Path,
    calls: Counter[str],
) -> None:
    """All datasets are shuffled in the same way, or all frames are read in order."""
    frames = frames_of(np.dtype("uint16"), (20, 36, 45), seed=9)
    for i, chunk in enumerate(chunks):
        with h5py.File(tmp_path / f"run_data_{i}.h5", "w") as file:
            file.create_dataset("entry/data/data", data=frames[i * 10 :][:10], chunks=chunk, **GZIP)
    path = tmp_path / "run_master.h5"
    with h5py.File(path, "w") as file:
        for i in range(2):
            file[f"entry/data/data_{i + 1:06}"] = h5py.ExternalLink(
                f"run_data_{i}.h5", "entry/data/data"
            )
        file["entry"].attrs["NX_class"], file["entry/data"].attrs["NX_class"] = "NXentry", "NXdata"
    found = results(path, device_backend)
    assert calls["device"] == n_on_device
    assert len(found["frame2spotsBE"]) == 20
    assert_same(found, results(path, CpuBackend(2)))


@given(
    st.sampled_from(WIDE),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7)),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_rows_of_shuffled_frames(
    dtype: np.dtype, shape: tuple[int, int, int], step: int, seed: int
) -> None:
    """Stretches, rows of each, columns; the bits of every step-th row."""
    octets = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    values = octets.view(dtype)[..., 0]
    stretches = np.stack(
        [codecs.shuffle(stretch).reshape(dtype.itemsize, *shape[1:]) for stretch in values]
    )
    found = Shuffled.rows_in_order(stretches, slice(0, shape[0] * shape[1], step), dtype)
    expected = values.reshape(-1, shape[2])[::step]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("place", [Place.DEVICE, Place.FILE])
def test_levels_are_the_same_bits(
    backend: Backend, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third row of a frame is sampled, from strips of four rows.

    Invalid values and drift matter, and the warning has the numbers.
    """
    frames = (
        frames_of(np.dtype("float64"), (20, 36, 45), seed=10) * np.linspace(1, 9, 20)[:, None, None]
    )
    frames[frames > np.quantile(frames, 0.99)] = np.nan
    path = saved(tmp_path / "run.h5", frames, chunks=(1, 4, 45), **GZIP)
    monkeypatch.setattr("gpu_spots.background.levels.SAMPLE_PIXELS", 36 * 45 // 3)
    notes, expected = Notes(), Notes()
    force(monkeypatch, place=Place.MEMORY)
    in_order = results(path, CpuBackend(2), notes=expected)["per_frame/level"]
    force(monkeypatch, place=place)
    found = results(path, backend, notes=notes)["per_frame/level"]
    assert found.tobytes() == in_order.tobytes()
    assert notes.warnings == expected.warnings
    assert any("drift" in warning for warning in notes.warnings)


def cut(path: Path, index: int, keep: int) -> None:
    """A chunk of which only the beginning was written: as the list of chunks says."""
    with h5py.File(path, "r+") as file:
        at = (index, 0, 0)
        _, data = file["frames"].id.read_direct_chunk(at)
        file["frames"].id.write_direct_chunk(at, data[:keep])


def spoil(path: Path, index: int) -> None:
    """A byte in the middle of a chunk is another."""
    begin, size = chunk_offset(path, index)
    with path.open("r+b") as file:
        file.seek(begin + size // 2)
        was = file.read(1)[0]
        file.seek(begin + size // 2)
        file.write(bytes([was ^ 0xFF]))


def never_write(path: Path, index: int) -> None:
    """A chunk was never written."""
    with h5py.File(path, "r+") as file:
        frames, made = file["frames"][...], file["frames"].id.get_create_plist()
        kind = file["frames"].id.get_type()
        del file["frames"]
        dataset = h5py.Dataset(
            h5py.h5d.create(file.id, b"frames", kind, h5py.h5s.create_simple(frames.shape), made)
        )
        for i in {*range(len(frames))} - {index}:
            dataset[i] = frames[i]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "spoilt": lambda path: spoil(path, 5),
    "cut": lambda path: cut(path, 5, 99),
    "a byte long": lambda path: cut(path, 5, 1),
    "never written": lambda path: never_write(path, 5),
    "cut file": lambda path: os.truncate(path, sum(chunk_offset(path, 23)) - 9),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("layout", ["frames", "frames without gzip"])
def test_damage_is_named_as_on_the_cpu(
    device_backend: Backend, layout: str, damage: str, tmp_path: Path
) -> None:
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("uint16"), SHAPE, seed=11), **SHUFFLED[layout]
    )
    DAMAGE[damage](path)
    if (layout, damage) == ("frames without gzip", "spoilt"):
        # without a checksum nobody knows
        assert_same(results(path, device_backend), results(path, CpuBackend(2)))
        return
    said = []
    for backend in (device_backend, CpuBackend(2)):
        with pytest.raises(InputError) as refused:
            results(path, backend)
        said.append(str(refused.value))
    assert said[0] == said[1]
    if damage != "cut file":
        assert re.search(r"run.h5: /frames: frame 5 cannot be read: ", said[0])


def test_what_a_reader_is_asked_for(tmp_path: Path) -> None:
    frames = frames_of(np.dtype("uint16"), SHAPE, seed=12)
    path = saved(tmp_path / "run.h5", frames, **SHUFFLED["strips"])
    with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
        assert reader.shuffled_rows == 12
        into = np.empty((2, 2, 2, 12, 45), np.uint8)
        reader.read_shuffled(3, 5, 12, 36, into)
        for frame in (0, 1):
            for stretch in (0, 1):
                rows = np.ascontiguousarray(frames[3 + frame, 12 + 12 * stretch :][:12])
                assert into[frame, stretch].tobytes() == codecs.shuffle(rows).tobytes()
        for wrong, words in (
            ((3, 5, 12, 35, into), "rows 12 to 35 are not stored in shuffled stretches of 12 rows"),
            ((3, 5, 6, 36, into), "rows 6 to 36 are not"),
            ((23, 25, 12, 36, into), "frames 23 to 25, rows 12 to 36, expected some of"),
            (
                (3, 5, 0, 36, into),
                r"into is uint8 \(2, 2, 2, 12, 45\), expected contiguous uint8 \(2, 3, 2, 12, 45\)",
            ),
            ((3, 5, 12, 36, into[..., ::-1]), "expected contiguous"),
            ((3, 5, 12, 36, into.view(np.int8)), "into is int8"),
        ):
            with pytest.raises(ValueError, match=words):
                reader.read_shuffled(*wrong)


@pytest.mark.parametrize("layout", IN_ORDER)
def test_a_reader_of_frames_that_come_in_order(layout: str, tmp_path: Path) -> None:
    path = saved(
        tmp_path / "run.h5", frames_of(np.dtype("uint16"), SHAPE, seed=12), **IN_ORDER[layout]
    )
    with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
        assert reader.shuffled_rows is None
        with pytest.raises(
            ValueError, match="rows 0 to 36 are not stored in shuffled stretches of None rows"
        ):
            reader.read_shuffled(0, 1, 0, 36, np.empty((1, 1, 2, 36, 45), np.uint8))


def test_frames_are_seen_by_what_comes_next(device_backend: Any) -> None:
    """Some frames of what is held, the others as they were.

    Meanwhile it takes these frames' memory once more.
    """
    frames = frames_of(np.dtype("int16"), (5, 12, 9), seed=13)
    held = device_backend.upload(np.zeros_like(frames))
    # a device's free memory is also others' business
    is_emulated = "emulation" in device_backend.device
    free = device_backend.free_bytes()
    with device_backend.staging(held, 1, 4, shuffled_rows=6) as slot:
        assert not is_emulated or device_backend.free_bytes() == free - frames[1:4].nbytes
        assert (slot.shape, slot.dtype, slot.flags.c_contiguous) == (
            (3, 2, 2, 6, 9),
            np.uint8,
            True,
        )
        for frame, stretches in zip(frames[1:4], slot, strict=True):
            for i in range(2):
                stretches[i] = codecs.shuffle(frame[6 * i : 6 * i + 6]).reshape(2, 6, 9)
    assert not is_emulated or device_backend.free_bytes() == free
    found = fetched(device_backend, held)
    assert np.array_equal(found[1:4], frames[1:4])
    assert not found[[0, 4]].any()


@pytest.fixture
def emulated(make_backend: Callable[[str], Backend]) -> Any:
    """Return an emulated backend whose memory can be inspected."""
    return make_backend("emulated")


@pytest.mark.parametrize("place", [Place.DEVICE, Place.FILE])
@pytest.mark.parametrize("mode", [{}, {"normalise": "level"}], ids=["plain", "scaled"])
def test_the_plan_counts_what_is_put_in_order(
    emulated: Any,
    place: Place,
    mode: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread, as with several it is chance what they need at the same time.

    The peak is that of the second way of each band.
    """
    frames = frames_of(np.dtype("uint16"), (24, 200, 300), seed=14)
    path = saved(tmp_path / "run.h5", frames, chunks=(1, 100, 300), **GZIP)
    backend, parameters = GpuBackend(emulated.toolkit, 1), Parameters.manual(angles=0, **mode)
    made: list[plan.Plan] = []

    def planned(*given: Any) -> plan.Plan:
        monkeypatch.setattr(plan._Planner, "_places", lambda self: [place])
        made.append(make_plan(*given))
        return made[-1]

    monkeypatch.setattr(pipeline, "make_plan", planned)
    MEMORY.peak = before = MEMORY.live
    results(path, backend, parameters)
    assert made[0].place == place
    assert made[0].device_bytes is not None
    assert MEMORY.peak - before <= made[0].device_bytes


def test_bytes_that_the_plan_adds(
    emulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing else needs memory: the frames, and each thread's transfer once more."""
    frames = frames_of(np.dtype("uint16"), (24, 400, 300), seed=15)
    said = {}
    orders: dict[str, dict[str, Any]] = {"in order": {"compression": "gzip"}, "shuffled": GZIP}
    for name, filters in orders.items():
        with open_run(
            saved(tmp_path / f"{name}.h5", frames, chunks=(1, 100, 300), **filters)
        ) as stack:
            for place in (Place.DEVICE, Place.FILE):
                backend = GpuBackend(emulated.toolkit, 3)
                monkeypatch.setattr(backend, "band_bytes", lambda *_: 0)
                monkeypatch.setattr(backend, "batch_bytes", lambda *_: 0)
                of = Work(Trimmed(25), scales=False, n_masks=None)
                needed = needs.Needs(stack, of, backend, piece_pixels=1)
                said[name, place] = needed.device_bytes(place, 100, 1)
    assert said["shuffled", Place.FILE] - said["in order", Place.FILE] == 3 * 24 * 100 * 300 * 2
    assert said["shuffled", Place.DEVICE] == said["in order", Place.DEVICE] + 3 * frames[0].nbytes
    monkeypatch.setattr(needs, "PIECE_BYTES", 5 * 100 * 300 * 2)
    assert (
        needed.device_bytes(Place.FILE, 100, 1) - said["in order", Place.FILE]
        == 3 * 5 * 100 * 300 * 2
    )


def test_halves_where_there_is_no_room_for_it(
    emulated: Any, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan assumes more memory than there is.

    Bands of two strips become strips and then rows, and batches are halved.
    """
    frames = frames_of(np.dtype("uint16"), (24, 72, 90), seed=16)
    path = saved(tmp_path / "run.h5", frames, chunks=(1, 12, 90), **GZIP)
    expected = results(path, CpuBackend(2))
    calls.clear()
    released = Counter[str]()
    backend = GpuBackend(emulated.toolkit, 1)
    monkeypatch.setattr(emulated.toolkit, "free_bytes", lambda: 1 << 40)
    monkeypatch.setattr(emulated.toolkit, "release", lambda: released.update("r"))
    monkeypatch.setattr(MEMORY, "limit", MEMORY.live + int(2.1 * 24 * 24 * 90 * 2))
    force(monkeypatch, place=Place.FILE, band_rows=48, batch_frames=24)
    assert_same(results(path, backend), expected)
    assert released["r"] >= 2
    assert calls["device"] >= 2 * 24 * 6
