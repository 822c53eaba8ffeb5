"""Command line of find that gives the masks of some options."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpu_spots.cli.find import find
from gpu_spots.cli.image_options import IMAGE_OPTIONS
from gpu_spots.cli.input_options import NAMES, as_arguments
from gpu_spots.parameters import USED_WITH, Parameters

if TYPE_CHECKING:
    from gpu_spots.protocols import Stack


def find_command(
    sources: Iterable[str],
    inputs: Iterable[str],
    parameters: Parameters,
    output: str | None = None,
) -> str:
    """Return a command line with all options that have an effect.

    Args:
        sources: Names of the run: an HDF5 file, a log, or images.
        inputs: Words of options of the input.
        parameters: Options of the search.
        output: Spots file. None: the default.
    """
    options = {option.name: option.opts[0] for option in find.params}
    words = ["gpu-spots", "find", *sources, *inputs]
    for name in (field.name for field in fields(Parameters)):
        value = getattr(parameters, name)
        other, used_with = USED_WITH.get(name, ("", ()))
        if value is False or (other and getattr(parameters, other) not in used_with):
            continue
        words.append(options[name])
        if value is not True:
            words.append(_text(value))
    if output is not None:
        words += ["-o", output]
    return shlex.join(words)


def recorded_inputs(info: Mapping[str, Any], stack: "Stack | None") -> tuple[list[str], list[str]]:
    """Return the run of a spots file, and the options of its input, for a command line.

    Args:
        info: Group ``info`` of the spots file.
        stack: Its frames. None: they are not found.

    Returns:
        Names of the run, and words of options. There are no options if the file was not made on the
        command line.
    """
    given = _recorded_options(info)
    if stack is None or stack.provenance.layout != "images":
        run = str(info.get("input_file", "")) if stack is None else str(stack.files[0])
        return [run], as_arguments(find, given, NAMES)
    paths = [path.absolute() for path in stack.files]
    folder, input_file = paths[0].parent, Path(str(info.get("input_file", "")))
    if input_file.name in (path.name for path in paths):
        sources = _images(folder, given.get("sources") or [str(path) for path in paths])
    else:
        is_table = given.get("table") or input_file.suffix in (".csv", ".tsv")
        sources, given = [], {**given, "table" if is_table else "log": input_file}
        if given.get("folder") or str(folder) != str(info.get("frames_path", "")):
            given["folder"] = folder
    return sources, as_arguments(find, given, {*NAMES, *IMAGE_OPTIONS})


def _recorded_options(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the command line that a spots file records; empty: none is."""
    words = shlex.split(str(info.get("command_line", "")))
    if words[1:2] == ["find"]:
        arguments = words[2:]
    elif words and Path(words[0]).name == "lu_hdf2spots":
        arguments = words[1:]
    else:
        return {}
    with (
        suppress(click.ClickException),
        find.make_context("find", list(arguments), resilient_parsing=True) as context,
    ):
        return dict(context.params)
    return {}


def _images(folder: Path, sources: Sequence[str]) -> list[str]:
    """Return images of a folder as a command line names them: as a pattern if it gives the same."""
    from gpu_spots.errors import GpuSpotsError
    from gpu_spots.files.images.image_list import ImageRequest, list_images

    named = [str(folder / Path(source).name) for source in sources]
    pattern = str(folder / f"*{Path(named[0]).suffix}")
    with suppress(GpuSpotsError):
        found = list_images(ImageRequest((pattern,))).paths
        if found == list_images(ImageRequest(tuple(named))).paths:
            return [pattern]
    return named


def output_beside(spots: str, ending: str = "_tuned__spots.h5") -> str:
    """Return the name of another spots file beside one, or beside a run."""
    path = Path(spots)
    stem = path.name.removesuffix(path.suffix)
    for word in ("__spots", "__mccd"):
        stem = stem.removesuffix(word)
    return str(path.with_name(stem + ending))


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
