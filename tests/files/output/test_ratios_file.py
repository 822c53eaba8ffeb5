"""The command gpu-spots ratios, its output, and spots files that allow no ratios."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import gpu_spots
from factories.exports import spots_of_run
from gpu_spots import GpuSpotsError, open_spots
from gpu_spots.cli import gpu_spots as program
from gpu_spots.columns import NOISE_LAGS
from gpu_spots.files.output import new_plot
from gpu_spots.files.output.ratios_file import RATIO_COLUMNS, RATIO_DATASETS, verdict_of
from helpers import command, listing, started, write_run


@pytest.fixture(scope="module")
def _blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spots_of_run(tmp_path_factory.mktemp("blocks"), "-S", "blocks")


@pytest.fixture
def spots(_blocks: Path, tmp_path: Path) -> Path:
    """A copy of the spots file of a run of 20 frames, off and on at 10 angles."""
    return Path(shutil.copy(_blocks, tmp_path))


def ratios(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["ratios", *map(str, arguments)])


def test_output_has_all_datasets_with_their_facts(spots: Path) -> None:
    result = ratios(spots)
    assert result.exit_code == 0, result.output
    with h5py.File(spots.with_name("run__ratios.h5")) as file:
        for path, record in RATIO_DATASETS.items():
            if record.optional:
                assert path not in file
                continue
            assert file[path].dtype in record.dtypes
            assert file[path].attrs["description"] == record.description
            assert file[path].attrs.get("units") == record.unit
        lengths = {len(file[record.path]) for record in RATIO_COLUMNS if not record.optional}
        assert len(lengths) == 1
        assert lengths.pop() > 0
        pairs = file["pairs/ratio"][:]
        assert pairs.max() < len(file["ratios/R"])
        assert file["null"].attrs["verdict"] in result.output
        assert file["info"].attrs["scale"] == "none"
        assert file["info"].attrs["intensity"] == "I_prf"


def test_csv_has_the_same_numbers(spots: Path) -> None:
    table = spots.with_name("ratios.csv")
    assert ratios(spots, "--csv", table).exit_code == 0
    header, *rows = table.read_text().splitlines()
    names = [record.name for record in RATIO_COLUMNS if not record.optional]
    assert header.split(",") == names
    with h5py.File(spots.with_name("run__ratios.h5")) as file:
        assert len(rows) == len(file["ratios/R"])
        for row, I_off in zip(rows, file["ratios/I_off"][:], strict=True):
            assert float(row.split(",")[names.index("I_off")]) == I_off


def test_json_has_figures_and_verdict(spots: Path) -> None:
    result = ratios(spots, "--json")
    found = json.loads(result.stdout)
    assert found["verdict"].startswith(("response", "no response"))
    assert found["counts"]["frames"] == 20
    assert set(found["off/off"]) == {"n", "width", "beyond_3"}


def test_plot_is_written(spots: Path) -> None:
    for ending, begin in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        plot = spots.with_name(f"ratios.{ending}")
        result = ratios(spots, "--plot", plot, "--force")
        assert result.exit_code == 0, result.output
        assert plot.read_bytes().startswith(begin)
    assert ratios(spots, "--plot", spots.with_name("ratios.txt"), "--force").exit_code == 2


def test_ctrl_c_while_the_plot_is_drawn_names_the_files_that_are_complete(spots: Path) -> None:
    prelude = (
        "from gpu_spots.files.output import ratios_plot; import time\n"
        "def slow(*_, **__): print('drawing', flush=True); time.sleep(60)\n"
        "ratios_plot.ratios = slow"
    )
    table, plot = spots.with_name("ratios.csv"), spots.with_name("ratios.png")
    arguments = ("ratios", spots, "--csv", table, "--plot", plot)
    with started(*arguments, name="gpu-spots", prelude=prelude) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "drawing\n"
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    output = spots.with_name("run__ratios.h5")
    assert stderr == f"gpu-spots: interrupted; {output}, {table} are complete\n"
    assert set(listing(spots.parent)) == {spots.name, output.name, table.name}
    assert verdict_of(output)


def test_without_matplotlib_nothing_is_written(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_plot, "find_spec", lambda _: None)
    result = ratios(spots, "--plot", spots.with_name("ratios.png"))
    assert result.exit_code == 1
    assert "plots need matplotlib, which is not installed; use pip install" in result.stderr
    assert set(listing(spots.parent)) == {spots.name}


def test_existing_outputs_are_kept(spots: Path) -> None:
    assert ratios(spots).exit_code == 0
    again = ratios(spots)
    assert again.exit_code == 1
    assert "run__ratios.h5: already exists; use --force" in again.output
    assert ratios(spots, "--force").exit_code == 0
    table = spots.with_name("ratios.csv")
    table.write_text("mine")
    refused = ratios(spots, "--force", "-o", spots.with_name("b.h5"), "--csv", table)
    assert refused.exit_code == 0
    assert table.read_text() != "mine"
    kept = ratios(spots, "-o", spots.with_name("c.h5"), "--csv", table)
    assert kept.exit_code == 1
    assert not spots.with_name("c.h5").exists()


def test_one_file_cannot_be_both_outputs(spots: Path) -> None:
    path = spots.with_name("a.h5")
    result = ratios(spots, "-o", path, "--csv", path)
    assert result.exit_code == 2
    assert not path.exists()


def test_spots_file_is_not_overwritten(spots: Path) -> None:
    result = ratios(spots, "-o", spots, "--force")
    assert result.exit_code == 1
    assert "is the input file" in result.output


def test_python_gives_what_the_command_writes(spots: Path) -> None:
    assert ratios(spots).exit_code == 0
    found = gpu_spots.ratios(spots)
    with h5py.File(spots.with_name("run__ratios.h5")) as file, open_spots(spots) as results:
        for name, values in results.ratios().ratios.items():
            np.testing.assert_array_equal(values, found.ratios[name])
            np.testing.assert_array_equal(values, file[f"ratios/{name}"][:])


def test_wrong_values_are_refused(spots: Path) -> None:
    with pytest.raises(GpuSpotsError, match="scale: 'x' is not none or pairs"):
        gpu_spots.ratios(spots, scale="x")
    with pytest.raises(GpuSpotsError, match="intensity: 'x' is not I or I_prf"):
        gpu_spots.ratios(spots, intensity="x")


def _dark(file: h5py.File) -> None:
    file["per_frame/laser_on"][...] = 0


def _unknown_states(file: h5py.File) -> None:
    file["per_frame/laser_on"][...] = -1


def _old(file: h5py.File) -> None:
    del file["per_frame"]


def _without_sigma(file: h5py.File) -> None:
    del file["spots/sigma"]


def _without_noise(file: h5py.File) -> None:
    del file["noise"]


def _own_masks(file: h5py.File) -> None:
    file["info"].attrs["sync"] = "none"


def _no_angles(file: h5py.File) -> None:
    file["per_frame/block"][...] = -1


def _no_weighted(file: h5py.File) -> None:
    del file["spots/I_prf"], file["spots/sigma_prf"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_dark, "the laser is off on all frames, expected laser-on and laser-off frames"),
        (_unknown_states, "laser states are unknown"),
        (_old, "older version; find the spots again"),
        (_without_sigma, "find the spots again"),
        (_without_noise, "the noise of the frames is unknown"),
        (_own_masks, "find the spots again with -S blocks or -S pairs"),
        (_no_angles, "angles are unknown"),
    ],
)
def test_files_that_allow_no_ratios(
    edit: Callable[[h5py.File], None], message: str, spots: Path
) -> None:
    with h5py.File(spots, "r+") as file:
        edit(file)
    result = ratios(spots)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert not spots.with_name("run__ratios.h5").exists()


def test_unweighted_intensities_are_used_where_there_are_no_others(spots: Path) -> None:
    with h5py.File(spots, "r+") as file:
        _no_weighted(file)
    assert "intensities: spots/I," in ratios(spots).output
    result = ratios(spots, "--intensity", "I_prf", "--force")
    assert result.exit_code == 1
    assert "has no spots/I_prf" in result.output


def test_photons_of_a_spot_have_the_factor_of_their_mask(spots: Path) -> None:
    """Their part of sigma^2 is not from the background; files without correlations have F = 1."""
    found = {}
    for lags in ((0.0,) * 4, (0.4, 0.1, 0.05, 0.01), None):
        with h5py.File(spots, "r+") as file:
            for i, name in enumerate(NOISE_LAGS):
                if lags is None:
                    del file["noise"].attrs[name]
                else:
                    file["noise"].attrs[name] = lags[i]
        assert ratios(spots, "--force").exit_code == 0
        with h5py.File(spots.with_name("run__ratios.h5")) as file:
            found[lags] = file["ratios/sigma_R"][:]
    with open_spots(spots) as results:
        model = results.noise_model
    assert model is not None
    assert np.isnan([model[name] for name in NOISE_LAGS]).all()
    assert model["correlation"] > 0
    assert np.array_equal(found[None], found[(0.0,) * 4], equal_nan=True)
    assert not np.array_equal(found[None], found[0.4, 0.1, 0.05, 0.01], equal_nan=True)


def test_delays_come_from_the_metadata(spots: Path) -> None:
    """A run with laser_on has its delays in lauecollect only."""
    with h5py.File(spots, "r+") as file:
        on = file["per_frame/laser_on"][:] == 1
        delays = np.where(on, ["-", "1ns", "-", "2us"] * 5, "-").astype(object)
        if "lauecollect/delay" in file:
            del file["lauecollect/delay"]
        file["lauecollect/delay"] = delays
        file["per_frame/delay"][...] = np.where(on, np.nan, 0)
    found = gpu_spots.ratios(spots)
    assert sorted(set(found.ratios["delay"])) == [1e-9, 2e-6]


def test_delays_of_a_wrong_length_are_a_warning_of_find(tmp_path: Path) -> None:
    def seven(file: h5py.File) -> None:
        if "lauecollect/delay" in file:
            del file["lauecollect/delay"]
        file["lauecollect/delay"] = ["1ns"] * 7

    run, spots = write_run(tmp_path / "run.h5", seven), tmp_path / "run__spots.h5"
    ended = command(run, "-o", spots, "--quiet", "-S", "pairs")
    assert ended.status == 0
    assert "lauecollect/delay has shape (7,), expected one value for each of the 20" in ended.stderr
    found = gpu_spots.ratios(spots)
    assert np.isnan(found.ratios["delay"]).all()


def test_pairs_of_frames_share_masks_too(tmp_path: Path) -> None:
    result = ratios(spots_of_run(tmp_path, "-S", "pairs"))
    assert result.exit_code == 0, result.output
    assert "10 frame pairs of 20 frames" in result.output
