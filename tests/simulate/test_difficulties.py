"""Difficulties of simulated runs are those that the options name."""

import math
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from gpu_spots import Parameters, find_spots
from gpu_spots.cli.simulate import SECTIONS, simulate
from gpu_spots.errors import ParameterError
from gpu_spots.files.output.simulated_run import read_truth, write_run
from gpu_spots.simulate.design import KINDS, PRESETS, PUBLISHED_SEEDS, TUNING_SEEDS, make_design
from gpu_spots.simulate.profiles import cut_spots, profile
from gpu_spots.simulate.run import SimulatedRun, simulate_run
from gpu_spots.simulate.truth import matched_snr, noise_kernel, smoothed

QUIET: dict[str, Any] = {
    "size": (150, 170),
    "laser": False,
    "angles": 1,
    "repeats": 30,
    "spots": 0,
    "zingers": 0.0,
    "hot_pixels": 0,
    "dead_pixels": 0,
    "jitter": 0.0,
    "round_detector": False,
}


def run_of(preset: str = "marccd", **options: Any) -> SimulatedRun:
    return simulate_run(make_design(QUIET | options, preset))


def frames_of(run: SimulatedRun) -> NDArray[np.float64]:
    return np.array(list(run.frames()), float)


def test_default_frames_are_those_of_the_plain_formula() -> None:
    """Options that are off draw no random number and change no bit."""
    design = make_design({"size": (96, 80), "angles": 2, "repeats": 1, "spots": 6, "zingers": 3.0})
    run = simulate_run(design)
    off, (added,) = run._spot_images(1, (0.0, 0.0))
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(2, 1, 1)))
    expected = np.zeros((96, 80), np.uint16)
    for begin in (0, 64):
        rows = slice(begin, begin + 64)
        light = run.scale[3] * run.detector.background[rows].astype(float)
        light = light + run.scale[3] * run.spot_scale[3] * (off[rows] + added[rows])
        light = rng.poisson(light / 0.07) * 0.07
        light += 10.0 + 2.5 * rng.standard_normal(light.shape, np.float32)
        expected[rows] = np.clip(np.rint(light), 0, 65535).astype(np.uint16)
    hits = rng.integers(0, (96, 80), (rng.poisson(3.0), 2))
    counts = np.exp(rng.uniform(math.log(200), math.log(20000), len(hits)))
    expected[tuple(hits.T)] = np.clip(np.rint(expected[tuple(hits.T)] + counts), 0, 65535)
    hot = tuple(run.detector.hot.T)
    bright = expected[hot] + run.detector.hot_counts * rng.normal(1, 0.05, 12)
    expected[hot] = np.clip(np.rint(bright), 0, 65535)
    expected[tuple(run.detector.dead.T)] = 0
    expected[~run.detector.inside] = 0
    np.testing.assert_array_equal(run.frame(3), expected)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_profiles_have_their_intensity_centre_and_axes(kind: str) -> None:
    size, XY, sigma = (161, 141), np.array([80.3, 70.6]), np.array([6.0, 3.0])
    turn = math.radians(30)
    window, share = profile(kind, size, XY, sigma, turn)
    assert share.sum() == pytest.approx(1, abs=0.001)
    x, y = np.mgrid[window]
    dx, dy = x - XY[0], y - XY[1]
    assert (share * dx).sum() == pytest.approx(0, abs=0.05)
    assert (share * dy).sum() == pytest.approx(0, abs=0.05)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    moments = (share * along**2).sum(), (share * across**2).sum()
    if kind in ("gaussian", "streak", "flat"):
        np.testing.assert_allclose(moments, sigma**2, rtol=0.02)
    if kind == "moffat":  # tails: second moments far above those of the core
        assert moments[0] > 1.5 * 36
        half = share > share.max() / 2
        # area of the ellipse of the Gaussian at half its height: 2 pi ln 2 * 18
        assert half.sum() == pytest.approx(2 * math.pi * math.log(2) * 18, rel=0.1)
    if kind == "split":
        profile_along = [share[abs(along - t) < 0.5].max() for t in np.arange(-12, 13)]
        middle = profile_along[10]
        assert max(profile_along[:10]) > 1.3 * middle
        assert max(profile_along[12:]) > 1.3 * middle


def test_profiles_are_cut_at_the_frame() -> None:
    window, share = profile("moffat", (40, 40), np.array([2.0, 38.0]), np.array([2.0, 2.0]), 0.0)
    assert share.shape == tuple(part.stop - part.start for part in window)
    assert 0.5 < share.sum() < 0.95


def test_mixed_spots_have_all_shapes_and_streaks_are_long() -> None:
    spots = run_of(size=(800, 800), spots=60, profile="mixed", angles=2, repeats=1).truth.spots
    assert set(spots.profile.tolist()) == set(range(5))
    ratio = spots.sigma[:, 0] / spots.sigma[:, 1]
    streak = spots.profile == KINDS.index("streak")
    assert ratio[streak].min() >= 5
    assert ratio[~streak].max() <= 2.8 + 1e-9


def test_cut_outs_of_an_image_are_put_on_the_frames() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(100, 3, (120, 130))
    pattern = np.array([[0, 50, 0], [400, 900, 300], [0, 200, 100]], float)
    image[40:43, 60:63] += pattern
    image[80:83, 30:33] += 2 * pattern.T
    cutouts = cut_spots(np.rint(image))
    assert len(cutouts) == 2
    assert cutouts[1].image.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        cutouts[1].image, pattern / pattern.sum(), atol=0.02
    )  # the highest first
    run = simulate_run(
        make_design(
            QUIET
            | {"profile": "cutouts", "spots": 5, "intensity_spread": 0.0, "background": 0.0}
            | {"intensity": 20000.0, "repeats": 1}
        ),
        cutouts,
    )
    frame, spots = run.frame(0).astype(float) - 10, run.truth.spots
    for (x, y), fraction in zip(spots.XY, spots.fraction, strict=True):
        near = slice(round(x) - 4, round(x) + 5), slice(round(y) - 4, round(y) + 5)
        assert frame[near].sum() == pytest.approx(20000 * fraction, rel=0.02)
        i, _ = np.mgrid[near]
        centre = (frame[near] * i).sum() / frame[near].sum()
        assert centre == pytest.approx(x, abs=0.1)
    with pytest.raises(ParameterError, match="cutouts: no image given"):
        run_of(profile="cutouts", spots=1)
    with pytest.raises(ParameterError, match="cutouts: found no clear spot"):
        cut_spots(rng.normal(100, 3, (60, 60)))


def test_correlated_noise_keeps_the_variance_of_a_pixel() -> None:
    run = run_of(correlation=1.0, read_noise=0.0, repeats=60)
    frames = frames_of(run)
    left = (frames - frames.mean(0))[:, 8:-8, 8:-8]
    expected = (0.07 * run.detector.background + 1 / 12)[8:-8, 8:-8]
    # the median, as variance spreads into the shadow of the beamstop
    assert np.median(left.var(0, ddof=1) / expected) == pytest.approx(1, abs=0.03)
    kernel = noise_kernel(1.0)
    wanted = (kernel[1:] * kernel[:-1]).sum()  # of white noise with this kernel
    for a, b in ((left[:, 1:], left[:, :-1]), (left[:, :, 1:], left[:, :, :-1])):
        assert (a * b).sum() / (left**2).sum() == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_matched_snr_is_that_of_the_filter_on_drawn_noise(correlation: float) -> None:
    """The filter of the definition, applied to 4000 noisy pictures of one spot."""
    rng = np.random.default_rng(1)
    background, gain, read_noise = 40.0, 0.5, 1.5
    _, share = profile("gaussian", (31, 31), np.array([15.2, 14.7]), np.array([2.0, 1.3]), 0.4)
    signal, kernel = 300 * share, noise_kernel(correlation)
    found = matched_snr(signal, np.full(share.shape, background), gain, read_noise, kernel)
    size = np.array(share.shape) + 10
    expected = np.pad(signal, 5) + background
    weights = np.pad(signal / (gain * (signal + background) + read_noise**2 + 1 / 12), 5)
    sums = []
    for _ in range(4000):
        noise = rng.poisson(expected / gain) * gain - expected
        noise = smoothed(noise, kernel) + read_noise * rng.standard_normal(size)
        sums.append((weights * (signal.sum() * np.pad(share, 5) + noise)).sum())
    assert np.mean(sums) / np.std(sums) == pytest.approx(found, rel=0.05)


def test_matched_snr_of_a_plain_spot_is_close_to_the_expected_one() -> None:
    spots = run_of(size=(400, 400), spots=40, round_detector=True).truth.spots
    clear = spots.snr > 3
    np.testing.assert_allclose(spots.snr_matched[clear], spots.snr[clear], rtol=0.3)
    assert np.median(spots.snr_matched[clear] / spots.snr[clear]) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(spots.fraction, 1, atol=0.05)


def test_photon_counter_has_modules_gaps_and_whole_photons() -> None:
    run = run_of("pilatus", size=(150, 170), modules=(40, 60), gaps=(7, 3), dead_pixels=5, spots=20)
    frame = run.frame(0)
    assert frame.dtype == np.int32
    gaps = (np.arange(150)[:, None] % 47 >= 40) | (np.arange(170) % 63 >= 60)
    dead = np.zeros((150, 170), bool)
    dead[tuple(run.detector.dead.T)] = True
    assert (frame[gaps] == -1).all()
    assert (frame[dead & ~gaps] == -2).all()
    good = ~gaps & ~dead
    assert frame[good].min() == 0
    assert frame[good].mean() < 10
    low = run.truth.spots.fraction < 0.9
    assert low.any()  # spots in gaps
    assert (run.truth.spots.snr_matched[low] < run.truth.spots.snr[low]).all()


def test_unsigned_gaps_have_the_largest_value(tmp_path: Path) -> None:
    run = run_of("eiger", size=(150, 170), modules=(60, 170), gaps=(10, 10), repeats=8)
    assert run.frame(0)[65, 20] == 2**32 - 1
    write_run(tmp_path / "a__mccd.h5", run)
    with h5py.File(tmp_path / "a__mccd.h5") as file:
        assert file["frames"].attrs["valid_max"] == 2**32 - 2
        assert "valid_min" not in file["frames"].attrs
    find_spots(
        tmp_path / "a__mccd.h5", Parameters.manual(angles=0), output=tmp_path / "s.h5"
    ).close()
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["info"].attrs["valid_high"] == 2**32 - 2
        assert file["stats/max"][65, 20] == 0  # masked


def test_neighbours_are_equal_and_at_the_chosen_separation() -> None:
    spots = run_of(size=(500, 500), spots=20, neighbours=7, separation=5.0, angles=2).truth.spots
    assert len(spots) == 54
    rows = np.flatnonzero(spots.partner >= 0)
    assert len(rows) == 28
    partner = spots.partner[rows]
    assert (spots.partner[partner] == rows).all()
    assert (spots.block[partner] == spots.block[rows]).all()
    assert (spots.I[partner] == spots.I[rows]).all()
    dx, dy = (spots.XY[partner] - spots.XY[rows]).T
    turn = np.radians(spots.orientation[rows])
    sigma = spots.sigma[rows]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    np.testing.assert_allclose(np.hypot(along / sigma[:, 0], across / sigma[:, 1]), 5)


def test_static_spots_are_on_all_frames() -> None:
    run = run_of(
        static_spots=3,
        intensity=50000.0,
        intensity_spread=0.0,
        angles=3,
        repeats=2,
        background=10.0,
    )
    assert run.truth.conditions.static.shape == (3, 2)
    for frame in run.frames():
        for x, y in run.truth.conditions.static:
            assert frame[round(x), round(y)] > 500


def test_slips_move_all_spots() -> None:
    run = run_of(
        spots=4, slips=1, slip=8.0, intensity=50000.0, intensity_spread=0.0, background=0.0
    )
    shift = run.truth.conditions.shift
    assert len(np.unique(shift, axis=0)) == 2
    assert np.hypot(*shift[-1]) == pytest.approx(8)
    for index in (0, 29):
        frame = run.frame(index).astype(float) - 10
        for x, y in run.truth.spots.XY + shift[index]:
            near = slice(round(x) - 3, round(x) + 4), slice(round(y) - 3, round(y) + 4)
            i, _ = np.mgrid[near]
            assert (frame[near] * i).sum() / frame[near].sum() == pytest.approx(x, abs=0.3)


def test_each_delay_has_responses_of_its_own(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "laser": True,
        "angles": 2,
        "repeats": 2,
        "delays": ("1ns", "1us"),
        "spots": 6,
    }
    run = run_of(**options, intensity=1e5, intensity_spread=0.0, largest_response=0.5)
    schedule, delay = run.truth.schedule, run.truth.conditions.delay
    assert delay.tolist() == [-1, 0, -1, 1] * 4
    assert schedule.repeat.tolist() == [1, 1, 1, 1, 2, 2, 2, 2] * 2
    spots = run.truth.spots
    assert (spots.responses[:, 0] == spots.response).all()
    frames = frames_of(run) - 10
    row = 0
    x, y = np.rint(spots.XY[row]).astype(int)
    peak = frames[:8, x - 1 : x + 2, y - 1 : y + 2].sum((1, 2))
    for first in (0, 4):
        for on in (1, 3):
            ratio = peak[first + on] / peak[first]
            wanted = 1 + spots.responses[row, on // 2] * spots.I[row] / (spots.I[row] + 1)
            assert ratio == pytest.approx(wanted, rel=0.06)  # background and jitter
    write_run(tmp_path / "a__mccd.h5", run)
    with h5py.File(tmp_path / "a__mccd.h5") as file:
        delays = file["lauecollect/delay"].asstr()[:4].tolist()
        names = file["lauecollect/file"].asstr()[()].tolist()
    assert delays == ["-", "1ns", "-", "1us"]
    assert names[1] == "sim_000.000_1ns_1.mccd"


def test_beam_jumps_between_levels() -> None:
    run = run_of(beam_jumps=2, jump=30.0)
    assert len(np.unique(run.scale)) == 3
    light = frames_of(run)[:, 20:60].mean((1, 2)) - 10
    np.testing.assert_allclose(light / light[0], run.scale, rtol=5e-3)


def test_background_changes_its_shape() -> None:
    run = run_of(background_change=10.0, repeats=60)
    frames = frames_of(run)
    change = frames[10:20].mean(0) - frames[40:50].mean(0)
    factor = run.background_change[10:20].mean() - run.background_change[40:50].mean()
    expected = factor * run.detector.gradient * run.detector.background
    assert np.corrcoef(change.ravel(), expected.ravel())[0, 1] > 0.8
    assert (change * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.1)


def test_rings_stand_above_the_background() -> None:
    plain, rings = run_of().detector, run_of(rings=1, ring_strength=50.0).detector
    ratio = (rings.background / np.maximum(plain.background, 1e-9))[plain.background > 0]
    assert ratio.max() == pytest.approx(1.5, abs=0.01)
    assert 0.005 < (ratio > 1.2).mean() < 0.2


def test_flickering_pixels_are_bright_on_some_frames() -> None:
    run = run_of(flickering_pixels=8, repeats=60, background=100.0)
    values = frames_of(run)[:, *run.detector.flickering.T]
    dark = np.median(values, axis=0)
    bright = values > dark + 0.8 * run.detector.flickering_counts
    assert 0.15 < bright.mean() < 0.5
    assert (bright.any(0) & ~bright.all(0)).all()


def test_saturation_and_bias_drift() -> None:
    assert max(frame.max() for frame in run_of(saturation=500).frames()) == 500
    run = run_of(bias_drift=2.0, background=0.0)
    np.testing.assert_allclose(frames_of(run).mean((1, 2)), run.bias, atol=0.1)
    assert run.bias.std() > 0.5


def test_seeds_for_tuning_and_for_figures_are_apart() -> None:
    assert not set(TUNING_SEEDS) & set(PUBLISHED_SEEDS)


def test_truth_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    run, path = run_of(spots=3, angles=2, repeats=2), tmp_path / "a__mccd.h5"
    write_run(path, run)
    new = ("responses", "fraction", "snr_matched", "profile", "partner")
    with h5py.File(path, "a") as file:
        for name in (*new, "frame_delay", "shift", "static", "static_radius"):
            del file[f"truth/{name}"]
    truth = read_truth(path)
    assert (truth.spots.snr_matched == run.truth.spots.snr).all()
    assert (truth.conditions.spot_scale == 1).all()


def test_truth_of_a_difficult_run_comes_back(tmp_path: Path) -> None:
    run = simulate_run(make_design({"size": (300, 310), "spots": 25, "angles": 2}, "hard"))
    write_run(tmp_path / "a__mccd.h5", run)
    truth = read_truth(tmp_path / "a__mccd.h5")
    for name in ("responses", "fraction", "snr_matched", "profile", "partner"):
        np.testing.assert_array_equal(
            getattr(truth.spots, name), getattr(run.truth.spots, name), strict=True
        )
    np.testing.assert_array_equal(truth.conditions.shift, run.truth.conditions.shift)
    np.testing.assert_array_equal(truth.conditions.spot_scale, run.scale * run.spot_scale)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_are_read_by_the_finder(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "p__mccd.h5"
    arguments = [str(path), "--preset", preset, "--size", "256,270", "--spots", "10"]
    ended = CliRunner().invoke(simulate, [*arguments, "--angles", "3", "--modules", "100,120"])
    assert (ended.exit_code, ended.stdout) == (0, ""), ended.output
    with h5py.File(path) as file:
        assert file["frames"].dtype == PRESETS[preset].get("dtype", "uint16")
        assert file["truth"].attrs["gain"] == PRESETS[preset].get("gain", 0.07)
    # a photon counter has no level to scale to, the difficult run drifts
    parameters = Parameters.manual(angles=0, normalise="level" if preset == "hard" else "none")
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        spots = find_spots(path, parameters, output=tmp_path / "s.h5")
    with spots:
        assert len(spots.frame_ranges) == 18
    assert bool(noticed) == (preset == "hard")  # static spots


def test_options_change_a_preset() -> None:
    context = simulate.make_context("simulate", ["--preset", "pilatus", "a.h5", "--gain", "2"])
    assert (context.params["gain"], context.params["dtype"]) == (2.0, "int32")
    assert context.params["size"] == (1043, 981)


def test_help_has_every_option_under_a_heading() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(
        str(one.name) for one in simulate.params if one.name != "output"
    )
    text = CliRunner().invoke(simulate, ["--help"]).stdout
    assert all(f"\n{heading}:\n" in text for heading in SECTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "round"], "--profile"),
        (["--gap-value", "-1"], "gap-value"),
        (["--modules", "2,3"], "--modules"),
        (["--elongation", "0.5"], "--elongation"),
        (["--delays", "1ns,1ns"], "delays"),
        (["--dark", "--delays", "1ns"], "--delays"),
        (["--cutouts", "a.tif"], "--cutouts"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(simulate, [str(tmp_path / "a.h5"), "--size", "64", *options])
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert not list(tmp_path.iterdir())
