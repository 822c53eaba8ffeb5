"""Options of the plan: memory, kept stacks and dry runs."""

from pathlib import Path

import h5py
import pytest

from factories.plans import saved
from gpu_spots.memory import plan
from helpers import assert_same, command, datasets, listing, series


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved(tmp_path / "run__mccd.h5", series(30))


def test_only_the_stacks_that_are_kept_are_written(run: Path) -> None:
    output = run.with_name("out.h5")
    assert command(run, "-a", 0, "-S", "pairs", "-o", output).status == 0
    with h5py.File(output) as file:
        whole = datasets(file)
    paths = {
        "raw": {"masks_raw", "entry/masks_raw/title"},
        "filtered": {"masks_filtered", "entry/masks_filtered/title"},
        "synced": {"masks_synced", "entry/masks_synced/title"},
        "labels": {"masks/labels"},
        "pixels": {"spots/pixel_list", "spots/pixel_list_BE"},
    }
    for keep in ("labels,pixels", "raw", "filtered,synced", "none"):
        assert (
            command(run, "-a", 0, "-S", "pairs", "-o", output, "--keep", keep, "--force").status
            == 0
        )
        left_out = set().union(*(found for name, found in paths.items() if name not in keep))
        with h5py.File(output) as file:
            assert file["info"].attrs["keep"] == ("" if keep == "none" else keep)
            kept = datasets(file)
            assert all(file["masks"].get(link) is not None for link in file["masks"])
        assert kept.keys() == whole.keys() - left_out
        assert_same(kept, {path: values for path, values in whole.items() if path in kept})


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Path) -> None:
    before = listing(run.parent)
    ended = command(run, "-a", 0, "--dry-run", "--quiet", "--batch", 7, "--threads", 2)
    assert (ended.status, ended.stderr) == (0, "")
    said = dict(line.split(":", 1) for line in ended.stdout.splitlines())
    assert said["frames"].strip() == "read from the file for each pass"
    assert said["masks and spots"].strip() == "5 batches of 7 frames"
    assert said["memory"].strip().endswith("at most, besides the program itself")
    assert said["output"].strip().startswith(f"{run.parent / 'run__spots.h5'}, about ")
    assert listing(run.parent) == before
    assert command(run, "-a", 0).status == 0
    again = command(run, "-a", 0, "--dry-run")
    assert again.status == 0
    assert again.stdout.splitlines()[-1].endswith("already exists, use --force")
    assert "--force" not in command(run, "-a", 0, "--dry-run", "--force").stdout


@pytest.mark.parametrize("sync", ["none", "pairs"])
def test_a_dry_run_tells_the_size_of_the_output(tmp_path: Path, sync: str) -> None:
    run = tmp_path / "x__mccd.h5"
    assert command("simulate", run, "--size", 512, "--angles", 6, name="gpu-spots").status == 0
    options = (run, "-a", 0, "-S", sync, "--quiet")
    said = command(*options, "--dry-run").stdout.splitlines()[-1]
    number, unit = said.rsplit("about ", 1)[1].split()
    assert command(*options).status == 0
    size = (tmp_path / "x__spots.h5").stat().st_size
    assert 0.6 < float(number) * {"KiB": 2**10, "MiB": 2**20}[unit] / size < 1.6


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (
            "--memory-limit",
            "12",
            "is not a size of at least 1 byte with a unit, such as 500MB, 2G or 1.5GiB",
        ),
        ("--memory-limit", "0GB", "is not a size"),
        ("--memory-limit", "2Bi", "is not a size"),
        ("--memory-limit", f"{'9' * 400}GB", "is not a size"),
        ("--threads", "9" * 400, "--threads"),
        ("--batch", "0", "--batch"),
        ("--scratch", "nowhere", "nowhere"),
        ("--keep", "masks", "is not none or some of raw,filtered,synced,labels,pixels"),
        ("--keep", "none,raw", "is not none or some of"),
        ("--keep", "", "is not none or some of"),
    ],
)
def test_values_out_of_range_are_wrong_usage(
    run: Path, option: str, value: str, words: str
) -> None:
    ended = command(run, option, value)
    assert ended.status == 2
    assert words in ended.stderr
    assert len(ended.lines) == 1


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("9MB", 9_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("300kb", 300_000),
        (".5KiB", 512),
        ("2G", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1T", 10**12),
        ("64Mi", 2**26),
        ("8 Ki", 2**13),
        ("77k", 77_000),
        ("5000000B", 5_000_000),
        ("1TiB", 2**40),
    ],
)
def test_sizes(run: Path, text: str, n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(plan, "_memory", lambda limits: seen.append(limits.memory) or 2**40)  # type: ignore[func-returns-value]
    command(run, "-a", 0, "--memory-limit", text, "--dry-run")
    assert seen == [n_bytes]
