"""One image out of one file: its frame and what its header says.

MarCCD (Rayonix) files are read here, as they are what Laue runs are made of: their header stands at byte 1024 and is a plain table, and a
file that is cut off is told from a whole one. Every other format is fabio's business: TIFF, CBF, EDF, mar345, Bruker, ...
"""

import bz2
import gzip
import logging
import re
import stat
import struct
import threading
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.model import FRAME_DTYPES, Array
from gpu_spots.packages import install_command

Order = Literal["<", ">"]
"""Little-endian, big-endian."""
COMPRESSED = (".gz", ".bz2")
"""Endings of compressed files; the name before them is the image's."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
DATA_BEGIN = 4096
"""First byte of a MarCCD file's frame."""

HEADER_FIELDS: dict[str, tuple[str | None, str]] = {
    "exposure_time": ("s", "exposure time; MarCCD: the integration time where the exposure time is 0"),
    "saturation": ("counts", "smallest saturated value"),
    "bias": ("counts", "offset of the detector, contained in the frames"),
    "distance": ("mm", "from the crystal to the detector"),
    "beam_x": ("pixel", "where the direct beam hits, along the fast axis of the image: the frames' Y"),
    "beam_y": ("pixel", "where the direct beam hits, along the slow axis of the image: the frames' X"),
    "pixel_size_x": ("mm", "size of a pixel along the fast axis of the image: the frames' Y"),
    "pixel_size_y": ("mm", "size of a pixel along the slow axis of the image: the frames' X"),
    "wavelength": ("angstrom", "wavelength as the header has it; of a white beam it says little"),
    "start_omega": ("degrees", "omega at the begin of the exposure"),
    "end_omega": ("degrees", "omega at the end of the exposure"),
    "start_phi": ("degrees", "phi at the begin of the exposure"),
    "end_phi": ("degrees", "phi at the end of the exposure"),
    "acquired": (None, "when the frame was taken, as the header has it"),
}
"""What is taken from headers: units and description."""

# MarCCD: byte from the begin of the file, and what one unit of the integer there is
_MARCCD_NUMBERS = {
    "bias": (1804, 1e-3),
    "distance": (1664, 1e-3),
    "beam_x": (1668, 1e-3),
    "beam_y": (1672, 1e-3),
    "pixel_size_x": (1796, 1e-6),
    "pixel_size_y": (1800, 1e-6),
    "wavelength": (1932, 1e-5),
    "start_omega": (1696, 1e-3),
    "end_omega": (1728, 1e-3),
    "start_phi": (1708, 1e-3),
    "end_phi": (1740, 1e-3),
}
_MARCCD_ANGLES = ("start_omega", "end_omega", "start_phi", "end_phi")
_MARCCD_DTYPES = {1: "u1", 2: "u2", 4: "u4"}

# what Pilatus detectors write into CBF and TIFF, and others after them
_PILATUS = {
    "exposure_time": (r"Exposure_time[ =:]+([\d.eE+-]+) *s", 1.0),
    "saturation": (r"Count_cutoff[ =:]+(\d+)", 1.0),
    "distance": (r"Detector_distance[ =:]+([\d.eE+-]+) *m\b", 1e3),
    "beam_x": (r"Beam_xy[ =:]+\(([\d.eE+-]+),", 1.0),
    "beam_y": (r"Beam_xy[ =:]+\([\d.eE+-]+, *([\d.eE+-]+)\)", 1.0),
    "pixel_size_x": (r"Pixel_size[ =:]+([\d.eE+-]+) *m", 1e3),
    "pixel_size_y": (r"Pixel_size[ =:]+[\d.eE+-]+ *m *x *([\d.eE+-]+) *m", 1e3),
    "wavelength": (r"Wavelength[ =:]+([\d.eE+-]+) *A", 1.0),
    "start_omega": (r"Omega[ =:]+([\d.eE+-]+) *deg", 1.0),
    "start_phi": (r"Phi[ =:]+([\d.eE+-]+) *deg", 1.0),
    "acquired": (r"(\d{4}[-/](?:\d\d|[A-Z][a-z]{2})[-/]\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?)", None),
}


@dataclass(frozen=True, slots=True)
class Image:
    """A frame and its header."""

    frame: Array
    """(n_X, n_Y), one of `FRAME_DTYPES` in native byte order, C-contiguous: rows of the image are X, its columns Y."""
    header: dict[str, float | str]
    """Some of `HEADER_FIELDS`; what the header does not have, or has as 0 where that says nothing, is not there."""
    format: str
    """What it was: marccd, cbf, edf, tif, ..."""


def read_image(path: Path) -> Image:
    """Read an image; several threads may at once.

    Raises `InputError`, which names the file: it is missing, empty, damaged, cut off, of no known format, or holds no single frame of
    numbers; or fabio is needed for it and is not installed.
    """
    image = read_image_of_any_type(path)
    if image.frame.dtype not in FRAME_DTYPES:
        raise InputError(f"{path}: has values of type {image.frame.dtype}, expected one of {', '.join(map(str, FRAME_DTYPES))}")
    return image


def read_image_of_any_type(path: Path) -> Image:
    """The same for images whose values need not be of one of `FRAME_DTYPES`, as those of masks."""
    head = _head(path)
    if not head:
        raise InputError(f"{path}: is empty, expected an image")
    if head.startswith(HDF5_SIGNATURE):
        raise InputError(f"{path}: is an HDF5 file, expected an image; gpu-spots find reads HDF5 as it is")
    # by what it begins with: a compressed file may have lost the end of its name, and a decompressed one may have kept it
    compressed = head.startswith((b"\x1f\x8b", b"BZh"))
    content = _content(path) if compressed or _is_marccd(head) else b""
    image = _read_marccd(content, path) if _is_marccd(content) else _read_by_fabio(path, content if compressed else None)
    if image.frame.ndim != 2 or not image.frame.size:
        raise InputError(f"{path}: has shape {image.frame.shape}, expected one image of rows and columns")
    return image


def shape_of(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an image that can be read; raises what `read_image` does. Only the header is read where that tells all."""
    head = _head(path)
    if _is_marccd(head):
        shape, stored = _marccd_layout(head, path.stat().st_size, path)
        return shape, stored.newbyteorder("=")
    frame = read_image(path).frame
    return frame.shape, frame.dtype


def read_rows(path: Path, first: int, last: int, into: Array) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Fill ``into`` with the rows from ``first`` to ``last`` of an image's frame; raises what `read_image` does.

    Of a MarCCD file that is not compressed only these are read, and straight to where they belong; any other is decoded as a whole.

    Args:
        path: the image.
        first: the first row.
        last: the one after the last.
        into: (last - first, n_Y), C-contiguous, native byte order.

    Returns:
        Shape and type of the image's frame. Where they are not those expected, it is no image of these frames, and ``into`` stays as it is.
    """
    if not into.flags.c_contiguous:  # or the rows would go into a copy
        raise ValueError("into is not contiguous")
    head = _head(path)
    if not _is_marccd(head):
        frame = read_image(path).frame
        if frame.dtype == into.dtype and frame.shape[1] == into.shape[1] and last <= len(frame):
            into[...] = frame[first:last]
        return frame.shape, frame.dtype
    try:
        shape, stored = _marccd_layout(head, path.stat().st_size, path)
        if stored.newbyteorder("=") == into.dtype and shape[1] == into.shape[1] and last <= shape[0]:
            with path.open("rb") as file:
                file.seek(DATA_BEGIN + first * shape[1] * stored.itemsize)
                if file.readinto(into.reshape(-1).view(np.uint8)) != into.nbytes:  # type: ignore[arg-type]
                    raise InputError(f"{path}: was changed while it was being read")
            if not stored.isnative:
                into.byteswap(inplace=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return shape, stored.newbyteorder("=")


def _head(path: Path) -> bytes:
    """The first bytes of a file, as many as a MarCCD header has."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device'}, expected an image")
        with path.open("rb") as file:
            return file.read(DATA_BEGIN)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error


def _content(path: Path) -> bytes:
    """What is in a file, decompressed if it is compressed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        return bz2.decompress(content) if content.startswith(b"BZh") else content
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be decompressed: {str(error) or 'damaged'}") from error


# ---------------------------------------------------------------------------------------------------------------------------- MarCCD


def _is_marccd(content: bytes) -> bool:
    return content[:2] in (b"II", b"MM") and content[1028:1031] == b"MMX"


def _marccd_orders(head: bytes) -> tuple[Order, Order] | None:
    """Byte orders of header and frame, ``<`` or ``>``; None where the header does not tell them."""
    known: dict[int, Order] = {1234: "<", 4321: ">"}
    for order in known.values():
        of_header, of_frame = struct.unpack_from(f"{order}2i", head, 1052)
        if known.get(of_header) == order and of_frame in known:
            return order, known[of_frame]
    return None


def _marccd_layout(head: bytes, n_bytes: int, path: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Shape and type, in its byte order, of a frame, from the first bytes of a file of ``n_bytes``."""
    if n_bytes < DATA_BEGIN or len(head) < DATA_BEGIN:
        raise InputError(f"{path}: is cut off: {n_bytes} bytes, a MarCCD header alone has {DATA_BEGIN}")
    orders = _marccd_orders(head)
    if orders is None:
        raise InputError(f"{path}: is a damaged MarCCD file: its header does not tell its byte order")
    n_fast, n_slow, depth = struct.unpack_from(f"{orders[0]}3i", head, 1104)
    if n_fast < 1 or n_slow < 1 or depth not in _MARCCD_DTYPES:
        raise InputError(f"{path}: is a damaged MarCCD file: {n_slow} x {n_fast} pixels of {depth} bytes")
    expected = DATA_BEGIN + n_slow * n_fast * depth
    if n_bytes < expected:
        raise InputError(f"{path}: is cut off: {n_bytes} bytes, expected {expected} for {n_slow} x {n_fast} pixels of {depth} bytes")
    return (n_slow, n_fast), np.dtype(_MARCCD_DTYPES[depth]).newbyteorder(orders[1])


def _read_marccd(content: bytes, path: Path) -> Image:
    shape, stored = _marccd_layout(content, len(content), path)
    order, _ = _marccd_orders(content) or ("<", "<")
    frame = np.frombuffer(content, stored, shape[0] * shape[1], DATA_BEGIN).reshape(shape)

    def number(begin: int) -> int:
        return int(struct.unpack_from(f"{order}i", content, begin)[0])

    header: dict[str, float | str] = {
        name: round(number(begin) * unit, 9) for name, (begin, unit) in _MARCCD_NUMBERS.items() if number(begin) or name in _MARCCD_ANGLES
    }
    saturation = struct.unpack_from(f"{order}I", content, 1128)[0]
    if 0 < saturation <= np.iinfo(stored).max:
        header["saturation"] = float(saturation)
    exposure = number(1680) or number(1676)
    if exposure:
        header["exposure_time"] = exposure / 1000
    if acquired := _marccd_time(content[2368:2400]):
        header["acquired"] = acquired
    return Image(frame.astype(stored.newbyteorder("="), copy=False), header, "marccd")


def _marccd_time(stamp: bytes) -> str:
    """ISO 8601 of ``MMDDhhmmYYYY.ss``; as it stands where it is something else."""
    text = stamp.split(b"\0")[0].decode("ascii", "replace").strip()
    found = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d{4})\.(\d\d)", text)
    return "{4}-{0}-{1}T{2}:{3}:{5}".format(*found.groups()) if found else text


# ----------------------------------------------------------------------------------------------------------------------------- fabio


class _Complaints(logging.Handler):
    """What fabio logs while an image is read, kept by thread: some damage it only mentions, and fills up with zeros."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(self.of_thread, "said"):
            self.of_thread.said.append(record)


_DAMAGE = re.compile(r"incomplete|mismatch|malformed|smaller than required|unimplemented|unknown compression", re.IGNORECASE)
_complaints = _Complaints()


PACKBITS = 32773
"""A compression of TIFF that fabio 2026.6 takes for none where the image is in one piece, and gives wrong values."""


def _read_by_fabio(path: Path, content: bytes | None) -> Image:
    """An image out of its file; ``content``: what was in the file, if that was compressed."""
    if find_spec("fabio") is None:
        raise InputError(f"{path}: is no MarCCD image, and other formats need fabio; {install_command('images')} brings it")
    import fabio
    from fabio.fabioutils import BytesIO

    logger = logging.getLogger("fabio")
    if _complaints not in logger.handlers:
        logger.addHandler(_complaints)
    said: list[logging.LogRecord] = []
    _complaints.of_thread.said = said
    try:
        # it decompresses by itself, but not without a word on stdout
        with fabio.open(str(path) if content is None else BytesIO(content)) as opened:
            n_frames, data = opened.nframes, opened.data
            header, kind = {str(key): value for key, value in opened.header.items()}, type(opened).__name__.removesuffix("Image").lower()
    except Exception as error:  # whatever its readers stumble over
        reason = said[0].getMessage() if said else " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image, says fabio: {_without(reason, path)}") from error
    finally:
        del _complaints.of_thread.said
    if header.get("compression_type") == PACKBITS:
        raise InputError(f"{path}: is compressed by PackBits, which cannot be relied on here; write it with LZW, Deflate or no compression")
    damage = next((record.getMessage() for record in said if _DAMAGE.search(record.getMessage())), None)
    if data is None:
        damage = said[0].getMessage() if said else "it holds no frame"
    if damage:
        raise InputError(f"{path}: is damaged, says fabio: {_without(damage, path)}")
    if n_frames != 1:
        raise InputError(f"{path}: holds {n_frames} images, expected one a file")
    frame = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))
    return Image(frame, _pilatus_header(header), kind)


def _pilatus_header(header: dict[str, Any]) -> dict[str, float | str]:
    text = "\n".join(str(header.get(key, "")) for key in ("_array_data.header_contents", "imageDescription"))
    if not text.strip():
        text = "\n".join(f"{key} {value}" for key, value in header.items())
    found: dict[str, float | str] = {}
    for name, (pattern, unit) in _PILATUS.items():
        if match := re.search(pattern, text):
            try:
                found[name] = match[1] if unit is None else round(float(match[1]) * unit, 9)
            except ValueError:
                continue
    return found


def _without(reason: str, path: Path) -> str:
    """A reason without the file's name, which stands before it anyway."""
    return reason.replace(str(path), "it").replace(path.name, "it")
