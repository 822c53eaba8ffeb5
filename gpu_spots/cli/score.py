"""``gpu-spots score``: comparison of the spots of a simulated run with the true ones."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option
from gpu_spots.cli.output_options import PATH, json_option, plot_option, spots_argument
from gpu_spots.cli.terminal import say, show

if TYPE_CHECKING:
    from gpu_spots.simulate.score import Bin, Score


@click.command(cls=OneLineCommand)
@click.argument("run", metavar="RUN__mccd.h5", type=PATH)
@spots_argument
@json_option("everything")
@plot_option("recall, precision, positions and intensities by S/N")
@click.option("--force", is_flag=True, help="Overwrite an existing plot")
@debug_option
def score(run: Path, spots: Path, as_json: bool, plot: Path | None, force: bool) -> None:
    """Compare the spots found in a simulated run with the true ones.

    A found spot belongs to the true spot within 3 pixels, or within its sigma if that is more. Each
    belongs to one other at most, the nearest come together first. S/N is that of a spot on one
    frame, as an exact matched filter sees it. True spots below 1 are left out.
    """
    # here, so that --help and wrong usage answer at once
    from gpu_spots.errors import InputError
    from gpu_spots.files.output.simulated_run import read_found, read_truth
    from gpu_spots.simulate.score import score as compare

    truth, found = read_truth(run), read_found(spots)
    try:
        result = compare(truth, found)
    except ValueError as error:
        raise InputError(f"{spots}: is not from {run}: {error}") from error
    if plot is not None:
        from gpu_spots.files.output.score_plot import write_plot

        write_plot(plot, {spots.name: result}, force=force)
        say(f"{plot}: plot written")
    text = json.dumps(_plain(asdict(result)), indent=2) if as_json else table(result)
    for line in text.splitlines():
        show(line)


def table(result: "Score") -> str:
    """Return the result as text, its headline first."""
    clear = result.clear
    lines = [
        f"found {clear.found} of {clear.true} true spots above {clear.low:g} sigma "
        f"({_percent(clear.found, clear.true)})",
        "",
    ]
    pulls = bool(result.purity)
    heads = (
        f"{'S/N':>10} {'true':>8} {'found':>8} {'recall':>8} {'position':>9} {'bias':>8} "
        f"{'scatter':>8}"
    )
    lines.append(heads + (f" {'pulls':>7} {'in 68 %':>8} {'in 95 %':>8}" if pulls else ""))
    lines += [_row(part, pulls) for part in result.bins]
    rate = result.n_false / result.n_frames
    precision = _percent(result.n_genuine, result.n_found - result.n_static)
    lines += [
        "",
        f"{result.n_found} spots found on {result.n_frames} frames; precision {precision}",
        f"{result.n_false} of them at no true spot ({rate:.2f} per frame), {result.n_fragments} "
        "fragments of true spots",
    ]
    if result.n_merged is not None:
        lines.append(f"{result.n_merged} true spots merged into others")
    if result.n_static:
        lines.append(f"{result.n_static} spots found at static spots")
    if result.n_pairs:
        share = _percent(result.n_resolved, result.n_pairs)
        lines.append(
            f"{result.n_resolved} of {result.n_pairs} pairs of neighbours resolved ({share})"
        )
    if pulls:
        rates = [_percent(part.genuine, part.found) for part in result.purity]
        bins = [_limits(part.low, part.high) for part in result.purity]
        pairs = zip(bins, rates, strict=True)
        lines.append("precision by found I/sigma: " + ", ".join(f"{a}: {b}" for a, b in pairs))
    else:
        lines.append("no spots/sigma in the file: error bars are not checked")
    if not math.isnan(result.response_correlation):
        lines.append(
            f"on/off ratio against the true one: correlation {result.response_correlation:.3f}, "
            f"slope {result.response_slope:.3f}, scatter {result.response_scatter:.4f} "
            f"({result.response_spots} spots)"
        )
    return "\n".join(lines)


def _row(part: "Bin", pulls: bool) -> str:
    cells = [
        f"{_limits(part.low, part.high):>10}",
        f"{part.true:>8}",
        f"{part.found:>8}",
        f"{_percent(part.found, part.true):>8}",
        f"{_number(part.position_error, '.2f', ' px'):>9}",
        f"{_number(100 * part.intensity_bias, '+.1f', ' %'):>8}",
        f"{_number(100 * part.intensity_scatter, '.1f', ' %'):>8}",
    ]
    if pulls:
        cells += [
            f"{_number(part.pull_width, '.2f'):>7}",
            f"{_number(100 * part.covered_68, '.0f', ' %'):>8}",
            f"{_number(100 * part.covered_95, '.0f', ' %'):>8}",
        ]
    return " ".join(cells)


def _limits(low: float, high: float) -> str:
    return f"> {low:g}" if math.isinf(high) else f"{low:g} - {high:g}"


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
