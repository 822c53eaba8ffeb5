"""Virtual datasets, read from their sources or by HDF5.

Missing sources are errors that name them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import N_FRAMES, SHAPE, frames_of, group, stored, write_virtual
from gpu_spots.files.frames import open_run
from helpers import assert_refused, command


def write_mapped(
    path: Path,
    mapping: Callable[[h5py.VirtualLayout, list[h5py.VirtualSource]], None],
    **options: object,
) -> Path:
    """Write a virtual dataset, filled by ``mapping``.

    Its sources are three files of 8, 8 and 4 frames, and a dataset of the same file.
    """
    frames, sources = frames_of(), []
    for number, begin in enumerate(range(0, N_FRAMES, 8)):
        part = path.with_name(f"{path.stem}_{number}.h5")
        with h5py.File(part, "w") as file:
            stored(file, "entry/x", frames[begin : begin + 8], **options)
            sources.append(
                h5py.VirtualSource(part.name, "entry/x", (min(8, N_FRAMES - begin), *SHAPE))
            )
    layout = h5py.VirtualLayout((N_FRAMES, *SHAPE), "u2")
    mapping(layout, sources)
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        group(entry, "data", "NXdata", signal="data").create_virtual_dataset("data", layout)
    return path


def in_order(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[16:], layout[:8], layout[8:16] = sources[2], sources[0], sources[1]


def backwards(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8], layout[8:16], layout[16:] = sources[1], sources[0], sources[2]


def interleaved(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[0:16:2], layout[1:16:2], layout[16:] = sources[0], sources[1], sources[2]


def cropped(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8, :, 10:], layout[:8, :, :10] = sources[0][:, :, :30], sources[0][:, :, 30:]
    layout[8:16], layout[16:] = sources[1], sources[2]


def some_frames(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:7], layout[7:15], layout[15:19], layout[19:] = (
        sources[0][1:],
        sources[1],
        sources[2],
        sources[0][:1],
    )


def overlapping(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8], layout[4:12], layout[12:20] = sources[0], sources[1], sources[1]


@pytest.mark.parametrize(
    ("mapping", "options", "direct"),
    [
        (in_order, {}, True),
        (backwards, {}, True),
        (in_order, {"chunks": None, "compression": None}, True),
        (in_order, {"compression": "lzf"}, False),
        (interleaved, {}, False),
        (cropped, {}, False),
        (some_frames, {}, False),
        (overlapping, {}, False),
    ],
)
def test_a_virtual_stack_is_read_as_h5py_reads_it(
    mapping: Callable[..., Any], options: dict[str, Any], direct: bool, tmp_path: Path
) -> None:
    """It is read from its sources by all threads, if they are in order; else by HDF5."""
    path = write_mapped(tmp_path / "run.h5", mapping, **options)
    with h5py.File(path) as file:
        expected = file["entry/data/data"][...]
    with open_run(path) as stack:
        assert (stack.storage()["read_through_hdf5"] is None) == direct
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, expected)
        stack.read(5, 18, into[:13])
        assert np.array_equal(into[:13], expected[5:18])
        assert stack.provenance.frames_path == "/entry/data/data"
        assert len(stack.files) == (3 if mapping is overlapping else 4)


def test_a_virtual_stack_of_datasets_in_its_own_file(tmp_path: Path) -> None:
    frames = frames_of()
    with h5py.File(tmp_path / "run.h5", "w") as file:
        layout = h5py.VirtualLayout(frames.shape, "u2")
        for i in range(0, N_FRAMES, 5):
            layout[i : i + 5] = h5py.VirtualSource(stored(file, f"parts/{i}", frames[i : i + 5]))
        group(
            group(file, "entry", "NXentry"), "data", "NXdata", signal="data"
        ).create_virtual_dataset("data", layout)
    with open_run(tmp_path / "run.h5") as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, frames)
        assert stack.storage()["read_through_hdf5"] is None


def test_a_virtual_stack_whose_source_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_mapped(tmp_path / "run.h5", in_order)
    (tmp_path / "run_1.h5").write_bytes((tmp_path / "run_1.h5").read_bytes()[:2000])
    assert_refused(command(path, "-a", 0, "--quiet"), 1, "run.h5", "frame 8 cannot be read")


def test_a_virtual_dataset_with_a_hole_is_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((N_FRAMES, *SHAPE), "u2")
        layout[:12] = h5py.VirtualSource("run_part0.h5", "x", (12, *SHAPE))
        del file["entry/data/data"]
        file["entry/data"].create_virtual_dataset("data", layout)

    assert_refused(
        command(write_virtual(tmp_path / "run.h5", edit=edit), "--quiet"),
        1,
        "/entry/data/data",
        "frame 12 cannot be read",
    )
