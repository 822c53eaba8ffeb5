"""Command line of find that gives the masks of some options."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from gpu_spots.cli.find import find
from gpu_spots.cli.input_options import NAMES, as_arguments
from gpu_spots.parameters import USED_WITH, Parameters


def find_command(
    source: str, inputs: Iterable[str], parameters: Parameters, output: str | None = None
) -> str:
    """Return a command line with all options that have an effect.

    Args:
        source: Run.
        inputs: Words of options of the input.
        parameters: Options of the search.
        output: Spots file. None: the default.
    """
    options = {option.name: option.opts[0] for option in find.params}
    words = ["gpu-spots", "find", source, *inputs]
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


def recorded_inputs(info: Mapping[str, Any]) -> list[str]:
    """Return the options of the input on the command line that a spots file records.

    Args:
        info: Group ``info`` of the spots file.

    Returns:
        Words; none if the file was not made on the command line.
    """
    words = shlex.split(str(info.get("command_line", "")))
    if words[1:2] == ["find"]:
        arguments = words[2:]
    elif words and Path(words[0]).name == "lu_hdf2spots":
        arguments = words[1:]
    else:
        return []
    with (
        suppress(click.ClickException),
        find.make_context("find", list(arguments), resilient_parsing=True) as context,
    ):
        return as_arguments(find, _plain(context.params), NAMES)
    return []


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(values)


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
