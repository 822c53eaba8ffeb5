"""Shell completion: the scripts for the shells, and what they offer."""

import os
import shutil

import click
import pytest
from click.shell_completion import ShellComplete

from gpu_spots import cli
from gpu_spots.cli.find import find
from gpu_spots.parameters import BACKEND_NAMES, METHOD_NAMES
from helpers import process


@pytest.mark.parametrize("name", ["gpu-spots", "lu_hdf2spots"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str, name: str) -> None:
    if shell == "bash" and not shutil.which("bash"):
        pytest.skip("bash is not installed")  # click asks it for its version
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    ended = process(name=name, env=os.environ | {variable: f"{shell}_source"})
    assert (ended.status, ended.stderr) == (0, "")
    assert f"{variable}={shell}_complete" in ended.stdout


def offered(command: click.Command, *arguments: str) -> list[tuple[str, str]]:
    """Kind and value of everything that is offered for the last argument."""
    *before, incomplete = arguments
    shell = ShellComplete(command, {}, "gpu-spots", "_GPU_SPOTS_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fi",), ["find"]),
        (("find", "--back"), ["--backend"]),
        (("find", "--backend", ""), [*BACKEND_NAMES]),
        (("find", "-m", ""), [*METHOD_NAMES]),
        (("find", "-m", "k"), ["kruskal"]),
        (("find", "run.h5", "-S", "p"), ["pairs"]),
        (("find", "-s", ""), ["2,1", "2,2"]),
        (("find", "--normalise", "l"), ["level"]),
        (("find", "-n", ""), []),
    ],
    ids=" ".join,
)
def test_names_and_values_are_offered(arguments: tuple[str, ...], expected: list[str]) -> None:
    assert offered(cli.gpu_spots, *arguments) == [("plain", value) for value in expected]


@pytest.mark.parametrize(
    "arguments",
    [
        ("find", "r"),
        ("info", "r"),
        ("convert", "r"),
        ("find", "a.mccd", "r"),
        ("find", "--mask", "r"),
        ("find", "-o", "r"),
        ("score", "r"),
    ],
    ids=" ".join,
)
def test_names_of_files_are_left_to_the_shell(arguments: tuple[str, ...]) -> None:
    assert offered(cli.gpu_spots, *arguments) == [("file", "r")]


def test_the_old_name_completes_too() -> None:
    assert offered(find, "-S", "bl") == [("plain", "blocks")]
