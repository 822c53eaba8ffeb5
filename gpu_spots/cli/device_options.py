"""Options of find that say what computes."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gpu_spots.cli.plan_options import size

Command = TypeVar("Command", bound=Callable[..., Any])

DEVICE_OPTIONS = ("backend", "device", "device_memory_limit", "threads")


def device_options(command: Command) -> Command:
    """Add the options to a command."""
    options = (
        click.option(
            "--backend", type=click.Choice(["auto", "gpu", "cpu"]), default="auto", show_default=True,
            help="what computes; auto: a GPU where one can be used, else the CPU",
        ),
        click.option("--device", metavar="N", type=click.IntRange(min=0), help="number of the GPU, see gpu-spots devices  [default: 0]"),
        click.option(
            "--device-memory-limit", metavar="SIZE", callback=size, help="memory of the GPU that may be taken  [default: what is free]"
        ),
        click.option("--threads", metavar="N", type=click.IntRange(min=1), help="threads of the host  [default: all cores]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
