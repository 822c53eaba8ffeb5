"""Threads that compute ahead of the thread that takes the results, and a stopwatch."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

from gpu_spots.errors import OutOfDeviceMemory

Item = TypeVar("Item")
Result = TypeVar("Result")
Span = tuple[int, int]
"""Begin and end."""

PAUSES = (0.02, 0.1, 0.5, 1.0, 0.0)
"""Seconds to wait for other threads where a device has no memory for a single frame or row, before
it is tried once more.
"""
AHEAD = 2
"""Results that may wait to be taken, besides those that threads are at."""


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    # macOS cannot tell which
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Threads of a run, which are kept from one parallel map to the next.

    One thread takes the results of all maps. A map inside another one has threads of its own.
    """

    def __init__(self, number: int, *, kept: bool = True) -> None:
        """Start no thread yet.

        Args:
            number: threads of a map, at least 1.
            kept: whether the threads outlive their map.
        """
        self.number = number
        self._kept = kept
        self._idle: list[ThreadPoolExecutor] = []

    def __enter__(self) -> Self:
        """Return the workers, whose threads end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        while self._idle:
            self._idle.pop().shutdown()

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Provide the threads of a map. They end if the map does not come to its end."""
        idle = self._idle
        pool = idle.pop() if idle else ThreadPoolExecutor(self.number, thread_name_prefix="spots")
        is_whole = False
        try:
            yield pool
            is_whole = True
        finally:
            if is_whole and self._kept:
                idle.append(pool)
            else:
                pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | Workers
) -> Generator[Result, None, None]:
    """Map in parallel, yield in order, with bounded look-ahead.

    The first error, or the taker's leaving, stops what has not begun. A number of ``workers``:
    so many new threads, which end with the map.
    """
    waiting: deque[Future[Result]] = deque()
    threads = workers if isinstance(workers, Workers) else Workers(workers, kept=False)
    with threads.pool() as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= threads.number + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_halves(
    function: Callable[[int, int], Result], span: Span, release: Callable[[], None]
) -> list[tuple[Span, Result]]:
    """Call ``function`` for a span, or for halves of it if a device has too little memory.

    Returns each part of ``span`` with its result.

    Raises `OutOfDeviceMemory` where it is too small for one frame or row, also after other threads
    had time to give back what they hold.
    """
    begin, end = span
    for pause in PAUSES if end - begin == 1 else (0.0,):
        try:
            return [(span, function(begin, end))]
        except OutOfDeviceMemory:
            if end - begin == 1 and pause == PAUSES[-1]:
                raise
        # the error and all that it holds are gone here
        release()
        time.sleep(pause)
    middle = (begin + end) // 2
    return [
        *in_halves(function, (begin, middle), release),
        *in_halves(function, (middle, end), release),
    ]


def with_retry(function: Callable[[], Result], release: Callable[[], None]) -> Result:
    """Return the result of ``function``; see `in_halves`.

    Memory of the device is released if it is needed.
    """
    return in_halves(lambda *_: function(), (0, 1), release)[0][1]


class Stopwatch:
    """Wall time by stage; time inside an inner stage is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for ``name``."""
        self._charge()
        self._stack.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now
