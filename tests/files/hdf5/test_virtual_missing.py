"""Missing parts of virtual datasets, for which HDF5 gives zeros.

They are errors that name the missing file.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import N_FRAMES, SHAPE, frames_of, write_dectris
from factories.virtual import (
    UNLIMITED,
    WHOLE,
    assert_read,
    everything,
    frames_at,
    problem,
    space,
    write_mapped,
    write_parts,
    write_two,
)
from gpu_spots.files.frames import open_run
from gpu_spots.files.hdf5.virtual import require_complete
from helpers import process, refuses


def write_dls(folder: Path) -> Path:
    """Write a virtual dataset over links to the data files, as Diamond does."""
    write_dectris(folder / "run_master.h5", per_file=7)
    sources = [
        (
            frames_at(i, min(i + 7, 20)),
            ".",
            f"/entry/data/data_{i // 7 + 1:06}",
            everything(min(7, 20 - i)),
        )
        for i in (0, 7, 14)
    ]
    with h5py.File(folder / "run_master.h5", "a") as file:
        file["entry/data"].attrs["signal"] = "data"
    return write_mapped(folder / "run_master.h5", *sources, name="entry/data/data")


def test_a_master_of_diamond(tmp_path: Path) -> None:
    """It is read directly; a missing data file, or part of it, is named."""
    path = write_dls(tmp_path)
    assert_read(path, direct=True)
    with open_run(path) as stack:
        assert [file.name for file in stack.files] == [
            "run_master.h5",
            *(f"run_data_{i:06}.h5" for i in (1, 2, 3)),
        ]
    (tmp_path / "run_data_000002.h5").unlink()
    refuses(
        path,
        words=(
            "/entry/data/data: frame 7 cannot be read",
            "/entry/data/data_000002",
            "run_data_000002.h5, which is missing",
        ),
    )
    (tmp_path / "run_data_000001.h5").unlink()
    assert "frame 0" in problem(path)


def test_one_of_two_files_is_missing(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    assert_read(path, direct=True)
    (tmp_path / "part1.h5").unlink()
    refuses(
        path,
        words=(
            "/frames: frame 12 cannot be read: its source file part1.h5 (dataset x) is missing",
        ),
    )


def test_a_source_file_is_none(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    (tmp_path / "part1.h5").write_text("no HDF5")
    assert (
        "frame 12 cannot be read: its source file part1.h5 (dataset x) is not an HDF5 file"
        in problem(path)
    )
    (tmp_path / "part1.h5").unlink()
    (tmp_path / "part1.h5").mkdir()
    assert problem(path).endswith("part1.h5: is a folder, expected an HDF5 file")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda file: None, "x: the dataset is missing"),
        (lambda file: file.create_group("x"), "x is a group, expected a dataset"),
        (
            lambda file: file.create_dataset("x", data=np.ones((7, *SHAPE), "u2")),
            "x has shape (7, 24, 40)",
        ),
        (lambda file: file.create_dataset("x", data=np.ones(SHAPE, "u2")), "x has shape (24, 40)"),
        (lambda file: file.create_dataset("x", (8, *SHAPE), "u2"), "x was never written"),
        (
            lambda file: file.create_dataset("x", (8, *SHAPE), "u2", chunks=(1, *SHAPE)),
            "x: its chunk at 0, 0, 0 was never written",
        ),
        (
            lambda file: file.__setitem__("x", h5py.SoftLink("/y")),
            "x is a broken link to /y",
        ),
        (
            lambda file: file.__setitem__("x", h5py.ExternalLink("gone.h5", "/y")),
            "the file gone.h5, which is missing",
        ),
    ],
)
def test_a_source_dataset_is_missing_or_other(
    edit: Callable[[h5py.File], Any], words: str, tmp_path: Path
) -> None:
    path = write_two(tmp_path)
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        edit(file)
    found = problem(path)
    assert "run.h5: /frames: frame 12 cannot be read: its source " in found
    assert "part1.h5: " in found
    assert words in found


def test_a_source_that_is_shorter_than_what_is_taken_of_it(tmp_path: Path) -> None:
    write_parts(tmp_path, 0)
    taken = space((30, *SHAPE), (5, 0, 0), block=WHOLE)
    found = problem(write_mapped(tmp_path / "run.h5", (everything(), "part0.h5", "x", taken)))
    assert "part0.h5: x has shape (20, 24, 40), expected at least (25, 24, 40)" in found


def test_virtual_datasets_of_virtual_datasets(tmp_path: Path) -> None:
    """They are followed, and read directly, to any depth."""
    (tmp_path / "inner").mkdir()
    write_two(tmp_path / "inner")
    write_mapped(tmp_path / "middle.h5", (everything(), "inner/run.h5", "frames", everything()))
    path = write_mapped(tmp_path / "run.h5", (everything(), "middle.h5", "frames", everything()))
    assert_read(path, direct=True)
    (tmp_path / "inner/part1.h5").unlink()
    found = problem(path)
    assert "run.h5: /frames: frame 0 cannot be read: its source" in found
    assert "middle.h5: frames: frame 0 cannot be read: its source" in found
    assert "frame 12 cannot be read: its source file part1.h5 (dataset x) is missing" in found


def test_a_mapping_of_half_of_the_rows(tmp_path: Path) -> None:
    write_parts(tmp_path, 0)
    upper = space(WHOLE, (0, 0, 0), block=(N_FRAMES, 12, 40))
    path = write_mapped(tmp_path / "run.h5", (upper, "part0.h5", "x", upper))
    assert problem(path).endswith(
        "frame 0 cannot be read: no source is mapped to a part of it; it begins at 12, 0 in the "
        "frame"
    )


def test_frames_that_nothing_is_mapped_to(tmp_path: Path) -> None:
    """Nothing is mapped to every second later frame, and to one pixel of a frame."""
    write_parts(tmp_path, 0)
    even = space(WHOLE, (12, 0, 0), (4, 1, 1), (2, *SHAPE), (1, *SHAPE))
    first, rest = (
        (frames_at(0, 12), "part0.h5", "x", frames_at(0, 12)),
        (even, "part0.h5", "x", frames_at(12, 16)),
    )
    assert problem(write_mapped(tmp_path / "a.h5", first, rest)).endswith(
        "frame 13 cannot be read: no source is mapped to it"
    )
    most = space(WHOLE, (12, 0, 0), block=(8, 24, 39))
    corner = space(WHOLE, (12, 0, 39), block=(8, 23, 1))
    second, third = (most, "part0.h5", "x", most), (corner, "part0.h5", "x", corner)
    assert problem(write_mapped(tmp_path / "b.h5", first, second, third)).endswith(
        "frame 12 cannot be read: no source is mapped to a part of it; it begins at 23, 39 in the "
        "frame"
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (
            (2**40, *SHAPE),
            "its mapping is too large to be checked: 1 different parts of 1099511627776 frames",
        ),
        (
            (20, 2**40, 40),
            "frame 0 cannot be read: no source is mapped to a part of it; it begins at 24, 0",
        ),
        ((2**22, 2**31, 2**31), "expected less than 2^60 values"),
    ],
)
def test_shapes_that_fit_no_memory(shape: tuple[int, int, int], words: str, tmp_path: Path) -> None:
    write_parts(tmp_path, 0)
    first = space(shape, (0, 0, 0), block=WHOLE)
    assert words in problem(
        write_mapped(tmp_path / "run.h5", (first, "part0.h5", "x", everything()), shape=shape)
    )


def test_many_sources_are_checked_quickly(tmp_path: Path) -> None:
    """Checking 10 000 mappings takes at most six times as long as h5py takes to list them."""
    n = 10_000
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = np.ones((n, 2, 3), "u2")
    shape = (n, 2, 3)
    frames = [space(shape, (i, 0, 0), block=(1, 2, 3)) for i in range(n)]
    mappings = [(frames[i], "part.h5", "x", frames[n - 1 - i]) for i in range(n)]
    with h5py.File(write_mapped(tmp_path / "run.h5", *mappings, shape=shape)) as file:
        began = time.process_time()
        file["frames"].virtual_sources()
        listed = time.process_time()
        require_complete(file["frames"], "run.h5")
        checked = time.process_time()
    assert checked - listed < 6 * (listed - began)


def test_modules_of_a_detector(tmp_path: Path) -> None:
    """Each of four modules has a file; frames are put together of rows and columns of them."""
    mappings = []
    for i, (x, y) in enumerate(((0, 0), (0, 20), (12, 0), (12, 20))):
        with h5py.File(tmp_path / f"module{i}.h5", "w") as file:
            file["x"] = frames_of()[:, x : x + 12, y : y + 20]
        block = (N_FRAMES, 12, 20)
        mappings.append((space(WHOLE, (0, x, y), block=block), f"module{i}.h5", "x", space(block)))
    assert_read(write_mapped(tmp_path / "run.h5", *mappings), direct=False)
    assert "frame 0" in problem(write_mapped(tmp_path / "bad.h5", *mappings[:2], mappings[3]))


@pytest.mark.parametrize("chunks", [(1, *SHAPE), (2, 8, 40)])
def test_a_chunk_of_a_source_that_was_never_written(
    chunks: tuple[int, int, int], tmp_path: Path
) -> None:
    """The chunk is named with the frame, if it is needed."""
    with h5py.File(tmp_path / "part.h5", "w") as file:
        source = file.create_dataset("x", (24, *SHAPE), "u2", chunks=chunks)
        source[:14], source[16:] = frames_of()[:14], frames_of()[:8]
    odd = space((24, *SHAPE), (1, 0, 0), (10, 1, 1), (2, *SHAPE), (1, *SHAPE))
    path = write_mapped(
        tmp_path / "a.h5",
        (frames_at(0, 10), "part.h5", "x", odd),
        (frames_at(10, 20), "part.h5", "x", odd),
    )
    assert "frame 7 cannot be read" in problem(path)
    assert (
        f"part.h5: x: its chunk at {'15' if chunks[0] == 1 else '14'}, 0, 0 was never written"
        in problem(path)
    )
    begin, end = (
        space((24, *SHAPE), (0, 0, 0), block=(14, *SHAPE)),
        space((24, *SHAPE), (16, 0, 0), block=(6, *SHAPE)),
    )
    path = write_mapped(
        tmp_path / "b.h5",
        (frames_at(0, 14), "part.h5", "x", begin),
        (frames_at(14, 20), "part.h5", "x", end),
    )
    assert_read(path, direct=False, expected=np.concatenate([frames_of()[:14], frames_of()[:6]]))


def test_a_virtual_dataset_that_refers_to_itself(tmp_path: Path) -> None:
    """HDF5 would never come back; a process is killed then."""
    path = write_mapped(tmp_path / "run.h5", (everything(), ".", "frames", everything()))
    ended = process("find", path, "--quiet", name="gpu-spots")
    assert ended.status == 1
    assert ended.stderr.endswith("run.h5: /frames: frame 0 cannot be read: its source "
        f"{path}: frames: cannot be read: the virtual dataset refers to itself\n")  # fmt: skip
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write_mapped(tmp_path / f"{one}.h5", (everything(), f"{other}.h5", "frames", everything()))
    assert "refers to itself" in problem(tmp_path / "a.h5")
    (tmp_path / "alias.h5").symlink_to("itself.h5")
    assert "refers to itself" in problem(
        write_mapped(tmp_path / "itself.h5", (everything(), "alias.h5", "frames", everything()))
    )


def test_sources_that_grow(tmp_path: Path) -> None:
    """A mapping without limit has the frames of its source.

    A source that is shorter than others leaves frames without values.
    """
    begins = {
        name: space(WHOLE, (i, 0, 0), (UNLIMITED, 1, 1), (2, *SHAPE), (1, *SHAPE))
        for i, name in enumerate(("even", "odd"))
    }
    taken = space((10, *SHAPE), (0, 0, 0), (UNLIMITED, 1, 1), (1, *SHAPE), (1, *SHAPE))
    for i, name in enumerate(begins):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset(
                "x", data=frames_of()[i::2], maxshape=(None, *SHAPE), chunks=(1, *SHAPE)
            )
    path = write_mapped(
        tmp_path / "run.h5",
        *((target, f"{name}.h5", "x", taken) for name, target in begins.items()),
    )
    assert_read(path, direct=False)
    with h5py.File(tmp_path / "odd.h5", "a") as file:
        file["x"].resize(8, axis=0)
    assert problem(path).endswith("frame 17 cannot be read: no source is mapped to it")
