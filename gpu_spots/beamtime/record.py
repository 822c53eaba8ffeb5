"""Record of each run in the folder of the results: its input, its options and its outcome."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_spots.errors import InputError, OutputError

FOLDER = "batch"
"""Folder of the records, in that of the results."""
HEAD = 1 << 16
"""Bytes at the beginning and at the end of a file that its digest covers."""
FEW = 32
"""Largest number of files that are all in the digest; of more files only the first one is."""

Record = dict[str, Any]
"""Facts about a run, of types that JSON can store. ``state`` is running, done or failed."""


class Records:
    """The records in a folder of results."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER

    def path(self, name: str, ending: str = ".json") -> Path:
        """Return the path of the record of a run, or of another file with its name."""
        return self.folder / f"{name}{ending}"

    def token(self, batch: str) -> Path:
        """Return the file of a batch. A worker that does not see it has another file system."""
        return self.folder / f".{batch}"

    def read(self, name: str) -> Record | None:
        """Return the record of a run; None: there is none, or it cannot be read."""
        return _read(self.path(name))

    def write(self, record: Record) -> None:
        """Write a record; the old one stays until the new one is complete.

        Raises `OutputError`.
        """
        path = self.path(record["name"])
        write_text(path, json.dumps(record, indent=1) + "\n")

    def all(self) -> dict[str, Record]:
        """Return all records by the names of their runs, sorted."""
        found = (_read(path) for path in self.folder.rglob("*.json"))
        known = [record for record in found if record is not None and "name" in record]
        return {
            record["name"]: record for record in sorted(known, key=lambda one: natural(one["name"]))
        }


def natural(text: str) -> list[tuple[float, str]]:
    """Return a key that sorts numbers in names by their value: run_2 before run_10."""
    parts = re.split(r"(\d+)", text)
    return [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts)]


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name when it is complete. Raises `OutputError`."""
    with replacing(path) as part:
        part.write_text(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name under which a file is written; it replaces ``path`` when the block ends.

    Raises:
        OutputError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def fingerprint(files: Iterable[Path]) -> Record:
    """Return a record that differs if the files of a run have changed.

    Sizes and times of all files count, and a digest of the beginning and end of each, where the
    metadata is; of a run with many files only the first one is opened.

    Raises:
        InputError: A file is missing.
    """
    paths = list(dict.fromkeys(files))
    sizes, times = 0, []
    states, digest = hashlib.sha256(), hashlib.sha256()
    for path in paths:
        try:
            state = path.stat()
            if len(paths) <= FEW or path == paths[0]:
                _digest(path, state.st_size, digest)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
        sizes += state.st_size
        times.append(state.st_mtime_ns)
        states.update(
            f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    newest = datetime.fromtimestamp(max(times, default=0) / 1e9, UTC)
    return {
        "files": len(paths),
        "bytes": sizes,
        "modified": newest.isoformat(timespec="seconds"),
        "states": states.hexdigest(),
        "digest": digest.hexdigest(),
    }


def _digest(path: Path, size: int, digest: Any) -> None:
    with path.open("rb") as file:
        digest.update(file.read(HEAD))
        if size > HEAD:
            file.seek(max(HEAD, size - HEAD))
            digest.update(file.read(HEAD))


def reason(record: Record | None, wanted: Mapping[str, Any], out: Path) -> str | None:
    """Return why a run must be processed; None: it is done, with the same input and options.

    Args:
        record: record of the run; None: there is none.
        wanted: ``version``, ``input`` (its fingerprint) and ``steps`` (the commands).
        out: folder of the results.
    """
    if record is None:
        return "new"
    state = record.get("state")
    if state == "failed":
        return "failed before"
    if state != "done":
        return "was not finished"
    if (change := _input_change(record.get("input", {}), wanted["input"])) is not None:
        return f"input changed: {change}"
    if record.get("steps") != wanted["steps"]:
        return f"options changed: {_options_change(record.get('steps', []), wanted['steps'])}"
    if record.get("version") != wanted["version"]:
        return f"version changed: {record.get('version')} to {wanted['version']}"
    for path, size in record.get("outputs", {}).items():
        try:
            found = (out / path).stat()
        except OSError:
            return f"{path} is missing"
        if size is not None and found.st_size != size:
            return f"{path} has {found.st_size} bytes, expected {size}"
    return None


def _input_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    if before.get("files") != now["files"]:
        return f"{before.get('files')} to {now['files']} files"
    if before.get("bytes") != now["bytes"]:
        return f"{before.get('bytes')} to {now['bytes']} bytes"
    if before.get("states") != now["states"]:
        return f"modified {now['modified']}"
    return None if before.get("digest") == now["digest"] else "its metadata"


def _options_change(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str:
    """Return the words that are new, or that are gone."""

    def flat(steps: Sequence[Sequence[str]]) -> list[str]:
        return [word for step in steps for word in step]

    new = [word for word in flat(now) if word not in flat(before)]
    gone = [word for word in flat(before) if word not in flat(now)]
    parts = [f"now {' '.join(new)}"] * bool(new) + [f"not {' '.join(gone)}"] * bool(gone)
    return ", ".join(parts) or "their order"


def _read(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
