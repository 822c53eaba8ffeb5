"""Missing parts of virtual datasets and external files, for which HDF5 gives zeros.

They are errors that name the missing file.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import N_FRAMES, SHAPE, frames_of, write_dectris
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run
from gpu_spots.files.hdf5.virtual import require_complete
from helpers import process, refuses

WHOLE = (N_FRAMES, *SHAPE)
UNLIMITED = h5py.h5s.UNLIMITED


def space(
    shape: tuple[int, ...],
    begin: tuple[int, ...] | None = None,
    count: tuple[int, ...] = (1, 1, 1),
    stride: tuple[int, ...] | None = None,
    block: tuple[int, ...] | None = None,
) -> h5py.h5s.SpaceID:
    """A dataspace; everything is selected in it, or a hyperslab."""
    made = h5py.h5s.create_simple(shape, (UNLIMITED, *shape[1:]))
    if begin is not None:
        made.select_hyperslab(begin, count, stride or block, block)
    return made


def write_mapped(
    path: Path,
    *mappings: tuple[h5py.h5s.SpaceID, str, str, h5py.h5s.SpaceID],
    name: str = "frames",
    dtype: str = "u2",
    shape: tuple[int, ...] = WHOLE,
) -> Path:
    """Add a virtual dataset to a file: target, file, dataset and what is taken, of each source."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for target, file, dataset, taken in mappings:
        created.set_virtual(target, file.encode(), dataset.encode(), taken)
    with h5py.File(path, "a") as opened:
        extent = h5py.h5s.create_simple(shape, (UNLIMITED, *shape[1:]))
        h5py.h5d.create(
            opened.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), extent, created
        )
    return path


def frames_at(begin: int, end: int) -> h5py.h5s.SpaceID:
    """Return some frames of the run."""
    return space(WHOLE, (begin, 0, 0), block=(end - begin, *SHAPE))


def everything(n: int = N_FRAMES) -> h5py.h5s.SpaceID:
    return space((n, *SHAPE))


def write_parts(folder: Path, *begins: int, **options: Any) -> None:
    """part0.h5, part1.h5, ...: dataset x with the frames from one of ``begins`` to the next."""
    for i, (begin, end) in enumerate(zip(begins, (*begins[1:], N_FRAMES), strict=True)):
        with h5py.File(folder / f"part{i}.h5", "w") as file:
            file.create_dataset(
                "x", data=frames_of()[begin:end], **{"chunks": (1, *SHAPE), **options}
            )


def write_two(folder: Path, **options: Any) -> Path:
    """A virtual dataset over two parts, of 12 and 8 frames."""
    write_parts(folder, 0, 12, **options)
    first = (frames_at(0, 12), "part0.h5", "x", everything(12))
    return write_mapped(
        folder / "run.h5", first, (frames_at(12, 20), "part1.h5", "x", everything(8))
    )


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


def assert_read(
    path: Path, *, direct: bool, dtype: str = "u2", expected: np.ndarray | None = None
) -> None:
    """The run is read without options, as it should be."""
    with open_run(path) as stack:
        in_order = stack.storage()["read_through_hdf5"] is None
        assert (stack.dtype, in_order) == (np.dtype(dtype), direct)
        into = np.zeros(stack.shape, stack.dtype)
        stack.read(0, len(into), into)
        stack.check_whole()
    np.testing.assert_array_equal(into, frames_of() if expected is None else expected)


def problem(path: Path) -> str:
    """Return the error of a run."""
    with pytest.raises(InputError) as found:
        open_run(path).__enter__()
    return str(found.value)


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


def test_links_on_the_way_are_followed(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    (tmp_path / "part1.h5").rename(tmp_path / "other.h5")
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["x"] = h5py.SoftLink("/group/y")
        file["group/y"] = h5py.ExternalLink("other.h5", "x")
    assert_read(path, direct=True)


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
    layout = h5py.VirtualLayout((n, 2, 3), "u2")
    source = h5py.VirtualSource("part.h5", "x", (n, 2, 3))
    for i in range(n):
        layout[i] = source[n - 1 - i]
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_virtual_dataset("frames", layout)
    with h5py.File(tmp_path / "run.h5") as file:
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


def test_names_with_numbers(tmp_path: Path) -> None:
    """A missing file among numbered ones is an error.

    For HDF5, the run would only be shorter.
    """
    write_parts(tmp_path, 0, 5, 10, 15)
    target = space(WHOLE, (0, 0, 0), (UNLIMITED, 1, 1), (5, *SHAPE), (5, *SHAPE))
    path = write_mapped(tmp_path / "run.h5", (target, "part%b.h5", "x", everything(5)))
    assert_read(path, direct=True)
    with h5py.File(tmp_path / "part1.h5", "a") as file:
        del file["x"]
        file["x"] = np.ones((4, *SHAPE), "u2")
    assert "frame 5 cannot be read: its source" in problem(path)
    (tmp_path / "part2.h5").unlink()
    (tmp_path / "part1.h5").unlink()
    assert problem(path).endswith(
        "frame 5 cannot be read: its source file part1.h5 is missing, and part3.h5 is there"
    )


def test_a_percent_sign_in_a_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "5%b.h5", "w") as file:
        file["x"] = frames_of()
    assert_read(
        write_mapped(tmp_path / "run.h5", (everything(), "5%%b.h5", "x", everything())), direct=True
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


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found beside the file, in the working folder, and beside a link's target.

    HDF5 does the same.
    """
    folders = [tmp_path / name for name in ("real", "named", "working")]
    for folder in folders:
        folder.mkdir()
    write_two(folders[0])
    (folders[1] / "run.h5").symlink_to(folders[0] / "run.h5")
    monkeypatch.chdir(folders[2])
    assert_read(folders[1] / "run.h5", direct=True)
    for from_, to in ((0, 2), (2, 1)):
        (folders[from_] / "part1.h5").rename(folders[to] / "part1.h5")
        assert_read(folders[1] / "run.h5", direct=True)
        with open_run(folders[1] / "run.h5") as stack:
            assert any(file.resolve() == folders[to] / "part1.h5" for file in stack.files)


@pytest.mark.parametrize("direct", [True, False])
def test_folders_named_by_the_environment(direct: bool, tmp_path: Path) -> None:
    """The files there are read, and checked."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write_two(tmp_path, **({} if direct else {"compression": "lzf"}))
    shutil.copy(tmp_path / "part0.h5", folder)
    (tmp_path / "part1.h5").rename(folder / "part1.h5")
    for value in (str(folder), f"/nowhere:{folder}", "${ORIGIN}/elsewhere"):
        environment = {**os.environ, "HDF5_VDS_PREFIX": value}
        ended = process(
            "find", path, "-a", 0, "--quiet", "--force", name="gpu-spots", env=environment
        )
        assert (ended.status, ended.stderr) == (0, "")
    environment["HDF5_VDS_PREFIX"] = "/nowhere"
    assert (
        "part1.h5 (dataset x) is missing"
        in process("find", path, "-a", 0, "--quiet", name="gpu-spots", env=environment).stderr
    )


# --- types


def test_the_type_is_that_of_the_sources(tmp_path: Path) -> None:
    """The virtual dataset has int64, or a type that would clip the values of its sources."""
    frames = frames_of("uint32") * 10000
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"], file["y"] = frames, frames[:, ::-1].astype("f4")
    whole = (everything(), "part.h5", "x", everything())
    for dtype in ("i8", "u8", "u2", "i4", "u4"):
        path = write_mapped(tmp_path / f"{dtype}.h5", whole, dtype=dtype)
        assert_read(path, direct=True, dtype="u4", expected=frames)
    path = write_mapped(tmp_path / "f8.h5", whole, dtype="f8")
    assert_read(path, direct=False, dtype="f8", expected=frames)
    halves = [(frames_at(10 - i, 20 - i), "part.h5", "x", frames_at(i, 10 + i)) for i in (0, 10)]
    path = write_mapped(tmp_path / "halves.h5", *halves, dtype="i8")
    assert_read(path, direct=False, dtype="u4", expected=np.roll(frames, 10, axis=0))
    path = write_mapped(tmp_path / "two.h5", (frames_at(0, 10), "part.h5", "x", frames_at(0, 10)),
        (frames_at(10, 20), "part.h5", "y", frames_at(0, 10)), dtype="i8")  # fmt: skip
    refuses(
        path,
        words=(
            "/frames is a virtual dataset of int64 with sources of different types: uint32 (",
            "part.h5: y",
        ),
    )


def test_sources_of_a_type_that_no_frame_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = frames_of("int64")
    path = write_mapped(
        tmp_path / "run.h5", (everything(), "part.h5", "x", everything()), dtype="i8"
    )
    assert "/frames is int64, expected one of uint8" in problem(path)


# --- filters


@pytest.mark.parametrize("name", ["Bitshuffle", "LZ4"])
def test_sources_that_need_a_plugin(name: str, tmp_path: Path) -> None:
    """The process has not loaded the plugin yet."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = write_two(tmp_path, **getattr(hdf5plugin, name)())
    ended = process("find", path, "-a", 0, "--quiet", name="gpu-spots")
    assert (ended.status, ended.stderr) == (0, "")


@pytest.mark.parametrize("where", ["frames", "mask in the file", "mask", "angles"])
def test_a_filter_that_is_not_installed(where: str, tmp_path: Path) -> None:
    """The filter is named, and the package that has it."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    options = {"chunks": SHAPE, **hdf5plugin.LZ4()}

    def edit(file: h5py.File) -> None:
        if where == "mask in the file":
            file.create_dataset(
                "entry/instrument/detector/pixel_mask", data=np.zeros(SHAPE, "u4"), **options
            )
        if where == "angles":
            del file["entry/sample/goniometer/omega"]
            file.create_dataset(
                "entry/sample/goniometer/omega",
                data=np.arange(20.0),
                chunks=(20,),
                **hdf5plugin.LZ4(),
            )

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    arguments: list[object] = ["find", path, "-S", "none", "--quiet", "-a", 5]
    if where == "frames":
        arguments[1] = write_two(tmp_path, **{**options, "chunks": (1, *SHAPE)})
    if where == "mask":
        with h5py.File(tmp_path / "mask.h5", "w") as file:
            file.create_dataset("pixel_mask", data=np.zeros(SHAPE, "u4"), **options)
        arguments += ["--mask", tmp_path / "mask.h5"]
    ended = process(
        *arguments, name="gpu-spots", prelude="import sys; sys.modules['hdf5plugin'] = None"
    )
    assert ended.status == 1
    assert "is compressed by HDF5 filter 32004" in ended.stderr
    assert "pip install hdf5plugin" in ended.stderr
    if where != "frames":
        assert process(*arguments, name="gpu-spots").stderr == ""


# --- external files, and what is none


def write_raw(folder: Path, *segments: tuple[str, int, int]) -> Path:
    """Frames in raw files: name, first byte and size of each segment."""
    path = folder / "run.h5"
    with h5py.File(path, "w") as file:
        external = [(str(folder / name), begin, size) for name, begin, size in segments]
        file.create_dataset("frames", data=frames_of(), external=external)
    return path


N_BYTES = frames_of().nbytes


@pytest.mark.parametrize(
    "segments",
    [
        [("a.raw", 0, UNLIMITED)],
        [("a.raw", 0, 10000), ("b.raw", 100, UNLIMITED)],
        [("a.raw", 50, 10000), ("b.raw", 0, N_BYTES)],
    ],
)
def test_raw_files_that_are_too_short(segments: list[tuple[str, int, int]], tmp_path: Path) -> None:
    path = write_raw(tmp_path, *segments)
    assert_read(path, direct=False)
    for name, begin, size in segments:
        raw = tmp_path / name
        needed = begin + min(size, N_BYTES if name == "a.raw" else N_BYTES - 10000)
        content = raw.read_bytes()
        raw.write_bytes(content[: needed // 2])
        refuses(path, words=(f"{raw} has {needed // 2} bytes, expected {needed}",))
        raw.unlink()
        assert f"its external file {raw}: cannot be opened: No such file or directory" in problem(
            path
        )
        raw.write_bytes(content)
    assert_read(path, direct=False)


def test_raw_files_of_sources(tmp_path: Path) -> None:
    write_raw(tmp_path, ("a.raw", 0, UNLIMITED))
    path = write_mapped(tmp_path / "all.h5", (everything(), "run.h5", "frames", everything()))
    assert_read(path, direct=False)
    os.truncate(tmp_path / "a.raw", 1000)
    assert f"a.raw has 1000 bytes, expected {N_BYTES}" in problem(path)


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device"])
@pytest.mark.parametrize(
    "where", ["virtual", "virtual without limit", "link", "link of a source", "raw", "itself"]
)
def test_what_is_no_file_is_not_opened(
    kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a named pipe would block."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = tmp_path / "run.h5"
    bad = tmp_path / "bad.h5"
    if where == "virtual":
        write_mapped(path, (everything(), "bad.h5", "x", everything()))
    elif where == "virtual without limit":
        target = space(WHOLE, (0, 0, 0), (UNLIMITED, 1, 1), (1, *SHAPE), (1, *SHAPE))
        write_mapped(path, (target, "bad.h5", "x", target))
    elif where == "link":
        with h5py.File(path, "w") as file:
            file["frames"] = h5py.ExternalLink("bad.h5", "x")
    elif where == "link of a source":
        with h5py.File(tmp_path / "part.h5", "w") as file:
            file["x"] = h5py.ExternalLink("bad.h5", "x")
        write_mapped(path, (everything(), "part.h5", "x", everything()))
    elif where == "raw":
        write_raw(tmp_path, ("bad.h5", 0, UNLIMITED))
        bad.unlink()
    else:
        path = bad
    if kind == "device":
        bad.symlink_to("/dev/zero")
        ended = process("find", path, "--quiet", name="gpu-spots")
    elif kind == "named pipe":
        os.mkfifo(bad)
        ended = process("find", path, "--quiet", name="gpu-spots")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("bad.h5")
            ended = process("find", path, "--quiet", name="gpu-spots")
    assert ended.status == 1
    assert len(ended.lines) == 1
    assert f"bad.h5: is a {kind}, expected" in ended.stderr
