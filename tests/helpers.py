"""Helpers of several test files: results as plain arrays, and comparison to the bit."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import background as cpu_background
from gpu_spots import cli
from gpu_spots.backend import Backend
from gpu_spots.background.methods import Method
from gpu_spots.columns import Flag
from gpu_spots.cuda import background as cuda_background
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.model import Background, FixedPointMean, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.pipeline import find_spots
from gpu_spots.resources import Resources

ROOT = Path(__file__).parents[1]
"""The folder of the project."""


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.done = 0
        self.warnings: list[str] = []

    def stage(self, name: str, total: int, unit: str) -> None:
        """A stage begins."""
        self.stages.append((name, total))

    def advance(self, steps: int) -> None:
        """Steps are done."""
        self.done += steps

    def warn(self, message: str) -> None:
        """A warning."""
        self.warnings.append(message)


def datasets(file: h5py.Group) -> dict[str, np.ndarray]:
    """Return every dataset of a file by its path, but for titles; soft links are not followed."""
    found: dict[str, np.ndarray] = {}

    def visit(path: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and path.rpartition("/")[2] != "title":
            found[path] = np.asarray(item[()])

    file.visititems(visit)
    return found


def run(
    frames: np.ndarray,
    parameters: Parameters,
    backend: Backend,
    columns: dict[str, Any] | None = None,
    validity: Validity | None = None,
    notes: Notes | None = None,
    saturation: float | None = None,
) -> dict[str, np.ndarray]:
    """Return all datasets of a run in memory, as in the file."""
    with memory_file() as file:
        stack = ArrayStack(frames, columns, validity, saturation)
        find_spots(
            stack,
            parameters,
            Resources(backend),
            SpotsWriter(file, "memory", stack.shape, {}),
            notes or Notes(),
        )
        return datasets(file)


def datasets_of(path: Path) -> dict[str, np.ndarray]:
    """Return every dataset of a file."""
    with h5py.File(path) as file:
        return datasets(file)


def assert_equal_results(found: Path, expected: Path) -> None:
    """Two spots files hold the same datasets."""
    left, right = datasets_of(found), datasets_of(expected)
    assert left.keys() == right.keys()
    for path, values in left.items():
        assert values.dtype == right[path].dtype, path
        is_float = values.dtype.kind == "f"
        assert np.array_equal(values, right[path], equal_nan=is_float), path


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Check that every expected dataset has the same type, shape and bits."""
    for path, value in expected.items():
        assert path in found, f"{path} is missing"
        assert found[path].dtype == value.dtype, (
            f"{path}: {found[path].dtype}, expected {value.dtype}"
        )
        assert found[path].shape == value.shape, (
            f"{path}: {found[path].shape}, expected {value.shape}"
        )
        here = found[path]
        if path == "spots/flags" and "spots/sigma" not in expected:
            # without errors it is not known what stands out on one frame
            here = here & ~np.uint16(Flag.ONE_FRAME)
        equal = np.array_equal(here, value, equal_nan=value.dtype.kind == "f")
        assert equal, (
            f"{path} differs at {np.argwhere(~((here == value) | (here != here)))[:3].tolist()}"
        )


def fetched(backend: Any, array: Any) -> np.ndarray:
    """Frames that are where the backend computes, as a host array."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(backend, "backends"):
        device, array = backend._here(array)
        backend = backend.backends[device]
    return backend.toolkit.call(lambda: backend.toolkit.to_host(array))


def images_of(backend: Backend, masks: Any) -> np.ndarray:
    """Masks that are where the backend computes, as images (k, n_X, n_Y) of 0 and 1."""
    return backend.fetch([masks])[0][:]


def moments_of(backend: Any, frames: Any, method: Method, validity: Validity) -> Any:
    """Moments that a backend makes the background of a band from, on the host."""
    if isinstance(frames, np.ndarray):
        return cpu_background.moments(frames, method, validity)
    if hasattr(backend, "backends"):
        device, frames = backend._here(frames)
        backend = backend.backends[device]
    toolkit = backend.toolkit
    return toolkit.call(
        lambda: cuda_background.moments(toolkit, frames, method, validity).to_host(
            toolkit, frames.shape[1:]
        )
    )


def series(
    n_frames: int = 20, shape: tuple[int, int] = (24, 40), dtype: str = "uint16", seed: int = 1
) -> np.ndarray:
    """Frames with a spot of 4 x 4 pixels each, which is elsewhere on the next frame."""
    frames = np.random.default_rng(seed).poisson(50, (n_frames, *shape)).astype(dtype)
    for i, frame in enumerate(frames):
        x, y = 2 + i % (shape[0] - 8), 3 + 7 * i % (shape[1] - 8)
        frame[x : x + 4, y : y + 4] = 200
    return frames


def write_run(
    path: Path, edit: Callable[[h5py.File], object] | None = None, frames: np.ndarray | None = None
) -> Path:
    """Write a laser run of 20 frames at 10 angles in LaueUtil's layout.

    Each angle has one frame without and one with laser. ``edit`` changes the file.
    """
    with h5py.File(path, "w") as file:
        file["frames"] = series() if frames is None else frames
        n_frames = len(file["frames"])
        file["lauecollect/angle"] = np.arange(n_frames) // 2 * 1.5
        file["lauecollect/laser_on"] = np.arange(n_frames) % 2
        if edit is not None:
            edit(file)
    return path


def replaced(**values: Any) -> Callable[[h5py.File], None]:
    """An edit that replaces datasets: ``lauecollect_angle`` is lauecollect/angle.

    None only removes; what can be called is called.
    """

    def edit(file: h5py.File) -> None:
        for name, value in values.items():
            path = name.replace("_", "/", 1)
            if path in file:
                del file[path]
            if callable(value):
                value(file)
            elif value is not None:
                file[path] = value

    return edit


@dataclass(frozen=True)
class Ended:
    """Status and output of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Lines on stderr."""
        return self.stderr.splitlines()


def command(*arguments: object, name: str = "lu_hdf2spots") -> Ended:
    """Run a command in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            getattr(cli, name.replace("-", "_")).main(
                [str(argument) for argument in arguments], prog_name=name
            )
        except SystemExit as end:
            return Ended(int(end.code or 0), stdout.getvalue(), stderr.getvalue())
    raise AssertionError("a command always ends in SystemExit")


@contextlib.contextmanager
def started(
    *arguments: object, name: str = "lu_hdf2spots", prelude: str = "pass", **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a command as a process, after a line of Python.

    The process is killed if it still runs at the end.
    """
    # a test suite that runs in the background of a shell hands on that SIGINT is ignored, as a
    # user's terminal does not
    program = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
{prelude}
from gpu_spots import cli
sys.argv[0] = {name!r}
cli.{name.replace("-", "_")}(prog_name={name!r})
"""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], text=True, **{**streams, **options}
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def process(*arguments: object, name: str = "lu_hdf2spots", **options: Any) -> Ended:
    """Run a command as a process of its own."""
    with started(*arguments, name=name, **options) as running:
        stdout, stderr = running.communicate(timeout=60)
        return Ended(running.returncode, stdout or "", stderr or "")


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything in a folder and below: kind, permissions, and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = (
            os.fsencode(os.readlink(path))
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else b""
        )
        found[str(path.relative_to(folder))] = state.st_mode, content
    return found


def assert_refused(ended: Ended, status: int, *words: str) -> None:
    """Check the status, and the one line on stderr, which has all the words.

    Nothing may be on stdout.
    """
    assert (ended.status, ended.stdout) == (status, ""), ended
    assert len(ended.lines) == 1, ended.stderr
    assert ended.stderr.endswith("\n")
    assert "internal error" not in ended.stderr
    missing = [word for word in words if word not in ended.stderr]
    assert not missing, f"{missing} not in: {ended.stderr}"


class FullDisk:
    """A disk that takes so many bytes, and then says it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.refused = room, 0
        write, truncate = os.pwrite, os.truncate

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            if offset + len(data) > self.room:
                self.refused += 1
                if offset >= self.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data[: self.room - offset], offset)

        def cut(file: int, length: int) -> None:
            if length > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            truncate(file, length)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "truncate", cut)


def chunk_offset(path: Path, index: int, dataset: str = "frames") -> tuple[int, int]:
    """Return begin and length of chunk ``index`` of a dataset in its file."""
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(index)
    return chunk.byte_offset, chunk.size


def background_of(
    threshold: np.ndarray,
    dtype: np.dtype,
    mean: FixedPointMean | np.ndarray | None = None,
    validity: Validity | None = None,
    gaps: bool = False,
) -> Background:
    """A background of which only the threshold, the mean and the validity matter."""
    zeros = np.zeros(threshold.shape)
    return Background(
        avg=zeros.astype(np.float32),
        std=zeros.astype(np.float32),
        iqr=zeros.astype(np.float32),
        max=zeros.astype(dtype),
        arg=zeros.astype(np.int32),
        threshold=threshold,
        n_used=None,
        dropped=None,
        gaps=gaps,
        mean=FixedPointMean(1, None, zeros.astype(np.uint32)) if mean is None else mean,
        validity=validity or Validity(),
    )


def means_of(
    dtype: np.dtype, shape: tuple[int, int], rng: np.random.Generator
) -> FixedPointMean | np.ndarray:
    """Any background to subtract from frames of that type."""
    if dtype.kind == "f":
        return rng.random(shape)
    return FixedPointMean(
        7, rng.integers(-(2**31), 2**31, shape), rng.integers(0, 2**32, shape).astype(np.uint32)
    )


def refuses(path: Path, *options: object, status: int = 1, words: tuple[str, ...] = ()) -> str:
    """Check that the command refuses a file in one line with these words; return the line.

    The folder must stay as it was.
    """
    before = listing(path.parent)
    ended = command(path, *options, "--quiet")
    assert_refused(ended, status, *words)
    assert listing(path.parent) == before
    return ended.stderr
