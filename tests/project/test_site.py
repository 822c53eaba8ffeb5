"""Site of the documentation: parts made from other files, the notebook, docstrings, the build."""

import doctest
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from click.testing import CliRunner

import gpu_spots as package
from factories.image_runs import write_scan
from gpu_spots import Parameters, find_spots
from gpu_spots.cli import gpu_spots
from gpu_spots.cli.find import lu_hdf2spots
from gpu_spots.cli.run_options import PASSED
from gpu_spots.columns import DATASETS
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.simulate.run import Design, simulate_run
from helpers import ROOT

DOCS = ROOT / "docs"
needs_zensical = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="needs the extra docs: zensical"
)


def script(name: str) -> ModuleType:
    """A script of the documentation, as a module."""
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_pages() -> ModuleType:
    """The script that makes parts of the documentation."""
    return script("make_pages")


@pytest.fixture(scope="module")
def make_outputs() -> ModuleType:
    """The script that renews the outputs of commands."""
    return script("make_outputs")


def test_parts_made_from_other_files_are_up_to_date(make_pages: ModuleType) -> None:
    old = [path.name for path, text in make_pages.made_files().items() if path.read_text() != text]
    assert not old, f"{', '.join(old)}: not up to date; run python docs/make_pages.py"


def test_every_dataset_is_in_a_table() -> None:
    page = (DOCS / "file-format.md").read_text()
    listed = re.findall(r"^\| `([\w/]+)` \| [^|]*\(n_", page, re.MULTILINE)
    assert sorted(listed) == sorted(DATASETS)


@pytest.mark.parametrize("name", gpu_spots.commands)
def test_every_option_is_in_a_table(name: str) -> None:
    tables = re.findall(
        r"<!-- table made by docs/make_pages.py: ([^-]+) -->\n(.*?)<!-- end",
        (DOCS / "options.md").read_text(),
        re.DOTALL,
    )
    commands = set(gpu_spots.commands) - {"find"}
    of_command = "".join(
        text
        for title, text in tables
        if (title == name if name != "find" else title not in commands)
    )
    options = [
        names
        for option in gpu_spots.commands[name].params
        if isinstance(option, click.Option)
        and not (name in ("batch", "watch") and option.name in PASSED)  # those of find
        for names in [*option.opts, *option.secondary_opts]
    ]
    assert not [name for name in options if not re.search(rf"[` ]{name}[,` ]", of_command)]


def test_a_table_that_the_page_lacks_is_an_error(make_pages: ModuleType) -> None:
    with pytest.raises(ValueError, match="no such table"):
        make_pages.with_table("# A page\n", "manual", "| option |")


def test_outputs_of_commands_are_renewed(make_outputs: ModuleType) -> None:
    page = """```sh
gpu-spots find run.h5 \\
    --quiet   # a comment
```

```text
9 spots on 2 frames, ...
...
     > 100      3   -0.30 %  2.4e-11
```

```text
of another program
```
"""
    row = "     > 100    412   +1.20 %  7e-9"
    output = f"reading\n11 spots on 2 frames, 1.5 s\n5 - 7    9   1 %\n{row}\n"
    expected = page.replace("9 spots", "11 spots")
    expected = expected.replace("     > 100      3   -0.30 %  2.4e-11", row)
    command = "gpu-spots find run.h5 --quiet"
    assert make_outputs.with_outputs(page, {command: output}) == expected
    with pytest.raises(ValueError, match=r"9 spots on 2 frames.*no such line"):
        make_outputs.with_outputs(page, {command: output.replace("frames", "images")})


def test_each_output_of_the_tutorial_is_renewed(
    make_outputs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks of text, and those of the other pages that show the same commands."""
    monkeypatch.setattr(make_outputs, "with_numbers", lambda block, output: "renewed\n")
    tutorial = (DOCS / "tutorial.md").read_text()
    blocks = make_outputs.CODE.findall(tutorial)
    printed = dict.fromkeys(["make demo", *(code for language, code in blocks)], "output\n")
    for code in [code for language, code in blocks if language == "sh"]:
        printed |= dict.fromkeys(make_outputs.commands(code), "output\n")
    made = [make_outputs.with_outputs(path.read_text(), printed) for path in make_outputs.PAGES]
    n_texts = [language for language, _ in blocks].count("text")
    assert [page.count("```text\nrenewed\n```") for page in made] == [n_texts, 1, 1]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands and its code run in order, on a run that is smaller than the tutorial's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    n_commands = 0
    for code in codes:
        if not code.startswith("!"):
            exec(code, names)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line.removeprefix("!"))
            command = {"gpu-spots": gpu_spots, "lu_hdf2spots": lu_hdf2spots}[program]
            if arguments[0] == "simulate":
                arguments += ["--size", "256", "--spots", "50"]
            ended = CliRunner().invoke(command, arguments)
            assert ended.exit_code == 0, f"{line}: {ended.output}"
            n_commands += 1
    assert n_commands >= 4
    assert (tmp_path / "background.png").exists()
    assert (tmp_path / "ratios.png").exists()
    assert len(names["ratio"]) > 50  # type: ignore[arg-type]


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(
        r"^ +- (?:[\w -]+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M
    )
    assert sorted(listed) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_every_public_name_is_in_the_api() -> None:
    listed = set(
        re.findall(r"^::: gpu_spots\.(?:errors\.)?(\w+)$", (DOCS / "api.md").read_text(), re.M)
    )
    assert set(package.__all__) - {"__version__"} <= listed


@pytest.mark.parametrize(
    "name", [n for n in package.__all__ if hasattr(getattr(package, n), "__doc__")]
)
def test_docstring_of_a_public_name(name: str) -> None:
    """It begins with a sentence, and a function has an example."""
    item = getattr(package, name)
    if callable(item):
        assert item.__doc__.splitlines()[0].endswith(".")
        assert isinstance(item, type) or ">>>" in item.__doc__


MODULES_WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("gpu_spots", "cpu_fallback")
    for path in (ROOT / folder).rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run beside a small run, its spots file, and the images of a scan with their log."""
    if name in ("gpu_spots.api", "gpu_spots.files.output.spots_file", "gpu_spots.plots"):
        run = simulate_run(Design(laser=True, size=(128, 96), angles=10, repeats=3, spots=20))
        write_run(tmp_path / "laser__mccd.h5", run)
        find_spots(
            tmp_path / "laser__mccd.h5",
            Parameters(sync="blocks"),
            output=tmp_path / "laser__spots.h5",
        ).close()
        write_scan(tmp_path, np.ones((2, 8, 8), np.uint16), [0, 1], [0, 1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    ended = doctest.testmod(importlib.import_module(name))
    assert ended.attempted > 0
    assert ended.failed == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning as an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "gpu_spots"):  # the build writes a cache beside its configuration
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "build/site"


@needs_zensical
def test_the_site_needs_no_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    assert not [found for page in pages for found in loads.findall(page.read_text())]


@needs_zensical
def test_the_site_shows_the_api(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in (*package.__all__, "avg", "spots", "cutoff"):
        assert name == "__version__" or re.search(rf'id="gpu_spots\.(\w+\.)*{name}"', page), name
    assert "Percentage of the largest values" in page


@needs_zensical
def test_headings_have_the_names_that_links_use(site: Path, make_pages: ModuleType) -> None:
    """Links work in the repository and on the site."""
    page = (site / "options.html").read_text()
    headings = re.findall(r"^#{2,4} (.*)$", (DOCS / "options.md").read_text(), re.MULTILINE)
    assert len(headings) > 50
    assert not [h for h in headings if f'id="{make_pages.anchor(h)}"' not in page]
