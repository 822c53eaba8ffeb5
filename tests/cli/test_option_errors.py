"""Options that are wrong: exit status 2, and one line on stderr."""

from pathlib import Path

import pytest

from helpers import (
    assert_refused,
    command,
    listing,
    process,
    refuses,
)

OPTIONS = [
    (("-n", "-1"), ("-n", "--n", "-1", "an integer from 0 to 99")),
    (("-n", "100"), ("-n", "--n", "100", "an integer from 0 to 99")),
    (("--n", "2.5"), ("--n", "'2.5'", "integer")),
    (("-n", "many"), ("-n", "'many'", "integer")),
    (("-A", "0"), ("-A", "--alpha", "0.0", "between 0 and 1")),
    (("-A", "1"), ("-A", "--alpha", "1.0", "between 0 and 1")),
    (("--alpha", "nan"), ("--alpha", "nan", "between 0 and 1")),
    (("-A", "-0.05"), ("-A", "-0.05", "between 0 and 1")),
    (("-c", "nan"), ("-c", "--cutoff", "nan", "a finite number >= 0")),
    (("-c", "inf"), ("-c", "--cutoff", "inf", "a finite number >= 0")),
    (("-c", "1e999"), ("-c", "--cutoff", "inf", "a finite number >= 0")),
    (("--cutoff", "-0.1"), ("--cutoff", "-0.1", "a finite number >= 0")),
    (("-c", "3,0"), ("-c", "'3,0'")),
    (("-e", "-1"), ("-e", "--erosions", "-1", "an integer >= 0")),
    (("-e", "1.5"), ("-e", "'1.5'", "integer")),
    (("-d", "-2"), ("-d", "--dilations", "-2", "an integer >= 0")),
    (("-d", "two"), ("-d", "'two'", "integer")),
    (("-s", "2"), ("-s", "--structure", "2 is not 2,1 or 2,2")),
    (("-s", "2,3"), ("-s", "2,3 is not 2,1 or 2,2")),
    (("-s", "3,1"), ("-s", "3,1 is not 2,1 or 2,2")),
    (("-s", "2,2,2"), ("-s", "2,2,2 is not 2,1 or 2,2")),
    (("-s", "square"), ("-s", "'square' is not 2,1 or 2,2")),
    (("-s", ""), ("-s", "'' is not 2,1 or 2,2")),
    (("-a", "-1"), ("-a", "--angles", "-1", "an integer >= 0")),
    (("-a", "all"), ("-a", "'all'", "integer")),
    (("-m", "median"), ("-m", "--method", "'median'", "n_removed, kruskal")),
    (("-m", "N_REMOVED"), ("-m", "'N_REMOVED'", "n_removed, kruskal")),
    (("-S", "pair"), ("-S", "'pair'", "none, pairs, blocks")),
    (("-S", ""), ("-S", "''", "none, pairs, blocks")),
    (("-C", "zip"), ("-C", "--compression", "'zip'", "gzip, lzf, none")),
    (("-C", "GZIP"), ("-C", "'GZIP'", "gzip, lzf, none")),
    (("--normalise", "yes"), ("--normalise", "'yes'", "none")),
    (("--threads", "0"), ("--threads", "0", "1<=x")),
    (("--threads", "-3"), ("--threads", "-3", "1<=x")),
    (("--threads", "all"), ("--threads", "'all'", "integer")),
    (("--backend", "abacus"), ("--backend", "'abacus'", "'auto'", "'cpu'")),
    (("--no-such-option",), ("--no-such-option",)),
    (("-Z",), ("-Z",)),
    (("another.h5",), ("another.h5",)),
]


@pytest.mark.parametrize(
    ("options", "words"), OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS]
)
def test_an_option_out_of_range_is_wrong_usage(
    run: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refuses(run, *options, status=2, words=words)


HUGE = "9" * 400


@pytest.mark.parametrize(
    "options",
    [
        *(("-o", output) for output in ("", ".", "..", "/")),
        *(
            (option, HUGE)
            for option in (
                "-n",
                "-A",
                "-c",
                "--threads",
                "--memory-limit",
                "--saturation",
                "--device",
                "--frames-per-angle",
            )
        ),
        *(
            (option, f"{HUGE[:5]}{'9' * 5000}")
            for option in ("-n", "-c", "--saturation", "--valid-range", "--device")
        ),
        *(
            ("--reject", region)
            for region in (
                "disc:1e308,1,1",
                "disc:1,1,1e308",
                f"border:{HUGE}",
                f"rect:0,{HUGE},0,1",
            )
        ),
        ("--valid-range", f"{HUGE},"),
        ("--angle-step", "nan"),
    ],
    ids=lambda options: f"{options[0]} {options[1][:20]}",
)
def test_absurd_values_are_one_line(
    run: Path, options: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    before = listing(run.parent)
    ended = command(run, "-a", 0, "--quiet", *options)
    assert_refused(ended, ended.status or 1)
    assert listing(run.parent) == before


@pytest.mark.parametrize(
    "options",
    [(option, HUGE) for option in ("--angles", "--pairs", "--spots", "--seed")]
    + [("--size", "9" * 5000)],
)
def test_absurd_simulations_are_one_line(options: tuple[str, str], tmp_path: Path) -> None:
    assert_refused(
        command("simulate", tmp_path / "x.h5", *options, name="gpu-spots"), 2, options[0]
    )


@pytest.mark.parametrize("options", [("-A", "2"), ("-n", "100", "-m", "kruskal")], ids=" ".join)
def test_ranges_are_checked_whether_or_not_the_method_uses_the_option(
    run: Path, options: tuple[str, ...]
) -> None:
    refuses(run, *options, status=2)


@pytest.mark.parametrize("option", ["-o", "-n", "-S", "--frames", "--threads"])
def test_an_option_without_its_value_is_wrong_usage(run: Path, option: str) -> None:
    assert_refused(command(run, "--quiet", option), 2, option, "requires an argument")
    assert set(listing(run.parent)) == {run.name}


def test_no_file_is_wrong_usage() -> None:
    assert_refused(
        command("--quiet"), 2, "Missing argument", "file__mccd.h5", "lu_hdf2spots --help"
    )


def test_wrong_usage_is_found_before_the_file_is_looked_at(tmp_path: Path) -> None:
    refuses(tmp_path / "none__mccd.h5", "-C", "zip", status=2)


def test_the_subcommand_names_itself(run: Path) -> None:
    assert_refused(
        command("find", run, "-n", 200, name="gpu-spots"), 2, "200", "gpu-spots find --help"
    )


@pytest.mark.parametrize("name", ["lu_hdf2spots", "gpu-spots"])
def test_an_unknown_command_or_option_is_wrong_usage_for_a_process_too(name: str) -> None:
    assert_refused(process("--nonsense", name=name), 2, f"{name}: ", "--nonsense")


def test_a_traceback_is_for_those_who_ask(run: Path) -> None:
    ended = command(run, "-a", 11, "--quiet", "--debug")
    assert ended.status == 1
    assert "Traceback" in ended.stderr
    assert ended.lines[-1].startswith("lu_hdf2spots: ")


@pytest.mark.parametrize("option", [("--significance", 7), ("--streaks",)])
def test_options_of_the_matched_finder_need_it(run: Path, option: tuple[object, ...]) -> None:
    ended = command(run, *option, "--quiet")
    assert (ended.status, ended.stdout) == (2, "")
    assert f"{option[0]} can only be used with --finder matched" in ended.stderr
    assert command(run, *option, "--finder", "matched", "--quiet").status == 0
