"""Reading of one image file: its frame and the values in its header.

MarCCD, TIFF, CBF and ``.npy`` files are decoded by this package, strictly: a file that is damaged
or cut off is an error, never zeros. The header and size of EDF files are checked before fabio reads
them; fabio reads every other format: mar345, Bruker, ...
"""

import logging
import re
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.images import cbf, edf, mar345, marccd, npy, tiff
from gpu_spots.files.images.decompress import MAX_CONTENT, SIGNATURES, decompressed
from gpu_spots.files.paths import require_regular_file
from gpu_spots.model import FRAME_DTYPES, Array
from gpu_spots.packages import install_command

COMPRESSED = (".gz", ".bz2")
"""Endings of compressed files; the name before them is the image's."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAD = 2**16
"""Bytes at the beginning of a file in which its format and the text of its header are looked for.
"""
SLACK = 2**20
"""Bytes that a compressed file may have beyond its header and pixels."""
MAX_REASON = 300
"""Characters of a message of fabio that are shown."""
JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""First bytes of JPEG 2000 files and code streams."""
_PILATUS_TIFF = b"II*\0\x82\0"

HEADER_FIELDS: dict[str, tuple[str | None, str]] = {
    "exposure_time": (
        "s",
        "exposure time; MarCCD: the integration time where the exposure time is 0",
    ),
    "saturation": ("counts", "smallest saturated value"),
    "bias": ("counts", "offset of the detector, contained in the frames"),
    "distance": ("mm", "from the crystal to the detector"),
    "beam_x": (
        "pixel",
        "where the direct beam hits, along the fast axis of the image: the frames' Y",
    ),
    "beam_y": (
        "pixel",
        "where the direct beam hits, along the slow axis of the image: the frames' X",
    ),
    "pixel_size_x": ("mm", "size of a pixel along the fast axis of the image: the frames' Y"),
    "pixel_size_y": ("mm", "size of a pixel along the slow axis of the image: the frames' X"),
    "wavelength": ("angstrom", "wavelength as the header has it; of a white beam it says little"),
    "start_omega": ("degrees", "omega at the begin of the exposure"),
    "end_omega": ("degrees", "omega at the end of the exposure"),
    "start_phi": ("degrees", "phi at the begin of the exposure"),
    "end_phi": ("degrees", "phi at the end of the exposure"),
    "start_angle": ("degrees", "angle of the scan's axis at the begin of the exposure"),
    "acquired": (None, "when the frame was taken, as the header has it"),
}
"""Fields that are read from headers, with units and description."""

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
    "start_angle": (r"Start_angle[ =:]+([\d.eE+-]+) *deg", 1.0),
    "acquired": (r"(\d{4}[-/](?:\d\d|[A-Z][a-z]{2})[-/]\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?)", None),
}


@dataclass(frozen=True, slots=True)
class Image:
    """A frame and its header."""

    frame: Array
    """(n_X, n_Y), one of `FRAME_DTYPES` in native byte order, C-contiguous: rows of the image are
    X, its columns Y.
    """
    header: dict[str, float | str]
    """Values of `HEADER_FIELDS`. Fields that the header lacks are absent, and fields of value 0
    where 0 means unknown.
    """
    format: str
    """Format of the file: marccd, cbf, edf, tif, ..."""


def read_image(path: Path) -> Image:
    """Read an image; several threads may at once.

    Raises `InputError`, which names the file: it is missing, empty, damaged, cut off, of no known
    format, or holds no single frame of numbers; or fabio is needed for it and is not installed.
    """
    image = read_image_of_any_type(path)
    if image.frame.dtype not in FRAME_DTYPES:
        raise InputError(
            f"{path}: has values of type {image.frame.dtype}, expected one of "
            f"{', '.join(map(str, FRAME_DTYPES))}"
        )
    return image


def read_image_of_any_type(path: Path) -> Image:
    """Read an image with values of any type, such as a mask.

    `read_image` accepts `FRAME_DTYPES` only.
    """
    head = _head(path)
    if not head:
        raise InputError(f"{path}: is empty, expected an image")
    if head.startswith(HDF5_SIGNATURE):
        raise InputError(
            f"{path}: is an HDF5 file, expected an image; gpu-spots find reads HDF5 as it is"
        )
    # by the content: a compressed file may have lost the end of its name, a decompressed one may
    # have kept it
    compressed = head.startswith(SIGNATURES)
    if compressed:
        head = decompressed(_content(path), path, HEAD)[0]
        if not head:
            raise InputError(
                f"{path}: cannot be read as an image: the compressed file has no content"
            )
    if head.startswith(JPEG_2000):
        raise InputError(
            f"{path}: is a JPEG 2000 image, which is not supported; "
            "convert it to TIFF, for example with opj_decompress of OpenJPEG"
        )
    image = _decode(path, head, compressed)
    if image.frame.ndim != 2 or not image.frame.size:
        raise InputError(
            f"{path}: has shape {image.frame.shape}, expected one image of rows and columns"
        )
    return image


def _decode(path: Path, head: bytes, compressed: bool) -> Image:
    """Decode an image by the reader of its format, which ``head``, decompressed, tells."""

    def content() -> bytes:
        return _whole(path, head) if compressed else _content(path)

    if marccd.is_marccd(head):
        return Image(*marccd.read(content(), path), "marccd")
    if head.startswith(tiff.SIGNATURES):
        marccd.check_not_marccd(head, path)
        frame, text = tiff.read_tiff(content(), path)
        return Image(
            frame,
            _pilatus_header({"text": text}),
            "pilatus" if head.startswith(_PILATUS_TIFF) else "tif",
        )
    if head.startswith(npy.SIGNATURE):
        return Image(npy.read_npy(content(), path), {}, "numpy")
    if find_spec("fabio") is None:
        raise InputError(
            f"{path}: is not a MarCCD, TIFF or .npy image; to read other formats, "
            f"{install_command('images')}"
        )
    if head.startswith(cbf.SIGNATURE) or (not compressed and path.suffix.lower() == ".cbf"):
        frame, text = cbf.read_cbf(content(), path)
        return Image(frame, _cbf_header(text), "cbf")
    whole = content() if compressed else None
    if head.lstrip(b"\r\n").startswith(b"{"):
        if whole is None:
            edf.check_edf(_head(path, edf.MAX_HEADER), path.stat().st_size, content, path)
        else:
            edf.check_edf(whole[: edf.MAX_HEADER], len(whole), lambda: whole, path)
    if head.startswith(mar345.SIGNATURES):
        mar345.check_mar345(content() if whole is None else whole, path)
    return _read_by_fabio(path, whole)


def is_image(head: bytes) -> bool:
    """Return True if the first bytes of a file, at least 1031, are those of a known format."""
    known = (
        *tiff.SIGNATURES,
        cbf.SIGNATURE,
        *JPEG_2000,
        *SIGNATURES,
        b"{\n",
        b"{\r\n",
        b"\n{\n",
        b"\r\n{\r\n",
        *mar345.SIGNATURES,
    )
    return head.startswith(known)


def read_header(path: Path) -> dict[str, float | str]:
    """Return the values in the header of an image, without decoding its pixels.

    Nothing is found in formats other than MarCCD, CBF and the TIFF files of Pilatus detectors.
    Raises `InputError` for a file that cannot be read.
    """
    head = _head(path, 4 * HEAD)
    if head.startswith(SIGNATURES):
        head = decompressed(head, path, HEAD)[0]
    head = head[:HEAD]
    if marccd.is_marccd(head):
        marccd.bytes_of(head, path)  # or the header is damaged
        return marccd.header_of(head)
    if head.startswith(cbf.SIGNATURE):
        return _cbf_header(head[: max(head.find(cbf.SECTION), 0)].decode("latin-1"))
    return (
        _pilatus_header({"text": head.decode("latin-1")})
        if head.startswith(tiff.SIGNATURES)
        else {}
    )


def shape_of(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an image that can be read; raises the errors of `read_image`.

    Only the header is read where that tells all.
    """
    head = _head(path)
    if marccd.is_marccd(head):
        shape, stored = marccd.layout_of(head, path.stat().st_size, path)
        return shape, stored.newbyteorder("=")
    frame = read_image(path).frame
    return frame.shape, frame.dtype


def read_rows(
    path: Path, first: int, last: int, into: Array
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Fill ``into`` with some rows of an image; raises the errors of `read_image`.

    They are the rows from ``first`` to ``last``.

    Of a MarCCD file that is not compressed only these are read, and straight to where they belong;
    any other is decoded as a whole.

    Args:
        path: the image.
        first: the first row.
        last: the one after the last.
        into: (last - first, n_Y), C-contiguous, native byte order.

    Returns:
        Shape and type of the image's frame. Where they are not those expected, it is no image of
        these frames, and ``into`` stays as it is.
    """
    if not into.flags.c_contiguous:  # or the rows would go into a copy
        raise ValueError("into is not contiguous")
    head = _head(path)
    if not marccd.is_marccd(head):
        frame = read_image(path).frame
        if frame.dtype == into.dtype and frame.shape[1] == into.shape[1] and last <= len(frame):
            into[...] = frame[first:last]
        return frame.shape, frame.dtype
    try:
        shape, stored = marccd.layout_of(head, path.stat().st_size, path)
        if (
            stored.newbyteorder("=") == into.dtype
            and shape[1] == into.shape[1]
            and last <= shape[0]
        ):
            with path.open("rb") as file:
                file.seek(marccd.DATA_BEGIN + first * shape[1] * stored.itemsize)
                if file.readinto(into.reshape(-1).view(np.uint8)) != into.nbytes:  # type: ignore[arg-type]
                    raise InputError(f"{path}: was changed while it was being read")
            if not stored.isnative:
                into.byteswap(inplace=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return shape, stored.newbyteorder("=")


def _head(path: Path, n_bytes: int = marccd.DATA_BEGIN) -> bytes:
    """Return the first bytes of a file; without ``n_bytes``, those of a MarCCD header."""
    require_regular_file(path, "an image")
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _whole(path: Path, head: bytes) -> bytes:
    """Return the whole decompressed content of a file whose content begins with ``head``."""
    limit = MAX_CONTENT
    if marccd.is_marccd(head):
        limit = marccd.bytes_of(head, path) + SLACK
    elif head.startswith(cbf.SIGNATURE):
        limit = (cbf.size_of(head) or limit) + SLACK
    found, is_whole = decompressed(_content(path), path, min(limit, MAX_CONTENT))
    if not is_whole:
        raise InputError(
            f"{path}: decompresses to more than {len(found)} bytes, "
            "expected at most this size for its image"
        )
    return found


# -------------------------------------------------------------------------------------------- fabio


class _Complaints(logging.Handler):
    """Messages that fabio logs while an image is read, kept for each thread.

    fabio reports some kinds of damage only there, and fills the missing pixels with zeros.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(self.of_thread, "said"):
            self.of_thread.said.append(record)


_DAMAGE = re.compile(
    r"incomplete|mismatch|malformed|smaller than|unimplemented|unknown "
    r"compression|corrupt|uncommon error|under-short|bad framesize"
    r"|not reachable",
    re.IGNORECASE,
)
_complaints = _Complaints()


def _read_by_fabio(path: Path, content: bytes | None) -> Image:
    """Return an image from its file.

    ``content``: decompressed content of the file; None: the file is not compressed.
    """
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
            header, kind = (
                {str(key): value for key, value in opened.header.items()},
                type(opened).__name__.removesuffix("Image").lower(),
            )
    except Exception as error:  # whatever its readers stumble over
        reason = (
            said[0].getMessage() if said else " ".join(str(error).split()) or type(error).__name__
        )
        raise InputError(
            f"{path}: cannot be read as an image, according to fabio: {_without(reason, path)}"
        ) from error
    finally:
        del _complaints.of_thread.said
    damage = next(
        (record.getMessage() for record in said if _DAMAGE.search(record.getMessage())), None
    )
    if data is None:
        damage = said[0].getMessage() if said else "it holds no frame"
    if damage:
        raise InputError(f"{path}: is damaged, according to fabio: {_without(damage, path)}")
    if n_frames != 1:
        raise InputError(f"{path}: contains {n_frames} images, expected one per file")
    frame = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))
    return Image(frame, _pilatus_header(header), kind)


def _cbf_header(text: str) -> dict[str, float | str]:
    """Return the values that a Pilatus detector writes into a CBF header."""
    return _pilatus_header({"text": text[max(text.find("_array_data.header_contents"), 0) :]})


def _pilatus_header(header: dict[str, Any]) -> dict[str, float | str]:
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
    """Return a reason without the name of the file, which precedes it anyway."""
    text = reason.replace(str(path), "it").replace(path.name, "it")
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_REASON])
