"""Process that does the commands of a batch, one after the other.

``python -m gpu_spots.cli.runner`` starts it. It reads requests from stdin and writes replies to
stdout, one line of JSON each. Each request has a log file, which gets everything that the commands
print. It ends when stdin is closed: a command that runs then ends as by SIGTERM.

The process stays for many runs, so libraries, devices and compiled kernels are loaded once.
"""

import faulthandler
import json
import os
import queue
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HANG = 120.0
"""Seconds after which a library that lets no other thread run has hung; then the process ends."""
BEAT = 5.0
"""Seconds between signs of life."""
IDLE = 600.0
"""Seconds without a request after which the process ends."""
AGAIN = 1.0
"""Seconds until a request to end is made again."""


class Requests:
    """Requests from stdin, read by a thread, which also ends the work when stdin is closed."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.is_closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> dict[str, Any] | None:
        """Wait for a request; None: there are no more."""
        try:
            return self._waiting.get(timeout=IDLE)
        except queue.Empty:
            return None

    def _read(self) -> None:
        rest = b""
        while True:
            # by a thread in C, which needs no interpreter lock
            faulthandler.dump_traceback_later(HANG, exit=True, file=2)
            ready, _, _ = select.select([0], [], [], BEAT)
            data = os.read(0, 1 << 20) if ready else None
            if data == b"":
                break
            *lines, rest = (rest + (data or b"")).split(b"\n")
            for line in lines:
                self._waiting.put(json.loads(line))
        self.is_closed = True
        self._waiting.put(None)
        while True:  # a command may be in a place where a signal is lost
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(AGAIN)


def main() -> None:
    """Do requests until there are no more."""
    replies = os.dup(1)
    os.set_inheritable(replies, False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # between commands
    requests = Requests()
    while (request := requests.next()) is not None:
        reply = _reply(request)
        if requests.is_closed:
            break
        with suppress(BrokenPipeError):
            _write(replies, json.dumps(reply).encode() + b"\n")
    os._exit(0)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    """Do a request; errors of any kind are ``error`` of the reply, one line."""
    from gpu_spots.cli.errors import OPTIONS
    from gpu_spots.errors import GpuSpotsError, in_options

    try:
        os.chdir(request.get("folder", "."))
        with in_options(OPTIONS):
            return _ASK[request["ask"]](request)
    except GpuSpotsError as error:
        return {"error": str(error)}
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return {"error": f"{where}{error.strerror or error}"}
    except Exception as error:  # one bad file must not end the batch
        text = " ".join(str(error).split())
        return {"error": f"internal error: {type(error).__name__}: {text}; please report it"}


def _commands(request: dict[str, Any]) -> dict[str, Any]:
    """Run commands until one fails."""
    from gpu_spots.cli.allocator import keep_freed_memory

    keep_freed_memory()
    log = Path(request["log"])
    reply: dict[str, Any] = {"warnings": [], "step_seconds": {}}
    for words in request["steps"]:
        clock = time.perf_counter()
        status, lines = _command(words, log)
        seconds = reply["step_seconds"]
        seconds[words[0]] = seconds.get(words[0], 0) + time.perf_counter() - clock
        mark = "warning: "
        reply["warnings"] += [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if status:
            said = [line for line in lines if line.startswith("gpu-spots: ")]
            last = said[-1].removeprefix("gpu-spots: ") if said else f"ended with status {status}"
            error = last.removesuffix("; nothing was written")
            return {**reply, "error": error if words[0] == "find" else f"{words[0]}: {error}"}
    return reply


def _command(words: list[str], log: Path) -> tuple[Any, list[str]]:
    """Run a command that prints to the end of a log; return its status and the lines it printed."""
    from gpu_spots.cli import gpu_spots as program

    log_file = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    begin = os.fstat(log_file).st_size
    _print_to(log_file)
    sys.argv = ["gpu-spots", *words]  # it is recorded in the results
    try:
        program.main(words, prog_name="gpu-spots")
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    lines = os.pread(log_file, 1 << 22, begin).decode(errors="replace").splitlines()
    os.close(log_file)
    null = os.open(os.devnull, os.O_RDWR)
    _print_to(null)
    os.close(null)
    return status, lines


def _print_to(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _inspection(request: dict[str, Any]) -> dict[str, Any]:
    from gpu_spots.cli.words import look_into

    return look_into(request["words"])


def _plan(request: dict[str, Any]) -> dict[str, Any]:
    from gpu_spots.cli.words import plan_lines

    return {"lines": plan_lines(request["words"], Path(request["output"]))}


def _figures(request: dict[str, Any]) -> dict[str, Any]:
    from gpu_spots.beamtime.figures import figures

    ratios = request.get("ratios")
    return figures(Path(request["spots"]), None if ratios is None else Path(ratios))


def _growth(request: dict[str, Any]) -> dict[str, Any]:
    from gpu_spots.files.growing import is_being_written

    return {"is_written": is_being_written(Path(request["source"]))}


def _copy(request: dict[str, Any]) -> dict[str, Any]:
    from gpu_spots.files.growing import copy_frames

    return {"frames": copy_frames(Path(request["source"]), Path(request["output"]))}


def _devices(_: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the GPUs that can be used, and the problems of the others."""
    from gpu_spots.cuda.devices import list_devices
    from gpu_spots.errors import BackendError

    try:
        found = list_devices()
    except BackendError as error:
        return {"numbers": [], "problems": [str(error)]}
    return {
        "numbers": [device.number for device in found if device.problem is None],
        "problems": [
            f"GPU {device.number}: {device.problem}" for device in found if device.problem
        ],
    }


_ASK = {
    "commands": _commands,
    "inspection": _inspection,
    "plan": _plan,
    "figures": _figures,
    "growth": _growth,
    "copy": _copy,
    "devices": _devices,
}

if __name__ == "__main__":
    main()
