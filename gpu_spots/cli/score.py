"""``gpu-spots score``: what a search found of a simulated run's spots."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpu_spots.cli.terminal import show

if TYPE_CHECKING:
    from gpu_spots.simulate.score import Score


@click.command()
@click.argument("run", metavar="RUN__mccd.h5", type=click.Path(path_type=Path))
@click.argument("spots", metavar="RUN__spots.h5", type=click.Path(path_type=Path))
def score(run: Path, spots: Path) -> None:
    """Compare the spots found in a simulated run with the true ones.

    A true spot counts as found on a frame if a pixel of a found spot is within 2 pixels of its
    centre. S/N is the expected signal-to-noise of the spot integrated on one frame. True spots
    below 1 are left out; found spots at no other are false.
    """
    # Loaded here, so that --help is quick.
    from gpu_spots.errors import InputError
    from gpu_spots.files.output.simulated_run import read_truth
    from gpu_spots.files.output.spots_file import open_spots
    from gpu_spots.simulate.score import score as compare

    truth = read_truth(run)
    with open_spots(spots) as found:
        try:
            result = compare(truth, found)
        except KeyError as error:
            raise InputError(error.args[0]) from error
        except ValueError as error:
            raise InputError(f"{spots}: is not from {run}: {error}") from error
    for line in table(result).splitlines():
        show(line)


def table(result: "Score") -> str:
    """The result as text, its headline first."""
    clear = result.clear
    lines = [
        f"found {clear.found} of {clear.true} true spots above {clear.low:g} sigma ({_percent(clear.found, clear.true)})",
        "",
    ]
    lines.append(f"{'S/N':>10} {'true':>8} {'found':>8} {'recall':>8}")
    for part in result.bins:
        label = f"> {part.low:g}" if math.isinf(part.high) else f"{part.low:g} - {part.high:g}"
        lines.append(
            f"{label:>10} {part.true:>8} {part.found:>8} {_percent(part.found, part.true):>8}"
        )
    genuine = result.n_found - result.n_false
    rate = result.n_false / result.n_frames
    lines += [
        "",
        f"{result.n_found} spots found on {result.n_frames} frames; precision {_percent(genuine, result.n_found)}",
        f"{result.n_false} of them at no true spot ({rate:.2f} per frame), {result.n_merged} at more than one",
    ]
    if not math.isnan(result.response_correlation):
        lines.append(
            f"on/off ratio against the true one: correlation {result.response_correlation:.3f} ({result.response_spots} spots)"
        )
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
