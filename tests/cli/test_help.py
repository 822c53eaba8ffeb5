"""Help, names of the commands and the version."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_spots import __version__
from gpu_spots.cli.find import OURS, find
from gpu_spots.parameters import Parameters
from helpers import (
    Ended,
    assert_equal_results,
    command,
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
    assert len(texts) == sum(map(len, OURS.values()))
    for text in texts:
        assert text[0].isupper(), text
        assert not text.partition("  [default")[0].endswith("."), text


def test_help_names_the_allowed_values() -> None:
    manual, _ = help_of()
    assert "allowed values: n_removed, kruskal" in manual
    assert "allowed values: none, pairs, blocks" in manual


def test_find_and_lu_hdf2spots_are_one_command(run: Path) -> None:
    assert help_of() == tuple(
        text.replace("gpu-spots find", "lu_hdf2spots") for text in help_of("find", name="gpu-spots")
    )
    one, other = run.parent / "one.h5", run.parent / "other.h5"
    assert command(run, "-o", one, "-S", "pairs", "--quiet").status == 0
    assert command("find", run, "-o", other, "-S", "pairs", "--quiet", name="gpu-spots").status == 0
    assert_equal_results(one, other)


def test_defaults_of_the_command_are_those_of_the_parameters() -> None:
    context = find.make_context("lu_hdf2spots", ["x.h5"])
    assert (
        Parameters(**{name: context.params[name] for name in Parameters.__dataclass_fields__})
        == Parameters()
    )


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
