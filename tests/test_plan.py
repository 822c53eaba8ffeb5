"""The plan: where frames are kept, what that needs, and that it makes no difference to any result."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import KruskalWallis, Method, Trimmed
from gpu_spots.errors import InputError, OutOfDeviceMemory, OutputError
from gpu_spots.files.frames import ArrayStack, FileStack, open_run
from gpu_spots.files.hdf5.chunk_writer import ImageWriter
from gpu_spots.files.output.scratch import scratch_file
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.memory import plan
from gpu_spots.memory.plan import Limits, Place, Plan, Work, make_plan, spans
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from gpu_spots.run import Job, find_to_file
from helpers import Notes, assert_same, command, datasets, listing, series
from test_contract import frames_of

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "plain chunks": {"chunks": (1, 31, 45)},
    "gzip frames": {"chunks": (1, 37, 45), "compression": "gzip"},
    "gzip strips": {"chunks": (1, 8, 45), "compression": "gzip", "shuffle": True},
    "gzip blocks": {"chunks": (5, 16, 20), "compression": "gzip"},
    "lzf strips": {"chunks": (1, 8, 45), "compression": "lzf"},
}
MODES = {
    "none": Parameters(angles=0),
    "pairs": Parameters(angles=0, sync="pairs", cutoff=2.0),
    "kruskal": Parameters(angles=0, method="kruskal", sync="blocks", alpha=0.3),
    "level": Parameters(angles=0, normalise="level", sync="blocks"),
}
KRUSKAL = KruskalWallis(np.arange(180) // 10, np.zeros(19))
COLUMNS = {"angle": np.arange(30) // 6 * 2.0, "laser_on": np.arange(30) % 2}


def saved(path: Path, frames: np.ndarray, **layout: Any) -> Path:
    """A run on disk."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, **layout)
        for name, column in COLUMNS.items():
            file[f"lauecollect/{name}"] = column[: len(frames)]
    return path


def results(
    stack: ArrayStack | FileStack,
    parameters: Parameters,
    backend: Backend,
    folder: Path,
    notes: Notes,
) -> dict[str, np.ndarray]:
    """All datasets of a run."""
    with memory_file() as file:
        writer = SpotsWriter(file, "memory", stack.shape, {})
        pipeline.find_spots(
            stack,
            parameters,
            backend,
            writer,
            notes,
            Limits(may_spool=True),
            lambda *of: scratch_file(folder, *of),
        )
        return datasets(file)


def force(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Every plan has these fields, whatever would be best."""
    monkeypatch.setattr(pipeline, "make_plan", lambda *given: replace(make_plan(*given), **fields))


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
    stack, expected = ArrayStack(frames, COLUMNS), {}
    for frames_of_batch in (30, 4):
        force(monkeypatch, batch_frames=16, piece_frames=3, threads=2)
        found = results(
            stack,
            Parameters(angles=0, erosions=0),
            Device(frames=frames_of_batch),
            tmp_path,
            Notes(),
        )
        assert_same(found, expected or found)
        expected = found


def test_a_device_that_has_all_frames_has_large_batches() -> None:
    """Of at least 128 million pixels, encoded in pieces; the CPU's are as small as they were."""
    whole = planned(Stack(LARGE, None), Device(2**36), memory=2**34)
    assert (whole.place, whole.batch_frames, whole.piece_frames) == (Place.DEVICE, 32, 8)
    # one is computed while another one's results are fetched
    assert planned(Stack((30, 2048, 2048), None), Device(2**36), memory=2**34).batch_frames == 8
    in_parts = planned(Stack(LARGE, 1, is_decoded=True), Device(2**30), memory=2**34)
    assert (in_parts.place, in_parts.batch_frames) == (Place.FILE, in_parts.piece_frames)
    on_cpu = planned(Stack(LARGE, None), memory=2**34)
    assert (on_cpu.batch_frames, on_cpu.piece_frames) == (8, 8)


@pytest.mark.parametrize("place", [Place.MEMORY, Place.FILE, Place.SCRATCH, Place.DEVICE])
@pytest.mark.parametrize("mode", MODES)
def test_the_place_of_frames_makes_no_difference(
    backend: Backend, mode: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(np.dtype("uint16"), (30, 37, 45), seed=9)
    frames[7:9] += 9
    expected, notes = (
        results(ArrayStack(frames, COLUMNS), MODES[mode], backend, tmp_path, Notes()),
        Notes(),
    )
    force(monkeypatch, place=place, band_rows=7, batch_frames=4, threads=3)
    with open_run(saved(tmp_path / "x.h5", frames, **LAYOUTS["gzip blocks"])) as stack:
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
    assert_same(found, results(ArrayStack(frames), MODES["none"], CpuBackend(1), tmp_path, Notes()))


class Device(CpuBackend):
    """The CPU backend as if it had a memory of its own, which is full now and then."""

    def __init__(
        self, free: int | None = 2**40, rows: int = 10**9, frames: int = 10**9, united: int = 10**9
    ) -> None:
        super().__init__(2)
        self.free, self.rows, self.frames, self.united, self.released = (
            free,
            rows,
            frames,
            united,
            0,
        )

    def free_bytes(self) -> int | None:  # type: ignore[override]
        return self.free

    def release(self) -> None:
        self.released += 1

    def background(
        self, frames: np.ndarray, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        if frames.shape[1] > self.rows:
            raise OutOfDeviceMemory("device: out of memory")
        return super().background(frames, method, validity, into)

    def find_masks(self, frames: np.ndarray, prepared: Any) -> Any:
        if len(frames) > self.frames:
            raise OutOfDeviceMemory("device: out of memory")
        return super().find_masks(frames, prepared)

    def union(self, onto: Any, masks: Any, mask_of_frame: np.ndarray) -> None:
        if len(masks) > self.united:
            raise OutOfDeviceMemory("device: out of memory")
        super().union(onto, masks, mask_of_frame)


@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_half_as_much_is_tried_where_a_device_is_full(sync: str, tmp_path: Path) -> None:
    frames, parameters = (
        frames_of(np.dtype("uint16"), (30, 37, 45), seed=9),
        Parameters(angles=0, sync=sync),
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


class Stack:
    """A stack of any size that nobody reads."""

    source, validity, saturation, shuffled = "run.h5: /frames", Validity(), None, None

    def __init__(
        self,
        shape: tuple[int, int, int],
        rows_apart: int | None,
        is_decoded: bool = False,
        step: int = 1,
    ) -> None:
        self.shape, self.rows_apart, self.is_decoded, self.step = (
            shape,
            rows_apart,
            is_decoded,
            step,
        )
        self.dtype, self.columns = np.dtype("uint16"), dict[str, np.ndarray]()

    def resident(self) -> None:
        return None


LARGE = (180, 2048, 2048)
STACK_BYTES = 180 * 2048 * 2048 * 2


def planned(
    stack: Stack,
    backend: Backend | None = None,
    memory: int | None = None,
    spool: bool = True,
    **work: Any,
) -> Plan:
    of = Work(**{"method": Trimmed(25), "scales": False, "n_masks": None, **work})
    return make_plan(stack, of, backend or CpuBackend(2), Limits(memory, may_spool=spool))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stack", "memory", "place", "decodings"),
    [
        (Stack(LARGE, 1, is_decoded=True), 2**34, Place.FILE, 2),
        (Stack(LARGE, None), 2**34, Place.MEMORY, 1),
        (Stack(LARGE, None), STACK_BYTES // 4, Place.SCRATCH, 1),
        (Stack(LARGE, 128), 2**34, Place.MEMORY, 1),
        (Stack(LARGE, 128), STACK_BYTES // 2, Place.FILE, 3),
        (Stack(LARGE, 128, step=10), STACK_BYTES // 2, Place.SCRATCH, 1),
    ],
)
def test_frames_are_kept_where_they_cost_least(
    stack: Stack, memory: int, place: Place, decodings: int
) -> None:
    made = planned(stack, memory=memory)
    assert (made.place, made.decodings) == (place, decodings)
    assert made.host_bytes <= memory
    assert made.scratch_bytes == (STACK_BYTES if place == Place.SCRATCH else 0)
    assert made.n_bands == len(list(spans(2048, made.band_rows)))
    assert made.n_batches == len(list(spans(180, made.batch_frames)))
    if place == Place.FILE:
        assert made.band_rows % (stack.rows_apart or 1) == 0


def test_a_device_holds_the_stack_if_it_can() -> None:
    stack = Stack(LARGE, None)
    whole = planned(stack, Device(2**35), memory=2**34)
    assert whole.place == Place.DEVICE
    assert whole.device_bytes is not None
    assert STACK_BYTES < whole.device_bytes <= 2**35
    assert whole.host_bytes < STACK_BYTES
    parts = planned(stack, Device(2**30), memory=2**34)
    assert parts.place == Place.MEMORY
    assert parts.device_bytes is not None
    assert parts.device_bytes <= 2**30
    assert planned(stack, Device(2**30), memory=2**30).place == Place.SCRATCH


def test_what_does_not_fit_says_what_is_needed() -> None:
    with pytest.raises(
        InputError,
        match=r"run.h5: /frames: 180 frames of 2048 x 2048 need at least \d+ MiB of memory, 10 MiB are allowed by memory_limit",
    ) as refused:
        planned(Stack(LARGE, None), memory=10 * 2**20)
    assert "scratch" not in str(refused.value)
    with pytest.raises(
        InputError, match=r"need at least 1\.\d GiB of memory, .*; use scratch to name a folder"
    ):
        planned(Stack(LARGE, None), memory=2**30, spool=False)


@pytest.mark.parametrize(
    "stack",
    [
        Stack(LARGE, 1, is_decoded=True),
        Stack(LARGE, None),
        Stack(LARGE, 512, step=4),
        Stack((180, 512, 512), 64),
    ],
    ids=range(4),
)
@pytest.mark.parametrize(
    "work",
    [{}, {"scales": True}, {"method": KRUSKAL, "n_masks": 18}],
    ids=["alone", "level", "kruskal"],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_what_is_needed_is_enough_and_no_more_than_that(
    stack: Stack, work: dict[str, Any], on_device: bool
) -> None:
    def needed(backend: Backend, memory: int) -> int:
        with pytest.raises(InputError, match=f" need at least .* of {of}, ") as refused:
            planned(stack, backend, memory, **work)
        return int(str(refused.value).partition(" need at least ")[2].split(" MiB")[0])

    of, backend = "memory", Device(2**40) if on_device else CpuBackend(2)
    least = needed(backend, 1)
    assert planned(stack, backend, least * 2**20, **work)
    assert needed(backend, (least - 1) * 2**20) == least
    if on_device:
        of = "GPU memory"
        least = needed(Device(1), 2**40)
        assert planned(stack, Device(least * 2**20), 2**40, **work)
        assert needed(Device((least - 1) * 2**20), 2**40) == least


@pytest.mark.parametrize("memory", [2**28, 2**30, 2**34])
@pytest.mark.parametrize(
    "work", [{}, {"scales": True}, {"n_masks": 90}, {"method": KRUSKAL, "n_masks": 18}]
)
def test_a_plan_never_exceeds_its_limit(memory: int, work: dict[str, Any]) -> None:
    for shape in ((60, 512, 512), (180, 1024, 1024), (720, 2048, 2048), (5000, 100, 100)):
        try:
            made = planned(Stack(shape, 1, is_decoded=True), memory=memory, **work)
        except InputError:
            continue
        assert made.host_bytes <= memory
        assert 1 <= made.band_rows <= shape[1]
        assert 1 <= made.batch_frames <= shape[0]


def test_the_batch_is_the_users() -> None:
    stack = Stack(LARGE, None)
    of = Work(Trimmed(25), scales=False, n_masks=None)
    assert make_plan(stack, of, CpuBackend(2), Limits(batch=5)).batch_frames == 5  # type: ignore[arg-type]
    assert make_plan(stack, of, CpuBackend(2), Limits(batch=500)).batch_frames == 180  # type: ignore[arg-type]


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """The peak of the memory that Python and NumPy took, bytes."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["none", "pairs", "level"])
@pytest.mark.parametrize(
    ("layout", "limit"),
    [("contiguous", None), ("gzip", None), ("gzip", 17_000_000), ("contiguous", 17_000_000)],
)
def test_the_memory_model_holds(mode: str, layout: str, limit: int | None, tmp_path: Path) -> None:
    frames = np.random.default_rng(3).poisson(60, (30, 384, 512)).astype(np.uint16)
    for i, frame in enumerate(frames):
        for k in range(40):  # spots of 8 x 8 pixels: 1.3 % of the frame
            x, y = (i * 37 + k * 91) % 370, (i * 53 + k * 151) % 500
            frame[x : x + 8, y : y + 8] = 200
    options = (
        {"chunks": (1, 384, 512), "compression": "gzip", "compression_opts": 1}
        if layout == "gzip"
        else {}
    )
    source, output = saved(tmp_path / "run.h5", frames, **options), tmp_path / "out.h5"
    # one thread: of several it is chance whether they need most at the same time
    backend, job = CpuBackend(1), Job(MODES[mode], CpuBackend(1), Notes(), Limits(memory=limit))
    with open_run(source) as stack:
        made = pipeline.plan_run(stack, MODES[mode], backend, job.limits_for(output))
        assert (made.place == Place.SCRATCH) == (limit is not None and layout == "gzip")
        find_to_file(stack, output, job)  # what is imported and cached on the way is not the run's
        with traced() as peak:
            find_to_file(stack, output, job, force=True)
            used = peak()
    assert used <= made.host_bytes <= 1.25 * used + 4e6, (
        f"{used / 1e6:.1f} MB used, {made.host_bytes / 1e6:.1f} planned: {made.words()}"
    )


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is read as Linux tells it"
)
def test_a_stack_four_times_larger_than_the_limit(tmp_path: Path) -> None:
    source, shape = tmp_path / "run__mccd.h5", (160, 900, 1024)
    noise = np.random.default_rng(1).poisson(40, shape[1:]).astype(np.uint16)
    with h5py.File(source, "w") as file:
        frames = file.create_dataset(
            "frames", shape, np.uint16, chunks=(1, *shape[1:]), compression="gzip"
        )
        writer = ImageWriter(frames)
        for i in range(len(frames)):
            noise = np.roll(noise, 7001)
            image = noise.copy()
            image[4 * i : 4 * i + 6, 3 * i : 3 * i + 6] = 300
            writer.store(i, writer.compress(image))
    limit = int(np.prod(shape)) * 2 // 4
    program = (
        "from gpu_spots.cli import lu_hdf2spots\n"
        "try: lu_hdf2spots()\n"
        "finally: print(next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
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
        assert len(free["spots/I"]) >= 160
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
            match=r"a scratch file needs \d+\.\d\d GiB, .* are free; use scratch to name another folder",
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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved(tmp_path / "run__mccd.h5", series(30))


def test_only_the_stacks_that_are_kept_are_written(run: Path) -> None:
    output = run.with_name("out.h5")
    assert command(run, "-a", 0, "-S", "pairs", "-o", output).status == 0
    with h5py.File(output) as file:
        whole = datasets(file)
    paths = {
        "raw": {"masks_raw"},
        "filtered": {"masks_filtered"},
        "synced": {"masks_synced"},
        "labels": {"masks/labels"},
        "pixels": {"spots/pixel_list", "spots/pixel_list_BE"},
    }
    for keep in ("labels,pixels", "raw", "filtered,synced", "none"):
        assert (
            command(run, "-a", 0, "-S", "pairs", "-o", output, "--keep", keep, "--force").status
            == 0
        )
        left_out = set().union(*(found for name, found in paths.items() if name not in keep))
        with h5py.File(output) as file:
            assert file["info"].attrs["keep"] == ("" if keep == "none" else keep)
            kept = datasets(file)
            assert all(file["masks"].get(link) is not None for link in file["masks"])
        assert kept.keys() == whole.keys() - left_out
        assert_same(kept, {path: values for path, values in whole.items() if path in kept})


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Path) -> None:
    before = listing(run.parent)
    ended = command(run, "-a", 0, "--dry-run", "--quiet", "--batch", 7, "--threads", 2)
    assert (ended.status, ended.stderr) == (0, "")
    said = dict(line.split(":", 1) for line in ended.stdout.splitlines())
    assert said["frames"].strip() == "in their file, from which each pass reads what it needs"
    assert said["masks and spots"].strip() == "5 batches of 7 frames"
    assert said["memory"].strip().endswith("at most, besides the program itself")
    assert said["output"].strip().startswith(f"{run.parent / 'run__spots.h5'}, about ")
    assert listing(run.parent) == before
    assert command(run, "-a", 0).status == 0
    again = command(run, "-a", 0, "--dry-run")
    assert again.status == 0
    assert again.stdout.splitlines()[-1].endswith("already exists, use --force")
    assert "--force" not in command(run, "-a", 0, "--dry-run", "--force").stdout


@pytest.mark.parametrize("sync", ["none", "pairs"])
def test_a_dry_run_tells_the_size_of_the_output(tmp_path: Path, sync: str) -> None:
    run = tmp_path / "x__mccd.h5"
    assert command("simulate", run, "--size", 256, "--angles", 6, name="gpu-spots").status == 0
    options = (run, "-a", 0, "-S", sync, "--quiet")
    said = command(*options, "--dry-run").stdout.splitlines()[-1]
    number, unit = said.rsplit("about ", 1)[1].split()
    assert command(*options).status == 0
    size = (tmp_path / "x__spots.h5").stat().st_size
    assert 0.6 < float(number) * {"KiB": 2**10, "MiB": 2**20}[unit] / size < 1.6


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (
            "--memory-limit",
            "12",
            "is not a size of at least 1 byte with a unit, such as 500MB, 2G or 1.5GiB",
        ),
        ("--memory-limit", "0GB", "is not a size"),
        ("--memory-limit", "2Bi", "is not a size"),
        ("--memory-limit", f"{'9' * 400}GB", "is not a size"),
        ("--threads", "9" * 400, "--threads"),
        ("--batch", "0", "--batch"),
        ("--scratch", "nowhere", "nowhere"),
        ("--keep", "masks", "is not none or some of raw,filtered,synced,labels,pixels"),
        ("--keep", "none,raw", "is not none or some of"),
        ("--keep", "", "is not none or some of"),
    ],
)
def test_values_out_of_range_are_wrong_usage(
    run: Path, option: str, value: str, words: str
) -> None:
    ended = command(run, option, value)
    assert ended.status == 2
    assert words in ended.stderr
    assert len(ended.lines) == 1


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("9MB", 9_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("300kb", 300_000),
        (".5KiB", 512),
        ("2G", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1T", 10**12),
        ("64Mi", 2**26),
        ("8 Ki", 2**13),
        ("77k", 77_000),
        ("5000000B", 5_000_000),
        ("1TiB", 2**40),
    ],
)
def test_sizes(run: Path, text: str, n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(plan, "_memory", lambda limits: seen.append(limits.memory) or 2**40)
    command(run, "-a", 0, "--memory-limit", text, "--dry-run")
    assert seen == [n_bytes]
