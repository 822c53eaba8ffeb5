"""``gpu-spots merge``: ratios of several runs as one table, and the agreement of the runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.output_options import (
    PATH,
    csv_option,
    force_option,
    json_option,
    output_option,
)
from gpu_spots.cli.terminal import say, show

if TYPE_CHECKING:
    from gpu_spots.spots.ratios.merging import MergeResult

DEFAULT = "merged__ratios.h5"
"""Name of the output, beside the first file."""


@click.command("merge", cls=OneLineCommand)
@click.argument("files", metavar="A__ratios.h5 B__ratios.h5...", nargs=-1, type=PATH)
@output_option(f"Output file  [default: {DEFAULT} beside the first file]")
@click.option(
    "--by",
    type=click.Choice(["hkl", "position"]),
    help="Property that identifies reflections: Miller indices, or angle and position (runs of a "
    "crystal that was not moved)  [default: hkl if all files have it]",
)
@csv_option("merged ratios")
@json_option("figures")
@force_option
@debug_option
def merge(
    files: tuple[Path, ...],
    output: Path | None,
    by: str | None,
    csv: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Merge the on/off ratios of several runs.

    The files are outputs of gpu-spots ratios. The output has the weighted means, all ratios that
    are in them, and how well each two runs agree.
    """
    if len(files) < 2:
        raise click.UsageError(
            f"expected at least two ratios files, found {len(files)}",
            click.get_current_context(),
        )
    path = output or files[0].with_name(DEFAULT)
    if csv == path:
        raise click.UsageError(
            f"{path}: two outputs have the same name", click.get_current_context()
        )
    # here, so that --help and wrong usage answer at once
    from gpu_spots.api import merge_ratios
    from gpu_spots.files.output.merged_file import merged_json, write_merged_csv
    from gpu_spots.files.output.new_file import check_output

    if csv is not None:
        check_output(csv, files, force)
    with naming_options():
        found = merge_ratios(files, path, by=by, force=force)
    if csv is not None:
        write_merged_csv(found, csv, files, force=force)
    for line in merged_json(found).splitlines() if as_json else report(found):
        show(line)
    say(f"{path}: {len(found.merged['R'])} merged ratios")


def report(found: "MergeResult") -> list[str]:
    """Return the summary as lines."""
    figures = found.figures
    lines = [
        f"{figures['reflections']} reflections of {len(found.runs)} runs, by {figures['by']}; "
        f"{figures['in several runs']} are in several runs",
        *(f"note: {note}" for note in found.notes),
        f"chi squared of the ratios about their means: {figures['chi2']:.1f} for "
        f"{figures['degrees of freedom']} degrees of freedom",
        "",
        *(f"run {number}: {name}" for number, name in enumerate(found.runs, 1)),
        "",
        f"{'runs':<10} {'common':>8} {'correlation':>12} {'slope':>8} {'chi2/n':>8} {'scale':>8}",
    ]
    rows = zip(*(values.tolist() for values in found.comparison.values()), strict=True)
    for first, second, n, correlation, slope, chi2, scale in rows:
        each = chi2 / n if n else chi2
        numbers = f"{correlation:>12.3f} {slope:>8.3f} {each:>8.2f} {scale:>8.4f}"
        lines.append(f"{f'{first + 1}, {second + 1}':<10} {n:>8} {numbers}".replace("nan", "  -"))
    return lines
