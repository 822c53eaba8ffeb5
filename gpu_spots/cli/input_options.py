"""Options for the input, shared by the commands that read runs."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.output_options import PATH

Command = TypeVar("Command", bound=Callable[..., Any])

TABLE = click.option(
    "--table", metavar="FILE", type=PATH,
    help="Table (CSV or TSV) with one row per frame and the columns angle, laser_on, ...; "
    "for images also file",
)  # fmt: skip
"""Option for a table, which convert has too."""
OPTIONS = (
    click.option(
        "--frames", "frames_path", metavar="PATH", multiple=True,
        help="Dataset of the frames, or its group; may be repeated for successive datasets  "
        "[default: searched for]",
    ),
    click.option(
        "--angles-path", metavar="PATH",
        help="Dataset of the angles in the file, degrees, one per frame  [default: searched for]",
    ),
    click.option(
        "--laser-path", metavar="PATH",
        help="Dataset of the laser states in the file, one per frame  [default: searched for]",
    ),
    TABLE,
    click.option(
        "--mask", metavar="FILE[:PATH]", shell_complete=file_names,
        help="Image of good and bad pixels (HDF5, NPY, TIFF, EDF), combined with the pixel mask "
        "stored in the input file",
    ),
    click.option(
        "--mask-good", type=click.Choice(["0", "1"]),
        help="Good pixels of --mask: 0 (zeros are good) or 1 (non-zeros are good)  "
        "[default: as NXmx or CXI define it, for their masks]",
    ),
    click.option(
        "--no-file-mask", is_flag=True, help="Ignore the pixel mask stored in the input file"
    ),
    click.option(
        "--reject", metavar="REGION", multiple=True,
        help="Pixels to exclude: rect:X0,X1,Y0,Y1 (ends exclusive), disc:X,Y,R or border:N; "
        "may be repeated",
    ),
    click.option(
        "--valid-range", metavar="LOW,HIGH",
        help="Smallest and largest valid value; either may be omitted; none: all are valid  "
        "[default: from the input file]",
    ),
    click.option(
        "--saturation", metavar="VALUE",
        help="Smallest saturated value, counts; saturated pixels stay in spots and are counted  "
        "[default: from the input file, else the maximum of the type]",
    ),
)  # fmt: skip
NAMES = (
    "frames_path",
    "angles_path",
    "laser_path",
    "table",
    "mask",
    "mask_good",
    "no_file_mask",
    "reject",
    "valid_range",
    "saturation",
)
"""Names of the parameters that the options set."""


def input_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_inputs(options: dict[str, Any], with_table: bool = True) -> Any:
    """Take the values of these options out of ``options``, and return them as `Inputs`.

    Args:
        options: values of all options of a command, by the names of the parameters.
        with_table: use the table; False: the table belongs to the images.

    Raises:
        ParameterError: a value is not allowed.
    """
    # here, so that --help and wrong usage answer at once
    from gpu_spots.errors import ParameterError
    from gpu_spots.inputs import Inputs, number, parse_range, parse_regions

    values = {name: options.pop(name) for name in NAMES}
    if not with_table:
        values["table"] = None
    values["file_mask"] = not values.pop("no_file_mask")
    values["reject"] = parse_regions(values["reject"])
    if values["mask_good"] is not None:
        values["mask_good"] = int(values["mask_good"])
    if values["valid_range"] is not None:
        values["valid_range"] = parse_range(values["valid_range"])
    if values["saturation"] is not None:
        try:
            values["saturation"] = number(values["saturation"])
        except ValueError:
            raise ParameterError(
                "saturation", f"{values['saturation']!r} is not a finite number"
            ) from None
    return Inputs(**values)


def as_arguments(
    command: click.Command, options: dict[str, Any], names: Collection[str]
) -> list[str]:
    """Return the words of a command line that give the options of these names their values."""
    arguments = []
    for option in command.params:
        value = options.get(option.name or "")
        if (
            option.name not in names
            or not isinstance(option, click.Option)
            or value in (None, False, ())
        ):
            continue
        for one in value if option.multiple else (value,):
            arguments += (
                option.opts[:1]
                if one is True
                else [option.opts[0], ",".join(one) if isinstance(one, tuple) else str(one)]
            )
    return arguments
