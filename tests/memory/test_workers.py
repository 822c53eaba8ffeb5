"""Threads that compute ahead, retries on a full device, and times of nested stages."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from gpu_spots.errors import OutOfDeviceMemory
from gpu_spots.memory import workers
from gpu_spots.memory.workers import (
    AHEAD,
    Stopwatch,
    Workers,
    default_workers,
    in_halves,
    in_order,
    with_retry,
)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited; nothing is waited for."""
    waited: list[float] = []
    monkeypatch.setattr("gpu_spots.memory.workers.time.sleep", waited.append)
    return waited


def test_there_is_at_least_one_worker() -> None:
    assert default_workers() >= 1


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(n_workers: int) -> None:
    """The first item is ready last."""
    others = threading.Event()

    def slow_at_first(item: int) -> int:
        if item == 0 and n_workers > 1:
            assert others.wait(10)
        others.set()
        return item * item

    assert list(in_order(slow_at_first, range(20), n_workers)) == [i * i for i in range(20)]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_items_are_taken_a_little_ahead(n_workers: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    results = in_order(lambda item: item, items(), n_workers)
    for i in range(10):
        assert next(results) == i
        assert len(taken) == i + n_workers + AHEAD
    results.close()
    assert len(taken) == 9 + n_workers + AHEAD


def test_an_error_stops_what_has_not_begun() -> None:
    begun: list[int] = []

    def fails_at_three(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    results = in_order(fails_at_three, range(1000), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(begun) <= 3 + 2 + AHEAD


def walk(workers: int | Workers, number: int) -> set[threading.Thread]:
    """Threads of a walk that needs so many at once."""
    together = threading.Barrier(number, timeout=10)

    def one(_: int) -> threading.Thread:
        together.wait()
        return threading.current_thread()

    return set(in_order(one, range(number), workers))


def test_threads_are_kept_until_the_workers_end() -> None:
    with Workers(3) as workers:
        threads = walk(workers, 3)
        assert len(threads) == 3
        assert [walk(workers, number) <= threads for number in (1, 3, 2)] == [True] * 3
        assert all(thread.is_alive() for thread in threads)
    assert not any(thread.is_alive() for thread in threads)


def test_threads_that_are_not_kept_end_with_their_walk() -> None:
    with Workers(3, kept=False) as workers:
        for of in (workers, 3):
            assert not any(thread.is_alive() for thread in walk(of, 3))


def test_a_walk_inside_another_one_has_its_own_threads() -> None:
    """Each walk has one thread: that of the outer one waits until the inner walk has begun."""
    begun = threading.Event()

    def outer(item: int) -> int:
        assert item == 0 or begun.wait(10)
        return item

    def inner(item: int) -> int:
        begun.set()
        return 10 * item

    with Workers(1) as workers:
        for _ in range(2):
            begun.clear()
            walk_inside = in_order(inner, in_order(outer, range(5), workers), workers)
            assert list(walk_inside) == [0, 10, 20, 30, 40]


def test_a_walk_that_is_left_waits_for_its_threads_and_ends_them() -> None:
    """The threads use files and memory that are closed next."""
    done: list[threading.Thread] = []
    left = threading.Event()

    def one(item: int) -> None:
        assert item == 0 or left.wait(10)
        done.append(threading.current_thread())

    with Workers(2) as workers:
        results = in_order(one, range(100), workers)
        next(results)
        threading.Timer(0.05, left.set).start()
        results.close()
        assert left.is_set()
        assert len(done) <= 1 + 2 + AHEAD
        assert not any(thread.is_alive() for thread in done)
        assert len(walk(workers, 2)) == 2


class Full:
    """A device with memory for so many frames, after it was full so many times."""

    def __init__(self, frames: int, times: int = 0) -> None:
        self.frames, self.times = frames, times
        self.released = 0

    def take(self, begin: int, end: int) -> list[int]:
        if end - begin > self.frames:
            raise OutOfDeviceMemory("device: out of memory")
        if self.times:
            self.times -= 1
            raise OutOfDeviceMemory("device: out of memory")
        return list(range(begin, end))

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(
    ("frames", "spans"),
    [
        (11, [(0, 11)]),
        (5, [(0, 5), (5, 8), (8, 11)]),
        (1, [(i, i + 1) for i in range(11)]),
    ],
)
def test_a_span_is_halved_until_it_fits(frames: int, spans: list[tuple[int, int]]) -> None:
    device = Full(frames)
    assert in_halves(device.take, (0, 11), device.release) == [
        (span, list(range(*span))) for span in spans
    ]
    # once for each span that was halved
    assert device.released == len(spans) - 1


def test_a_single_frame_waits_for_other_threads(pauses: list[float]) -> None:
    device = Full(1, times=4)
    assert with_retry(lambda: device.take(0, 1), device.release) == [0]
    assert (pauses, device.released) == (list(workers.PAUSES[:4]), 4)


def test_a_single_frame_that_never_fits_is_an_error(pauses: list[float]) -> None:
    device = Full(0)
    with pytest.raises(OutOfDeviceMemory):
        in_halves(device.take, (0, 4), device.release)
    # two halves, then each pause but the last
    assert pauses == [0.0, 0.0, *workers.PAUSES[:-1]]


def test_time_of_an_inner_stage_is_not_the_outer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gpu_spots.memory.workers.time.perf_counter", lambda: now)
    watch = Stopwatch()
    now += 1000  # in no stage
    with watch.stage("read"):
        now += 1
        with watch.stage("write"):
            now += 20
        now += 2
    with contextlib.suppress(ZeroDivisionError), watch.stage("write"):
        now += 300
        _ = 1 / 0
    assert watch.seconds == {"read": 3, "write": 320}
