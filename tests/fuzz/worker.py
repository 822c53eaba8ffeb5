"""The process that runs cases: it imports everything once and forks a child for each case.

It reads jobs from stdin and writes outcomes to stdout, one JSON object a line. A child that crashes
or hangs takes nothing with it.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuzz.oracle import expected
from fuzz.pool import writer
from fuzz.seeds import Oracle, seed
from gpu_spots import open_spots
from gpu_spots.errors import GpuSpotsError
from helpers import command

ADDRESS_SPACE = 3 << 30
"""Bytes that a child may map."""
BESIDES = ("lauecollect", "info", "skipped")
"""Groups of a spots file that are no results."""
DELAYS = "per_frame/delay"
"""Not compared: the delays are copied from metadata that the independent reading does not have."""


def serve() -> None:
    """Run jobs until stdin ends."""
    _load()
    for line in sys.stdin:
        print(json.dumps(_watched(json.loads(line))), flush=True)


def _load() -> None:
    """Run some commands, so that what they import is loaded once for all children."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in ("bitshuffle", "tiff-lzw"):
            writer(seed(name).files)(Path(folder))
            for arguments in seed(name).commands:
                command(*arguments, "--debug", name="gpu-spots")
            Path("out.h5").unlink(missing_ok=True)
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"


def _watched(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a child; return its results, how it ended, and where it crashed or hung."""
    scratch = Path(job["scratch"])
    for name in ("outcome", "stack", "noise"):
        (scratch / name).write_bytes(b"")
    child = os.fork()
    if not child:
        _child(job, scratch)
    begin, ended, status, usage = time.monotonic(), 0, 0, None
    while not ended and time.monotonic() - begin < job["seconds"]:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if not ended:
            time.sleep(0.002)
    hung = not ended
    if hung:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGUSR1)  # writes the stack
            time.sleep(0.3)
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        ended, status, usage = os.wait4(child, 0)
    text = (scratch / "outcome").read_text()
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "results": [json.loads(line) for line in text.splitlines()],
        "hung": hung,
        "signal": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None,
        "memory": usage.ru_maxrss * scale if usage else 0,
        "seconds": round(time.monotonic() - begin, 2),
        "stack": (scratch / "stack").read_text(errors="replace"),
        "noise": (scratch / "noise").read_text(errors="replace"),
    }


def _child(job: dict[str, Any], scratch: Path) -> None:
    """Run the commands of a job; each leaves a line in the file ``outcome``."""
    try:
        os.setsid()
        with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        noise = os.open(scratch / "noise", os.O_WRONLY)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, to in ((0, nothing), (1, noise), (2, noise)):
            os.dup2(to, descriptor)
        stack = (scratch / "stack").open("w")
        faulthandler.enable(stack)
        faulthandler.register(signal.SIGUSR1, stack)
        os.chdir(job["folder"])
        with (scratch / "outcome").open("w") as outcome:
            for arguments in job["commands"]:
                print(json.dumps(_result(arguments, job)), file=outcome, flush=True)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _result(arguments: list[str], job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "command": arguments,
        "status": None,
        "stdout": "",
        "stderr": "",
        "digest": None,
        "trace": "",
    }
    try:
        match arguments[0]:
            case "read":
                found |= _read(arguments[1])
            case "oracle":
                oracle = Oracle(**{**job["oracle"], "frames": tuple(job["oracle"]["frames"])})
                found |= {"status": 0, "digest": expected(oracle)}
            case "python":  # for the tests of the pool
                exec(arguments[1], {})
            case _:
                ended = command(*arguments, name="gpu-spots")
                found |= {"status": ended.status, "stdout": ended.stdout, "stderr": ended.stderr}
                output = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
                if ended.status == 0 and os.path.isfile(output):
                    found["digest"] = _of_file(output)
        if "internal error" in found["stderr"]:
            again = command(*arguments, "--debug", name="gpu-spots")
            found["trace"] = again.stderr
    except BaseException:
        found["trace"] = traceback.format_exc()
    return found


def _read(path: str) -> dict[str, Any]:
    """Read all of a spots file through `open_spots`."""
    try:
        with open_spots(path) as file:
            parts = {
                name: getattr(file, name)
                for name in ("avg", "std", "iqr", "max", "arg", "threshold")
            }
            parts |= {f"column {name}": values for name, values in file.columns.items()}
            parts |= {f"spots {name}": values for name, values in file.spots().items()}
            for frame in range(min(file.n_frames, 20)):
                parts |= {f"labels {frame}": file.labels(frame), f"mask {frame}": file.mask(frame)}
                parts |= {
                    f"{name} of {frame}": values for name, values in file.spots(frame).items()
                }
            for spot in range(min(file.n_spots, 20)):
                parts[f"pixels {spot}"] = file.pixels(spot)
            info, text = file.info, repr(file)
    except (GpuSpotsError, KeyError) as error:  # KeyError: a stack that the file does not have
        return {"status": 1, "stderr": f"{error}\n"}
    return {
        "status": 0,
        "digest": {name: _hash(values) for name, values in parts.items()},
        "stdout": f"{len(info)} {text}\n",
    }


def _of_file(path: str) -> dict[str, str]:
    with h5py.File(path) as file:
        return digest(file)


def digest(file: h5py.File) -> dict[str, str]:
    """Return a hash of every result in a spots file, by path."""
    found: dict[str, str] = {}

    def visit(path: str, item: Any) -> None:
        is_title = path.rpartition("/")[2] == "title"  # it has the name of the file
        if isinstance(item, h5py.Dataset) and path != DELAYS and not is_title:
            found[path] = _hash(item[()])

    for name, item in file.items():
        if isinstance(item, h5py.Group) and name not in BESIDES:
            item.visititems(lambda path, inner, name=name: visit(f"{name}/{path}", inner))
        elif name not in BESIDES:
            visit(name, item)
    return found


def _hash(values: Any) -> str:
    array = np.asarray(values)
    content = (
        repr(array.tolist()).encode(errors="surrogateescape")
        if array.dtype.hasobject
        else np.ascontiguousarray(array).tobytes()
    )
    return hashlib.sha1(f"{array.dtype} {array.shape} ".encode() + content).hexdigest()[:16]


if __name__ == "__main__":
    serve()
