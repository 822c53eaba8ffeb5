"""The check that a release has one version everywhere."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from gpu_spots import __version__
from helpers import ROOT

RELEASE = runpy.run_path(str(ROOT / ".ci/check_release.py"))
check, check_version = RELEASE["check"], RELEASE["check_version"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of a sound release 1.2.3."""
    (tmp_path / "gpu_spots").mkdir()
    (tmp_path / "gpu_spots/__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2.3\n")
    (tmp_path / "recipe").mkdir()
    recipe = tmp_path / "recipe/recipe.yaml"
    recipe.write_text('context:\n  version: "1.2.3"\n  python_min: "3.11"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [1.2.3] - 2026-01-31\n\n### Fixed\n\n- This.\n\n## [1.2.2]\n\n- That.\n",
    )
    return tmp_path


def test_the_section_of_the_changelog_is_returned(tree: Path) -> None:
    assert check(tree, "v1.2.3") == "### Fixed\n\n- This."


@pytest.mark.parametrize(
    ("file", "before", "after", "words"),
    [
        (
            "gpu_spots/__init__.py",
            "1.2.3",
            "1.2.4",
            "__init__.py: found version 1.2.4, expected 1.2.3",
        ),
        ("gpu_spots/__init__.py", "__version__", "version", "found version none"),
        ("CITATION.cff", "\nversion: 1.2.3", "\nversion: 1.2", "CITATION.cff: found version 1.2, "),
        (
            "recipe/recipe.yaml",
            "1.2.3",
            "1.2.2",
            "recipe.yaml: found version 1.2.2, expected 1.2.3",
        ),
        ("CHANGELOG.md", "[1.2.3]", "[Unreleased]", "CHANGELOG.md: no section [1.2.3]"),
    ],
)
def test_what_does_not_agree_is_named(
    tree: Path, file: str, before: str, after: str, words: str
) -> None:
    path = tree / file
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(SystemExit, match=words.replace("[", r"\[")):
        check(tree, "v1.2.3")


def test_a_tag_begins_with_v(tree: Path) -> None:
    with pytest.raises(SystemExit, match="found no v at the beginning"):
        check(tree, "1.2.3")


def test_this_tree_has_one_version() -> None:
    check_version(ROOT, __version__)


def test_the_conda_recipe_has_the_dependencies_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    recipe = (ROOT / "recipe/recipe.yaml").read_text()
    run = recipe.partition("  run:\n")[2].partition("  run_constraints:\n")[0]
    found = set(re.findall(r"^    - ([a-z]\S*) (>=[\d.]+)", run, re.MULTILINE))
    required = {tuple(re.split("(?=>=)", text)) for text in project["project"]["dependencies"]}
    required -= {one for one in required if one[0] == "deflate"}  # the recipe says why
    assert {(name.removeprefix("python-"), version) for name, version in found} == required
    constraints = recipe.partition("  run_constraints:\n")[2]
    found = set(re.findall(r"^    - (\S+) (>=[\d.]+)", constraints, re.MULTILINE))
    extras = project["project"]["optional-dependencies"]
    users = [name for name in extras if not name.startswith(("gpu", "docs", "test", "dev"))]
    optional = {tuple(re.split("(?=>=)", text)) for name in users for text in extras[name]}
    cupy = tuple(re.split("-.*(?=>=)", extras["gpu"][0]))
    assert found == {*optional, (cupy[0], f">={extras['gpu'][0].partition('>=')[2]}")}
    assert f"setuptools >={project['build-system']['requires'][0].partition('>=')[2]}" in recipe
    assert f'python_min: "{project["project"]["requires-python"].removeprefix(">=")}"' in recipe
