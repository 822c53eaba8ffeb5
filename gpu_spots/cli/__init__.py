"""The command line: the only rooms that import click, one file a subcommand."""

from gpu_spots.cli.main import gpu_spots, lu_hdf2spots

__all__ = ["gpu_spots", "lu_hdf2spots"]
