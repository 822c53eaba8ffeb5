"""Processes that do the work of a batch: started, asked, and ended without leaving anything."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

GRACE = 3.0
"""Seconds that a process gets to end by itself."""
BEAT = 1.0
"""Seconds between the calls of ``beat`` while a reply is awaited."""


class RunnerDied(Exception):
    """The process ended before its reply; the text says how."""


class Runner:
    """A process ``gpu_spots.cli.runner``, which does one request at a time."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.is_stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpu_spots.cli.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            # Ctrl-C in the terminal does not reach it; the program that started it ends it
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Return whether the process can be asked."""
        return not self.is_stopped and self._process.poll() is None

    def ask(self, request: Mapping[str, Any], beat: Callable[[], None] = lambda: None) -> Any:
        """Send a request and return the reply.

        Args:
            request: see `gpu_spots.cli.runner`.
            beat: called about once per second meanwhile.

        Raises:
            RunnerDied: The process ended before it replied.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            descriptor, data = self._process.stdout.fileno(), b""
            while not data.endswith(b"\n"):
                ready, _, _ = select.select([descriptor], [], [], BEAT)
                if not ready:
                    beat()
                    continue
                part = os.read(descriptor, 1 << 20)
                if not part:
                    raise RunnerDied(self._how())
                data += part
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile by another thread
            raise RunnerDied(self._how()) from error
        return json.loads(data)

    def stop(self) -> None:
        """End the process: its command ends as by SIGTERM, and is killed if it hangs."""
        self.is_stopped = True
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the process, and close its pipes; only the thread that asks it may do this."""
        self.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _how(self) -> str:
        """Say how the process ended."""
        if self.is_stopped:
            return "was stopped"
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "gave no reply"
        if status == -signal.SIGKILL:
            return "was killed, as the system does when memory runs out"
        if status < 0:
            return f"crashed with {signal.Signals(-status).name}"
        return "hung in a library and was ended" if status == 1 else f"ended with status {status}"


class Runners:
    """Processes of a worker: as many as it has tasks at the same time."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._idle: list[Runner] = []
        self._busy: list[Runner] = []
        self.is_stopped = False

    @contextmanager
    def runner(self) -> Iterator[Runner]:
        """Lend a process. Raises `RunnerDied` after `stop`."""
        with self._lock:
            if self.is_stopped:
                raise RunnerDied("was stopped")
            while self._idle and not self._idle[-1].is_alive():
                self._idle.pop().close()
            runner = self._idle.pop() if self._idle else Runner(self._environment)
            self._busy.append(runner)
        try:
            yield runner
        finally:
            with self._lock:
                self._busy.remove(runner)
                keep = runner.is_alive() and not self.is_stopped
                if keep:
                    self._idle.append(runner)
            if not keep:
                runner.close()

    def stop(self) -> None:
        """End all processes, and lend none any more."""
        with self._lock:
            self.is_stopped = True
            ends = [runner.close for runner in self._idle] + [runner.stop for runner in self._busy]
            self._idle = []
        threads = [threading.Thread(target=end) for end in ends]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 2 * GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
