"""Options of find for the computing backend."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from gpu_spots.cli.plan_options import size
from gpu_spots.parameters import BACKEND_NAMES

Command = TypeVar("Command", bound=Callable[..., Any])

DEVICE_OPTIONS = ("backend", "device", "device_memory_limit", "threads")


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return the numbers of the GPUs."""
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is not a GPU number or a list such as 0,1")
    return tuple(map(int, value.split(",")))


def device_options(command: Command) -> Command:
    """Add the options to a command."""
    options = (
        click.option(
            "--backend", type=click.Choice(BACKEND_NAMES), default="auto",
            show_default=True,
            help="Computing backend; auto: a GPU if one can be used, else the CPU",
        ),
        click.option(
            "--device", metavar="LIST", callback=_numbers,
            help="Number of the GPU (see gpu-spots devices), or of several that share the work, "
            "such as 0,1 (experimental)  [default: 0]",
        ),
        click.option(
            "--device-memory-limit", metavar="SIZE", callback=size,
            help="GPU memory that may be used, on each GPU  [default: all that is free]",
        ),
        click.option(
            "--threads", metavar="N", type=click.IntRange(1, 10_000),
            help="CPU threads, at least one per GPU  [default: one per core]",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
