"""Runs of images as a beamline writes them: MarCCD files and Lauecollect logs.

They are made from the descriptions of the formats.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OLD_HEADER = (
    "date time",
    "file",
    "delay",
    "waiting-time[s]",
    "bunches-per-pulse",
    "nom.pulses",
    "nom.delay[s]",
    "act.delay[s]",
    "sdev(act.delay)[s]",
    "num(act.delay)",
    "x-ray[Vs]",
    "sdev(x-ray)[Vs]",
    "num(x-ray)",
    "laser",
    "sdev(laser)",
    "num(laser)",
    "delay[s]",
    "angle[deg]",
    "laser_on",
    "repeat",
    "translation[mm]",
    "temperature[C]",
    "14IDB:DAC1_4.VAL",
    "comment",
)
NEW_HEADER = (
    "date time",
    "started",
    "finished",
    "file",
    "delay[s]",
    "angle[deg]",
    "Laser_on",
    "Repeat",
    "x-ray[Vs]",
    "laser[J]",
    "NIH:TEMP.RBV",
    "comment",
)


def marccd(
    frame: np.ndarray,
    order: str = "<",
    data_order: str | None = None,
    **header: Any,
) -> bytes:
    """A MarCCD file: a TIFF header, the MarCCD header at 1024, the frame at 4096.

    ``header``: byte offset (``at1128``) to integer.
    """
    data_order = data_order or order
    n_slow, n_fast = frame.shape
    content = bytearray(4096)
    tags = {
        256: n_fast,
        257: n_slow,
        258: 8 * frame.itemsize,
        259: 1,
        262: 1,
        273: 4096,
        277: 1,
        278: n_slow,
        279: frame.nbytes,
    }
    content[:8] = (b"II" if data_order == "<" else b"MM") + struct.pack(f"{data_order}HI", 42, 8)
    struct.pack_into(f"{data_order}H", content, 8, len(tags))
    for i, (tag, value) in enumerate(tags.items()):
        # a short value stands in the first two bytes of four
        struct.pack_into(
            f"{data_order}HHI", content, 10 + 12 * i, tag, 3 if value < 65536 else 4, 1
        )
        struct.pack_into(
            f"{data_order}{'H' if value < 65536 else 'I'}", content, 18 + 12 * i, value
        )
    numbers = {
        1024: 2,
        1052: 1234 if order == "<" else 4321,
        1056: 1234 if data_order == "<" else 4321,
        1060: 3072,
        1072: 1003,
        1104: n_fast,
        1108: n_slow,
        1112: frame.itemsize,
        1116: n_fast * frame.itemsize,
        1120: 8 * frame.itemsize,
        1128: 65535,
        1664: 100_000,
        1668: 1_043_089,
        1672: 998_250,
        1676: 1345,
        1680: 0,
        1796: 79_092,
        1800: 79_093,
        1804: 10_000,
        1932: 103_318,
    }
    numbers.update({int(name.removeprefix("at")): value for name, value in header.items()})
    for begin, value in numbers.items():
        struct.pack_into(f"{order}i" if value < 2**31 else f"{order}I", content, begin, value)
    content[1028:1031] = b"MMX"
    content[2368:2383] = b"041621332005.17"
    return bytes(content) + frame.astype(f"{data_order}{frame.dtype.str[1:]}").tobytes()


@dataclass(frozen=True)
class Scan:
    """A log and its images."""

    log: Path
    folder: Path
    names: list[str]
    angles: np.ndarray
    laser_on: np.ndarray

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def write_scan(
    root: Path,
    frames: np.ndarray,
    angles: Sequence[float] | np.ndarray,
    laser_on: Sequence[int] | np.ndarray,
    generation: str = "old",
) -> Scan:
    """A folder as Lauecollect leaves it: ``scan.log``, and the frames in ``xray_images``."""
    folder = root / "xray_images"
    folder.mkdir(parents=True)
    seen: dict[tuple[float, int], int] = {}
    names, repeats = [], []
    for angle, on in zip(angles, laser_on, strict=True):
        repeats.append(seen.setdefault((angle, on), 0) + 1)
        seen[angle, on] += 1
        names.append(f"scan_{angle:.3f}_{'on' if on else 'off'}_{repeats[-1]}.mccd")
    for name, frame in zip(names, frames, strict=True):
        (folder / name).write_bytes(marccd(frame))
    lines = [
        log_line(generation, *row) for row in zip(names, angles, laser_on, repeats, strict=True)
    ]
    (root / "scan.log").write_text(log_text(generation, lines))
    return Scan(root / "scan.log", folder, names, np.array(angles, float), np.array(laser_on))


def log_text(generation: str, lines: Sequence[str]) -> str:
    header = OLD_HEADER if generation == "old" else NEW_HEADER
    return (
        "\n".join(
            ["# Data collection log file", "# description: a test", "#" + "\t".join(header), *lines]
        )
        + "\n"
    )


def log_line(generation: str, name: str, angle: float, on: int, repeat: int) -> str:
    """A frame's line.

    The pulse energy in ``laser`` is there also where the laser is off, as the detector reads its
    noise.
    """
    if generation == "old":
        values = {
            "date time": "05-Oct-10 11:22:33.123",
            "file": name,
            "delay": "100ps" if on else "-",
            "bunches-per-pulse": "1",
            "nom.delay[s]": "1e-10" if on else "nan",
            "x-ray[Vs]": "1.5e-9",
            "laser": "3e-05" if on else "1e-08",
            "delay[s]": "1e-10",
            "angle[deg]": f"{angle:.3f}",
            "laser_on": str(on),
            "repeat": str(repeat),
            "14IDB:DAC1_4.VAL": "4.5",
        }
        return "\t".join(
            values.get(column, "-" if column != "comment" else "") for column in OLD_HEADER
        )
    values = {
        "date time": "2021-03-05 12:11:10.500",
        "started": "2021-03-05 12:11:10.100",
        "finished": "2021-03-05 12:11:11.000",
        "file": name,
        "delay[s]": "1e-9" if on else "-",
        "angle[deg]": f"{angle:g}",
        "Laser_on": str(on),
        "Repeat": f"{repeat:02d}",
        "laser[J]": "0",
        "x-ray[Vs]": "nan",
        "NIH:TEMP.RBV": "21.5",
    }
    return "\t".join(values.get(column, "") for column in NEW_HEADER)
