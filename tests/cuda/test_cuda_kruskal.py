"""Kruskal-Wallis moments of the CUDA kernels, run on the CPU.

tests/cpu/test_kruskal.py tests what every backend does.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpu_fallback.background import moments as cpu_moments
from emulator.emulated import EmulatedToolkit, EmulationError
from factories.blocks import (
    BACK_AGAIN,
    EQUAL,
    INTERLACED,
    UNEQUAL,
    assert_equals_reference,
    critical_values,
    frames_of,
)
from factories.moments import assert_equal, band_of, validities
from gpu_spots.background.methods import KruskalWallis
from gpu_spots.cuda import kruskal, ranked
from gpu_spots.cuda.kruskal import kruskal_moments as kruskal_on_device
from gpu_spots.model import FRAME_DTYPES, FloatMoments, IntegerMoments, Validity
from reference_kruskal import kruskal_h

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def toolkit(kernel_folder: Path) -> EmulatedToolkit:
    return EmulatedToolkit(kernel_folder)


def kruskal_moments(
    toolkit: EmulatedToolkit,
    frames: Any,
    block_of_frame: np.ndarray,
    critical: np.ndarray,
    validity: Validity,
) -> IntegerMoments | FloatMoments:
    """Return the moments of the device, on the host."""
    found = kruskal_on_device(toolkit, frames, block_of_frame, critical, validity)
    return found.to_host(toolkit, frames.shape[1:])


def asked_of_host(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the answers of the host during the test, one number per doubtful pixel."""
    answers: list[int] = []
    decide = kruskal._blocks_to_drop

    def note(*args: Any) -> int:
        answers.append(decide(*args))
        return answers[-1]

    monkeypatch.setattr(kruskal, "_blocks_to_drop", note)
    return answers


@pytest.mark.parametrize(
    "block_of_frame",
    [EQUAL, INTERLACED, UNEQUAL, BACK_AGAIN],
    ids=["equal", "interlaced", "unequal", "back again"],
)
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_equals_the_cpu_in_a_band(
    toolkit: EmulatedToolkit,
    monkeypatch: pytest.MonkeyPatch,
    dtype: np.dtype,
    block_of_frame: np.ndarray,
) -> None:
    answers = asked_of_host(monkeypatch)
    frames = frames_of(dtype, block_of_frame, (3, 11), seed=3 + dtype.num)
    if dtype.kind == "f":
        frames[::7, :, 5] = np.nan
    for validity in validities(frames):
        for alpha in (0.05, 0.3):
            critical = critical_values(alpha, int(block_of_frame.max()) + 1)
            found = kruskal_moments(
                toolkit, band_of(toolkit, frames), block_of_frame, critical, validity
            )
            assert_equal(
                found, cpu_moments(frames, KruskalWallis(block_of_frame, critical), validity)
            )
    assert not answers


@pytest.mark.parametrize(
    ("shared", "blocks"), [(1 << 14, 1024), (1500, 1024), (700, 1024), (100, 1024), (100, 3)]
)
def test_any_share_of_memory(
    toolkit: EmulatedToolkit, monkeypatch: pytest.MonkeyPatch, shared: int, blocks: int
) -> None:
    """Between eight and no pixels of a block are in shared memory; blocks are fewer than pixels."""
    monkeypatch.setattr(ranked, "SHARED", shared)
    monkeypatch.setattr(ranked, "MOST_BLOCKS", blocks)
    for dtype in (np.dtype("uint16"), np.dtype("float64")):
        frames = frames_of(dtype, UNEQUAL, (2, 9), seed=8)
        for validity in validities(frames):
            found = kruskal_moments(
                toolkit, band_of(toolkit, frames), UNEQUAL, critical_values(0.2, 5), validity
            )
            assert_equal(
                found,
                cpu_moments(frames, KruskalWallis(UNEQUAL, critical_values(0.2, 5)), validity),
            )


@pytest.mark.parametrize(
    "block_of_frame",
    [
        np.arange(180) // 10,
        np.arange(720) // 20,
        np.arange(1000) % 4,
        np.arange(90),
        np.arange(4000) // 2,
    ],
    ids=["18 of 10", "36 of 20", "4 of 250", "90 of 1", "2000 of 2"],
)
def test_runs_of_any_length(toolkit: EmulatedToolkit, block_of_frame: np.ndarray) -> None:
    frames = frames_of(np.dtype("uint16"), block_of_frame, (1, 5), seed=4)
    n_blocks = int(block_of_frame.max()) + 1
    critical = critical_values(0.05, n_blocks)
    if n_blocks > 100:  # a round a block: end after some
        critical[: n_blocks - 5] = math.inf
    for validity in (Validity(), Validity(low=60)):
        found = kruskal_moments(
            toolkit, toolkit.to_device(frames), block_of_frame, critical, validity
        )
        assert_equal(found, cpu_moments(frames, KruskalWallis(block_of_frame, critical), validity))


@pytest.mark.parametrize(
    "validity",
    [Validity(), Validity(low=1), Validity(np.arange(12)[None] % 3 > 0)],
    ids=["all", "gaps", "pixels"],
)
@pytest.mark.parametrize("top", [3, 60000])
def test_only_doubtful_pixels_are_asked_of_the_host(
    toolkit: EmulatedToolkit, monkeypatch: pytest.MonkeyPatch, top: int, validity: Validity
) -> None:
    """The critical value is one pixel's H; a later round of it may be in doubt too."""
    answers = asked_of_host(monkeypatch)
    frames = (
        np.random.default_rng(top).integers(0, top + 1, (len(UNEQUAL), 1, 12)).astype(np.uint16)
    )
    n_asked = 0
    for y in range(12):
        groups = [
            [x for x in frames[b == UNEQUAL, 0, y].tolist() if validity.low is None or x >= 1]
            for b in range(5)
        ]
        for after in (5, 4):
            h = float(kruskal_h(groups))
            critical = np.full(6, math.inf)
            critical[after:] = [0.0, h][-(6 - after) :] if after == 4 else h
            for monkey in (h, math.nextafter(h, 0), math.nextafter(h, math.inf)):
                critical[after] = monkey
                answers.clear()
                found = kruskal_moments(
                    toolkit, toolkit.to_device(frames), UNEQUAL, critical, validity
                )
                assert_equal(found, cpu_moments(frames, KruskalWallis(UNEQUAL, critical), validity))
                n_asked += len(answers)
                assert len(answers) < 12
    assert n_asked >= 12 * 3 * (1 if validity.pixels is None else 0.5)


def test_doubtful_pixels_are_fetched_some_at_a_time(
    toolkit: EmulatedToolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asked_of_host(monkeypatch)
    monkeypatch.setattr(kruskal, "AT_ONCE", 4 * 6)
    frames = np.tile(np.array([1, 1, 2, 2, 3, 3], np.int32)[:, None, None], (1, 3, 5))
    frames[:, 1, 2] = 7
    found = kruskal_moments(
        toolkit, band_of(toolkit, frames), np.arange(6) // 2, np.array([0, 0, 0, 5.0]), Validity()
    )
    assert answers == [0] * 14  # H is 5
    assert not np.any(found.dropped)
    assert np.all(found.kept == 6)


def many_equal_blocks() -> tuple[np.ndarray, np.ndarray]:
    """Return 300 blocks of two, of which 5 and 261 have the same largest mean rank.

    One thread looks at both of them.
    """
    frames = np.random.default_rng(2).integers(0, 50, (600, 1, 2)).astype(np.uint16)
    frames[[10, 11, 522, 523], 0, 0] = [97, 100, 98, 98]
    frames[[10, 11, 522, 523], 0, 1] = [98, 98, 97, 100]
    return frames, np.arange(600) // 2


@pytest.mark.parametrize("shared", [ranked.SHARED, 0], ids=["shared", "global"])
def test_of_equal_mean_ranks_the_first_block_leaves(
    toolkit: EmulatedToolkit, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    monkeypatch.setattr(ranked, "SHARED", shared)
    frames, blocks = many_equal_blocks()
    critical = np.append(np.full(300, math.inf), 0.01)
    found = kruskal_moments(toolkit, toolkit.to_device(frames), blocks, critical, Validity())
    assert_equal(found, cpu_moments(frames, KruskalWallis(blocks, critical), Validity()))
    assert isinstance(found, IntegerMoments)
    assert found.total.tolist() == frames[blocks != 5].sum(axis=0).tolist()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    alpha=st.sampled_from([0.05, 0.2, 0.6]),
    top=st.integers(1, 6),
    dtype=st.sampled_from(FRAME_DTYPES),
)
def test_heavy_ties_equal_reference(
    toolkit: EmulatedToolkit, data: st.DataObject, alpha: float, top: int, dtype: np.dtype
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=7), label="sizes")
    block_of_frame = np.repeat(np.arange(len(sizes)), sizes)
    values = st.lists(
        st.integers(0, top), min_size=len(block_of_frame), max_size=len(block_of_frame)
    )
    frames = np.array(data.draw(st.lists(values, min_size=1, max_size=4), label="pixels"), dtype).T[
        :, None, :
    ]
    validity = Validity(low=data.draw(st.sampled_from([None, 1]), label="low"))
    moments = kruskal_moments(
        toolkit,
        toolkit.to_device(frames),
        block_of_frame,
        critical_values(alpha, len(sizes)),
        validity,
    )
    assert_equals_reference(moments, frames, block_of_frame, alpha, validity)


FAULTS = [
    (
        "__popc(all & ((1u << lane) - 1)));\n    counted",
        "__popc(all & ((2u << lane) - 1)));\n    counted",
    ),
    ("ranks.before[ranks.group[i] + 1]", "ranks.before[ranks.group[i]]"),
    ("(~0u >> (31 - lane))", "(~0u >> (32 - lane & 31))"),
    ("if (mean > best)", "if (mean >= best)"),
    ("ranks.sums[b] = 0;\n    team_sync();", "ranks.sums[b] = 0;"),
    ("squares = team_sum(team, squares);", ""),
    ("n_left -= ranks.sizes[block];", ""),
    ("blocks_left--;", ""),
    (
        "if (team.thread == 0) ranks.sizes[block] = 0;\n    team_sync();",
        "if (team.thread == 0) ranks.sizes[block] = 0;",
    ),
    ("best == largest ? first : ~0u", "first"),
    ("blocks_left < 3", "blocks_left < 4"),
    ("if (left) entries[kept", "if (i < n_valid) entries[kept"),
]


OF_A_BLOCK = [fault for fault in FAULTS if "team_sync();" in fault[0] or "best" in fault[0]]
"""Those that are worth planting where several warps share a pixel, too."""


@pytest.mark.parametrize(
    ("right", "wrong", "shared"),
    [*((*fault, ranked.SHARED) for fault in FAULTS), *((*fault, 0) for fault in OF_A_BLOCK)],
    ids=lambda value: value.strip()[:30] if isinstance(value, str) else str(value),
)
def test_planted_faults_are_found(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, shared: int
) -> None:
    monkeypatch.setattr(ranked, "SHARED", shared)
    if right == "if (mean > best)":
        frames, blocks = many_equal_blocks()
        critical, validity = np.append(np.full(300, math.inf), 0.01), Validity()
    else:
        blocks = np.arange(40 if "= 0;" in right else 60) // 5
        frames = frames_of(np.dtype("uint16"), blocks, (2, 9), seed=6)
        critical, validity = critical_values(0.2, int(blocks.max()) + 1), Validity(low=5)

    def edit(_: str, text: str) -> str:
        assert text.count(right) == 1, "the kernel has changed: plant the fault anew"
        return text.replace(right, wrong)

    def same(toolkit: EmulatedToolkit) -> bool:
        try:
            found = kruskal_moments(toolkit, toolkit.to_device(frames), blocks, critical, validity)
        except EmulationError as error:
            if str(error).startswith("g++"):
                raise
            return False
        try:
            assert_equal(found, cpu_moments(frames, KruskalWallis(blocks, critical), validity))
        except AssertionError:
            return False
        return True

    assert same(EmulatedToolkit(kernel_folder))
    assert not same(EmulatedToolkit(kernel_folder, edit))
