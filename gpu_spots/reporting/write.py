"""Page of a report and its numbers, written so that both are complete or absent."""

import base64
import hashlib
import json
import re
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots import __version__
from gpu_spots.errors import GpuSpotsError, OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent, new_binary_file
from gpu_spots.packages import install_command
from gpu_spots.reporting.facts import Facts, open_facts
from gpu_spots.reporting.parts import Section, for_json
from gpu_spots.reporting.sections import sections
from gpu_spots.reporting.verdict import Verdict, verdict

PAGE = resources.files("gpu_spots.reporting").joinpath("page")
"""Folder of the template, its style and its scripts."""


def default_output(spots: Path) -> Path:
    """Return ``RUN__report.html`` beside a spots file ``RUN__spots.h5``."""
    return spots.parent / (re.sub(r"(__spots)?\.h5$", "", spots.name) + "__report.html")


def check_report(output: Path, sources: list[Path], *, force: bool) -> None:
    """Raise `GpuSpotsError` if a report cannot be made: an output exists, or Jinja2 is missing."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise GpuSpotsError(
            f"{output}: a report needs Jinja2, which is not installed; "
            f"use {install_command('report')}"
        ) from None
    if output.suffix == ".json":
        raise OutputError(f"{output}: is the name of the numbers, expected one that ends in .html")
    for path in (output, output.with_suffix(".json")):
        check_output(path, sources, force)


def write_report(
    spots: Path, output: Path, frames_from: Path | None = None, *, force: bool = False
) -> Verdict:
    """Write the report of a run, and its numbers as JSON beside it.

    Args:
        spots: Spots file.
        output: Page to write; the numbers get the same name with the ending ``.json``.
        frames_from: HDF5 file with the frames of the run, or folder of its images. None: as the
            spots file names them.
        force: Whether existing outputs are overwritten.

    Returns:
        The verdict on the run.

    Raises:
        GpuSpotsError: The spots file or the frames cannot be read, an output exists or cannot be
            written, or Jinja2 is not installed.
    """
    sources = [spots, *([frames_from] if frames_from else [])]
    check_report(output, sources, force=force)
    numbers = output.with_suffix(".json")
    with open_facts(spots, frames_from) as facts:
        if facts.stack is not None:
            for path in (output, numbers):
                check_output(path, [*sources, *facts.stack.files], force)
        found, parts = verdict(facts), sections(facts)
        contents = {
            output: page(facts, found, parts, numbers.name).encode(errors="backslashreplace"),
            numbers: json.dumps(as_json(facts, found, parts), indent=1).encode(),
        }
    with ExitStack() as opened:
        for path, content in contents.items():
            part = opened.enter_context(complete_or_absent(path))
            with new_binary_file(part, str(path)) as file:
                file.write(content)
    return found


def as_json(facts: Facts, found: Verdict, parts: list[Section]) -> dict[str, Any]:
    """Return all numbers of a report, of types that JSON can hold."""
    return {
        "spots_file": for_json(facts.name),
        "version": __version__,
        "ok": found.is_ok,
        "verdict": found.sentence,
        "findings": [
            {"level": one.level, "title": one.title, "text": one.text, "section": one.section}
            for one in found.findings
        ],
        "warnings": for_json(facts.warnings),
        "command": for_json(facts.text("command_line")),
        "sections": {
            part.name: {
                "text": for_json(part.text),
                "numbers": for_json(part.numbers),
                "charts": [chart.as_dict() for chart in part.charts],
                "tables": [
                    {"title": table.title, "head": list(table.head), "rows": for_json(table.rows)}
                    for table in part.tables
                ],
            }
            for part in parts
        },
    }


def page(facts: Facts, found: Verdict, parts: list[Section], json_name: str) -> str:
    """Return a report as HTML. All text is escaped, whatever it comes from."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    uplot, script = _file("uPlot.js"), _file("report.js")
    charts = [chart.as_dict() for part in parts for chart in part.charts]
    name = Path(facts.name).name
    return environment.from_string(_file("report.html")).render(
        title=f"{name}: report",
        path=f"{facts.name}; {_made(facts)}",
        verdict=found,
        tiles=tiles(facts),
        sections=[_Shown(part) for part in parts],
        names={part.name for part in parts},
        command=facts.text("command_line"),
        version=__version__,
        json_name=json_name,
        css=Markup(_file("report.css")),  # noqa: S704 - files of this package
        uplot_css=Markup(_file("uPlot.css")),  # noqa: S704
        licence=_file("uPlot-LICENSE.txt"),
        charts=Markup(for_script(charts)),  # noqa: S704
        uplot=Markup(uplot),  # noqa: S704
        script=Markup(script),  # noqa: S704
        hashes=" ".join(map(_hash, (uplot, script))),
    )


class _Shown:
    """Section as the template sees it."""

    def __init__(self, section: Section) -> None:
        self.name, self.title, self.text = section.name, section.title, section.text
        self.charts, self.pictures, self.tables = section.charts, section.pictures, section.tables
        self.marked = any(picture.marks for picture in section.pictures)


def for_script(value: Any) -> str:
    """Return JSON that cannot end the script element that it is in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def tiles(facts: Facts) -> list[tuple[str, list[str]]]:
    """Return the most important numbers of a run with their names, in parts that stay whole."""
    n_frames, n_rows, n_columns = facts.shape
    found = [
        ("frames", f"{n_frames} of {n_rows} x {n_columns}"),
        ("spots", str(facts.n_spots)),
    ]
    counts = facts.n_spots_of_frame
    if n_frames:
        three = f"{counts.min()}, {np.median(counts):g}, {counts.max()}"
        found.append(("spots per frame: min, median, max", three))
    block = facts.frames.get("block", np.zeros(0, int))
    if (block >= 0).any():
        angle = facts.frames["angle"]
        limits = f"{np.nanmin(angle):g} to {np.nanmax(angle):g}°"
        found.append(("angles", f"{len(np.unique(block[block >= 0]))}, {limits}"))
    states = facts.frames.get("laser_on", np.zeros(0, int))
    if (states >= 0).any():
        found.append(("laser", f"{(states == 0).sum()} off, {(states == 1).sum()} on"))
    if facts.noise_model:
        found.append(("gain, counts per photon", f"{facts.noise_model['gain']:.4g}"))
    names = {"-m": "method", "-n": "n", "-c": "cutoff", "-e": "erosions", "-d": "dilations"}
    if facts.text("finder") == "matched":
        names = {"-m": "method", "--finder": "finder", "--significance": "significance"}
    options = [f"{option} {facts.text(name)}" for option, name in (names | {"-S": "sync"}).items()]
    return [*((name, [value]) for name, value in found), ("options", options)]


def _made(facts: Facts) -> str:
    """Return when and by what the spots were found."""
    program = " ".join(filter(None, (facts.text("program"), facts.text("version"))))
    return f"spots found by {program or 'an unknown program'}, {facts.text('start_time')}"


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(name: str) -> str:
    return PAGE.joinpath(name).read_text(encoding="utf-8")
