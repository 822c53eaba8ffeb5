"""Damaged images: each reader gives the right image or one line, quickly."""

import base64
import bz2
import gzip
import hashlib
import io
import os
import re
import socket
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fabio.bruker100image import Bruker100Image
from fabio.cbfimage import CbfImage
from fabio.compression import compPCK
from fabio.dtrekimage import DtrekImage
from fabio.edfimage import EdfImage
from fabio.OXDimage import OxdImage
from fabio.pnmimage import PnmImage

from factories.damage import mutations
from factories.image_runs import marccd
from gpu_spots.errors import GpuSpotsError, InputError
from gpu_spots.files.images.image import Image, read_image_of_any_type
from gpu_spots.files.images.lauecollect_log import read_log
from gpu_spots.files.table import read_table

FRAME = np.random.default_rng(5).poisson(300, (24, 33)).astype(np.uint16)


# ------------------------------------------------------------------------------------ files


def by_fabio(kind: type, dtype: str = "u2") -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        kind(data=FRAME.astype(dtype)).write(str(folder / "x"))
        return (folder / "x").read_bytes()

    return make


def tiff(
    frame: np.ndarray = FRAME,
    compression: str | None = None,
    predictor: int = 1,
    rows_per_strip: int = 7,
) -> bytes:
    """A TIFF file of several strips, as Pillow writes it."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    options = (
        {"compression": compression, "tiffinfo": {317: predictor, 278: rows_per_strip}}
        if compression
        else {}
    )
    image.fromarray(frame).save(file, "TIFF", **options)
    return file.getvalue()


def cbf_without_checksum(folder: Path) -> bytes:
    return re.sub(rb"Content-MD5: .*?\r\n", b"", by_fabio(CbfImage, "i4")(folder))


def compressed_edf(method: str, pack: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    def make(_: Path) -> bytes:
        data = pack(FRAME.tobytes())
        header = (
            f"{{\nDim_1 = {FRAME.shape[1]} ;\nDim_2 = {FRAME.shape[0]} ;\nDataType = UnsignedShort "
            ";\n"
            f"ByteOrder = LowByteFirst ;\nCompression = {method} ;\nSize = {len(data)} ;\n"
        )
        return header.encode().ljust(510) + b"}\n" + data

    return make


def npy(folder: Path) -> bytes:
    np.save(folder / "x.npy", FRAME)
    return (folder / "x.npy").read_bytes()


def mar345(folder: Path) -> bytes:
    side = 40
    header = struct.pack("<16i", 1234, side, 0, 1, 1, side * side, 150, 150, *[0] * 8).ljust(
        4096, b"\0"
    )
    text = b"mar research\nPROGRAM mar345\nEND OF HEADER\n"
    header = header[:128] + text + header[128 + len(text) :]
    return header + compPCK(np.random.default_rng(0).poisson(300, (side, side)).astype("i4"))


FILES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "MarCCD": ("a.mccd", lambda _: marccd(FRAME)),
    "MarCCD, gzip": ("a.mccd.gz", lambda _: gzip.compress(marccd(FRAME))),
    "MarCCD, bzip2": ("a.mccd.bz2", lambda _: bz2.compress(marccd(FRAME))),
    "TIFF": ("a.tif", lambda _: tiff()),
    "TIFF, Deflate": ("a.tif", lambda _: tiff(compression="tiff_adobe_deflate")),
    "TIFF, Deflate, predictor": ("a.tif", lambda _: tiff(compression="tiff_deflate", predictor=2)),
    "TIFF, LZW": ("a.tif", lambda _: tiff(compression="tiff_lzw")),
    "TIFF, LZW, predictor": ("a.tif", lambda _: tiff(compression="tiff_lzw", predictor=2)),
    "CBF": ("a.cbf", by_fabio(CbfImage, "i4")),
    "CBF without a checksum": ("a.cbf", cbf_without_checksum),
    "CBF, gzip": ("a.cbf.gz", lambda folder: gzip.compress(by_fabio(CbfImage, "i4")(folder))),
    "EDF": ("a.edf", by_fabio(EdfImage)),
    "EDF, gzip": ("a.edf", compressed_edf("GZIP", gzip.compress)),
    "EDF, bzip2": ("a.edf", compressed_edf("BZIP2", bz2.compress)),
    "EDF, zlib": ("a.edf", compressed_edf("ZLIB", zlib.compress)),
    "mar345": ("a.mar1200", mar345),
    "d*TREK": ("a.img", by_fabio(DtrekImage)),
    "Bruker": ("a.sfrm", by_fabio(Bruker100Image)),
    "Oxford": ("a.img", by_fabio(OxdImage, "i4")),
    "PNM": ("a.pnm", by_fabio(PnmImage)),
    "NumPy": ("a.npy", npy),
}
CHECKED = [
    name
    for name in FILES
    if "gzip" in name or "bzip2" in name or "Deflate" in name or name in ("CBF", "EDF, zlib")
]
"""Files that have a checksum of their pixels."""


def read(path: Path, content: bytes) -> Image | str:
    """The image, or the error, which is one line that begins with the file's name."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy and Pillow, in fabio
        try:
            return read_image_of_any_type(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert str(error).isprintable()  # noqa: PT017
            return str(error)


def is_same(found: Image | str, expected: Image) -> bool:
    return (
        isinstance(found, Image)
        and found.frame.dtype == expected.frame.dtype
        and np.array_equal(found.frame, expected.frame)
    )


@pytest.mark.parametrize(("name", "make"), FILES.values(), ids=FILES)
def test_a_cut_file_is_refused_or_gives_the_same_image(
    name: str, make: Callable[[Path], bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = make(tmp_path)
    whole = read(tmp_path / name, content)
    assert isinstance(whole, Image)
    n = len(content)
    for end in {*range(0, n, max(n // 60, 1)), n - 100, n - 20, n - 9, n - 8, n - 4, n - 2, n - 1}:
        found = read(tmp_path / name, content[:end])
        assert isinstance(found, str) or is_same(found, whole), end
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("kind", CHECKED)
def test_changed_bits_under_a_checksum_are_refused_or_give_the_same_image(
    kind: str, tmp_path: Path
) -> None:
    name, make = FILES[kind]
    content = make(tmp_path)
    whole = read(tmp_path / name, content)
    assert isinstance(whole, Image)
    # the header of a TIFF file has no checksum: only what is in its strips
    begin, end = (20, len(content)) if "TIFF" not in kind else (8, min(len(content) - 300, 1200))
    if "EDF" in kind:
        begin = 512
    elif kind == "CBF":  # its header has none either
        begin, end = (
            content.index(b"\x0c\x1a\x04\xd5") + 4,
            content.index(b"\r\n--CIF-BINARY-FORMAT-SECTION----"),
        )
    for place in range(begin, end, 13):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        found = read(tmp_path / name, bytes(changed))
        assert isinstance(found, str) or is_same(found, whole), place


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "make"), FILES.values(), ids=FILES)
def test_any_damage_gives_an_image_or_one_line(
    name: str, make: Callable[[Path], bytes], seed: int, tmp_path: Path
) -> None:
    for content in mutations(make(tmp_path), seed, 8):
        read(tmp_path / name, content)


# ------------------------------------------------------------------------------------ TIFF


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressed_tiff_of_every_type(
    compression: str | None, dtype: str, predictor: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    frames = [
        rng.integers(0, 250, (300, 77)),
        np.full((300, 77), 3),
        np.arange(300 * 77).reshape(300, 77) // 9 % 251,
    ]
    for frame in (frame.astype(dtype) for frame in frames):
        found = read(
            tmp_path / "a.tif", tiff(frame, compression, 1 if dtype == "f4" else predictor, 50)
        )
        assert isinstance(found, Image)
        assert found.frame.dtype == frame.dtype
        np.testing.assert_array_equal(found.frame, frame)


def by_hand(
    tags: dict[int, tuple[int, list[int]]],
    data: bytes = b"",
    big: bool = False,
    order: str = "<",
    following: int = 0,
) -> bytes:
    """A TIFF file: ``data`` at byte 16, and then one directory. ``tags``: type and values."""
    pointer, number, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    at = 16 + len(data)
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    )
    begin_of_values = at + struct.calcsize(f"={number}{pointer}") + len(tags) * (4 + 2 * size)
    entries, values_after = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(
            f"{order}{len(values)}{ {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}[kind] }", *values
        )
        if len(packed) > size:
            place = begin_of_values + len(values_after)
            values_after += packed
            packed = struct.pack(order + pointer, place)
        entries += struct.pack(f"{order}HH{pointer}", tag, kind, len(values)) + packed.ljust(
            size, b"\0"
        )
    return (
        head.ljust(16, b"\0")
        + data
        + struct.pack(order + number, len(tags))
        + entries
        + struct.pack(order + pointer, following)
        + values_after
    )


def tags_of(
    n_rows: int, n_columns: int, n_bytes: int, bits: int = 16, **others: tuple[int, list[int]]
) -> dict[int, tuple[int, list[int]]]:
    tags = {
        256: (4, [n_columns]),
        257: (4, [n_rows]),
        258: (3, [bits]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [16]),
        278: (4, [n_rows]),
        279: (4, [n_bytes]),
    }
    return tags | {int(name.removeprefix("t")): value for name, value in others.items()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_in_every_byte_order_and_size(order: str, big: bool, tmp_path: Path) -> None:
    data = FRAME.astype(f"{order}u2").tobytes()
    found = read(tmp_path / "a.tif", by_hand(tags_of(24, 33, len(data)), data, big, order))
    assert is_same(found, Image(FRAME, {}, "tif"))


def test_tiff_tiles_and_floating_point_predictor(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).normal(100, 20, (20, 40)).astype("f4")
    padded = np.zeros((32, 48), "f4")
    padded[:20, :40] = frame
    parts: list[bytes] = []
    offsets: list[int] = []
    for row, column in ((0, 0), (0, 16), (0, 32), (16, 0), (16, 16), (16, 32)):
        planes = (
            padded[row : row + 16, column : column + 16]
            .astype(">f4")[..., None]
            .view(np.uint8)
            .transpose(0, 2, 1)
            .reshape(16, -1)
        )
        offsets.append(16 + sum(map(len, parts)))
        parts.append(zlib.compress(np.diff(planes, axis=1, prepend=np.uint8(0)).tobytes()))
    others = {
        "t259": (3, [8]),
        "t317": (3, [3]),
        "t322": (3, [16]),
        "t323": (3, [16]),
        "t324": (4, offsets),
        "t325": (4, [len(part) for part in parts]),
        "t339": (3, [3]),
    }
    tags = tags_of(20, 40, 0, 32, **others)
    del tags[273], tags[278], tags[279]
    found = read(tmp_path / "a.tif", by_hand(tags, b"".join(parts)))
    assert isinstance(found, Image)
    np.testing.assert_array_equal(found.frame, frame)


def test_one_bit_per_pixel(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((13, 21)) > 0.5
    for compression in (None, "tiff_adobe_deflate", "tiff_lzw"):
        found = read(tmp_path / "a.tif", tiff(mask, compression))
        assert isinstance(found, Image)
        np.testing.assert_array_equal(found.frame, mask)


ABSURD: dict[str, tuple[Callable[[], bytes], str]] = {
    "TIFF, directory that follows itself": (
        lambda: by_hand(tags_of(1, 1, 2), b"ab", following=18),
        "directories form a loop",
    ),
    "TIFF, directory beyond the end": (
        lambda: by_hand(tags_of(1, 1, 2), b"ab", following=999_999),
        "is a damaged TIFF file",
    ),
    "TIFF, huge": (lambda: by_hand(tags_of(2**31, 2**31, 2), b"ab"), "cannot be in"),
    "TIFF, huge and Deflate": (
        lambda: by_hand(tags_of(60000, 2**15, 10**7, t259=(3, [8])), bytes(10**7)),
        "when it is decompressed, expected at most",
    ),
    "TIFF, overlapping strips": (
        lambda: by_hand(
            tags_of(500_000, 2000, 0, t273=(4, [16] * 9), t279=(4, [9000] * 9), t278=(4, [60_000])),
            bytes(9000),
        ),
        "cannot be in",
    ),
    "TIFF, no rows": (lambda: by_hand(tags_of(0, 5, 2), b"ab"), "0 x 5 pixels"),
    "TIFF, tiles of no size": (
        lambda: by_hand(tags_of(5, 5, 2, t324=(4, [16])), b"ab"),
        "parts of 0 x 0 pixels",
    ),
    "TIFF, 12 bits": (lambda: by_hand(tags_of(5, 5, 40, 12), bytes(40)), "has 12 bits per pixel"),
    "TIFF, strip beyond the end": (
        lambda: by_hand(tags_of(5, 5, 5000), bytes(50)),
        "is damaged or cut off",
    ),
    "TIFF, more in a strip than its rows": (
        lambda: by_hand(
            tags_of(2, 2, 0, t259=(3, [8]), t279=(4, [len(zlib.compress(bytes(10**6)))])),
            zlib.compress(bytes(10**6)),
        ),
        "it has more than the 8 bytes expected",
    ),
    "NPY, thousands of parentheses": (lambda: npy_of("(" * 60_000), "is a damaged .npy file"),
    "NPY, huge": (
        lambda: npy_of(
            "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 99999999999), }"
        ),
        "is damaged or cut",
    ),
    "NPY, objects": (
        lambda: npy_of("{'descr': '|O8', 'fortran_order': False, 'shape': (1, 1), }", bytes(8)),
        "expected numbers",
    ),
    "NPY, code": (lambda: npy_of("__import__('os').abort()"), "is a damaged .npy file"),
    "CBF, size of the data": (lambda: cbf_of("X-Binary-Size: 99999999999999"), "is cut off"),
    "CBF, dimensions": (
        lambda: cbf_of("X-Binary-Size-Fastest-Dimension: 99999999999"),
        "do not fit",
    ),
    "CBF, negative": (
        lambda: cbf_of("X-Binary-Size-Second-Dimension: -3"),
        "X-Binary-Size-Second-Dimension is '-3'",
    ),
    "CBF, digits": (lambda: cbf_of("X-Binary-Size: " + "9" * 9000), "expected a number above 0"),
    "CBF, no data": (lambda: b"###CBF: VERSION 1.5\r\n" * 10, "no pixels in the first"),
    "CBF, another compression": (
        lambda: cbf_of('     conversions="x-CBF_PACKED"'),
        "is compressed by 'x-CBF_PACKED'",
    ),
    "CBF, last code is cut off": (lambda: cbf_data(bytes(5) + b"\x80"), "do not decode to"),
    "CBF, one pixel too many": (lambda: cbf_data(bytes(7)), "do not decode to"),
    "EDF, no end": (lambda: b"{\nDim_1 = 5 ;\n" + b"x = 1 ;\n" * 200_000, "its header has no end"),
    "EDF, digits": (lambda: edf_of("9" * 5000), "is a damaged EDF file"),
    "EDF, huge": (lambda: edf_of("999999999"), "is cut off"),
    "EDF, another file": (
        lambda: edf_of("5", "EDF_BinaryFileName = /etc/passwd ;\n"),
        "has its pixels in another file",
    ),
    "MarCCD in a bomb": (
        lambda: gzip.compress(marccd(FRAME) + bytes(2**25)),
        "decompresses to more than",
    ),
    "CBF in a bomb": (
        lambda: gzip.compress(cbf_of("") + bytes(2**25)),
        "decompresses to more than",
    ),
    "gzip in gzip": (
        lambda: gzip.compress(gzip.compress(bytes(2**25))),
        "cannot be read as an image",
    ),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "is a JPEG 2000 image"),
}


def npy_of(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


def cbf_of(line: str) -> bytes:
    """A CBF image of 2 x 3 pixels in which one line of the header is another."""
    lines = [
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "X-Binary-Size: 6",
        "X-Binary-Size-Fastest-Dimension: 3",
        "X-Binary-Size-Second-Dimension: 2",
    ]
    key = line.split(":")[0].split("=")[0]
    lines = [line if old.split(":")[0].split("=")[0] == key else old for old in lines]
    return (
        ("###CBF: VERSION 1.5\r\n" + "\r\n".join(lines)).encode()
        + b"\r\n\r\n\x0c\x1a\x04\xd5"
        + bytes(6)
    )


def cbf_data(data: bytes) -> bytes:
    """Return the file with other data and the right checksum."""
    checksum = base64.b64encode(hashlib.md5(data).digest()).decode()
    return cbf_of(f"X-Binary-Size: {len(data)}\r\nContent-MD5: {checksum}")[:-6] + data


def edf_of(dimension: str, more: str = "") -> bytes:
    return (
        f"{{\nDim_1 = {dimension} ;\nDim_2 = 5 ;\nDataType = UnsignedShort ;\nByteOrder = "
        f"LowByteFirst ;\n{more}}}\n".encode()
        + bytes(50)
    )


@pytest.mark.parametrize(("make", "words"), ABSURD.values(), ids=ABSURD)
def test_absurd_headers_are_refused_quickly_and_without_memory(
    make: Callable[[], bytes], words: str, tmp_path: Path
) -> None:
    content = make()
    tracemalloc.start()
    begin = time.perf_counter()
    found = read(tmp_path / "a", content)
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, str)
    assert re.search(words, found), found
    assert len(found) < 500 + len(str(tmp_path))
    assert seconds < 2
    assert peak < 20e6


def test_the_absurd_files_are_whole_without_what_is_absurd(tmp_path: Path) -> None:
    for content in (
        by_hand(tags_of(1, 1, 2), b"ab"),
        cbf_of(""),
        cbf_data(bytes(6)),
        edf_of("5"),
        npy_of("{'descr': '<u2', 'fortran_order': False, 'shape': (1, 1), }", b"ab"),
    ):
        assert isinstance(read(tmp_path / "a", content), Image)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
def test_a_decompression_bomb_ends_at_the_size_of_the_image(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    content = pack(marccd(FRAME) + bytes(2**25))
    tracemalloc.start()
    found = read(tmp_path / "a.mccd", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, str)
    assert "decompresses to more than" in found
    assert peak < 20e6


def test_a_mask_in_a_damaged_npy_file_is_one_line(tmp_path: Path) -> None:
    from gpu_spots.files.pixel_masks import read_mask

    for i, content in enumerate(mutations(npy(tmp_path), 0, 30)):
        (tmp_path / f"{i}.npy").write_bytes(content)
        try:
            read_mask(str(tmp_path / f"{i}.npy"), 0, FRAME.shape)
        except GpuSpotsError as error:
            assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets must be short
    path = Path("special")
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    Path("link").symlink_to(path)
    from gpu_spots.files.pixel_masks import read_mask

    readers: dict[str, Callable[[], object]] = {
        "an image": lambda: read_image_of_any_type(Path("link")),
        "a mask": lambda: read_mask("link", 0, FRAME.shape),
        "a table": lambda: read_table("link"),
        "a Lauecollect log": lambda: read_log(Path("link")),
    }
    for what, reader in readers.items():
        with pytest.raises(InputError, match=f"link: is a {kind}, expected {what}"):
            reader()


@pytest.mark.parametrize("name", ["a.mccd", "a.mccd.gz", "a.tif"])
@pytest.mark.parametrize("at", [200, 1026])
def test_a_shifted_marccd_file_is_no_tiff_file(at: int, name: str, tmp_path: Path) -> None:
    """Its TIFF header is complete, but the frame begins elsewhere."""
    content = marccd(FRAME)
    assert isinstance(read(tmp_path / "a.mccd", content), Image)
    content = content[:at] + b"\0\0" + content[at:]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match="is a damaged MarCCD file: no MarCCD header at byte 1024"):
        read_image_of_any_type(path)
