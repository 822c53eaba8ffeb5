"""``gpu-spots ratios``: on/off ratios of a laser run, and tests of them."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.geometry_options import geometry_options
from gpu_spots.cli.output_options import (
    PATH,
    csv_option,
    force_option,
    json_option,
    output_option,
    plot_option,
    spots_argument,
)
from gpu_spots.cli.terminal import say, show

if TYPE_CHECKING:
    from gpu_spots.spots.ratios import RatioResult


TESTS = (
    "on/off",
    "off/off",
    "on/on",
    "off/off, scaled",
    "on/on, scaled",
    "pairs about their reflection",
)
"""Tests with pulls, in the order of the report."""


@click.command("ratios", cls=OneLineCommand)
@spots_argument
@output_option("Output file  [default: RUN__ratios.h5]")
@click.option(
    "--scale",
    type=click.Choice(["none", "pairs"]),
    default="none",
    show_default=True,
    help="Divide laser-on intensities by the median ratio of their pair of frames; this also "
    "removes a response that all spots share",
)
@click.option(
    "--intensity",
    type=click.Choice(["I", "I_prf"]),
    help="Column of spots with the intensities  [default: I_prf if the file has it]",
)
@click.option("--keep-saturated", is_flag=True, help="Use pairs with saturated spots too")
@click.option(
    "--hkl",
    metavar="TABLE",
    type=PATH,
    help="Miller indices of spots: text with the columns h, k, l and frame,label or frame,X,Y, an "
    "indexed DIALS table (.refl), or a folder of LaueTools' .fit files",
)
@click.option(
    "--cell",
    metavar="A,B,C[,ALPHA,BETA,GAMMA]",
    help="Unit cell, Angstrom and degrees, for the photo-Wilson fit of reflections with indices",
)
@geometry_options
@click.option(
    "--laueutil",
    metavar="NAME",
    type=PATH,
    help="Write the files of LaueUtil's lu_indexing2ratios: NAME.txt, NAME.hkl (SORTAV), NAME.m91 "
    "(LASER) and NAME.h5; needs --hkl",
)
@csv_option("ratios")
@plot_option("the ratios and the null tests")
@json_option("figures and verdict")
@force_option
@debug_option
def ratios(
    spots: Path,
    output: Path | None,
    scale: str,
    intensity: str | None,
    keep_saturated: bool,
    hkl: Path | None,
    cell: str | None,
    distance: float | None,
    pixel_size: str | None,
    beam_centre: str | None,
    wavelength: str | None,
    laueutil: Path | None,
    csv: Path | None,
    plot: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Write the on/off ratios of a laser run, with errors and null tests.

    The spots must be found with -S blocks or -S pairs, so that laser-off and laser-on frames share
    masks.
    """
    path = output or Path(re.sub(r"(__spots)?\.h5$", "", str(spots)) + "__ratios.h5")
    # here, so that --help and wrong usage answer at once
    from gpu_spots.api import ratios as make_ratios
    from gpu_spots.files.output.laueutil_ratios import output_names
    from gpu_spots.files.output.new_file import check_output
    from gpu_spots.files.output.new_plot import check_plot
    from gpu_spots.files.output.ratios_file import as_json as in_json
    from gpu_spots.files.output.ratios_file import write_csv
    from gpu_spots.files.output.ratios_plot import write_plot
    from gpu_spots.geometry import cell_of, geometry_of

    others = [other for other in (csv, plot) if other is not None]
    others += [] if laueutil is None else output_names(laueutil)
    if len({path, *others}) <= len(others):
        raise click.UsageError(
            f"{path}: two outputs have the same name", click.get_current_context()
        )
    for other in others:
        check_output(other, [spots, *([] if hkl is None else [hkl])], force)
    if plot is not None:
        check_plot(plot, force=force)
    with naming_options():
        found = make_ratios(
            spots,
            path,
            scale=scale,
            intensity=intensity,
            keep_saturated=keep_saturated,
            hkl=hkl,
            geometry=geometry_of(distance, pixel_size, beam_centre, wavelength),
            cell=cell_of(cell),
            laueutil=laueutil,
            force=force,
        )
    if csv is not None:
        write_csv(found, csv, spots, force=force)
    if plot is not None:
        write_plot(plot, found, force=force)
    if as_json:
        for line in in_json(found).splitlines():
            show(line)
    else:
        for line in report(found):
            show(line)
    say(f"{path}: {len(found.ratios['R'])} ratios")


def report(found: "RatioResult") -> list[str]:
    """Return figures, notes and verdict as lines."""
    figures = found.figures
    counts, error = figures["counts"], figures["error of a pair"]
    lines = [
        f"{counts['reflections']} reflections in {counts['frame_pairs']} frame pairs of "
        f"{counts['frames']} frames",
        *(f"note: {note}" for note in found.notes),
        f"variance of weak spots: {figures['noise factor']:.2f} x that of the spots file; "
        f"run-wide error of a pair: {100 * error['relative']:.2f} %",
        "",
        f"{'test':<28} {'n':>8} {'width':>8} {'beyond 3':>9}",
        *(f"{name:<28} {_line(figures[name])}" for name in TESTS if name in figures),
        "",
    ]
    halves = figures["odd/even"]
    lines.append(
        f"odd/even pairs: {halves['n']} reflections, correlation {halves['correlation']:.3f}, "
        f"slope {halves['slope']:.3f}, probability without response {halves['probability']:.1e}"
    )
    lines += [
        f"change of all spots{_delay(each['delay'])}: {100 * each['change']:+.2f} % +- "
        f"{100 * each['sigma']:.2f} %, probability without response {each['probability']:.1e}"
        for each in figures["common change"]
    ]
    lines += [
        f"photo-Wilson{_delay(fit['delay'])}: {fit['n']} reflections, delta B = "
        f"{fit['delta_B']:.3f} +- {fit['sigma_delta_B']:.3f} A^2, scale {fit['scale']:.4f} +- "
        f"{fit['sigma_scale']:.4f}"
        for fit in figures.get("photo-Wilson", [])
    ]
    return [*lines, found.verdict]


def _line(test: dict[str, Any]) -> str:
    """Return number, width and number beyond 3 sigma of a test."""
    width = f"{test['width']:.2f}" if test["n"] else "-"
    return f"{test['n']:>8} {width:>8} {test['beyond_3']:>9}"


def _delay(seconds: float) -> str:
    """Return a delay in words; empty if it is unknown."""
    return "" if math.isnan(seconds) else f", delay {seconds:g} s"
