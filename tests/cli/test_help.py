"""Help, names of the commands and the version."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest

from gpu_spots import __version__, find_spots
from gpu_spots.cli.find import OURS, find, lu_hdf2spots
from gpu_spots.errors import ParameterError
from gpu_spots.parameters import MANUAL_DEFAULTS, USED_WITH, Parameters
from helpers import (
    Ended,
    assert_equal_results,
    assert_refused,
    command,
    listing,
)

MANUAL = [
    # short, long, name of the value, default; as in the manual's help
    ("-h", "--help", "", None),
    ("-o", "--output", "FO", "file__spots.h5"),
    ("-m", "--method", "METHOD", "n_removed"),
    ("-n", "--n", "N", "25"),
    ("-A", "--alpha", "ALPHA", "0.05"),
    ("-c", "--cutoff", "CUTOFF", "3.0"),
    ("-e", "--erosions", "N_EROSIONS", "1"),
    ("-d", "--dilations", "N_DILATIONS", "2"),
    ("-s", "--structure", "STRUCTURE", "2,2"),
    ("-a", "--angles", "ANGLES", "10"),
    ("-S", "--sync", "SYNC", "none"),
    ("-C", "--compression", "COMPRESSION", "gzip"),
]


def help_of(*arguments: object, name: str = "lu_hdf2spots") -> tuple[str, str]:
    """The manual's options and ours, as the help shows them, each on one line."""
    ended = command(*arguments, "--help", name=name)
    assert (ended.status, ended.stderr) == (0, "")
    text = re.sub(r"\n {10,}", " ", ended.stdout)
    manual, ours = re.split(r"^Options that are not in the manual.*:$", text, flags=re.MULTILINE)
    return manual, ours


@pytest.mark.parametrize(
    ("short", "long", "value", "default"), MANUAL, ids=[option[0] for option in MANUAL]
)
def test_help_lists_every_option_of_the_manual_with_its_default(
    short: str, long: str, value: str, default: str | None
) -> None:
    manual, ours = help_of()
    names = f"{short}, {long}" if long else short
    (line,) = re.findall(
        rf"^  {names} {value}\b.*$" if value else rf"^  {names} .*$", manual, re.MULTILINE
    )
    assert default is None or f"[default: {default}]" in line
    assert not re.search(rf"^ +{short}\b", ours, re.MULTILINE)


def test_help_has_no_option_twice_and_ours_come_last() -> None:
    manual, ours = help_of()
    names = r"^  (-\w, --[\w-]+|--?[\w-]+)"
    assert sorted(re.findall(names, manual, re.MULTILINE)) == sorted(
        f"{short}, {long}" if long else short for short, long, *_ in MANUAL
    )
    listed = re.findall(names.replace("^  ", "^    "), ours, re.MULTILINE)
    assert {
        "--frames",
        "--backend",
        "--threads",
        "--force",
        "--quiet",
        "--debug",
        "--version",
    } <= set(listed)
    assert len(listed) == len(set(listed))


def test_our_options_have_headings_and_one_style() -> None:
    """A capitalised phrase without a full stop."""
    _, ours = help_of()
    assert re.findall(r"^  ([A-Z].*):$", ours, re.MULTILINE) == list(OURS)
    texts = re.findall(r"^    -.*?  +(\w.*)$", ours, re.MULTILINE)
    assert len(texts) == sum(map(len, OURS.values())) - 1  # without --manual
    for text in texts:
        assert text[0].isupper(), text
        assert not text.partition("  [default")[0].endswith("."), text


def test_help_names_the_allowed_values() -> None:
    manual, _ = help_of()
    assert "allowed values: n_removed, kruskal" in manual
    assert "allowed values: none, pairs, blocks" in manual


def options_of(*arguments: object, name: str) -> str:
    """The lists of options in the help, without the one that only ``gpu-spots find`` has."""
    manual, ours = help_of(*arguments, name=name)
    listed = manual[manual.index("Options:") :] + ours
    return "\n".join(line for line in listed.splitlines() if "--manual " not in line)


def test_the_commands_differ_in_their_defaults_only() -> None:
    manual = options_of(name="lu_hdf2spots")
    assert options_of("find", "--manual", name="gpu-spots") == manual
    ours = options_of("find", name="gpu-spots")
    changed = [
        (line, other)
        for line, other in zip(manual.splitlines(), ours.splitlines(), strict=True)
        if line != other
    ]
    found = [re.sub(r".* (--\w+) .*default: (.*)\]", r"\1 \2", other) for _, other in changed]
    assert found == ["--method clip", "--normalise level", "--finder matched"]


def test_find_with_manual_is_lu_hdf2spots(run: Path) -> None:
    one, other = run.parent / "one.h5", run.parent / "other.h5"
    options = ("-S", "pairs", "-c", "2.5", "--quiet")
    assert command(run, "-o", one, *options).status == 0
    arguments = ("find", run, "-o", other, "--manual", *options)
    assert command(*arguments, name="gpu-spots").status == 0
    assert_equal_results(one, other)
    with h5py.File(one) as file, h5py.File(other) as same:
        for name in Parameters.__dataclass_fields__:
            assert np.array_equal(file["info"].attrs[name], same["info"].attrs[name])
        assert {name: file["info"].attrs[name] for name in MANUAL_DEFAULTS} == MANUAL_DEFAULTS


@pytest.mark.parametrize("where", ["first", "last"])
def test_options_beside_manual_override_it(where: str) -> None:
    given = ["-c", "4", "--normalise", "level"]
    arguments = ["--manual", *given] if where == "first" else [*given, "--manual"]
    params = find.make_context("find", ["x.h5", *arguments]).params
    assert (params["method"], params["finder"]) == ("n_removed", "threshold")
    assert (params["cutoff"], params["normalise"]) == (4.0, "level")


@pytest.mark.parametrize(
    ("program", "expected"), [(find, Parameters()), (lu_hdf2spots, Parameters.manual())]
)
def test_defaults_of_a_command_are_those_of_the_parameters(
    program: click.Command, expected: Parameters
) -> None:
    context = program.make_context("x", ["x.h5"])
    given = {name: context.params[name] for name in Parameters.__dataclass_fields__}
    assert Parameters(**given) == expected


def test_the_defaults_are_those_of_the_contract() -> None:
    manual: dict[str, Any] = {"method": "n_removed", "finder": "threshold", "normalise": "none"}
    ours: dict[str, Any] = {"method": "clip", "finder": "matched", "normalise": "level"}
    assert dict(MANUAL_DEFAULTS) == manual
    assert Parameters() == Parameters.manual(**ours) == Parameters(**ours)
    assert Parameters.manual() == Parameters(**manual)


OTHER_VALUES: dict[str, Any] = {
    **{"n": 30, "alpha": 0.1, "cutoff": 4, "erosions": 2, "dilations": 1, "structure": (2, 1)},
    **{"significance": 11, "streaks": True},
}
NEED = {
    "-n": ("-m", "kruskal"), "-A": (), "-c": (), "-e": (), "-d": (), "-s": (),
    "--significance": ("--manual",), "--streaks": ("--finder", "threshold"),
}  # fmt: skip
"""Options, and others beside which they have no effect."""


@pytest.mark.parametrize(("name", "option"), list(zip(OTHER_VALUES, NEED, strict=True)))
def test_an_option_without_effect_is_wrong_usage(name: str, option: str, run: Path) -> None:
    """Options without effect are errors in ``gpu-spots find`` and in Python.

    ``lu_hdf2spots`` accepts every option of the manual.
    """
    assert set(OTHER_VALUES) == set(USED_WITH)
    other, (value, *_) = USED_WITH[name]
    text = "2,1" if name == "structure" else OTHER_VALUES[name]
    given = (option,) if name == "streaks" else (option, text)
    before = listing(run.parent)
    ended = command("find", run, *given, *NEED[option], "--quiet", name="gpu-spots")
    word = {"method": "-m", "finder": "--finder"}[other]
    assert_refused(ended, 2, option, f"can only be used with {word} {value}")
    assert ("--manual" in ended.stderr) == (value == "threshold")
    assert listing(run.parent) == before
    wrong = {
        "n": {"method": "kruskal"},
        "significance": MANUAL_DEFAULTS,
        "streaks": MANUAL_DEFAULTS,
    }
    frames = np.zeros((8, 6, 6), np.uint16)
    with pytest.raises(ParameterError, match=f"^{name}: can only be used with {other}='{value}'"):
        find_spots(frames, Parameters(**{name: OTHER_VALUES[name], **wrong.get(name, {})}))
    if len(option) == 2:
        context = lu_hdf2spots.make_context("x", ["x.h5", *map(str, given)])
        assert context.params[name] == OTHER_VALUES[name]
        assert command(run, *given, "--quiet").status == 0


def test_the_group_lists_its_commands() -> None:
    ended = command("--help", name="gpu-spots")
    assert (ended.status, ended.stderr) == (0, "")
    for name in ("find", "simulate", "score"):
        assert re.search(rf"^  {name}  ", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [("--version",), ("find", "--version")], ids=" ".join)
def test_version(arguments: tuple[str, ...]) -> None:
    assert command(*arguments, name="gpu-spots") == Ended(
        0, f"gpu-spots, version {__version__}\n", ""
    )


def test_the_module_is_the_program(run: Path) -> None:
    arguments = [sys.executable, "-m", "gpu_spots", "find", str(run)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert (run.parent / "run__spots.h5").exists()
    asked = subprocess.run(
        [*arguments[:3], "--nonsense"], capture_output=True, text=True, timeout=60
    )
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("gpu-spots: ")
