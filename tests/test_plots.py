"""Plots of results: what is drawn is what the file has."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from factories.exports import spots_of_run
from gpu_spots import SpotsFile, open_spots, plots
from gpu_spots.errors import GpuSpotsError


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spots_of_run(tmp_path_factory.mktemp("plots"))


@pytest.fixture
def results(spots: Path) -> Iterator[SpotsFile]:
    mpl.use("agg")
    with open_spots(spots) as opened:
        yield opened
    plt.close("all")


def drawn(axes: Axes) -> np.ndarray:
    """Return the values of the image of some axes."""
    return np.asarray(axes.images[0].get_array())


def test_background(results: SpotsFile) -> None:
    figure = plots.background(results)
    left, right, *bars = figure.axes
    assert [axes.get_title() for axes in (left, right)] == ["stats/avg", "stats/std"]
    assert len(bars) == 2
    low, _ = left.images[0].get_clim()
    np.testing.assert_allclose(drawn(left), np.maximum(results.avg, low), rtol=1e-6)


def test_frame_with_its_spots(results: SpotsFile) -> None:
    index = int(results.per_frame()["n_spots"].argmax())
    figure = plots.frame(results, index - results.n_frames)
    axes = figure.axes[0]
    spots = results.spots(index)
    assert axes.get_title() == f"frame {index}: {len(spots['I'])} spots"
    assert np.array_equal(np.asarray(axes.collections[0].get_offsets()), spots["XY"][:, ::-1])
    with h5py.File(results.info["input_file"]) as file:
        frame = file["frames"][index]
    low, _ = axes.images[0].get_clim()
    np.testing.assert_array_equal(drawn(axes), np.maximum(frame, low))
    given = plots.frame(results, index, np.full(frame.shape, 7.0)).axes[0]
    assert (drawn(given) == 7).all()
    with pytest.raises(IndexError, match="frame 99"):
        plots.frame(results, 99)


def test_spots_per_frame(results: SpotsFile) -> None:
    off, on = plots.spots_per_frame(results).axes[0].lines
    columns = results.per_frame()
    for line, state in ((off, 0), (on, 1)):
        here = columns["laser_on"] == state
        assert np.array_equal(line.get_xdata(), np.flatnonzero(here))
        assert np.array_equal(line.get_ydata(), columns["n_spots"][here])


def test_noise(results: SpotsFile, spots: Path, tmp_path: Path) -> None:
    points, model = results.noise_points, results.noise_model
    assert points is not None
    assert model is not None
    dots, line = plots.noise(results).axes[0].lines
    assert np.array_equal(dots.get_ydata(), points["variance"])
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_allclose(y, model["offset"] + model["gain"] * x)
    older = Path(shutil.copy(spots, tmp_path))
    with h5py.File(older, "r+") as file:
        del file["noise"]
    with open_spots(older) as opened, pytest.raises(GpuSpotsError, match="has no noise model"):
        plots.noise(opened)


def test_ratios_in_a_figure_that_is_there(results: SpotsFile) -> None:
    found = results.ratios()
    figure = plt.figure()
    upper, lower = np.asarray(figure.subfigures(2, 1)).tolist()
    assert plots.ratios(found, figure=upper) is upper
    plots.spots_per_frame(results, figure=lower)
    assert len(figure.axes) == 3
    bars = upper.axes[0].collections[0].get_paths()
    assert len(bars) == np.isfinite(found.ratios["R"]).sum()


def test_without_matplotlib(results: SpotsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GpuSpotsError, match="use pip install matplotlib"):
        plots.spots_per_frame(results)
