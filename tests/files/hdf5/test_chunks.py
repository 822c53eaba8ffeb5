"""Chunks read without HDF5: the values that h5py gives, for every layout."""

import ctypes
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories.chunks import SHAPE, check_same, frames_of, make, read_all
from gpu_spots.errors import InputError
from gpu_spots.files.hdf5 import codecs
from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.model import FRAME_DTYPES

DIRECT: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks of a frame": {"chunks": (1, 21, 34)},
    "strips": {"chunks": (1, 7, 34), "compression": "gzip"},
    "strips cut off at the edge": {"chunks": (1, 8, 34), "compression": "gzip"},
    "several frames": {"chunks": (2, 21, 34), "compression": "gzip"},
    "part of the width": {"chunks": (3, 10, 8), "compression": "gzip", "shuffle": True},
    "HDF5's guess": {"chunks": True, "compression": "gzip", "shuffle": True},
    "shuffle": {"chunks": (1, 21, 34), "shuffle": True},
    "shuffle and gzip": {
        "chunks": (1, 21, 34),
        "shuffle": True,
        "compression": "gzip",
        "compression_opts": 9,
    },
    "gzip that does not compress": {
        "chunks": (1, 21, 34),
        "compression": "gzip",
        "compression_opts": 0,
    },
    "extendable": {"chunks": (1, 21, 34), "maxshape": (None, 21, 34), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", DIRECT)
def test_direct_layouts(layout: str, library: str, tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), **DIRECT[layout])
    check_same(tmp_path / "run.h5", "direct")


@pytest.mark.parametrize(
    "dtype",
    [*FRAME_DTYPES, *(dtype.newbyteorder(">") for dtype in FRAME_DTYPES)],
    ids=lambda dtype: dtype.str,
)
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2, 8, 34)}, {"chunks": (1, 8, 34), "compression": "gzip", "shuffle": True}],
    ids=str,
)
def test_types_and_byte_orders(dtype: np.dtype, options: dict[str, Any], tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(dtype), **options)
    check_same(tmp_path / "run.h5", "direct")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"compression": "lzf"}, "filters lzf"),
        ({"compression": "gzip", "fletcher32": True}, "filters deflate, fletcher32"),
        ({"scaleoffset": 0}, "filters scaleoffset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_filters_of_hdf5(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    make(
        tmp_path / "run.h5", frames_of() % 1000, chunks=(1, 8, 34), **options
    )  # scaleoffset saves nothing where all bits are used
    check_same(tmp_path / "run.h5", "h5py", why)


@pytest.mark.skipif(not find_spec("hdf5plugin"), reason="hdf5plugin is not installed")
@pytest.mark.parametrize("name", ["Bitshuffle", "Blosc", "Blosc2", "BZip2", "LZ4", "Zstd"])
def test_filters_of_hdf5plugin(name: str, tmp_path: Path) -> None:
    import hdf5plugin

    make(
        tmp_path / "run.h5", frames_of(), chunks=(1, 8, 34), compression=getattr(hdf5plugin, name)()
    )
    with h5py.File(tmp_path / "run.h5") as file, FrameReader(file["frames"]) as reader:
        why = str(reader.why_not_direct)
    assert why.startswith("filters ")
    check_same(tmp_path / "run.h5", "h5py", why)


def test_compact(tmp_path: Path) -> None:
    frames = frames_of(shape=(5, 4, 6))
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "run.h5", "w") as file:
        space = h5py.h5s.create_simple(frames.shape)
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT16, space, created).write(
            h5py.h5s.ALL, h5py.h5s.ALL, frames
        )
    check_same(tmp_path / "run.h5", "h5py", "compact dataset")


def test_fewer_bits_than_bytes(tmp_path: Path) -> None:
    twelve = h5py.h5t.STD_U16LE.copy()
    twelve.set_precision(12)
    twelve.set_offset(4)
    frames = frames_of() % 4096
    with h5py.File(tmp_path / "run.h5", "w") as file:
        space = h5py.h5s.create_simple(frames.shape)
        h5py.h5d.create(file.id, b"frames", twelve, space).write(h5py.h5s.ALL, h5py.h5s.ALL, frames)
    check_same(tmp_path / "run.h5", "h5py", "unusual type uint16")


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 8, 34), "compression": "gzip"}], ids=str)
def test_user_block(options: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "run.h5", "w", userblock_size=1024) as file:
        file.create_dataset("frames", data=frames_of(), **options)
    check_same(tmp_path / "run.h5", "h5py", "user block")


def test_file_in_memory(tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), compression="gzip")
    with (
        h5py.File(tmp_path / "run.h5", driver="core") as file,
        FrameReader(file["frames"]) as reader,
    ):
        assert reader.why_not_direct == "file driver core"
        np.testing.assert_array_equal(read_all(reader, frames_of()), frames_of())


def test_file_being_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset("frames", data=frames_of(), chunks=(1, 21, 34), compression="gzip")
        with FrameReader(file["frames"]) as reader:
            assert reader.why_not_direct == "file open for writing"
            np.testing.assert_array_equal(read_all(reader, frames_of()), frames_of())


def test_link_to_another_file(tmp_path: Path) -> None:
    make(tmp_path / "data.h5", frames_of(), chunks=(1, 8, 34), compression="gzip")
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["frames"] = h5py.ExternalLink("data.h5", "frames")
    check_same(tmp_path / "run.h5", "direct")
    with h5py.File(tmp_path / "run.h5") as file, FrameReader(file["frames"]) as reader:
        assert reader.source == f"{tmp_path / 'data.h5'}: /frames"


def virtual(path: Path, held: range = range(5)) -> None:
    """A virtual dataset of one file a frame, beside it."""
    layout = h5py.VirtualLayout(SHAPE, np.uint16)
    for i in held:
        with h5py.File(path.with_name(f"frame{i}.h5"), "w") as file:
            file["image"] = frames_of()[i]
        layout[i] = h5py.VirtualSource(f"frame{i}.h5", "image", SHAPE[1:])
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout, fillvalue=0)


def test_virtual(tmp_path: Path) -> None:
    virtual(tmp_path / "run.h5")
    check_same(tmp_path / "run.h5", "h5py", "virtual dataset")
    with h5py.File(tmp_path / "run.h5") as file, FrameReader(file["frames"]) as reader:
        os.utime(tmp_path / "frame3.h5", (1, 1))
        with pytest.raises(
            InputError, match=r"run\.h5: /frames: the file was changed while it was being read"
        ):
            reader.check_unchanged()


def test_virtual_with_a_file_missing(tmp_path: Path) -> None:
    virtual(tmp_path / "run.h5")
    (tmp_path / "frame3.h5").unlink()
    with (
        h5py.File(tmp_path / "run.h5") as file,
        pytest.raises(
            InputError,
            match=r"frame 3 cannot be read: its source file frame3\.h5 \(dataset image\) is "
            r"missing",
        ),
    ):
        FrameReader(file["frames"])


def test_virtual_with_a_frame_missing(tmp_path: Path) -> None:
    virtual(tmp_path / "run.h5", range(4))
    with (
        h5py.File(tmp_path / "run.h5") as file,
        pytest.raises(InputError, match="frame 4 cannot be read: no source is mapped to it"),
    ):
        FrameReader(file["frames"])


def test_external(tmp_path: Path) -> None:
    raw = tmp_path / "frames.raw"
    make(tmp_path / "run.h5", frames_of(), external=[(str(raw), 0, frames_of().nbytes)])
    check_same(tmp_path / "run.h5", "h5py", "external files")
    os.truncate(raw, 1000)
    with (
        h5py.File(tmp_path / "run.h5") as file,
        pytest.raises(InputError, match=r"frames\.raw has 1000 bytes, expected 7140"),
    ):
        FrameReader(file["frames"])


def hdf5_library() -> ctypes.CDLL | None:
    """The library that h5py has loaded, for what h5py does not offer."""
    try:
        paths = {
            line.split()[-1]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if "libhdf5" in line and "_hl" not in line
        }
    except OSError:
        return None
    return ctypes.CDLL(paths.pop()) if len(paths) == 1 else None


@pytest.mark.parametrize("shuffle", [False, True])
def test_edges_that_hdf5_left_unfiltered(shuffle: bool, tmp_path: Path) -> None:
    hdf5 = hdf5_library()
    if hdf5 is None:
        pytest.skip("the HDF5 library of h5py is not found")
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((2, 8, 34))
    if shuffle:
        created.set_shuffle()
    created.set_deflate(4)
    assert hdf5.H5Pset_chunk_opts(ctypes.c_int64(created.id), ctypes.c_uint(2)) == 0
    with h5py.File(tmp_path / "run.h5", "w", libver="latest") as file:
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT16, space, created).write(
            h5py.h5s.ALL, h5py.h5s.ALL, frames_of()
        )
    check_same(tmp_path / "run.h5", "direct")


@pytest.mark.parametrize("skipped", range(4))
def test_filter_mask_is_honoured_bit_by_bit(skipped: int, library: str, tmp_path: Path) -> None:
    frame = frames_of()[0]
    stored = (
        frame.tobytes()
        if skipped & 1
        else frame.reshape(-1).view(np.uint8).reshape(-1, 2).T.tobytes()
    )
    stored = stored if skipped & 2 else zlib.compress(stored)
    with h5py.File(tmp_path / "run.h5", "w") as file:
        dataset = file.create_dataset(
            "frames", SHAPE, np.uint16, chunks=(1, 21, 34), shuffle=True, compression="gzip"
        )
        dataset[...] = frames_of()
        dataset.id.write_direct_chunk((0, 0, 0), stored, filter_mask=skipped)
    check_same(tmp_path / "run.h5", "direct")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_shape_and_chunk(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)))
    chunks = data.draw(st.none() | st.tuples(*(st.integers(1, length) for length in shape)))
    options = {
        "chunks": chunks,
        "shuffle": data.draw(st.booleans()),
        "compression": data.draw(st.sampled_from([None, "gzip"])),
    }
    dtype = data.draw(st.sampled_from(FRAME_DTYPES)).newbyteorder(data.draw(st.sampled_from("<>")))
    begin = data.draw(st.integers(0, shape[0] - 1))
    end = data.draw(st.integers(begin, shape[0]))
    frames = frames_of(dtype, shape, seed=data.draw(st.integers(0, 9)))
    make(tmp_path / "run.h5", frames, **(options if chunks else {}))
    with h5py.File(tmp_path / "run.h5") as file, FrameReader(file["frames"]) as reader:
        assert reader.way == "direct"
        into = np.empty((end - begin, *shape[1:]), dtype.newbyteorder("="))
        reader.read(begin, end, into)
        np.testing.assert_array_equal(into, frames[begin:end])


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2, 8, 34), "compression": "gzip"}, {"compression": "lzf"}], ids=str
)
def test_threads_read_at_once(options: dict[str, Any], tmp_path: Path) -> None:
    frames = frames_of(shape=(40, 21, 34))
    make(tmp_path / "run.h5", frames, **options)
    into = np.zeros_like(frames)
    with (
        h5py.File(tmp_path / "run.h5") as file,
        FrameReader(file["frames"]) as reader,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda i: reader.read(i, i + 1, into[i : i + 1]), range(40)))
    np.testing.assert_array_equal(into, frames)


# --- shuffle


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unshuffle(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "BLOCK", 10)
    values = np.random.default_rng(0).integers(0, 256, (37, size), np.uint8)
    out = np.empty(37, f"u{size}")
    codecs.unshuffle(values.T.tobytes(), out)
    np.testing.assert_array_equal(out.view(np.uint8).reshape(37, size), values)
    with pytest.raises(ValueError, match="reshape"):
        codecs.unshuffle(values.T.tobytes()[:-1], out)
