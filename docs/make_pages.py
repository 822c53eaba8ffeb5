"""Write the parts of the documentation that follow from other files.

``python docs/make_pages.py`` writes

- the tables of options in ``options.md``, from the commands of `gpu_spots.cli`;
- the tables of datasets in ``file-format.md``, from the records of `gpu_spots.columns`;
- the table of formats in ``export.md``, from `gpu_spots.export.formats`;
- the tables of datasets in ``ratios.md``, from `gpu_spots.files.output.ratios_file` and
  `gpu_spots.files.output.merged_file`;
- the notebook ``tutorial.ipynb``, from ``tutorial.md``.

A table stands between two comments in its page. The text around it is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from gpu_spots.cli import gpu_spots
from gpu_spots.cli.find import OURS, find
from gpu_spots.cli.run_options import PASSED
from gpu_spots.columns import (
    AXES,
    DATASETS,
    FRAME_COLUMNS,
    MASK_COLUMNS,
    MASKS,
    NOISE_COLUMNS,
    PIXEL_COLUMNS,
    SPOT_COLUMNS,
    STATS,
    SURFACE,
    DatasetRecord,
)
from gpu_spots.export.formats import FORMATS
from gpu_spots.files.output.merged_file import (
    COMPARISON_COLUMNS,
    MEMBER_COLUMNS,
    MERGED_COLUMNS,
)
from gpu_spots.files.output.ratio_views import MERGED_VIEWS, RATIO_VIEWS
from gpu_spots.files.output.ratios_file import (
    FRAME_PAIR_COLUMNS,
    NULL_COLUMNS,
    PAIR_COLUMNS,
    RATIO_COLUMNS,
)
from gpu_spots.files.output.spots_writer import BACKGROUND, VIEWS
from gpu_spots.parameters import MANUAL_DEFAULTS

DOCS = Path(__file__).parent
BEGIN, END = "<!-- table made by docs/make_pages.py: {} -->", "<!-- end of the table -->"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
CODE = re.compile(
    r"'(?P<quoted>[^']+)'"  # patterns
    r"|(?<![\w`])(?P<name>--?[a-zA-Z][\w-]*(?: none\b)?"  # options
    r"|X \* n_Y \+ Y|(?<=allowed values: )[\w, ]+"
    r"|(?:\w+[./])*\w*_[\w.]*\w(?:\[\w+\])?"  # names with an underscore, and files
    r"|(?:masks|spots|stats|lauecollect)/\w+(?:\[\w+\])?)"  # datasets
)
"""Parts of descriptions that are shown as code."""
PICTURE = re.compile(r'<picture>.*?src="(.*?)"\s+alt="(.*?)".*?</picture>', re.DOTALL)


def main() -> None:
    """Write every file that is not up to date."""
    for path, text in made_files().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"{path}: written")


def made_files() -> dict[Path, str]:
    """Return the files that have parts made here, with the texts that they should have."""
    texts = {}
    pages: dict[str, dict[str, Callable[[str], str]]] = {
        "options.md": OPTION_TABLES,
        "file-format.md": DATASET_TABLES,
        "export.md": {"formats": format_table},
        "ratios.md": RATIO_TABLES,
    }
    for name, tables in pages.items():
        text = (DOCS / name).read_text()
        for title, table in tables.items():
            text = with_table(text, title, table(text))
        texts[DOCS / name] = text
    texts[DOCS / "tutorial.ipynb"] = notebook((DOCS / "tutorial.md").read_text())
    return texts


def with_table(page: str, title: str, table: str) -> str:
    """Return a page with another table between the comments of this title."""
    before, begin, rest = page.partition(BEGIN.format(title))
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{title}: no such table in the page, expected {BEGIN.format(title)}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def rows(head: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *cells]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in escaped)


def anchor(heading: str) -> str:
    """Return the name by which a heading can be linked to, on GitHub and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def with_code(words: str) -> str:
    """Return a description with names and patterns as code, where Markdown leaves them alone."""

    def code(found: re.Match[str]) -> str:
        return ", ".join(f"`{part}`" for part in (found["quoted"] or found["name"]).split(", "))

    return CODE.sub(code, words)


def option_row(option: click.Option, command: click.Command, page: str) -> tuple[str, ...]:
    """Return names, help and default of an option, with a link to its heading in the page."""
    # click knows -h only where it is listed in the context settings
    with click.Context(command, **command.context_settings) as context:
        record = option.get_help_record(context)
    assert record is not None
    names, words = record
    metavar = re.sub(r"^.*--[\w-]+", "", names).strip()
    metavar = {"INTEGER RANGE": "N", "FLOAT RANGE": "NUMBER"}.get(metavar, metavar)
    text = f"`{', '.join(names_of(option))} {metavar}".rstrip() + "`"
    heading = re.search(rf"^#+ (.*`{option.opts[-1]}[` ].*)$", page, re.MULTILINE)
    if heading and command is find:
        text = f"[{text}](#{anchor(heading[1])})"
    words, *brackets = re.split(r"\s*\[(?=default: |x|-?[\d.]+<)", words)
    found = [part for bracket in brackets for part in bracket.rstrip(" ]").split("; ")]
    defaults = [part[9:].strip("()") for part in found if part.startswith("default: ")]
    if command is find and (manual := MANUAL_DEFAULTS.get(str(option.name))):
        defaults.append(f"; manual: {manual}")
    limits = [in_words(part) for part in found if not part.startswith("default: ")]
    meaning = ", ".join([words.rstrip("."), *limits])
    return text, with_code(meaning), with_code("".join(defaults))


def names_of(option: click.Option) -> list[str]:
    """Return the names of an option, and the names that switch it off."""
    return list(dict.fromkeys([*option.opts, *option.secondary_opts]))


def in_words(limits: str) -> str:
    """Return the limits of a number as click writes them, such as ``1<=x<=9``, in words."""
    low, _, rest = limits.partition("<=x<=")
    return f"{low} to {rest}" if rest else limits.replace("x>=", "at least ")


def options(command: click.Command) -> list[click.Option]:
    """Return the options of a command, ``--help`` first."""
    group = click.Context(gpu_spots, **gpu_spots.context_settings)
    with click.Context(command, parent=group, **command.context_settings) as context:
        found = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return sorted(found, key=lambda option: "--help" not in option.opts)


def find_table(names: Iterable[str] | None) -> Callable[[str], str]:
    """Return what makes the table of some options of find; None: those of the manual."""

    def table(page: str) -> str:
        ours = {name for listed in OURS.values() for name in listed}
        by_name = {str(option.name): option for option in options(find)}
        listed = [name for name in by_name if name not in ours] if names is None else names
        cells = [option_row(by_name[name], find, page) for name in listed]
        return rows(("option", "meaning", "default"), cells)

    return table


def command_table(name: str) -> Callable[[str], str]:
    """Return what makes the table of a command other than find."""

    def table(page: str) -> str:
        command = gpu_spots.commands[name]
        as_for_find = [option.opts for option in options(find)]
        own: list[click.Option] = []
        shared: list[click.Option] = []
        for option in options(command):
            if "--help" in option.opts:  # click lists -h too once the command has run in a group
                continue
            same = option.opts in as_for_find and "--output" not in option.opts
            (shared if same and name in ("convert", "info") else own).append(option)
        cells = [option_row(option, command, page) for option in own]
        if shared:
            names = [f"`{name}`" for option in shared for name in names_of(option)]
            cells.append((", ".join(names), "as for `find`", ""))
        return rows(("option", "meaning", "default"), cells)

    return table


def batch_table(name: str) -> Callable[[str], str]:
    """Return what makes the table of a command for many runs, without the options of find."""

    def table(page: str) -> str:
        command = gpu_spots.commands[name]
        own = [
            option
            for option in options(command)
            if option.name not in PASSED and "--help" not in option.opts
        ]
        return rows(
            ("option", "meaning", "default"),
            [option_row(option, command, page) for option in own],
        )

    return table


OPTION_TABLES = {
    "manual": find_table(None),
    **{heading: find_table(names) for heading, names in OURS.items()},
    **{
        name: command_table(name)
        for name in (
            "convert",
            "info",
            "export",
            "ratios",
            "merge",
            "report",
            "view",
            "tune",
            "simulate",
            "score",
            "devices",
        )
    },
    **{name: batch_table(name) for name in ("batch", "watch")},
}


def dataset_table(records: Iterable[DatasetRecord]) -> Callable[[str], str]:
    """Return what makes the table of some datasets of the spots file."""

    def table(_: str) -> str:
        cells = []
        for record in records:
            shape = ", ".join(map(str, record.shape))
            *others, last = record.dtypes
            kind = f"{', '.join(others)}{' or ' * bool(others)}{last} ({shape})"
            kept = f"`{record.stack}` is not in --keep" if record.stack else ""
            absent = " or if ".join(filter(None, (record.absent, kept)))
            meaning = record.description + (f". Absent if {absent}" if absent else "")
            cells.append((f"`{record.path}`", kind, record.unit or "", with_code(meaning)))
        return rows(("path", "type and shape", "unit", "description"), cells)

    return table


def link_table(_: str) -> str:
    """Return the table of soft links."""
    cells = [(f"`{r.link}`", f"`{r.path}`") for r in DATASETS.values() if r.link]
    return rows(("link", "target"), cells)


def format_table(_: str) -> str:
    """Return the table of the formats that ``gpu-spots export`` writes."""
    cells = [
        (f"`{one.name}`", one.title, one.reader, f"`RUN{one.ending}`", one.written, one.left_out)
        for one in FORMATS.values()
    ]
    return rows(("format", "is", "read by", "output", "what is written", "what is left out"), cells)


def view_table(_: str) -> str:
    """Return the table of the NXdata groups of a spots file."""
    avg, *others = (f"`{path}`" for path in BACKGROUND)
    cells = [
        ("`entry/background`", f"{avg}; also {', '.join(others)}"),
        ("`entry/frames`", "the frames, by a link to their file"),
        *((f"`entry/{name}`", f"`{path}`") for name, path in VIEWS.items()),
    ]
    return rows(("group", "picture"), cells)


DATASET_TABLES = {
    "statistics": dataset_table(STATS),
    "masks": dataset_table((*MASKS, *MASK_COLUMNS)),
    "spots": dataset_table((*SPOT_COLUMNS, *PIXEL_COLUMNS)),
    "frames": dataset_table((*FRAME_COLUMNS, SURFACE)),
    "noise": dataset_table(NOISE_COLUMNS),
    "axes": dataset_table(AXES),
    "views": view_table,
    "links": link_table,
}

RATIO_TABLES = {
    "ratios": dataset_table(RATIO_COLUMNS),
    "pairs": dataset_table(PAIR_COLUMNS),
    "frame pairs": dataset_table(FRAME_PAIR_COLUMNS),
    "null": dataset_table(NULL_COLUMNS),
    "ratio views": dataset_table(RATIO_VIEWS),
    "merged": dataset_table(MERGED_COLUMNS),
    "members": dataset_table(MEMBER_COLUMNS),
    "comparison": dataset_table(COMPARISON_COLUMNS),
    "merged views": dataset_table(MERGED_VIEWS),
}


def notebook(page: str) -> str:
    """Return a page as a notebook: its commands and its Python code become cells to run."""
    page = re.sub(r"<!-- not in the notebook -->.*?\n\n", "", page, flags=re.DOTALL)
    page = PICTURE.sub(r"![\2](\1)", page)
    cells, end = [], 0
    for block in BLOCK.finditer(page):
        language, code = block.groups()
        if language not in ("sh", "python"):
            continue
        if language == "sh":
            code = "".join(f"!{line}\n" for line in code.splitlines())
        cells += [("markdown", page[end : block.start()]), ("code", code)]
        end = block.end()
    cells.append(("markdown", page[end:]))
    made = []
    for index, (kind, text) in enumerate((kind, text.strip()) for kind, text in cells):
        lines = text.splitlines(keepends=True)
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{index}",
            "metadata": {},
            "source": lines,
        }
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        if text:
            made.append(cell)
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    record = {
        "cells": made,
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
