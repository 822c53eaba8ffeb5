"""Moments after the Kruskal-Wallis test.

They are compared with the naive reference and SciPy, also at the edge of a decision.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kruskal, rankdata

from cpu_fallback import ranks
from cpu_fallback.kruskal import kruskal_moments
from factories.blocks import (
    BACK_AGAIN,
    EQUAL,
    INTERLACED,
    UNEQUAL,
    assert_equals_reference,
    critical_values,
    frames_of,
)
from gpu_spots.backend import Backend
from gpu_spots.background.methods import KruskalWallis
from gpu_spots.model import FRAME_DTYPES, Validity
from helpers import moments_of
from reference import group_by_first_seen
from reference_kruskal import kruskal_h, kruskal_keep


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.001])
@pytest.mark.parametrize(
    "block_of_frame",
    [EQUAL, INTERLACED, UNEQUAL, BACK_AGAIN],
    ids=["equal", "interlaced", "unequal", "back again"],
)
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_equals_reference(
    backend: Backend, dtype: np.dtype, block_of_frame: np.ndarray, alpha: float
) -> None:
    frames = frames_of(dtype, block_of_frame, (5, 7), seed=dtype.num)
    critical = critical_values(alpha, block_of_frame.max() + 1)
    moments = moments_of(
        backend, backend.upload(frames), KruskalWallis(block_of_frame, critical), Validity()
    )
    assert_equals_reference(moments, frames, block_of_frame, alpha)
    assert 0 < np.count_nonzero(moments.dropped) < moments.dropped.size


@pytest.mark.parametrize("block_of_frame", [EQUAL, BACK_AGAIN], ids=["equal", "back again"])
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_invalid_values_equal_reference(
    backend: Backend, dtype: np.dtype, block_of_frame: np.ndarray
) -> None:
    rng = np.random.default_rng(5)
    frames = frames_of(dtype, block_of_frame, (6, 8), seed=40 + dtype.num)
    low, high = np.quantile(frames[:, 1:, 4:], [0.02, 0.99]).tolist()
    if dtype.kind == "f":
        frames[rng.random(frames.shape) < 0.04] = np.nan
        frames[2, 3, 3], frames[3, 3, 3] = np.inf, -np.inf
        frames[1:, 4, 4] = np.nan  # one valid value
    else:
        low, high = round(low), round(high)
        frames[1:, 4, 4] = np.iinfo(dtype).max
    frames[block_of_frame == 1, 4, 5] = (
        frames.dtype.type(0) if dtype.kind == "u" else frames.min()
    )  # a block without a valid value
    validity = Validity(rng.random(frames.shape[1:]) < 0.9, low, high)
    moments = moments_of(
        backend,
        backend.upload(frames),
        KruskalWallis(block_of_frame, critical_values(0.2, block_of_frame.max() + 1)),
        validity,
    )
    assert_equals_reference(moments, frames, block_of_frame, 0.2, validity)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_limits_of_the_type(backend: Backend, dtype: str) -> None:
    """Extremes of the type are values like others, also beside invalid ones.

    Zeros are equal whatever their sign.
    """
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    rng = np.random.default_rng(1)
    choices = np.array([limits.min, limits.max, 0, 1, -0.0 if dtype[0] == "f" else 2], dtype)
    frames = choices[rng.integers(0, 5, (24, 4, 6))]
    block_of_frame = np.arange(24) % 4
    for validity in (Validity(), Validity(low=1)):
        moments = moments_of(
            backend,
            backend.upload(frames),
            KruskalWallis(block_of_frame, critical_values(0.4, 4)),
            validity,
        )
        if dtype[0] == "f":
            whole = frames.astype(np.float64)
            usable = whole >= 1 if validity.low else np.ones(whole.shape, bool)
            for pixel in np.ndindex(4, 6):
                groups = [
                    whole[(block_of_frame == b) & usable[:, *pixel], *pixel].tolist()
                    for b in range(4)
                ]
                groups = [group for group in groups if group]
                kept = kruskal_keep(groups, 0.4)
                assert moments.dropped[pixel] == len(groups) - len(kept)
                assert moments.kept[pixel] == sum(len(groups[b]) for b in kept)
        else:
            assert_equals_reference(moments, frames, block_of_frame, 0.4, validity)


@pytest.mark.parametrize(
    "block_of_frame",
    [
        np.arange(300) // 10,
        np.arange(130) % 5,
        np.arange(280) // 70,
        np.repeat(np.arange(5), [30, 25, 150, 2, 90]),
        np.repeat([0, 1, 2, 0, 1], 40),
    ],
    ids=["30 of 10", "5 of 26", "4 of 70", "unequal", "back again"],
)
def test_many_frames_equal_reference(backend: Backend, block_of_frame: np.ndarray) -> None:
    """Above 256 values the order is kept in 16 bits; large blocks leave through a table."""
    frames = frames_of(np.dtype("uint16"), block_of_frame, (2, 5), seed=9)
    critical = critical_values(0.05, block_of_frame.max() + 1)
    moments = moments_of(
        backend, backend.upload(frames), KruskalWallis(block_of_frame, critical), Validity()
    )
    assert_equals_reference(moments, frames, block_of_frame, 0.05)
    validity = Validity(low=60)
    moments = moments_of(
        backend, backend.upload(frames), KruskalWallis(block_of_frame, critical), validity
    )
    assert_equals_reference(moments, frames, block_of_frame, 0.05, validity)


@pytest.mark.parametrize(
    ("n_frames", "dtype", "low"),
    [(32768, "uint16", None), (40000, "uint16", 1), (40000, "int32", None)],
)
def test_ranks_beyond_16_bits(backend: Backend, n_frames: int, dtype: str, low: int | None) -> None:
    block_of_frame = np.arange(n_frames) * 4 // n_frames
    frames = np.random.default_rng(3).integers(0, 30000, (n_frames, 1, 2)).astype(dtype)
    frames[block_of_frame == 2, 0, 1] += 1500
    frames[::7, 0, 0] = np.where(frames[::7, 0, 0] % 2, 0, np.iinfo(dtype).max)
    validity = Validity(low=low)
    moments = moments_of(
        backend,
        backend.upload(frames),
        KruskalWallis(block_of_frame, critical_values(1e-9, 4)),
        validity,
    )
    assert_equals_reference(moments, frames, block_of_frame, 1e-9, validity)
    assert moments.dropped.tolist() == [[0, 1]]


def scipy_drops(groups: list[np.ndarray], alpha: float) -> list[int]:
    """The blocks that leave, in order, by SciPy's own functions."""
    left, gone = list(range(len(groups))), []
    while len(left) > 2:
        current = [groups[b] for b in left]
        joined = np.concatenate(current)
        if (joined == joined[0]).all() or not kruskal(*current).statistic > chi2.ppf(
            1 - alpha, len(left) - 1
        ):
            break
        means = [
            part.mean()
            for part in np.split(
                rankdata(joined), np.cumsum([len(group) for group in current])[:-1]
            )
        ]
        gone.append(left.pop(int(np.argmax(means))))
    return gone


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.001])
@pytest.mark.parametrize("block_of_frame", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_decisions_and_order_are_scipys(
    backend: Backend, block_of_frame: np.ndarray, alpha: float
) -> None:
    """Drops end at b blocks if there is no lower limit.

    Each next drop must be the block that SciPy's ranks name.
    """
    n_blocks = int(block_of_frame.max()) + 1
    frames = frames_of(np.dtype("int32"), block_of_frame, (6, 9), seed=21)
    critical = critical_values(alpha, n_blocks)
    expected = {
        pixel: scipy_drops([frames[block_of_frame == b, *pixel] for b in range(n_blocks)], alpha)
        for pixel in np.ndindex(frames.shape[1:])
    }
    for n_drops in range(n_blocks - 1):
        limits = critical.copy()
        limits[: n_blocks - n_drops + 1] = math.inf
        moments = moments_of(
            backend, backend.upload(frames), KruskalWallis(block_of_frame, limits), Validity()
        )
        for pixel, order in expected.items():
            left = ~np.isin(block_of_frame, order[:n_drops])
            assert moments.dropped[pixel] == min(n_drops, len(order))
            assert (moments.kept[pixel], moments.total[pixel]) == (
                np.count_nonzero(left),
                frames[left, *pixel].sum(),
            )
    assert max(len(order) for order in expected.values()) >= 2


@settings(max_examples=400, deadline=None)
@given(data=st.data(), alpha=st.sampled_from([0.05, 0.2, 0.6, 0.001]), top=st.integers(1, 6))
def test_heavy_ties_equal_reference(data: st.DataObject, alpha: float, top: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=7), label="sizes")
    arrangement = data.draw(
        st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()), label="blocks"
    )
    block_of_frame = np.empty(len(arrangement), np.int64)
    for block, members in enumerate(group_by_first_seen(arrangement)):
        block_of_frame[members] = block
    values = st.lists(st.integers(0, top), min_size=len(arrangement), max_size=len(arrangement))
    frames = np.array(
        data.draw(st.lists(values, min_size=1, max_size=4), label="pixels"), np.uint16
    ).T[:, None, :]
    validity = Validity(low=data.draw(st.sampled_from([None, 1]), label="low"))
    moments = kruskal_moments(frames, block_of_frame, critical_values(alpha, len(sizes)), validity)
    assert_equals_reference(moments, frames, block_of_frame, alpha, validity)


@pytest.mark.parametrize("low", [None, 1], ids=["all valid", "gaps"])
@pytest.mark.parametrize(
    "block_of_frame", [EQUAL, INTERLACED, UNEQUAL], ids=["equal", "interlaced", "unequal"]
)
@pytest.mark.parametrize("top", [3, 9, 60000])
def test_at_the_critical_value(
    backend: Backend, block_of_frame: np.ndarray, top: int, low: int | None
) -> None:
    """Critical values are H and its neighbours among float64 numbers.

    A block is rejected exactly if H is larger, as a fraction.
    """
    n_blocks = int(block_of_frame.max()) + 1
    frames = (
        np.random.default_rng(top)
        .integers(0 if low else 1, top + 1, (len(block_of_frame), 1, 12))
        .astype(np.uint16)
    )
    decisions = set()
    for y in range(frames.shape[2]):
        groups = [
            [x for x in frames[block_of_frame == b, 0, y].tolist() if low is None or x >= low]
            for b in range(n_blocks)
        ]
        if not all(groups):
            continue
        h = kruskal_h(groups)
        for critical in (math.nextafter(float(h), 0), float(h), math.nextafter(float(h), math.inf)):
            limits = np.full(n_blocks + 1, math.inf)
            limits[n_blocks] = critical
            moments = moments_of(
                backend,
                backend.upload(frames),
                KruskalWallis(block_of_frame, limits),
                Validity(low=low),
            )
            assert moments.dropped[0, y] == (h > Fraction(critical))
            decisions.add((critical - float(h) < 0, h > Fraction(critical)))
    assert {(True, True), (False, False)} <= decisions


@pytest.mark.parametrize(
    ("groups", "h"),
    [
        # 12 / (15 * 16) * (15^2 + 40^2 + 65^2) / 5 - 3 * 16
        ([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]], 12.5),
        # 12 / (6 * 7) * (3^2 + 7^2 + 11^2) / 2 - 3 * 7 = 32 / 7, over 1 - 3 * (2^3 - 2) / (6^3 - 6)
        # = 32 / 35
        ([[1, 1], [2, 2], [3, 3]], 5.0),
        # in unequal blocks: 12 / (4 * 5) * (1^2 + 5^2 / 2 + 4^2) - 3 * 5
        ([[1], [2, 3], [4]], 2.7),
    ],
)
def test_equal_to_the_critical_value_is_not_larger(
    backend: Backend, groups: list[list[int]], h: float
) -> None:
    frames = np.array([value for group in groups for value in group], np.uint16)[:, None, None]
    block_of_frame = np.repeat(np.arange(3), [len(group) for group in groups])
    assert kruskal_h(groups) == Fraction(str(h))
    # 2.7 as a float64 number is larger than 27 / 10
    assert Fraction(h) >= Fraction(str(h))
    for critical, dropped in ((h, 0), (math.nextafter(h, 0), 1)):
        limits = np.array([math.inf, math.inf, math.inf, critical])
        moments = moments_of(
            backend, backend.upload(frames), KruskalWallis(block_of_frame, limits), Validity()
        )
        assert moments.dropped.item() == dropped


@pytest.mark.parametrize(
    ("blocks", "total"),
    [
        # ranks 5 and 8, 6 and 7
        ([[1, 2], [7, 20], [1, 3], [8, 9]], 24),
        ([[1, 2], [3, 4], [8, 9], [7, 20]], 37),
        # in blocks of different sizes
        ([[1, 2], [8, 8, 8], [3, 1], [8, 8]], 23),
    ],
)
@pytest.mark.parametrize("interlaced", [False, True])
def test_of_equal_mean_ranks_the_first_block_leaves(
    backend: Backend, blocks: list[list[int]], total: int, interlaced: bool
) -> None:
    pairs = [
        (place if interlaced else 0, block, value)
        for block, group in enumerate(blocks)
        for place, value in enumerate(group)
    ]
    pairs.sort(key=lambda pair: pair[:2])
    frames = np.array([value for _, _, value in pairs], np.uint16)[:, None, None]
    block_of_frame = np.array([block for _, block, _ in pairs])
    limits = np.array([math.inf, math.inf, math.inf, math.inf, 1.0])
    moments = moments_of(
        backend, backend.upload(frames), KruskalWallis(block_of_frame, limits), Validity()
    )
    assert (moments.dropped.item(), moments.total.item()) == (1, total)


def test_nothing_to_test(backend: Backend) -> None:
    """Two blocks, all equal values, or no limit: nothing leaves, whatever the limit for two."""
    frames = np.arange(8, dtype=np.uint16).reshape(8, 1, 1)
    two = moments_of(
        backend, backend.upload(frames), KruskalWallis(np.arange(8) // 4, np.zeros(3)), Validity()
    )
    same = moments_of(
        backend,
        backend.upload(np.full_like(frames, 3)),
        KruskalWallis(np.arange(8) // 2, np.zeros(5)),
        Validity(),
    )
    free = moments_of(
        backend,
        backend.upload(frames),
        KruskalWallis(np.arange(8) // 2, np.full(5, math.inf)),
        Validity(),
    )
    for moments in (two, same, free):
        assert (moments.kept.item(), moments.dropped.item()) == (8, 0)


@pytest.mark.parametrize("validity", [Validity(), Validity(low=60)], ids=["all valid", "gaps"])
@pytest.mark.parametrize(
    "block_of_frame",
    [np.arange(45) // 3, np.repeat(np.arange(3), [20, 22, 24])],
    ids=["small", "large"],
)
def test_tiles_threads_and_ways_agree(
    monkeypatch: pytest.MonkeyPatch, block_of_frame: np.ndarray, validity: Validity
) -> None:
    """Tiles, bands and threads change nothing, nor does the order of comparisons."""
    frames = frames_of(np.dtype("uint16"), block_of_frame, (9, 31), seed=2)
    critical = critical_values(0.05, block_of_frame.max() + 1)
    expected = kruskal_moments(frames, block_of_frame, critical, validity)
    monkeypatch.setattr("cpu_fallback.kruskal.TILE_VALUES", 1000)
    for table_from in (1, 120):
        monkeypatch.setattr(ranks, "TABLE_FROM", table_from)
        with ThreadPoolExecutor(3) as pool:
            parts = list(
                pool.map(
                    lambda row: kruskal_moments(
                        frames[:, row : row + 3], block_of_frame, critical, validity
                    ),
                    (0, 3, 6),
                )
            )
        for name in ("kept", "total", "scatter_low", "iqr4", "max", "arg", "dropped"):
            assert np.array_equal(
                np.concatenate([getattr(part, name) for part in parts]), getattr(expected, name)
            )


@pytest.mark.parametrize("n_frames", [1289, 1292, 2400, 4200])
def test_squares_of_many_ranks_do_not_overflow(n_frames: int) -> None:
    """Sums reach n^3 / 3, which fits 31 bits up to 1860 values.

    Blocks that are alike are never dropped.
    """
    block_of_frame = np.arange(n_frames) % 3
    frames = np.arange(n_frames, dtype=np.uint16)[:, None, None]
    moments = kruskal_moments(frames, block_of_frame, critical_values(0.9, 3), Validity())
    by_block = [np.flatnonzero(block_of_frame == block) for block in range(3)]
    n_left = len(kruskal_keep([frames[block, 0, 0].tolist() for block in by_block], 0.9))
    assert moments.dropped is not None
    assert moments.dropped[0, 0] == 3 - n_left
