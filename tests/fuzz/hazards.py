"""Inputs that are dangerous by design, each made by code.

None may hang, crash, exhaust the memory, or give a result that the file does not hold.
"""

import bz2
import gzip
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from factories import image_runs, layouts_data
from fuzz.seeds import (
    BLOCKS,
    FIND,
    images,
    laueutil,
    run_commands,
    seed,
    write_columns,
    write_virtual,
)
from helpers import series

Commands = tuple[tuple[str, ...], ...]
SHAPE = (20, 24, 40)
ONE_IMAGE = (("find", "image.tif", "--angle-step", "1", *FIND),)


@dataclass(frozen=True)
class Hazard:
    """A dangerous input."""

    make: Callable[[Path], Commands]
    """Write the files into a folder; return the commands."""
    may_succeed: bool = False
    """True if the result of the sound file is right as well; otherwise only an error is."""
    alike: str = ""
    """Seed that has that result."""


def virtual(
    *mappings: tuple[str, str, slice | tuple[slice, ...], tuple[int, ...]], fill: int = 0
) -> Callable[[Path], Commands]:
    """A maker of a run with virtual frames.

    Each mapping has a source file, a path, a selection of the frames, and the shape of the source.
    """

    def make(folder: Path) -> Commands:
        frames = h5py.VirtualLayout(SHAPE, "uint16")
        for name, path, selection, shape in mappings:
            frames[selection] = h5py.VirtualSource(name, path, shape, dtype="uint16")
        with h5py.File(folder / "run.h5", "w") as file:
            file.create_virtual_dataset("frames", frames, fillvalue=fill)
            write_columns(file)
        return run_commands(*BLOCKS)

    return make


def after(
    make: Callable[[Path], Commands], change: Callable[[Path], object]
) -> Callable[[Path], Commands]:
    """A maker that changes what another has made."""

    def made(folder: Path) -> Commands:
        commands = make(folder)
        change(folder)
        return commands

    return made


def to_fifo(path: Path) -> None:
    """Put a named pipe in the place of a file."""
    path.unlink()
    os.mkfifo(path)


def edited(edit: Callable[[h5py.File], object]) -> Callable[[Path], Commands]:
    """A maker of a run in LaueUtil's layout after ``edit``."""

    def make(folder: Path) -> Commands:
        laueutil(folder)
        with h5py.File(folder / "run.h5", "r+") as file:
            edit(file)
        return run_commands(*BLOCKS)

    return make


def relinked(path: str, link: Any) -> Callable[[Path], Commands]:
    """A maker of a NeXus run with a link in the place of an object."""

    def edit(file: h5py.File) -> None:
        if path in file:
            del file[path]
        file[path] = link

    def make(folder: Path) -> Commands:
        layouts_data.write_nexus(folder / "run.h5", edit=edit)
        return run_commands(*BLOCKS)

    return make


def inner_missing(folder: Path) -> Commands:
    commands = virtual(("vds.h5", "data", slice(None), SHAPE))(folder)
    write_virtual(folder / "vds.h5")
    (folder / "vds_1.h5").unlink()
    return commands


def dangling_source(folder: Path) -> Commands:
    commands = virtual((".", "elsewhere", slice(None), SHAPE))(folder)
    with h5py.File(folder / "run.h5", "r+") as file:
        file["elsewhere"] = h5py.ExternalLink("missing.h5", "/data")
    return commands


def mutual(folder: Path) -> Commands:
    """Two virtual datasets in two files, each of which is the other."""
    commands = virtual(("other.h5", "frames", slice(None), SHAPE))(folder)
    frames = h5py.VirtualLayout(SHAPE, "uint16")
    frames[:] = h5py.VirtualSource("run.h5", "frames", SHAPE, dtype="uint16")
    with h5py.File(folder / "other.h5", "w") as file:
        file.create_virtual_dataset("frames", frames)
    return commands


def parts(folder: Path) -> None:
    """Sources that `virtual` refers to."""
    with h5py.File(folder / "source.h5", "w") as file:
        file["data"] = series()


def heap_byte(number: int) -> Callable[[Path], Commands]:
    """A maker of a run with a damaged byte in the global heap, which holds the file names."""

    def make(folder: Path) -> Commands:
        content = bytearray(seed("contiguous").files["run.h5"])
        content[content.find(b"GCOL") + number] ^= 0x81
        (folder / "run.h5").write_bytes(content)
        return run_commands(*BLOCKS)

    return make


def raw_storage(size: int, begin: int = 0) -> Callable[[Path], Commands]:
    """A maker of frames in UNLIMITED external storage of which ``size`` bytes are there."""

    def make(folder: Path) -> Commands:
        (folder / "raw.bin").write_bytes(series().tobytes()[:size])
        with h5py.File(folder / "run.h5", "w") as file:
            file.create_dataset(
                "frames", SHAPE, "uint16", external=[("raw.bin", begin, h5py.h5f.UNLIMITED)]
            )
            write_columns(file)
        return run_commands(*BLOCKS)

    return make


def damaged_image(name: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], Commands]:
    """A maker of a run of images of a seed, one of them damaged."""

    def make(folder: Path) -> Commands:
        source = seed(name)
        for file, content in source.files.items():
            (folder / file).write_bytes(damage(content) if file.startswith("i_3.") else content)
        return source.commands

    return make


def middle(put: bytes) -> Callable[[bytes], bytes]:
    """Damage: other bytes in the middle of the strip of a TIFF."""

    def damage(content: bytes) -> bytes:
        image = Image.open(io.BytesIO(content))
        assert isinstance(image, TiffImageFile)
        tags = image.tag_v2
        at = tags[273][0] + tags[279][0] // 2
        return content[:at] + put + content[at + len(put) :]

    return damage


def parentheses(folder: Path) -> None:
    header = b"{'descr': '<u1', 'fortran_order': False, 'shape': " + b"(" * 5000 + b"24, 40)}\n"
    (folder / "m.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(960)
    )


def as_mask(write: Callable[[Path], object], name: str = "m.npy") -> Callable[[Path], Commands]:
    """A maker of a run with a dangerous ``--mask``."""

    def make(folder: Path) -> Commands:
        laueutil(folder)
        write(folder)
        return run_commands("--mask", name, "--mask-good", "0", *BLOCKS)

    return make


def as_table(write: Callable[[Path], object], name: str = "t.csv") -> Callable[[Path], Commands]:
    """A maker of a run with a dangerous ``--table``."""

    def make(folder: Path) -> Commands:
        laueutil(folder)
        write(folder)
        return run_commands("--table", name, *BLOCKS)

    return make


def as_log(text: str) -> Callable[[Path], Commands]:
    """A maker of a Lauecollect log in whose last line the image's name has ``text`` in it."""

    def make(folder: Path) -> Commands:
        source = seed("log-old")
        for name, content in source.files.items():
            (folder / name).write_bytes(content)
        log = folder / "scan.log"
        log.write_text(
            log.read_text().replace("scan_4.500_on_1.mccd", f"scan_4.500_on_1{text}.mccd")
        )
        return source.commands

    return make


def written(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Write a file."""
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def huge_grid(folder: Path) -> Commands:
    with h5py.File(folder / "run.h5", "w") as file:
        file.create_dataset("frames", (10_000,) * 3, "uint16", chunks=(1, 1, 1))
    return run_commands()


def huge_shape(folder: Path) -> Commands:
    with h5py.File(folder / "run.h5", "w") as file:
        file.create_dataset("frames", (2**40, 2**20, 2**20), "uint16", chunks=(1, 2**10, 2**10))
    return run_commands()


BOMB = 2 << 30


def gz_bomb(head: bytes) -> Callable[[Path], Commands]:
    """A maker of an image that inflates to ``head`` and 2 GiB of zeros, in one stream."""

    def make(folder: Path) -> Commands:
        block = bytes(1 << 24)
        compressor = zlib.compressobj(9, wbits=-15)
        start = (
            compressor.compress(head)
            + compressor.compress(block)
            + compressor.flush(zlib.Z_FULL_FLUSH)
        )
        again = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
        # the check sum at the end is wrong: nobody gets there in time
        content = (
            b"\x1f\x8b\x08"
            + bytes(7)
            + start
            + again * (BOMB // len(block) - 1)
            + compressor.flush()
            + bytes(8)
        )
        (folder / "image.tif").write_bytes(content)
        return ONE_IMAGE

    return make


def bz2_bomb(folder: Path) -> Commands:
    (folder / "image.tif").write_bytes(bz2.compress(bytes(1 << 25)) * (BOMB >> 25))
    return ONE_IMAGE


def huge_tiff(folder: Path) -> Commands:
    """A TIFF whose header claims 60000 x 60000 pixels."""
    content = bytearray(seed("tiff-deflate").files["i_0.tif"])
    for tag in (256, 257, 278):
        at = content.find(tag.to_bytes(2, "little"), 4)
        content[at + 2 : at + 12] = b"\x04\x00\x01\x00\x00\x00" + (60_000).to_bytes(4, "little")
    (folder / "image.tif").write_bytes(content)
    return ONE_IMAGE


def fifo(
    name: str, *commands: tuple[str, ...], beside: Callable[[Path], object] = lambda _: None
) -> Callable[[Path], Commands]:
    """A maker of a FIFO that nobody writes to."""

    def make(folder: Path) -> Commands:
        beside(folder)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        return commands

    return make


def plain(
    *commands: tuple[str, ...], beside: Callable[[Path], object] = lambda _: None
) -> Callable[[Path], Commands]:
    """A maker of nothing but the files of another."""

    def make(folder: Path) -> Commands:
        beside(folder)
        return commands

    return make


def fifo_image(folder: Path) -> Commands:
    commands = images(image_runs.marccd, "mccd", "MarCCD")(folder)["commands"]
    return fifo("i_3.mccd", *commands)(folder)


def simulated(folder: Path) -> None:
    """A run with its truth."""
    written("run.h5", seed("spots").files["run.h5"])(folder)


def named(name: str) -> Callable[[Path], Commands]:
    """A maker of a file whose only stack has that name, and one column of wrong length."""

    def make(folder: Path) -> Commands:
        with h5py.File(folder / "run.h5", "w") as file:
            file[f"a/{name}"] = series()
            file[f"a/mask{name}"] = np.zeros(SHAPE[1:], np.uint8)
        return (("info", "run.h5"), ("find", "run.h5", "-S", "blocks", *FIND))

    return make


def two_named(name: str) -> Callable[[Path], Commands]:
    """A maker of a file with two stacks of such names: the error lists them."""

    def make(folder: Path) -> Commands:
        with h5py.File(folder / "run.h5", "w") as file:
            file[f"a/{name}"], file[f"b/{name}"] = series(), series()
        return run_commands()

    return make


def cycle(folder: Path) -> Commands:
    with h5py.File(folder / "run.h5", "w") as file:
        group = file.create_group("a/b")
        group["again"] = file["a"]
        group["root"] = file["/"]
    return run_commands()


def many_links(folder: Path) -> Commands:
    """Groups that are linked so that the number of paths doubles with each level."""
    with h5py.File(folder / "run.h5", "w") as file:
        level = file.create_group("end")
        for depth in range(24):
            above = file.create_group(f"level{depth}")
            above["left"], above["right"] = level, level
            level = above
    return run_commands()


ESCAPES = {"esc": "\x1b]0;title\x1b\\", "bel": "\x07", "newline": "one\ntwo", "csi": "\x9b31m"}
"""Texts that do something to a terminal; click takes out only colours."""
ZERO_INPUTS: dict[str, tuple[str, ...]] = {
    "find": ("find", "/dev/zero", *FIND),
    "info": ("info", "/dev/zero"),
    "spots": ("read", "/dev/zero"),
    "score": ("score", "/dev/zero", "/dev/zero"),
    "log": ("find", "--log", "/dev/zero", *FIND),
}
SPOTS_FIFO = ("score", "run.h5", "pipe.h5")


def soft(path: str) -> h5py.SoftLink:
    """A soft link to a path."""
    return h5py.SoftLink(path)


def itself(path: str) -> h5py.ExternalLink:
    """An external link to the file that has it."""
    return h5py.ExternalLink("run.h5", path)


HAZARDS: dict[str, Hazard] = {
    "virtual-of-itself": Hazard(virtual((".", "frames", slice(None), SHAPE))),
    "virtual-of-itself-by-name": Hazard(virtual(("run.h5", "frames", slice(None), SHAPE))),
    "virtual-of-each-other": Hazard(mutual),
    "virtual-innermost-missing": Hazard(inner_missing),
    "virtual-source-is-dangling-link": Hazard(dangling_source),
    "virtual-half-of-the-frames": Hazard(
        after(virtual(("source.h5", "data", slice(0, 10), (10, 24, 40))), parts)
    ),
    "virtual-half-of-each-frame": Hazard(
        after(virtual(("source.h5", "data", (slice(None), slice(0, 12)), (20, 12, 40))), parts)
    ),
    "virtual-source-too-short": Hazard(
        after(
            virtual(("source.h5", "data", slice(None), SHAPE)),
            lambda folder: _short_source(folder / "source.h5"),
        )
    ),
    "virtual-source-not-written": Hazard(
        after(
            virtual(("source.h5", "data", slice(None), SHAPE)),
            lambda folder: _unwritten_source(folder / "source.h5"),
        )
    ),
    "virtual-source-is-fifo": Hazard(
        after(
            virtual(("source.h5", "data", slice(None), SHAPE)),
            lambda folder: os.mkfifo(folder / "source.h5"),
        )
    ),
    "virtual-source-is-zero": Hazard(virtual(("/dev/zero", "data", slice(None), SHAPE))),
    **{
        f"heap-byte-{i}": Hazard(heap_byte(i), may_succeed=True, alike="contiguous")
        for i in (0, 4, 8, 9, 11, 15, 16, 18, 20, 24, 25, 31, 33, 40, 64, 200)
    },
    "external-raw-cut": Hazard(raw_storage(19_200)),
    "external-raw-empty": Hazard(raw_storage(0)),
    "external-raw-begins-beyond-the-end": Hazard(raw_storage(38_400, begin=1_000_000)),
    "external-raw-is-fifo": Hazard(
        after(
            raw_storage(0),
            lambda folder: to_fifo(folder / "raw.bin"),
        )
    ),
    "tiff-deflate-damaged": Hazard(damaged_image("tiff-deflate", middle(b"\x55\xaa"))),
    "tiff-deflate-cut": Hazard(
        damaged_image("tiff-deflate", lambda content: content[: len(content) * 2 // 3])
    ),
    "tiff-lzw-damaged": Hazard(damaged_image("tiff-lzw", middle(b"\xff" * 64))),
    "tiff-lzw-cut": Hazard(
        damaged_image("tiff-lzw", lambda content: content[: len(content) * 2 // 3])
    ),
    "tiff-huge": Hazard(huge_tiff),
    "npy-parentheses": Hazard(as_mask(parentheses)),
    "npy-huge": Hazard(
        as_mask(
            written(
                "m.npy",
                b"\x93NUMPY\x01\x00\x46\x00"
                + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 40)}\n".ljust(
                    70
                ),
            )
        )
    ),
    "table-long-field": Hazard(
        as_table(
            written(
                "t.csv",
                "angle,laser_on\n"
                + "".join(f"{i},{i % 2}\n" for i in range(19))
                + "9" * 200_000
                + ",0\n",
            )
        )
    ),
    "table-long-name": Hazard(
        as_table(written("t.csv", "x" * 200_000 + ",angle\n" + "1,2\n" * 20)), may_succeed=True
    ),
    "table-quote": Hazard(as_table(written("t.csv", 'angle,"laser_on\n' + "1,0\n" * 20))),
    **{f"name-{key}": Hazard(named(text), may_succeed=True) for key, text in ESCAPES.items()},
    **{f"names-{key}": Hazard(two_named(text)) for key, text in ESCAPES.items()},
    **{f"log-{key}": Hazard(as_log(text)) for key, text in ESCAPES.items() if key != "newline"},
    **{
        f"table-{key}": Hazard(
            as_table(written("t.csv", f"angle,laser_on\n{text!s},1\n" + "1,0\n" * 19))
        )
        for key, text in ESCAPES.items()
        if key != "newline"
    },
    "attribute-esc": Hazard(
        edited(lambda file: file["frames"].attrs.update(saturation="\x1b[31m")),
        may_succeed=True,
        alike="contiguous",
    ),
    "chunk-grid": Hazard(huge_grid),
    "huge-shape": Hazard(huge_shape),
    "gz-bomb": Hazard(gz_bomb(b"")),
    "gz-bomb-marccd": Hazard(gz_bomb(image_runs.marccd(np.ones((24, 40), np.uint16)))),
    "gz-bomb-members": Hazard(
        plain(
            *ONE_IMAGE,
            beside=written("image.tif", gzip.compress(bytes(1 << 24), mtime=0) * (BOMB >> 24)),
        )
    ),
    "bz2-bomb": Hazard(bz2_bomb),
    "fifo-find": Hazard(fifo("pipe.h5", ("find", "pipe.h5", *FIND))),
    "fifo-info": Hazard(fifo("pipe", ("info", "pipe"))),
    "fifo-spots": Hazard(fifo("pipe.h5", ("read", "pipe.h5"))),
    "fifo-score": Hazard(fifo("pipe.h5", SPOTS_FIFO, beside=simulated)),
    "fifo-image": Hazard(fifo_image),
    "fifo-log": Hazard(fifo("scan.log", ("find", "scan.log", *FIND))),
    "fifo-table": Hazard(as_table(lambda folder: os.mkfifo(folder / "t.csv"))),
    "fifo-mask": Hazard(as_mask(lambda folder: os.mkfifo(folder / "m.npy"))),
    "fifo-output": Hazard(
        fifo(
            "pipe.h5",
            ("find", "run.h5", *FIND[:-1], "pipe.h5"),
            beside=lambda folder: laueutil(folder),
        )
    ),
    "fifo-output-force": Hazard(
        fifo(
            "pipe.h5",
            ("find", "run.h5", *FIND[:-1], "pipe.h5", "--force"),
            beside=lambda folder: laueutil(folder),
        )
    ),
    "fifo-link": Hazard(
        after(
            relinked("entry/data/data", h5py.ExternalLink("pipe.h5", "/data")),
            lambda folder: os.mkfifo(folder / "pipe.h5"),
        )
    ),
    **{f"zero-{name}": Hazard(plain(command)) for name, command in ZERO_INPUTS.items()},
    "zero-table": Hazard(as_table(lambda _: None, "/dev/zero")),
    "zero-mask": Hazard(as_mask(lambda _: None, "/dev/zero")),
    "zero-output": Hazard(
        plain(("find", "run.h5", *FIND[:-1], "/dev/zero"), beside=lambda folder: laueutil(folder))
    ),
    "zero-output-force": Hazard(
        plain(
            ("find", "run.h5", *FIND[:-1], "/dev/zero", "--force"),
            beside=lambda folder: laueutil(folder),
        )
    ),
    "loop-frames-soft": Hazard(relinked("entry/data/data", soft("/entry/data/data"))),
    "loop-frames-external": Hazard(relinked("entry/data/data", itself("/entry/data/data"))),
    "loop-angles-soft": Hazard(
        relinked("entry/sample/rotation_angle", soft("/entry/sample/rotation_angle"))
    ),
    "loop-angles-external": Hazard(
        relinked("entry/sample/rotation_angle", itself("/entry/sample/rotation_angle"))
    ),
    "loop-mask-soft": Hazard(
        relinked(
            "entry/instrument/detector/pixel_mask", soft("/entry/instrument/detector/pixel_mask")
        )
    ),
    "loop-mask-external": Hazard(
        relinked(
            "entry/instrument/detector/pixel_mask", itself("/entry/instrument/detector/pixel_mask")
        )
    ),
    "loop-entry-external": Hazard(relinked("entry", itself("/entry"))),
    "loop-group-external": Hazard(relinked("entry/more", itself("/entry")), may_succeed=True),
    "loop-group-hard": Hazard(cycle),
    "links-double": Hazard(many_links),
}
"""Name to input."""


def _short_source(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = series()[:10]


def _unwritten_source(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", SHAPE, "uint16", chunks=(1, 24, 40))[:10] = series()[:10]
