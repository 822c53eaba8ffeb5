"""The two programs: gpu-spots with its commands, and lu_hdf2spots, that of the manual."""

import click

from gpu_spots import __version__
from gpu_spots.cli.batch import batch
from gpu_spots.cli.convert import convert
from gpu_spots.cli.devices import devices
from gpu_spots.cli.errors import OneLineGroup
from gpu_spots.cli.export import export
from gpu_spots.cli.find import find, lu_hdf2spots
from gpu_spots.cli.info import info
from gpu_spots.cli.merge import merge
from gpu_spots.cli.ratios import ratios
from gpu_spots.cli.report import report
from gpu_spots.cli.score import score
from gpu_spots.cli.simulate import simulate
from gpu_spots.cli.tune import tune
from gpu_spots.cli.view import view
from gpu_spots.cli.watch import watch

__all__ = ["gpu_spots", "lu_hdf2spots"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=OneLineGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="gpu-spots", help="Show the version and exit")
def gpu_spots() -> None:
    """Find the spots of Laue diffraction runs."""


gpu_spots.add_command(find)
gpu_spots.add_command(info)
gpu_spots.add_command(convert)
gpu_spots.add_command(export)
gpu_spots.add_command(ratios)
gpu_spots.add_command(merge)
gpu_spots.add_command(report)
gpu_spots.add_command(view)
gpu_spots.add_command(tune)
gpu_spots.add_command(batch)
gpu_spots.add_command(watch)
gpu_spots.add_command(simulate)
gpu_spots.add_command(score)
gpu_spots.add_command(devices)
