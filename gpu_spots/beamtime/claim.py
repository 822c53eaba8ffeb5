"""Claims: files that keep two batches from doing the same run.

A claim is made by a call that fails if the file exists, which also holds on network drives. Its
owner renews its time; a claim that is not renewed any more has expired. Times are those of the file
system, so clocks of computers do not matter.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpu_spots.errors import OutputError

EXPIRES = 60.0
"""Seconds after which a claim has expired that was not renewed."""


class Claim:
    """A claim of this process."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self._content = path, content

    def renew(self) -> None:
        """Set the time of the claim to now."""
        with suppress(OSError):
            if self.path.read_text() == self._content:
                os.utime(self.path)

    def release(self) -> None:
        """Remove the claim, if it is still ours."""
        with suppress(OSError):
            if self.path.read_text() == self._content:
                self.path.unlink()


class ClaimedElsewhere(Exception):
    """Another batch is processing the run; the text names the computer."""


@contextmanager
def claimed(path: Path, batch: str) -> Iterator[Claim]:
    """Hold the claim of a run while the block runs.

    A claim is taken over if it has expired, if its process is gone, or if it is of the same batch,
    whose scheduler gives a run to a second worker only when the first one has died.

    Args:
        path: file of the claim.
        batch: name of the batch, different for each.

    Raises:
        ClaimedElsewhere: Another batch holds the claim.
        OutputError: The claim cannot be written.
    """
    content = json.dumps(
        {
            "host": socket.gethostname(),
            "system": _system(),
            "pid": os.getpid(),
            "batch": batch,
            "id": uuid.uuid4().hex,
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _made(path, content):
            _take_away(path, batch)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    claim = Claim(path, content)
    try:
        yield claim
    finally:
        claim.release()


def _made(path: Path, content: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    return True


def _take_away(path: Path, batch: str) -> None:
    """Remove a claim that counts no more. Raises `ClaimedElsewhere` for one that does."""
    try:
        age, owner = _now(path) - path.stat().st_mtime, _owner(path)
    except FileNotFoundError:
        return
    if age < EXPIRES and owner.get("batch") != batch and not _is_dead(owner):
        raise ClaimedElsewhere(str(owner.get("host", "another computer")))
    # of several that take it away, one succeeds; it may have got a claim that was made meanwhile
    mine = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(mine)
        if _owner(mine) != owner:
            with suppress(OSError):
                os.link(mine, path)
        mine.unlink()


def _now(path: Path) -> float:
    """Return the present time of the file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _owner(path: Path) -> dict[str, Any]:
    """Return the content of a claim; empty while it is being written."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: dict[str, Any]) -> bool:
    """Return whether the process of a claim on this computer is gone."""
    if owner.get("system") != _system() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _system() -> str:
    """Return a name of the system, that is of the processes whose numbers differ."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
