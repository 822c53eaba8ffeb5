"""Independent reading of a damaged input: by h5py, fabio and the standard library alone.

The results are then computed from arrays in memory. Where find has the same results, the difference
from the sound file is in the file itself: a damaged value that no checksum protects. Where frames
were never written, or no file holds them, the file is incomplete and no result is right.
"""

import bz2
import csv
import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin  # noqa: F401 (importing it registers its filters)
import numpy as np

from fuzz.seeds import Oracle
from gpu_spots import Parameters, find_spots

CXI_BAD = 0x17DD


OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}


class Incomplete(Exception):
    """The file lacks what it should hold."""


def expected(oracle: Oracle) -> dict[str, str]:
    """Return the digest of the results that the files in the working folder should give.

    Raises what the libraries raise, and `Incomplete`.
    """
    from fuzz.worker import digest

    options: dict[str, Any] = {}
    columns = _hdf5_columns(oracle) if oracle.angle else _text_columns(oracle.columns)
    places = [str(name) for name in columns.pop("file", oracle.frames)]
    is_hdf5 = ":" in places[0]
    parts = [_frames(place) if is_hdf5 else _image(place)[None] for place in places]
    frames = np.concatenate(parts)
    frames = frames.astype(frames.dtype.newbyteorder("="))
    if oracle.mask:
        options["valid_pixels"] = _valid(oracle.mask)
    options |= _bounds(oracle, frames.dtype)
    if "valid_range" not in options and oracle.frames[0].endswith("cbf"):
        options["valid_range"] = (0, None)
    parameters = Parameters.manual(angles=0, sync="blocks" if "laser_on" in columns else "none")
    options |= {"columns": columns, "backend": "cpu", "threads": 2}
    with find_spots(frames, parameters, **options) as results:
        return digest(results._file)


def _item(place: str) -> np.ndarray | None:
    """Values of a dataset ``file:path``; None where it is not there."""
    name, _, path = place.partition(":")
    with h5py.File(name) as file:
        return np.asarray(file[path][()]) if path in file else None


def _frames(place: str) -> np.ndarray:
    name, _, path = place.partition(":")
    with h5py.File(name) as file:
        dataset = file[path]
        if dataset.chunks is not None:
            grid = np.prod(
                [-(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)]
            )
            if dataset.id.get_num_chunks() != grid:
                raise Incomplete(
                    f"{place}: {dataset.id.get_num_chunks()} of {grid} chunks were written"
                )
            return _by_chunks(dataset)
        if not dataset.external and dataset.id.get_offset() is None:
            raise Incomplete(f"{place}: was never written")
        if (
            not dataset.external
            and dataset.id.get_offset() + dataset.nbytes
            > Path(dataset.file.filename).stat().st_size
        ):
            raise Incomplete(f"{place}: goes beyond the end of the file")
        held = sum(
            min(size, max(0, Path(raw).stat().st_size - begin))
            for raw, begin, size in dataset.external or ()
        )
        if dataset.external and held < dataset.nbytes:
            raise Incomplete(f"{place}: external files hold {held} of {dataset.nbytes} bytes")
        return np.asarray(dataset[()])


def _by_chunks(dataset: h5py.Dataset) -> np.ndarray:
    """Values of a dataset, with the chunks that HDF5 lists but does not find in a damaged index."""
    listed: list[Any] = []
    dataset.id.chunk_iter(listed.append)
    values = np.asarray(dataset[()])
    created = dataset.id.get_create_plist()
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    for chunk in listed:
        try:
            dataset.id.read_direct_chunk(chunk.chunk_offset)
            continue
        except (OSError, RuntimeError):
            pass
        if any(number not in (1, 2) for number in filters):
            raise Incomplete(f"HDF5 does not find the chunk at {chunk.chunk_offset}")
        with open(dataset.file.filename, "rb") as file:
            file.seek(chunk.byte_offset)
            data = file.read(chunk.size)
        if 1 in filters:
            data = zlib.decompress(data)
        if 2 in filters:
            planes = np.frombuffer(data, np.uint8).reshape(dataset.dtype.itemsize, -1)
            data = planes.T.tobytes()
        part = np.frombuffer(data, dataset.dtype).reshape(dataset.chunks)
        where = tuple(
            slice(begin, begin + step)
            for begin, step in zip(chunk.chunk_offset, dataset.chunks, strict=True)
        )
        there = values[where]
        there[...] = part[tuple(map(slice, there.shape))]
    return values


def _image(name: str) -> np.ndarray:
    opener = OPENERS.get(Path(name).suffix, open)
    content = opener(name, "rb").read()
    if ".mccd" in name:
        return _marccd(content)
    if ".tif" in name:
        return _tiff(content)
    with fabio.open(name) as image:
        if image.nframes != 1:
            raise Incomplete(f"{name}: {image.nframes} images")
        return np.array(image.data)


def _marccd(content: bytes) -> np.ndarray:
    orders = {1234: "<", 4321: ">"}
    header = next(
        order
        for order in "<>"
        if orders.get(struct.unpack_from(f"{order}i", content, 1052)[0]) == order
    )
    n_fast, n_slow, depth = struct.unpack_from(f"{header}3i", content, 1104)
    order = orders[struct.unpack_from(f"{header}i", content, 1056)[0]]
    return np.frombuffer(content, f"{order}u{depth}", n_fast * n_slow, 4096).reshape(n_slow, n_fast)


def _tiff(content: bytes) -> np.ndarray:
    """A strict reader of baseline TIFF: strips that are not whole are an error."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[content[:4]]
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    (n_tags,) = struct.unpack_from(f"{order}H", content, at)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(n_tags):
        tag, kind, count = struct.unpack_from(f"{order}HHI", content, at + 2 + 12 * number)
        if kind not in (3, 4):
            continue
        code = f"{order}{count}{'HI'[kind - 3]}"
        begin = at + 10 + 12 * number
        if struct.calcsize(code) > 4:
            (begin,) = struct.unpack_from(f"{order}I", content, begin)
        tags[tag] = struct.unpack_from(code, content, begin)
    (width,), (height,), (bits,) = tags[256], tags[257], tags[258]
    rows = min(tags.get(278, (height,))[0], height)
    if tags.get(277, (1,)) != (1,) or tags.get(317, (1,)) != (1,):
        raise Incomplete("not a plain image of one sample")
    dtype = np.dtype(f"{order}{ {1: 'u', 2: 'i', 3: 'f'}[tags.get(339, (1,))[0]] }{bits // 8}")
    if tags.get(259, (1,)) == (1,) and 279 not in tags:  # some programs leave it out
        sizes = [min(rows, height - at * rows) * width * bits // 8 for at in range(len(tags[273]))]
        tags[279] = tuple(sizes)
    decoders: dict[int, Callable[[bytes], bytes]] = {
        1: bytes,
        5: _lzw,
        8: zlib.decompress,
        32946: zlib.decompress,
        32773: _packbits,
    }
    decode = decoders[tags.get(259, (1,))[0]]
    strips = []
    for number, (begin, size) in enumerate(zip(tags[273], tags[279], strict=True)):
        strip = decode(content[begin : begin + size])
        expected_size = min(rows, height - number * rows) * width * dtype.itemsize
        if len(strip) < expected_size or begin + size > len(content):
            raise Incomplete(f"strip {number} has {len(strip)} bytes, expected {expected_size}")
        strips.append(strip[:expected_size])
    return np.frombuffer(b"".join(strips), dtype).reshape(height, width)


def _lzw(data: bytes) -> bytes:
    start = [bytes([i]) for i in range(256)] + [b"", b""]
    table, width, out, before = list(start), 9, bytearray(), b""
    held = n_held = 0
    for byte in data:
        held, n_held = held << 8 | byte, n_held + 8
        if n_held < width:
            continue
        n_held -= width
        code, held = held >> n_held, held & (1 << n_held) - 1
        if code == 257:
            return bytes(out)
        if code == 256:
            table, width, before = list(start), 9, b""
            continue
        if before:
            table.append(before + (table[code] if code < len(table) else before)[:1])
        before = table[code]
        out += before
        if len(table) >= (1 << width) - 1 and width < 12:
            width += 1
    raise Incomplete("LZW data without an end")


def _packbits(data: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(data):
        length = data[at]
        if length < 128:
            part = data[at + 1 : at + 2 + length]
            if len(part) != length + 1:
                raise Incomplete("PackBits data is cut off")
            out += part
            at += 2 + length
        else:
            if length > 128:
                out += data[at + 1 : at + 2] * (257 - length)
            at += 1 + (length > 128)
    return bytes(out)


def _hdf5_columns(oracle: Oracle) -> dict[str, np.ndarray]:
    places = {"angle": oracle.angle, "laser_on": oracle.laser_on}
    found = {name: _item(f"{oracle.columns}:{path}") for name, path in places.items() if path}
    return {name: values for name, values in found.items() if values is not None}


def _text_columns(name: str) -> dict[str, np.ndarray]:
    """The angles and laser states of a table or a log."""
    is_log = name.endswith(".log")
    if is_log:
        text = Path(name).read_bytes().decode(errors="replace")
        lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
        heading = (
            [line for line in lines if line.startswith("#")][-1].lstrip("#").lower().split("\t")
        )
        rows = {}
        for line in lines:
            if not line.startswith("#"):
                values = dict(zip(heading, line.split("\t"), strict=False))
                rows[values["file"]] = values  # the last line of a file counts
        records = list(rows.values())
    else:
        lines = [
            line
            for line in Path(name).read_text().splitlines()
            if line.strip() and not line.startswith("#")
        ]
        records = list(csv.DictReader([lines[0].lower(), *lines[1:]]))
    angle = next(column for column in records[0] if column.startswith("angle"))
    states = {"1": 1, "0": 0, "on": 1, "off": 0}
    return {
        **({"file": np.array([record["file"] for record in records])} if is_log else {}),
        "angle": np.array([float(record[angle]) for record in records]),
        "laser_on": np.array([states[record["laser_on"].strip()] for record in records]),
    }


def _valid(place: str) -> np.ndarray | None:
    if ":" not in place:
        return np.load(place) == 0
    mask = _item(place)
    if mask is None:
        return None
    return (mask.astype(np.int64) & (0xFFFF if "pixel_mask" in place else CXI_BAD)) == 0


def _bounds(oracle: Oracle, dtype: np.dtype) -> dict[str, Any]:
    """Valid range and saturation."""
    if oracle.bounds == "marccd":
        content = OPENERS.get(Path(oracle.frames[0]).suffix, open)(oracle.frames[0], "rb").read()
        saturation = int.from_bytes(content[1128:1132], "little")
        return {"saturation": saturation} if 0 < saturation <= np.iinfo(dtype).max else {}
    found: dict[str, Any] = {}
    high = np.iinfo(dtype).max - 2 if oracle.sentinels and dtype.kind == "u" else None
    value = _item(f"{oracle.columns}:{oracle.bounds}/saturation_value") if oracle.bounds else None
    if value is not None and value > 0:
        found["saturation"] = float(value) if dtype.kind == "f" else int(value)
        high = value.item() if high is None else min(high, value.item())
    if high is not None:
        found["valid_range"] = (None, high)
    return found
