"""Damaged objects, attributes, texts and chunks of HDF5 files are errors."""

import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.damage import NAMES, damage_heap
from factories.layouts_data import SHAPE, write_nexus
from gpu_spots import open_spots
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.heaps import DamagedHeapError, check_lengths, checked
from gpu_spots.files.hdf5.tree import text_of
from helpers import assert_refused, command, process, replaced, write_run

MASK = np.eye(*SHAPE, dtype=np.uint32)
DETECTOR = "/entry/instrument/detector"


def damage_object(path: Path, place: str) -> None:
    """Give an object a version that does not exist."""
    with h5py.File(path) as file:
        begin = h5py.h5o.get_info(file[place].id).addr
    content = bytearray(path.read_bytes())
    content[begin] = 0x7F
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["/entry/instrument", DETECTOR, f"{DETECTOR}/pixel_mask"])
def test_a_mask_that_cannot_be_opened_is_an_error(place: str, tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "x.h5", detector={"pixel_mask": MASK})
    damage_object(path, place)
    words = (f"{path}: ", f"{place} is damaged and cannot be opened")
    assert_refused(command(path, "--quiet"), 1, *words)


def test_a_saturation_value_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "x.h5", detector={"saturation_value": 900})
    damage_object(path, f"{DETECTOR}/saturation_value")
    words = f"{DETECTOR}/saturation_value is damaged and cannot be opened"
    assert_refused(command(path, "--quiet"), 1, words)


def test_damage_beside_what_is_needed_does_no_harm(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", lambda file: file.create_group("other"))
    damage_object(path, "/other")
    assert command(path, "--quiet").status == 0


def test_text_of_attributes_is_checked(tmp_path: Path) -> None:
    """HDF5 would not come back from a damaged heap: this would hang."""
    path = write_nexus(tmp_path / "x.h5")
    damage_heap(path)
    assert_refused(process(path, "--quiet"), 1, f"{path}: attribute ", "the heap at byte")
    with open_hdf5(path) as file, pytest.raises(InputError, match="attribute NX_class of /entry"):
        text_of(file["entry"], "NX_class")


def damage_length(path: Path, name: str, length: int) -> None:
    """Give the third text of a dataset another length."""
    with h5py.File(path) as file:
        begin = file[name].id.get_offset()
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, begin + 2 * 16, length)
    path.write_bytes(content)


def test_a_text_longer_than_its_file_is_not_allocated(tmp_path: Path) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5", replaced(lauecollect_laser_on=None, lauecollect_file=NAMES)
    )
    damage_length(path, "lauecollect/file", 0x7F000000)
    why = f"a text of {0x7F000000} bytes in a file of {path.stat().st_size}"
    assert_refused(
        command(path, "-S", "pairs", "--quiet"), 1, f"lauecollect/file cannot be read: {why}"
    )
    (tmp_path / "table.csv").write_text("laser_on\n" + "off\non\n" * 10)
    ended = command(path, "-S", "pairs", "--quiet", "--table", tmp_path / "table.csv")
    assert ended.status == 0
    assert f"lauecollect/file is damaged and left out of the output: {why}" in ended.stderr


@pytest.mark.parametrize("options", [{}, {"chunks": (7,)}, {"chunks": (7,), "compression": "gzip"}])
def test_sound_texts_pass(options: dict[str, object], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        kind = h5py.string_dtype()
        file.create_dataset("group/text", data=["a", "", "c" * 300] * 7, dtype=kind, **options)
        pieces = file.create_dataset("group/lists", 3, dtype=h5py.vlen_dtype("i4"))
        pieces[1] = [1, 2]
        file.create_dataset("group/none", data=h5py.Empty(kind))
    with h5py.File(tmp_path / "x.h5") as file, checked(file) as safe:
        check_lengths(safe["group"])


def test_lengths_in_chunks_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("text", data=["a"] * 14, dtype=h5py.string_dtype(), chunks=(7,))
        chunk = file["text"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, chunk.byte_offset, 1 << 30)
    path.write_bytes(content)
    with h5py.File(path) as file, checked(file) as safe, pytest.raises(DamagedHeapError):
        check_lengths(safe["text"])


def test_names_that_are_not_utf8_are_passed_over(tmp_path: Path) -> None:
    name = "Winkel in \u00b0".encode("latin-1")
    path = write_nexus(tmp_path / "x.h5", edit=lambda file: file["entry"].create_group(name))
    assert command(path, "--quiet").status == 0

    def add(file: h5py.File) -> None:
        file[b"lauecollect/" + name] = np.zeros(20)

    path = write_run(tmp_path / "y__mccd.h5", add)
    ended = command(path, "--quiet")
    assert ended.status == 0
    assert ended.lines in (
        [],  # copied with the whole group
        [
            f"warning: {path}: lauecollect/Winkel in \\xb0 is left out of the output: "
            "its name is not UTF-8"
        ],
    )


@pytest.mark.parametrize("name", ["Bitshuffle", "LZ4"])
def test_a_damaged_size_in_a_chunk_does_not_reach_the_plugin(name: str, tmp_path: Path) -> None:
    """The plugins would write or read beyond their memory, and crash."""
    plugins = pytest.importorskip("hdf5plugin")
    path = tmp_path / "x__mccd.h5"
    frames = np.random.default_rng(1).poisson(50, (12, 24, 40)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        options = getattr(plugins, name)()
        stored = file.create_dataset("frames", data=frames, chunks=(1, 24, 40), **options)
        begin = stored.id.get_chunk_info(5).byte_offset
    assert process(path, "-a", 0, "--quiet").status == 0
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\x01", begin + 5)
    n_bytes = 24 * 40 * 2
    assert_refused(
        process(path, "-a", 0, "--quiet", "--force"),
        1,
        f"frame 5 cannot be read: it decompresses to {n_bytes + 0x10000} bytes, expected {n_bytes}",
    )


def test_sizes_in_chunks_that_are_not_filtered_are_not_looked_for(tmp_path: Path) -> None:
    plugins = pytest.importorskip("hdf5plugin")
    path = tmp_path / "x__mccd.h5"
    frames = np.random.default_rng(1).poisson(50, (12, 24, 40)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset(
            "frames", data=frames, chunks=(1, 24, 40), **plugins.Bitshuffle()
        )
        stored.id.write_direct_chunk((3, 0, 0), frames[3].tobytes(), filter_mask=1)
    assert command(path, "-a", 0, "--quiet").status == 0


def test_a_chunk_that_hdf5_lists_and_does_not_find_is_an_error(tmp_path: Path) -> None:
    """HDF5 gives zeros for it, and no error."""
    path = tmp_path / "x__mccd.h5"
    frames = np.random.default_rng(1).poisson(50, (12, 24, 40)).astype(np.uint16)
    frames[7] = 0  # a frame of zeros is none that is missing
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=(1, 24, 40), compression="lzf")
    assert command(path, "-a", 0, "--quiet").status == 0
    content = bytearray(path.read_bytes())
    # the last number of the fifth key, which should be 0
    content[content.index(b"TREE\x01") + 24 + 5 * 48 + 32] = 0x10
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert not file["frames"][5].any()
    words = "frame 5 cannot be read: "
    assert_refused(command(path, "-a", 0, "--quiet", "--force"), 1, words)


def test_text_in_a_spots_file_is_checked(tmp_path: Path) -> None:
    """``input_file`` and other texts are in a heap, from which HDF5 would not come back."""
    run = write_run(tmp_path / "x__mccd.h5")
    assert command(run, "--quiet").status == 0
    path = tmp_path / "x__spots.h5"
    with open_spots(path) as spots:
        assert spots.info["input_file"] == str(run)
    damage_heap(path, bytes(run))
    assert_refused(process("info", path, name="gpu-spots"), 1, f"{path}: ", "the heap at byte")
    with open_spots(path) as spots, pytest.raises(InputError, match="info cannot be read"):
        spots.info  # noqa: B018
