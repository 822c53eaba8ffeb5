"""The command line: the only modules that import click, one file per command."""

from gpu_spots.cli.main import gpu_spots, lu_hdf2spots

__all__ = ["gpu_spots", "lu_hdf2spots"]
