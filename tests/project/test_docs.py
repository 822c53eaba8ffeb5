"""The documentation is right: examples, commands, links, and completeness."""

import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from factories.image_runs import write_scan
from gpu_spots import Parameters, find_spots, open_spots
from gpu_spots.cli import gpu_spots as gpu_spots_command
from gpu_spots.cli.find import find, lu_hdf2spots
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.parameters import (
    BACKEND_NAMES,
    FINDERS,
    MANUAL_DEFAULTS,
    METHOD_NAMES,
    NORMALISATIONS,
    STACK_NAMES,
    SYNCS,
)
from gpu_spots.simulate.design import Design, SpotDesign
from gpu_spots.simulate.run import simulate_run
from helpers import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"^(?P<note>(?:<!--[^\n]*-->\n)?)```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = "<!-- not run"
"""Stands on the line before an example that is not to be run, and says why."""
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|(?:src|srcset|href)=\"(?P<quoted>[^\"]+)\"")


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line and text of the code blocks of a page, but for those marked as not run."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if found["language"] in languages and not found["note"].startswith(NOT_RUN):
            yield text.count("\n", 0, found.start("code")) + 1, found["code"]


def section(page: str, heading: str) -> str:
    """The text from a heading that contains ``heading`` to the next one."""
    parts = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    return next((part for part in parts if heading in part.split("\n")[0]), "")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    plain = [
        unicodedata.normalize("NFC", re.sub(r"[`*]", "", heading)).strip().lower()
        for heading in headings
    ]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small runs for the examples, and their spots."""
    folder = tmp_path_factory.mktemp("runs")
    for name, laser, angles, repeats in (("laser", True, 10, 3), ("dark", False, 30, 1)):
        run = folder / f"{name}__mccd.h5"
        write_run(
            run,
            simulate_run(
                Design(laser=laser, size=(256, 288), angles=angles, repeats=repeats, spots=50)
            ),
        )
        find_spots(
            run,
            Parameters(sync="blocks" if laser else "none"),
            output=folder / f"{name}__spots.h5",
        ).close()
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.name
)
def test_examples_run(
    page: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run one after the other, in one namespace, beside the simulated runs."""
    for file in runs.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example"])
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # empty lines first, so that a traceback names the line of the page
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


LASER_RUNS: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "delay without laser_on": lambda on: {"delay": np.where(on, "100ps", "-").astype(object)},
    "delay NaN": lambda on: {"delay": np.where(on, 1e-10, np.nan)},
    "words": lambda on: {"laser_on": np.where(on, "on", "off").astype(object)},
    "two delays": lambda on: {
        "laser_on": on.astype(int),
        "delay": np.where(on, ["-", "1ns", "-", "1ms"] * (len(on) // 4), "-").astype(object),
    },
    "on before off": lambda on: {"laser_on": on.astype(int)},
    "missing frame": lambda on: {"laser_on": on.astype(int)},
}


@pytest.mark.parametrize("kind", LASER_RUNS)
def test_ratios_of_every_laser_run(
    kind: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tutorial's ratio script gives the same ratios whatever tells the laser state."""
    pages = [code for _, code in blocks(ROOT / "docs/tutorial.md", "python")]
    script = next(code for code in pages if "results.ratios()" in code)
    assert len([line for line in script.splitlines() if line]) <= 6  # it stays short
    script = f"import numpy as np\n{script}"
    monkeypatch.chdir(tmp_path)
    shutil.copy(runs / "laser__spots.h5", tmp_path)
    expected: dict[str, Any] = {}
    exec(script, expected)

    with h5py.File(runs / "laser__mccd.h5") as file:
        frames, angle = file["frames"][:], file["lauecollect/angle"][:]
        on = file["lauecollect/laser_on"][:].astype(bool)
    order = np.arange(len(on))
    if kind == "on before off":
        order = order.reshape(-1, 2)[:, ::-1].ravel()
    if kind == "missing frame":
        order = np.delete(order, 7)
    columns = {"angle": angle[order], **LASER_RUNS[kind](on[order])}
    output, blocks_shared = tmp_path / "laser__spots.h5", Parameters(sync="blocks")
    find_spots(frames[order], blocks_shared, columns=columns, output=output, force=True).close()
    found: dict[str, Any] = {}
    exec(script, found)

    assert np.isfinite(found["ratio"]).mean() > 0.9
    assert np.isfinite(found["error"]).mean() > 0.9
    if kind == "missing frame":  # another background, so other masks
        assert len(found["ratio"]) > len(expected["ratio"]) / 2
    elif kind == "two delays":
        assert len(found["ratio"]) == 2 * len(expected["ratio"])
    else:
        np.testing.assert_allclose(found["ratio"], expected["ratio"], rtol=1e-12)


def _indexed_csv(path: Path) -> None:
    """Miller indices as an indexing program could give them, for all spots of the run."""
    with open_spots("laser__spots.h5") as results:
        spots = results.spots()
    rows = zip(
        spots["frame"].tolist(), spots["label"].tolist(), spots["mask"].tolist(), strict=True
    )
    lines = [f"{frame},{label},{label},{mask + 1},-1" for frame, label, mask in rows]
    path.write_text("\n".join(["frame,label,h,k,l", *lines]))


def _ratios_of_another_run(path: Path) -> None:
    shutil.copy("laser__ratios.h5", path)
    with h5py.File(path, "r+") as file:
        file["info"].attrs["spots_file"] = path.name


USERS_FILES: dict[str, Callable[[Path], None]] = {
    "indexed.csv": _indexed_csv,
    "first__ratios.h5": _ratios_of_another_run,
    "second__ratios.h5": _ratios_of_another_run,
}
"""Files that commands of the pages need, and no command before them makes."""


@pytest.mark.parametrize("name", ["ratios.md", "export.md"])
def test_commands_run_one_after_the_other(
    name: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, on a smaller run."""
    pytest.importorskip("pyarrow", reason="needs the extra export: pyarrow")
    pytest.importorskip("matplotlib", reason="needs the extra plots: matplotlib")
    monkeypatch.chdir(tmp_path)
    for file in ("laser__mccd.h5", "laser__spots.h5") if name == "export.md" else ():
        shutil.copy(runs / file, tmp_path)
    n_run = 0
    for line, code in blocks(ROOT / "docs" / name, "sh"):
        for command in code.replace("\\\n", "").splitlines():
            program, *arguments = shlex.split(command, comments=True)
            assert program == "gpu-spots", f"{name}:{line}: {command}"
            for given in arguments:
                if given in USERS_FILES and not Path(given).exists():
                    USERS_FILES[given](Path(given))
            if arguments[0] == "simulate":
                arguments += ["--size", "128", "--spots", "30"]
            ended = CliRunner().invoke(gpu_spots_command, arguments)
            assert ended.exit_code == 0, f"{name}:{line}: {command}: {ended.output}"
            n_run += 1
    assert n_run > 5


@pytest.fixture(scope="session")
def sharp_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark run with spots of a sigma of 0.5 pixels."""
    path = tmp_path_factory.mktemp("sharp") / "sharp__mccd.h5"
    shape = SpotDesign(area=12, area_spread=0.3, smallest_area=2, elongation=(1.0, 1.5))
    run = simulate_run(Design(laser=False, size=(512, 512), angles=30, repeats=1, shape=shape))
    assert 0.4 < np.median(run.truth.spots.sigma) < 0.6
    write_run(path, run)
    return path


SHARP_ROWS = re.findall(
    r"^\| (defaults|`-[^`]*`) \| ([\d.]+) % \| ([\d.]+) \|$",
    section("docs/options.md", "`--erosions"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("options", "recall", "false"), SHARP_ROWS)
def test_options_for_sharp_spots(options: str, recall: str, false: str, sharp_run: Path) -> None:
    """The table gives the numbers that the options yield."""
    arguments = [] if options == "defaults" else shlex.split(options.strip("`"))
    output = sharp_run.with_name("sharp__spots.h5")
    runner = CliRunner()
    arguments = [str(sharp_run), "-o", str(output), "--force", "--quiet", *arguments]
    assert runner.invoke(lu_hdf2spots, arguments).exit_code == 0
    score = runner.invoke(gpu_spots_command, ["score", str(sharp_run), str(output)]).output
    found = re.search(r"above 10 sigma \(([\d.]+) %\)", score)
    per_frame = re.search(r"at no true spot \(([\d.]+) per frame\)", score)
    assert found
    assert per_frame
    assert found[1] == recall
    assert float(per_frame[1]) == pytest.approx(float(false), abs=0.051)


def test_table_of_options_for_sharp_spots_has_the_recipe() -> None:
    commands = section("docs/options.md", "`--erosions")
    assert len(SHARP_ROWS) == 5
    recipe, recall, false = SHARP_ROWS[-1]
    assert f"sharp_spots__mccd.h5 {recipe.strip('`')}" in commands
    assert float(recall) > 95
    assert float(false) < 5  # zingers


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(blocks(page, "sh", "console"))],
    ids=lambda page: page.name,
)
def test_commands_are_understood(page: Path) -> None:
    """Every command of ours in a page has only options that exist, with values of their types."""
    programs: dict[str, click.Command] = {
        "lu_hdf2spots": lu_hdf2spots,
        "gpu-spots": gpu_spots_command,
    }
    for line, code in blocks(page, "sh", "console"):
        code = code.replace("\\\n", " ")
        for command in re.findall(rf"^(?:\$ )?((?:{'|'.join(programs)}) .*)$", code, re.MULTILINE):
            name, *arguments = shlex.split(command, comments=True)
            program = programs[name]
            if isinstance(program, click.Group):
                name, program, arguments = (
                    arguments[0],
                    program.commands[arguments[0]],
                    arguments[1:],
                )
            try:
                program.make_context(name, arguments)
            except click.ClickException as error:
                pytest.fail(f"{page.name}:{line}: {command}: {error.format_message()}")


@pytest.mark.parametrize(
    ("page", "heading", "n_outputs"),
    [
        ("README.md", "Use it in 30 seconds", 5),
        ("docs/your-files.md", "MarCCD frames with a Lauecollect log", 3),
    ],
)
def test_commands_of_a_section_run_in_order(
    page: str,
    heading: str,
    n_outputs: int,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No output is in the way of a later one."""
    with h5py.File(runs / "laser__mccd.h5") as file:
        frames = file["frames"][:, 64:128, 64:128]
        angles, laser_on = file["lauecollect/angle"][:], file["lauecollect/laser_on"][:]
    scan = write_scan(tmp_path, frames, angles.tolist(), laser_on.tolist())
    (tmp_path / "images").mkdir()
    for index, path in enumerate(scan.paths):  # what an image is, its content tells
        shutil.copy(path, tmp_path / f"images/run_{index:03}.tif")
    rows = [f"{angle},{on}" for angle, on in zip(angles, laser_on, strict=True)]
    (tmp_path / "angles.csv").write_text("\n".join(["angle,laser_on", *rows]) + "\n")

    monkeypatch.chdir(tmp_path)
    small = ["--size", "128", "--spots", "20"]
    code = "".join(re.findall(r"```sh\n(.*?)```", section(page, heading), re.DOTALL))
    for line in code.splitlines():
        name, *arguments = shlex.split(line, comments=True) or [""]
        if name:
            program = lu_hdf2spots if name == "lu_hdf2spots" else gpu_spots_command
            arguments += small if arguments[0] == "simulate" else []
            ended = CliRunner().invoke(program, arguments)
            assert ended.exit_code == 0, f"{line}: {ended.output}"
    assert len(list(tmp_path.glob("*__spots.h5"))) == n_outputs


@pytest.mark.parametrize(
    "option",
    [option for option in find.params if isinstance(option, click.Option)],
    ids=lambda option: option.name,
)
def test_every_option_is_described(option: click.Option) -> None:
    described = section("docs/options.md", f"`{option.opts[-1]}")
    assert described, f"docs/options.md: no section for {option.opts[-1]}"
    missing = [name for name in option.opts if f"`{name}" not in described]
    assert not missing, f"docs/options.md: {option.opts[-1]}: {missing} not mentioned"
    if isinstance(option.default, str | int | float) and not option.is_flag:
        assert f"Default: `{option.default}`" in described
    if manual := MANUAL_DEFAULTS.get(str(option.name)):
        assert f"`{manual}` with `--manual`" in " ".join(described.split())


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--backend", BACKEND_NAMES),
        ("--method", METHOD_NAMES),
        ("-S", SYNCS),
        ("--normalise", NORMALISATIONS),
        ("--finder", FINDERS),
        ("--keep", STACK_NAMES),
    ],
)
def test_every_allowed_value_is_described(option: str, values: tuple[str, ...]) -> None:
    described = section("docs/options.md", f"`{option} ")
    assert not [value for value in values if f"`{value}`" not in described]


def test_every_attribute_is_described(runs: Path) -> None:
    page = (ROOT / "docs/file-format.md").read_text()
    with h5py.File(runs / "laser__spots.h5") as file:
        assert not [name for name in file["info"].attrs if f"`{name}`" not in page]


def test_every_path_that_contributors_are_told_exists() -> None:
    paths = set(re.findall(r"`([\w.-]+(?:/[\w.-]*)+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(paths) > 40
    made = {"build/coverage/html", "build/site"}
    assert not [path for path in paths - made if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings in them. Addresses on the web are not asked."""
    for found in LINK.finditer(prose(page)):
        target = found["target"] or found["quoted"]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: {target}"
        assert linked.is_relative_to(ROOT), f"{page.name}: {target} is outside of the project"
        if heading:
            assert heading in anchors(linked), f"{page.name}: {target}"
