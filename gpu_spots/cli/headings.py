"""Options of a command under headings, in its help."""

from collections.abc import Iterable, Mapping, Sequence

import click


def named_options(command: click.Command, ctx: click.Context) -> dict[str, click.Option]:
    """Return the options of a command by their names."""
    options = (one for one in command.get_params(ctx) if isinstance(one, click.Option))
    return {str(option.name): option for option in options}


def taken(
    options: dict[str, click.Option], headings: Mapping[str, Sequence[str]]
) -> dict[str, list[click.Option]]:
    """Move options out of ``options``, to the headings that list their names."""
    return {
        heading: [options.pop(name) for name in names if name in options]
        for heading, names in headings.items()
    }


def write_options(
    formatter: click.HelpFormatter,
    ctx: click.Context,
    headings: Mapping[str, Iterable[click.Option]],
) -> None:
    """Write a list of options under each heading."""
    for heading, options in headings.items():
        records = [option.get_help_record(ctx) for option in options]
        with formatter.section(heading):
            formatter.write_dl([record for record in records if record])
