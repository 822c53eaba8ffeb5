"""Reading of single images. fabio is the referee for MarCCD files, which are read without it."""

import bz2
import contextlib
import gzip
import logging
import os
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpu_spots.packages import install_command

pytest.importorskip("fabio", reason=f"fabio is not installed: {install_command('images')}")

import fabio
import fabio.marccdimage
from fabio.cbfimage import CbfImage
from fabio.edfimage import EdfImage
from fabio.tifimage import TifImage

from factories.image_runs import marccd
from gpu_spots.errors import InputError
from gpu_spots.files.images.image import HEADER_FIELDS, read_image, read_rows, shape_of
from helpers import ROOT

REAL = ROOT.parent / "shared" / "data"
FRAME = np.random.default_rng(3).integers(0, 65536, (20, 31)).astype(np.uint16)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fabios_header(content: bytes, order: str = "<") -> dict[str, int]:
    module = fabio.marccdimage
    return module.interpret_header(
        content[1024:4096], order + module.HEADER_FORMAT, module.HEADER_NAMES
    )


# ------------------------------------------------------------------------------------------- MarCCD


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("data_order", ["<", ">"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_marccd_in_every_byte_order(
    order: str, data_order: str, dtype: str, tmp_path: Path
) -> None:
    frame = FRAME.astype(dtype)
    path = written(tmp_path / "a.mccd", marccd(frame, order, data_order))
    image = read_image(path)
    assert image.frame.dtype == frame.dtype
    assert image.frame.dtype.isnative
    assert image.frame.flags.c_contiguous
    np.testing.assert_array_equal(image.frame, frame)
    assert shape_of(path) == (frame.shape, frame.dtype)
    with fabio.open(str(path)) as opened:
        np.testing.assert_array_equal(opened.data, frame)
    assert image.header["beam_x"] == 1043.089


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_header_is_what_fabio_makes_of_it(order: str, tmp_path: Path) -> None:
    content = marccd(
        FRAME,
        order,
        at1696=1000,
        at1728=2500,
        at1708=-90_250,
        at1740=-90_000,
        at1680=1500,
        at1128=65000,
    )
    header, expected = (
        read_image(written(tmp_path / "a.mccd", content)).header,
        fabios_header(content, order),
    )
    assert header == {
        "saturation": expected["saturated_value"],
        "bias": expected["mean_bias"] / 1000,
        "distance": expected["xtal_to_detector"] / 1000,
        "beam_x": expected["beam_x"] / 1000,
        "beam_y": expected["beam_y"] / 1000,
        "pixel_size_x": expected["pixelsize_x"] / 1e6,
        "pixel_size_y": expected["pixelsize_y"] / 1e6,
        "wavelength": expected["source_wavelength"] / 1e5,
        "start_omega": expected["start_omega"] / 1000,
        "end_omega": expected["end_omega"] / 1000,
        "start_phi": expected["start_phi"] / 1000,
        "end_phi": expected["end_phi"] / 1000,
        "exposure_time": expected["exposure_time"] / 1000,
        "acquired": "2005-04-16T21:33:17",
    }
    # what the fields are called and in which units they come
    assert (header["start_omega"], header["end_omega"], header["start_phi"], header["end_phi"]) == (
        1.0,
        2.5,
        -90.25,
        -90.0,
    )
    assert (
        header["saturation"],
        header["exposure_time"],
        header["distance"],
        header["wavelength"],
    ) == (65000, 1.5, 100, 1.03318)
    assert set(header) <= set(HEADER_FIELDS)


@pytest.mark.parametrize("saturation", [0, 65536, 2**32 - 1])
def test_a_saturation_that_no_value_can_have_is_none(saturation: int, tmp_path: Path) -> None:
    assert (
        "saturation"
        not in read_image(written(tmp_path / "a.mccd", marccd(FRAME, at1128=saturation))).header
    )


def test_the_integration_time_stands_for_an_exposure_time_of_0(tmp_path: Path) -> None:
    assert (
        read_image(written(tmp_path / "a.mccd", marccd(FRAME, at1676=250, at1680=0))).header[
            "exposure_time"
        ]
        == 0.25
    )
    assert (
        "exposure_time"
        not in read_image(written(tmp_path / "b.mccd", marccd(FRAME, at1676=0, at1680=0))).header
    )


@pytest.mark.parametrize("name", ["somedata_0001.mccd.gz", "corkcont2_H_0089.mccd.gz"])
def test_real_marccd_files(name: str) -> None:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"no ../shared/data/{name} here: real files are not part of the project")
    image, content = read_image(path), gzip.decompress(path.read_bytes())
    with fabio.open(str(path)) as opened:
        np.testing.assert_array_equal(image.frame, opened.data)
    header = fabios_header(content)
    assert image.header["beam_x"] == header["beam_x"] / 1000
    assert image.header["pixel_size_x"] == header["pixelsize_x"] / 1e6
    assert image.header["exposure_time"] == header["integration_time"] / 1000
    assert (image.header["saturation"], image.header["bias"]) == (65535, 10)
    assert str(image.header["acquired"]).startswith("2005-")
    assert not image.frame[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # corners of a round detector


# ------------------------------------------------------------------------------------ other formats


@pytest.mark.parametrize(
    ("kind", "ending", "dtypes"),
    [
        (EdfImage, "edf", ["u1", "u2", "u4", "i2", "i4", "f4", "f8"]),
        (TifImage, "tif", ["u1", "u2", "u4", "i2", "i4", "f4"]),
        (CbfImage, "cbf", ["i4"]),
    ],
)
def test_what_fabio_writes_is_read(
    kind: type, ending: str, dtypes: list[str], tmp_path: Path
) -> None:
    for dtype in dtypes:
        frame = (FRAME % 200).astype(dtype)
        path = tmp_path / f"{dtype}.{ending}"
        kind(data=frame).write(str(path))
        image = read_image(path)
        assert (image.frame.dtype, image.format) == (frame.dtype, ending)
        assert image.frame.dtype.isnative
        np.testing.assert_array_equal(image.frame, frame)
        assert shape_of(path) == (frame.shape, frame.dtype)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
@pytest.mark.parametrize("ending", ["mccd", "edf", "cbf"])
def test_compressed_images(
    ending: str, pack: Callable[[bytes], bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / f"a.{ending}"
    if ending == "mccd":
        plain.write_bytes(marccd(FRAME))
    else:
        {"edf": EdfImage, "cbf": CbfImage}[ending](data=FRAME.astype("i4")).write(str(plain))
    packed = written(
        tmp_path / f"b.{ending}.{'gz' if pack is gzip.compress else 'bz2'}",
        pack(plain.read_bytes()),
    )
    np.testing.assert_array_equal(read_image(packed).frame, FRAME)
    assert read_image(packed).header == read_image(plain).header
    assert shape_of(packed) == shape_of(plain)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.mccd", "a.mccd.gz"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes], ids=["gz", "bz2", "plain"])
def test_marccd_is_known_by_its_content(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    np.testing.assert_array_equal(
        read_image(written(tmp_path / name, pack(marccd(FRAME)))).frame, FRAME
    )


def test_the_header_of_a_pilatus_cbf(tmp_path: Path) -> None:
    lines = [
        "# Detector: PILATUS 300K",
        "# 2021-03-05T12:11:10.500",
        "# Pixel_size 172e-6 m x 172e-6 m",
        "# Exposure_time 0.0970000 s",
        "# Count_cutoff 1048500 counts",
        "# Wavelength 0.9184 A",
        "# Detector_distance 0.16500 m",
        "# Beam_xy (252.50, 97.00) pixels",
        "# Phi 12.5000 deg.",
    ]
    header = {
        "_array_data.header_convention": "PILATUS_1.2",
        "_array_data.header_contents": "\r\n".join(lines),
    }
    CbfImage(data=FRAME.astype("i4"), header=header).write(str(tmp_path / "a.cbf"))
    assert read_image(tmp_path / "a.cbf").header == {
        "acquired": "2021-03-05T12:11:10.500",
        "pixel_size_x": 0.172,
        "pixel_size_y": 0.172,
        "exposure_time": 0.097,
        "saturation": 1048500,
        "wavelength": 0.9184,
        "distance": 165,
        "beam_x": 252.5,
        "beam_y": 97,
        "start_phi": 12.5,
    }


@pytest.mark.parametrize("rows", [(0, 20), (0, 1), (7, 13), (19, 20), (5, 5)])
@pytest.mark.parametrize("kind", ["<", ">", "gz", "edf"])
def test_rows_of_an_image(kind: str, rows: tuple[int, int], tmp_path: Path) -> None:
    contents = {"gz": lambda: gzip.compress(marccd(FRAME)), "edf": lambda: edf(FRAME, tmp_path)}
    path = written(
        tmp_path / "a.img", contents[kind]() if kind in contents else marccd(FRAME, kind)
    )
    found = np.zeros((rows[1] - rows[0], 31), np.uint16)
    assert read_rows(path, *rows, found) == (FRAME.shape, FRAME.dtype)
    np.testing.assert_array_equal(found, FRAME[slice(*rows)])
    # rows of another image
    for other in (np.zeros((2, 31), np.int32), np.zeros((2, 30), np.uint16)):
        assert read_rows(path, 0, 2, other) == (FRAME.shape, FRAME.dtype)
        assert not other.any()
    with pytest.raises(ValueError, match="into is not contiguous"):
        read_rows(path, 0, 2, np.zeros((2, 62), np.uint16)[:, ::2])
    beyond = np.zeros((2, 31), np.uint16)
    assert read_rows(path, 19, 21, beyond) == (FRAME.shape, FRAME.dtype)
    assert not beyond.any()


def test_threads_read_at_once(tmp_path: Path) -> None:
    for i in range(30):
        EdfImage(data=FRAME + np.uint16(i)).write(str(tmp_path / f"{i}.edf"))
    broken = written(tmp_path / "broken.edf", (tmp_path / "0.edf").read_bytes()[:900])

    def read(path: Path) -> object:
        try:
            return read_image(path).frame[0, 0]
        except InputError:
            return "broken"

    # what fabio mentions of one image is not taken for another's
    paths = [path for i in range(30) for path in (tmp_path / f"{i}.edf", broken)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, paths))
    assert found == [value for i in range(30) for value in (FRAME[0, 0] + np.uint16(i), "broken")]


# ------------------------------------------------------------------------------------------- damage


def edf(frame: np.ndarray, tmp_path: Path) -> bytes:
    EdfImage(data=frame).write(str(tmp_path / "x.edf"))
    return (tmp_path / "x.edf").read_bytes()


def several(tmp_path: Path) -> bytes:
    image = EdfImage(data=FRAME)
    image.append_frame(data=FRAME)
    image.write(str(tmp_path / "x.edf"))
    return (tmp_path / "x.edf").read_bytes()


def cut(kind: type, share: float) -> Callable[[Path], bytes]:
    def make(tmp_path: Path) -> bytes:
        kind(data=FRAME.astype("i4")).write(str(tmp_path / "x"))
        content = (tmp_path / "x").read_bytes()
        return content[: int(len(content) * share)]

    return make


DAMAGE: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "empty": ("a.mccd", lambda _: b"", "is empty, expected an image"),
    "text": (
        "a.mccd",
        lambda _: b"this is no image\n" * 10,
        "cannot be read as an image, according to fabio",
    ),
    "text as TIFF": (
        "a.tif",
        lambda _: b"this is no image\n" * 10,
        "cannot be read as an image, according to fabio",
    ),
    "HDF5": (
        "a.mccd",
        lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100),
        "is an HDF5 file, expected an image",
    ),
    "MarCCD, half": (
        "a.mccd",
        lambda _: marccd(FRAME)[:4700],
        "is cut off: 4700 bytes, expected 5336 for 20 x 31 pixels of 2 bytes",
    ),
    "MarCCD, one byte short": (
        "a.mccd",
        lambda _: marccd(FRAME)[:-1],
        "is cut off: 5335 bytes, expected 5336",
    ),
    "MarCCD, header only": (
        "a.mccd",
        lambda _: marccd(FRAME)[:4096],
        "is cut off: 4096 bytes, expected 5336",
    ),
    "MarCCD, half a header": (
        "a.mccd",
        lambda _: marccd(FRAME)[:2000],
        "is cut off: 2000 bytes, expected at least 4096 for the MarCCD header",
    ),
    "MarCCD, no byte order": (
        "a.mccd",
        lambda _: marccd(FRAME, at1052=77),
        "its header does not define the byte order",
    ),
    "MarCCD, no width": (
        "a.mccd",
        lambda _: marccd(FRAME, at1104=0),
        "is a damaged MarCCD file: 20 x 0 pixels of 2 bytes",
    ),
    "MarCCD, negative": (
        "a.mccd",
        lambda _: marccd(FRAME, at1108=-5),
        "is a damaged MarCCD file: -5 x 31 pixels",
    ),
    "MarCCD, depth": (
        "a.mccd",
        lambda _: marccd(FRAME, at1112=3),
        "is a damaged MarCCD file: 20 x 31 pixels of 3 bytes",
    ),
    "MarCCD, huge": ("a.mccd", lambda _: marccd(FRAME, at1104=2**31 - 1), "is cut off: 5336 bytes"),
    "gzip, half": (
        "a.mccd.gz",
        lambda _: gzip.compress(marccd(FRAME))[:500],
        "cannot be decompressed: it is cut off",
    ),
    "gzip, checksum": (
        "a.mccd.gz",
        lambda _: gzip.compress(marccd(FRAME))[:-8] + bytes(8),
        "incorrect data check",
    ),
    "gzip, damaged": (
        "a.mccd.gz",
        lambda _: gzip.compress(marccd(FRAME))[:60] + bytes(200),
        "cannot be decompressed",
    ),
    "bzip2, half": (
        "a.mccd.bz2",
        lambda _: bz2.compress(marccd(FRAME))[:500],
        "cannot be decompressed: it is cut off",
    ),
    "bzip2, damaged": (
        "a.mccd.bz2",
        lambda _: bz2.compress(marccd(FRAME))[:40] + bytes(200),
        "cannot be decompressed: Invalid data",
    ),
    "gzip of nothing": ("a.mccd.gz", lambda _: gzip.compress(b""), "cannot be read as an image"),
    "EDF, half": ("a.edf", cut(EdfImage, 0.5), "is cut off: Data stream is incomplete"),
    "EDF, nearly": (
        "a.edf",
        lambda path: edf(FRAME, path)[:-1],
        "is cut off: Data stream is incomplete: 1239 bytes",
    ),
    "CBF, half": ("a.cbf", cut(CbfImage, 0.5), "is cut off: "),
    "CBF, nearly": ("a.cbf", cut(CbfImage, 0.9), "is cut off: "),
    "TIFF, half": ("a.tif", cut(TifImage, 0.5), "is damaged or cut off: "),
    "TIFF, nearly": ("a.tif", cut(TifImage, 0.95), "is damaged or cut off: "),
    "several images": ("a.edf", several, "contains 2 images, expected one per file"),
    "int64": (
        "a.edf",
        lambda path: edf(FRAME.astype("i8"), path),
        "has values of type int64, expected one of uint8, uint16",
    ),
}


@pytest.mark.parametrize(("name", "make", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_an_error_that_names_the_file(
    name: str,
    make: Callable[[Path], bytes],
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path / name, make(tmp_path))
    for read in (
        read_image,
        shape_of,
        lambda path: read_rows(path, 0, 1, np.zeros((1, 31), np.uint16)),
    ):
        with pytest.raises(InputError) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")  # fabio keeps it to itself


def test_a_colour_image_is_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.tif")
    with pytest.raises(
        InputError, match=r"has shape \(4, 5, 3\), expected one image of rows and columns"
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_raw"])
def test_compressed_tiff(compression: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(FRAME).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").frame, FRAME)


@pytest.mark.parametrize("shape", [(20, 31), (500, 200)], ids=["one strip", "several"])
def test_packbits_is_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.resize(FRAME, shape)).save(tmp_path / "a.tif", compression="packbits")
    with pytest.raises(
        InputError,
        match=r"a\.tif: is compressed by PackBits, expected LZW, Deflate or no compression",
    ):
        read_image(tmp_path / "a.tif")


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mccd"
    os.mkfifo(pipe)
    for path, words in (
        (tmp_path / "none.mccd", "No such file"),
        (tmp_path, "is a folder"),
        (pipe, "is a named pipe"),
    ):
        for read in (read_image, shape_of):
            with pytest.raises(InputError, match=words):
                read(path)


@pytest.mark.parametrize("seed", range(10))
def test_wrong_bytes_give_an_image_or_one_line(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    CbfImage(data=FRAME.astype("i4")).write(str(tmp_path / "x.cbf"))
    TifImage(data=FRAME).write(str(tmp_path / "x.tif"))
    contents = {
        "mccd": marccd(FRAME),
        "edf": edf(FRAME, tmp_path),
        **{e: (tmp_path / f"x.{e}").read_bytes() for e in ("cbf", "tif")},
    }
    for ending, content in contents.items():
        changed = np.frombuffer(content, np.uint8).copy()
        changed[rng.integers(0, min(len(changed), 1200), 4)] = rng.integers(0, 256, 4)
        path = written(tmp_path / f"a.{ending}", changed.tobytes())
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore")  # NumPy's and PIL's, about what the bytes now mean
            assert read_image(path).frame.ndim == 2


def test_without_fabio_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.files.images.image.find_spec", lambda _: None)
    path = written(tmp_path / "a.edf", edf(FRAME, tmp_path))
    with pytest.raises(
        InputError,
        match=r"a\.edf: is not a MarCCD, TIFF or .npy image; .* pip install fabio",
    ):
        read_image(path)
    np.testing.assert_array_equal(
        read_image(written(tmp_path / "a.mccd", marccd(FRAME))).frame, FRAME
    )


def test_listeners_of_fabio_still_hear_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = edf(FRAME, tmp_path).replace(b"LowByteFirst", b"UnknownOrder")
    with caplog.at_level(logging.WARNING, "fabio"):
        read_image(written(tmp_path / "a.edf", content))
    assert "Byteorder is not defined" in caplog.text


def test_the_tests_write_what_the_description_says() -> None:
    content = marccd(FRAME)
    assert fabios_header(content)["nfast"] == 31
    assert fabios_header(content)["nslow"] == 20
    assert struct.unpack_from("<2i", content, 1052) == (1234, 1234)
    assert len(content) == 4096 + FRAME.nbytes
