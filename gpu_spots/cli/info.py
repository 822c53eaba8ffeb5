"""Command ``gpu-spots info``: show how a file is interpreted, and what find can do with it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.image_options import IMAGE_OPTIONS, image_options, take_images
from gpu_spots.cli.input_options import NAMES as INPUT_NAMES
from gpu_spots.cli.input_options import as_arguments, input_options, take_inputs
from gpu_spots.cli.output_options import json_option
from gpu_spots.cli.terminal import show

Rows = Iterator[tuple[str, str]]


@click.command("info", cls=OneLineCommand)
@click.argument("sources", metavar="FILE | IMAGES...", nargs=-1, shell_complete=file_names)
@input_options
@image_options
@json_option("everything")
@debug_option
def info(sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show how a file or a run of images is interpreted.

    Frames are not read. The output lists the layout, the frames and their storage, masked pixels
    and valid values, angles, laser states, blocks and pairs, the methods that find can use, and the
    command to run it. Files, logs and images are given as for find.

    For a spots file, the output of find, it lists the number of spots, the options, the program and
    the datasets.
    """
    arguments = as_arguments(info, options, (*INPUT_NAMES, *IMAGE_OPTIONS))
    with naming_options():
        images = take_images(sources, options)
        found = _described(sources, images, take_inputs(options, images is None))
    is_run = found["layout"] != SPOTS_FILE
    if is_run:
        found["command"] = shlex.join(
            ["gpu-spots", "find", *sources, *arguments, *found.pop("options")]
        )
    if as_json:
        for line in json.dumps(found, indent=2).splitlines():
            show(line)
        return
    rows = list(_rows(found) if is_run else _rows_of_spots(found))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        show(f"{label:<{width}}  {value}".rstrip())


def _described(
    sources: tuple[str, ...], images: dict[str, Any] | None, inputs: Any
) -> dict[str, Any]:
    # here, so that --help and wrong usage answer at once
    from gpu_spots.cli.progress import observer
    from gpu_spots.describe import describe
    from gpu_spots.files.frames import open_hdf5
    from gpu_spots.files.images.image_list import ImageRequest
    from gpu_spots.files.opening import open_stack
    from gpu_spots.files.output.spots_summary import is_spots_file, summarise
    from gpu_spots.memory.workers import default_workers

    if images is None:
        with open_hdf5(Path(sources[0])) as file:
            if not inputs.frames_path and is_spots_file(file):
                return summarise(file)
    frames = Path(sources[0]) if images is None else ImageRequest(**images)
    with (
        observer(True) as watching,
        open_stack(frames, inputs, watching, default_workers()) as stack,
    ):
        return describe(stack)


def _rows(found: dict[str, Any]) -> Rows:
    """Yield label and text of each line for a run."""
    yield "file", found["file"]
    yield "layout", _title(found["layout"])
    yield from _frames(found["frames"])
    yield from _what_counts(found)
    yield from _metadata(found)
    yield from _what_find_can_do(found)


def _rows_of_spots(found: dict[str, Any]) -> Rows:
    """Yield label and text of each line for a spots file."""
    unknown = "unknown"
    spots = found["spots_per_frame"]
    yield "file", found["file"]
    yield "layout", "spots file, the output of find"
    yield "spots", f"{_count(found['spots'], 'spot')} on {_count(found['frames'], 'frame')}"
    yield "per frame", f"min {spots['min']}, median {spots['median']:g}, max {spots['max']}"
    yield "method", found["method"] or unknown
    options = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in found["options"].items()
    }
    yield "options", ", ".join(f"{name} {value}" for name, value in options.items()) or unknown
    if found["shape_change"] is not None:
        change = f"{100 * found['shape_change']:.2f} % rms"
        yield "background", f"its shape changes by {change} from frame to frame"
    if found["noise"]:
        yield (
            "noise",
            ", ".join(
                f"{name.replace('_', ' ')} {value:.4g}"
                for name, value in found["noise"].items()
                if isinstance(value, float)
            ),
        )
    yield (
        "computed",
        f"{found['date'] or 'date unknown'}, {found['backend'] or 'backend unknown'} "
        f"({found['device'] or unknown})",
    )
    yield "program", found["program"] or unknown
    yield "input", f"{found['input_file'] or unknown}  {found['frames_path'] or ''}"
    for path, what in found["datasets"].items():
        yield "dataset", f"{path}  {what}"


SPOTS_FILE = "spots file"
"""Layout of a summary of a spots file."""


def _title(layout: str) -> str:
    """Return the name of a layout for people."""
    from gpu_spots.files.layouts.recognise import LAYOUTS

    titles = {"images": "images", **{one.name: one.title for one in LAYOUTS}}
    return titles[layout]


def _frames(frames: dict[str, Any]) -> Rows:
    n_frames, n_x, n_y = frames["shape"]
    datasets = len(frames.get("datasets", ()))
    yield (
        "frames",
        frames["path"]
        + (
            f"  ({datasets} datasets, {_count(len(frames['files']), 'file')})"
            if datasets > 1
            else ""
        ),
    )
    yield (
        "size",
        f"{_count(n_frames, 'frame')} of {n_x} x {n_y} (X x Y), {frames['dtype']}, "
        f"{frames['megabytes']:.1f} MB",
    )
    if "images" in frames:
        yield "stored", f"one image per frame, {frames['images']}"
        return
    chunks = "x".join(map(str, frames["chunks"])) if frames["chunks"] else "none"
    yield "stored", f"chunks {chunks}, filters {', '.join(frames['filters']) or 'none'}"
    why = frames["read_through_hdf5"]
    yield (
        "read",
        f"through HDF5, one chunk at a time ({why})" if why else "directly, by all threads",
    )


def _what_counts(found: dict[str, Any]) -> Rows:
    n_pixels = found["frames"]["shape"][1] * found["frames"]["shape"][2]
    mask = found["mask"] or {}
    parts = []
    if "file_mask" in mask:
        parts.append(f"{mask['file_mask']} ({mask['file_mask_pixels']})")
    if "mask" in mask:
        parts.append(f"--mask {mask['mask']} ({mask['mask_pixels']})")
    if "reject" in mask:
        parts.append(f"--reject {' '.join(mask['reject'])} ({mask['reject_pixels']})")
    masked = found["masked_pixels"]
    yield (
        "mask",
        f"{_count(masked, 'pixel')} of {n_pixels} masked ({100 * masked / n_pixels:.2f} %): "
        f"{', '.join(parts)}"
        if parts
        else "none",
    )
    limits = found["valid_range"] or {}
    bounds = []
    if "valid_low" in limits:
        bounds.append(f"from {limits['valid_low']:g} ({limits['valid_low_from']})")
    if "valid_high" in limits:
        bounds.append(f"up to {limits['valid_high']:.15g} ({limits['valid_high_from']})")
    yield "valid values", ", ".join(bounds) or "all"
    saturation = found["saturation"]
    yield (
        "saturation",
        f"{saturation['value']:.15g} and more ({saturation['from']})" if saturation else "unknown",
    )


def _metadata(found: dict[str, Any]) -> Rows:
    angles, laser = found["angles"], found["laser"]
    if "missing" in angles:
        yield "angles", f"none: {angles['missing']}"
    else:
        yield (
            "angles",
            f"{angles['different']} different, {angles['lowest']:g} to {angles['highest']:g} "
            f"degrees{_from(angles)}",
        )
    if "missing" in laser:
        yield "laser", f"unknown: {laser['missing']}"
    else:
        yield "laser", f"{laser['off']} off, {laser['on']} on{_from(laser)}"
    blocks, pairs = found["blocks"], found["pairs"]
    if blocks:
        sizes = (
            f"{blocks['smallest']}"
            if blocks["smallest"] == blocks["largest"]
            else f"{blocks['smallest']} to {blocks['largest']}"
        )
        yield "blocks", f"{blocks['number']}, of {sizes} frame{'s' * (blocks['largest'] != 1)}"
    if pairs:
        alone = pairs["frames_without_partner"]
        yield (
            "pairs",
            f"{pairs['number']}"
            + (f"; {_count(alone, 'frame')} without a partner" if alone else ""),
        )


def _what_find_can_do(found: dict[str, Any]) -> Rows:
    possible = found["find"]
    can = ", ".join(name for name, why in possible.items() if why is None)
    yield ("find accepts", can) if can else ("find", "gpu-spots find cannot process this file")
    refused: dict[str, list[str]] = {}
    for name, why in possible.items():
        if why is not None:
            refused.setdefault(why.removeprefix(f"{name} "), []).append(name)
    for why, names in refused.items():
        yield "find refuses", f"{', '.join(names)}: {why}"
    for note in found["notes"]:
        yield "note", note
    for problem in found["problems"]:
        yield "problem", problem
    if not found["problems"]:
        yield "command", found["command"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _from(what: dict[str, Any]) -> str:
    return f" ({what['from']})" if what["from"] else ""
