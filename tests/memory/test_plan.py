"""Places, sizes and limits of the plan, and whether the memory model holds."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from factories.plans import MODES, Device, Stack, planned, saved
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.methods import KruskalWallis, Trimmed
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run
from gpu_spots.masks.matched import grown_at_once
from gpu_spots.memory.needs import GROWN, Place, Work, spans
from gpu_spots.memory.plan import ResourceLimits, make_plan
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_to_file, spool_for
from helpers import Notes

KRUSKAL = KruskalWallis(np.arange(180) // 10, np.zeros(19))


def test_a_device_that_has_all_frames_has_large_batches() -> None:
    """Batches have at least 128 million pixels, and are encoded in pieces.

    Those of the CPU stay small.
    """
    whole = planned(Stack(LARGE, None), Device(2**36), memory=2**34)
    assert (whole.place, whole.batch_frames, whole.piece_frames) == (Place.DEVICE, 32, 8)
    # one is computed while another one's results are fetched
    assert planned(Stack((30, 2048, 2048), None), Device(2**36), memory=2**34).batch_frames == 8
    in_parts = planned(Stack(LARGE, 1, is_decoded=True), Device(2**30), memory=2**34)
    assert (in_parts.place, in_parts.batch_frames) == (Place.FILE, in_parts.piece_frames)
    on_cpu = planned(Stack(LARGE, None), memory=2**34)
    assert (on_cpu.batch_frames, on_cpu.piece_frames) == (8, 8)


LARGE = (180, 2048, 2048)
STACK_BYTES = 180 * 2048 * 2048 * 2


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
        match=r"run.h5: /frames: 180 frames of 2048 x 2048 need at least \d+ MiB of memory, 10 MiB "
        r"are allowed by memory_limit",
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
    assert make_plan(stack, of, CpuBackend(2), ResourceLimits(batch=5)).batch_frames == 5  # type: ignore[arg-type]
    assert make_plan(stack, of, CpuBackend(2), ResourceLimits(batch=500)).batch_frames == 180  # type: ignore[arg-type]


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """The peak of the memory that Python and NumPy took, bytes."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the same run in two layouts, and its first rows and columns to warm up with."""
    frames = np.random.default_rng(3).poisson(60, (30, 384, 512)).astype(np.uint16)
    for i, frame in enumerate(frames):
        for k in range(40):  # spots of 8 x 8 pixels: 1.3 % of the frame
            x, y = (i * 37 + k * 91) % 370, (i * 53 + k * 151) % 500
            frame[x : x + 8, y : y + 8] = 200
    scattered = np.random.default_rng(4).poisson(60, frames.shape).astype(np.uint16)
    places = np.random.default_rng(5).integers((0, 1, 1), (30, 383, 511), (330 * 30, 3))
    for i, x, y in places.tolist():
        # spots of 3 x 3 pixels, one in 600: half of the pixels are near a seed
        scattered[i, x - 1 : x + 2, y - 1 : y + 2] += 30
    folder = tmp_path_factory.mktemp("stored")
    found = {}
    stacks = {"": frames, "few ": frames[:, :96, :128], "scattered ": scattered}
    for name, part in stacks.items():
        packed = {"chunks": (1, *part.shape[1:]), "compression": "gzip", "compression_opts": 1}
        found[f"{name}contiguous"] = saved(folder / f"{name}contiguous.h5", part)
        found[f"{name}gzip"] = saved(folder / f"{name}gzip.h5", part, **packed)
    return found


@pytest.fixture(scope="module")
def warmed() -> set[str]:
    """Layouts and modes for which this process has imported and cached everything."""
    return set()


@pytest.mark.parametrize(
    "mode", ["none", "pairs", "level", "matched", "matched pairs", "clip", "clip matched pairs"]
)
@pytest.mark.parametrize(
    ("layout", "limit"),
    [("contiguous", None), ("gzip", None), ("gzip", 17_000_000), ("contiguous", 17_000_000)],
)
def test_the_memory_model_holds(
    mode: str,
    layout: str,
    limit: int | None,
    stored: dict[str, Path],
    warmed: set[str],
    tmp_path: Path,
) -> None:
    check_memory(mode, layout, limit, stored, warmed, tmp_path)


@pytest.mark.parametrize("mode", ["matched", "matched pairs", "clip matched pairs"])
@pytest.mark.parametrize("limit", [None, 17_000_000])
def test_the_memory_model_holds_with_many_scattered_spots(
    mode: str, limit: int | None, stored: dict[str, Path], warmed: set[str], tmp_path: Path
) -> None:
    check_memory(mode, "contiguous", limit, stored, warmed, tmp_path, "scattered ")


def check_memory(
    mode: str,
    layout: str,
    limit: int | None,
    stored: dict[str, Path],
    warmed: set[str],
    tmp_path: Path,
    name: str = "",
) -> None:
    """Compare the memory that a run takes with that of its plan."""
    source, output = stored[name + layout], tmp_path / "out.h5"
    # one thread: of several it is chance whether they need most at the same time
    if limit and "matched" in mode:
        limit += 16_000_000  # for its constants
        limit += GROWN * 384 * 512  # for pixels near seeds
    elif limit and "clip" in mode:
        limit += 14_000_000  # for levels, and neighbourhoods
    limits = ResourceLimits(memory=limit)
    resources = Resources(CpuBackend(1), limits, spool_for(output))
    with open_run(source) as stack:
        made = pipeline.plan_run(stack, MODES[mode], resources)
        assert (made.place == Place.SCRATCH) == (limit is not None and layout == "gzip")
        run = MODES[mode], resources, Output(output, force=True), Notes()
        if not {layout, mode} <= warmed:
            with open_run(stored[f"few {layout}"]) as few:
                find_to_file(few, *run)  # what is imported and cached on the way is not the run's
            warmed |= {layout, mode}
        with traced() as peak:
            find_to_file(stack, *run)
            used = peak()
    n_pixels = stack.shape[1] * stack.shape[2]
    spare = GROWN * n_pixels * grown_at_once(made.batch_frames, n_pixels)
    most = 1.35 * used + spare if "matched" in mode else 1.25 * used
    assert used <= made.host_bytes <= most + 4e6, (
        f"{used / 1e6:.1f} MB used, {made.host_bytes / 1e6:.1f} planned: {made.words()}"
    )
