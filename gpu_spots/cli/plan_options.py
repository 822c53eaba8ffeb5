"""Options of find for memory, scratch files, batches and stacks, and the text of a plan."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpu_spots.parameters import STACK_NAMES

if TYPE_CHECKING:
    from gpu_spots.memory.plan import Plan

Command = TypeVar("Command", bound=Callable[..., Any])

PREFIXES = " kMGTP"
MAX_BYTES = 2**63 - 1


def size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Return bytes from a number with its unit, such as 1.5GB, 2G or 512Mi.

    Units are powers of 1000, or of 1024 with an i.
    """
    if value is None:
        return None
    found = re.fullmatch(
        r"(\d+\.?\d*|\.\d+) *(?:([kMGTP])(i?)B?|B)", value.strip(), re.ASCII | re.IGNORECASE
    )
    n_bytes = 0.0
    if found is not None:
        power = PREFIXES.lower().index((found[2] or " ").lower())
        n_bytes = float(found[1]) * (1024 if found[3] else 1000) ** power
    if not 1 <= n_bytes <= MAX_BYTES:
        shown = value if len(value) < 50 else f"{value[:50]}..."
        raise click.BadParameter(
            f"{shown!r} is not a size of at least 1 byte with a unit, such as 500MB, 2G or 1.5GiB"
        )
    return int(n_bytes)


def _keep(_: click.Context, __: click.Parameter, value: str) -> frozenset[str]:
    names = frozenset(value.split(",")) if value else frozenset()
    unknown = sorted(names - set(STACK_NAMES) - {"none"})
    if unknown or ("none" in names and len(names) > 1) or not names:
        raise click.BadParameter(f"{value!r} is not none or some of {','.join(STACK_NAMES)}")
    return names - {"none"}


def plan_options(command: Command) -> Command:
    """Add the options to a command."""
    options = (
        click.option("--memory-limit", metavar="SIZE", callback=size,
            help="Memory that frames and results may use  [default: free memory minus 400 MiB]"),
        click.option(
            "--scratch", metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False, exists=True, readable=False),
            help="Folder of a scratch file, for runs that do not fit in memory  "
            "[default: folder of the output]",
        ),
        click.option(
            "--batch", metavar="N", type=click.IntRange(min=1),
            help="Frames whose masks are computed at once  [default: automatic]",
        ),
        click.option(
            "--keep", metavar="LIST", default=",".join(STACK_NAMES), show_default=True,
            callback=_keep,
            help="Stacks to write, separated by commas, or none; "
            "statistics and spots are always written",
        ),
        click.option(
            "--dry-run", is_flag=True,
            help="Print the plan of the run and its memory needs, and exit",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def plan_in_words(plan: "Plan", output: Path, size: int, must_force: bool) -> list[str]:
    """Return the lines that --dry-run prints."""
    from gpu_spots.memory.amounts import in_words

    lines = {
        "frames": plan.place.words,
        "reading": "none, they are in memory"
        if not plan.decodings
        else f"the input is decoded {_times(plan.decodings)}",
        "background": f"{plan.n_bands} band{'s' * (plan.n_bands != 1)} of {plan.band_rows} rows",
        "masks and spots": f"{plan.n_batches} batch{'es' * (plan.n_batches != 1)} of "
        f"{plan.batch_frames} frames",
        "threads": str(plan.threads),
        "memory": f"{in_words(plan.host_bytes)} at most, besides the program itself",
        "device memory": None
        if plan.device_bytes is None
        else f"{in_words(plan.device_bytes)} at most",
        "scratch file": in_words(plan.scratch_bytes) if plan.scratch_bytes else "none",
        "output": f"{output}, about {in_words(size)}{'; already exists, use --force' * must_force}",
    }
    return [f"{name + ':':17}{text}" for name, text in lines.items() if text is not None]


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
