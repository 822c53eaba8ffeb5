"""Ratios against plain loops, and on spots and runs whose response is known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_spots import Parameters, find_spots
from gpu_spots.columns import Flag
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.simulate.design import Design, SpotDesign
from gpu_spots.simulate.run import simulate_run
from gpu_spots.spots.ratios import (
    FrameStates,
    RatioResult,
    Rejected,
    SpotRows,
    pair_frames,
    ratios,
    same_state_pairs,
)

ANGLES, SPOTS, GAIN, NOISE = 10, 30, 0.07, 30.0


def schedule(pattern: str, angles: int = ANGLES, *, delays: str = "") -> FrameStates:
    """Frames of a run: at each angle those of the pattern, where 0 is off and 1 is on.

    ``delays``: one digit per frame, nanoseconds.
    """
    n = len(pattern)
    on = np.array([int(c) for c in pattern] * angles)
    block = np.repeat(np.arange(angles), n)
    times = np.array([int(c) * 1e-9 for c in (delays or "1" * n)] * angles)
    return FrameStates(
        mask=block.copy(),
        laser_on=on,
        angle=block.astype(float),
        block=block,
        delay=np.where(on == 1, times, 0.0),
        partner=np.full(n * angles, -1),
    )


def spots_of(
    frames: FrameStates,
    seed: int,
    *,
    response: float = 0.0,
    common: float = 0.0,
    jitter: float = 0.02,
    n: int = SPOTS,
) -> tuple[SpotRows, np.ndarray]:
    """Spots of a run without pixels, and the true ratio of each spot, (masks, n)."""
    rng = np.random.default_rng(seed)
    n_masks, n_frames = int(frames.mask.max()) + 1, len(frames.mask)
    true = np.exp(rng.normal(6.5, 2.0, (n_masks, n)))
    truth = (1 + common) * (1 + rng.uniform(-response, response, (n_masks, n)))
    scale = 1 + jitter * rng.standard_normal(n_frames)
    signal = true[frames.mask] * scale[:, None]
    signal *= np.where(frames.laser_on[:, None] == 1, truth[frames.mask], 1.0)
    shared = (NOISE**2 / 50) * np.ones_like(signal)
    variance = NOISE**2 + GAIN * signal + shared
    background = rng.normal(0, math.sqrt(NOISE**2 / 50), (n_masks, n))[frames.mask]
    seen = signal + rng.normal(0, np.sqrt(variance - shared)) + background
    peak = signal / 10
    noise = np.full(seen.size, 5.0)
    place = rng.uniform(0, 1000, (n_masks, n, 2))[frames.mask]
    rows = SpotRows(
        frame=np.repeat(np.arange(n_frames), n),
        label=np.tile(np.arange(1, n + 1), n_frames),
        position=place.reshape(-1, 2),
        intensity=seen.ravel(),
        sigma=np.sqrt(variance).ravel(),
        shared=shared.ravel(),
        flags=np.zeros(seen.size, np.int64),
        total=seen.ravel().copy(),
        largest=(peak + rng.normal(0, 5, seen.shape)).ravel(),
        floor=np.zeros(seen.size),
        noise=noise,
        gain=GAIN,
    )
    return rows, truth


def by_loops(spots: SpotRows, frames: FrameStates, result: RatioResult) -> list[dict[str, Any]]:
    """The ratios again, one reflection after the other, from the pairs that are not rejected."""
    error = result.figures["error of a pair"]["relative"]
    factor = result.figures["noise factor"]
    shared, variances = factor * spots.shared, factor * spots.sigma**2
    where = {
        (int(f), int(label)): row
        for row, (f, label) in enumerate(zip(spots.frame, spots.label, strict=True))
    }
    found = []
    for one in range(len(result.ratios["R"])):
        label = int(result.ratios["label"][one])
        used = []
        for p in np.flatnonzero(result.pairs["ratio"] == one):
            if result.pairs["rejected"][p] == Rejected.USED:
                off = where[int(result.pairs["frame_off"][p]), label]
                on = where[int(result.pairs["frame_on"][p]), label]
                used.append((off, on))
        off_sum = sum(spots.intensity[off] for off, _ in used)
        on_sum = sum(spots.intensity[on] for _, on in used)
        R = on_sum / off_sum
        n = len(used)
        noise = n**2 * shared[used[0][0]] * (1 - R) ** 2
        for off, on in used:
            noise += variances[on] - shared[on]
            noise += R**2 * (variances[off] - shared[off])
        level = (off_sum + on_sum) / (2 * n)
        spread = n * (error * level) ** 2
        for row in (row for pair in used for row in pair):
            spread += variances[row] - shared[row]
        each = [spots.intensity[on] / spots.intensity[off] for off, on in used]
        mean = sum(each) / n
        chi2 = 0.0
        for off, on in used:
            variance = variances[on] - shared[on] + (error * R * off_sum / n) ** 2
            variance += R**2 * (variances[off] - shared[off])
            chi2 += (spots.intensity[on] - R * spots.intensity[off]) ** 2 / variance
        found.append(
            {
                "pull": (on_sum - off_sum) / math.sqrt(spread),
                "n_pairs": n,
                "I_off": off_sum / n,
                "I_on": on_sum / n,
                "R": R if off_sum > 0 else math.nan,
                "sigma_R": math.sqrt(noise / off_sum**2 + error**2 * R**2 / n)
                if off_sum > 0
                else math.nan,
                "mean_R": mean,
                "std_R": math.sqrt(sum((x - mean) ** 2 for x in each) / (n - 1)),
                "chi2": chi2 if off_sum > 0 else math.nan,
            }
        )
    return found


@pytest.mark.parametrize("pattern", ["0101010101", "1010101010", "0000011111", "00110011"])
def test_ratios_are_those_of_plain_loops(pattern: str) -> None:
    frames = schedule(pattern)
    spots, _ = spots_of(frames, 11, response=0.1)
    result = ratios(spots, frames)
    assert len(result.ratios["R"]) == ANGLES * SPOTS
    assert 0.7 < result.figures["noise factor"] < 1.4
    assert result.figures["counts"]["frames_unpaired"] == 0
    expected = by_loops(spots, frames, result)
    for name in expected[0]:
        values = [row[name] for row in expected]
        found = result.null["on_off"] if name == "pull" else result.ratios[name]
        np.testing.assert_allclose(found, values, rtol=1e-9, err_msg=name)


def test_order_of_the_frames_does_not_matter() -> None:
    frames = schedule("0101010101")
    spots, truth = spots_of(frames, 12, response=0.1, jitter=0)
    result = ratios(spots, frames)
    reverse = schedule("1010101010")
    swapped, _ = spots_of(reverse, 12, response=0.1, jitter=0)
    other = ratios(swapped, reverse)
    for found in (result, other):
        strong = found.ratios["sigma_R"] < 0.01
        away = found.ratios["R"] - truth[found.ratios["mask"], found.ratios["label"] - 1]
        assert strong.sum() > 50
        assert np.abs(away[strong]).max() < 0.05


def test_pairs_of_the_run_come_first_and_others_are_paired_in_order() -> None:
    frames = schedule("001101", 1)
    frames.partner[:] = [-1, 2, 1, -1, 5, 4]
    found = pair_frames(frames)
    assert found.first.tolist() == [0, 1, 4]
    assert found.second.tolist() == [3, 2, 5]


def test_partners_of_other_masks_are_not_pairs() -> None:
    frames = schedule("01", 1)
    frames.partner[:] = [1, 0]
    frames.mask[:] = [0, 1]
    assert len(pair_frames(frames)) == 0


def test_delays_are_kept_apart() -> None:
    frames = schedule("01010101", delays="01020102")
    spots, _ = spots_of(frames, 13)
    on = np.repeat(frames.delay == 2e-9, SPOTS)
    spots.intensity[on] *= 1.5
    result = ratios(spots, frames)
    assert sorted(set(result.ratios["delay"])) == [1e-9, 2e-9]
    assert (result.ratios["n_pairs"] == 2).all()
    strong = result.ratios["I_off"] > 3000
    for delay, expected in ((1e-9, 1), (2e-9, 1.5)):
        of_delay = strong & (result.ratios["delay"] == delay)
        assert np.median(result.ratios["R"][of_delay]) == pytest.approx(expected, rel=0.03)


def test_delay_without_pairs_is_told() -> None:
    frames = schedule("0101011", delays="0101012")
    spots, _ = spots_of(frames, 14)
    result = ratios(spots, frames)
    assert set(result.ratios["delay"]) == {1e-9}
    assert "10 of 70 frames are in no pair" in result.notes
    assert "delay 2e-09 s: no laser-on frame is in a pair" in result.notes


def test_frames_without_an_angle_or_a_state_are_left_out() -> None:
    frames = schedule("010101")
    frames.block[:6], frames.angle[:6] = -1, np.nan
    frames.laser_on[6] = -1
    spots, _ = spots_of(frames, 15)
    result = ratios(spots, frames)
    assert "6 frames without an angle are left out" in result.notes
    assert "1 frames without a laser state are left out" in result.notes
    assert (result.ratios["mask"] > 0).all()
    assert result.figures["counts"]["frame_pairs"] == 9 * 3 - 1


def test_angle_that_returns_is_matched_by_position() -> None:
    """The second pass has masks of its own, whose labels are in another order."""
    frames = schedule("0101" * 2)
    pass_of = np.tile([0, 0, 0, 0, 1, 1, 1, 1], ANGLES)
    spots, _ = spots_of(frames, 16)
    later = np.repeat(pass_of == 1, SPOTS)
    # the second pass: one pixel further, and labels reversed
    order = np.arange(len(spots.frame)).reshape(-1, SPOTS)
    order[pass_of == 1] = order[pass_of == 1][:, ::-1]
    moved = {
        name: getattr(spots, name)[order.ravel()]
        for name in ("intensity", "sigma", "total", "largest", "position")
    }
    moved["position"] = moved["position"] + np.where(later[:, None], [1.0, 0.0], 0.0)
    two = replace(frames, mask=frames.mask + ANGLES * pass_of)
    result = ratios(replace(spots, **moved), two)
    counts = np.bincount(result.ratios["n_pairs"] + result.ratios["n_rejected"])
    assert counts[4] >= ANGLES * SPOTS - 5  # some are nearer to another spot
    assert set(np.round(result.pairs["distance"], 6)) >= {0.0, 1.0}
    one_pass = ratios(spots, frames)
    same = one_pass.ratios["n_pairs"] == 4
    key = {
        (m, s): R
        for m, s, R in zip(*(result.ratios[k] for k in ("mask", "label", "R")), strict=True)
    }
    again = [
        key[m, s]
        for m, s in zip(*(one_pass.ratios[k][same] for k in ("mask", "label")), strict=True)
    ]
    assert np.isclose(again, one_pass.ratios["R"][same]).mean() > 0.95


def test_zinger_is_rejected_and_listed() -> None:
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 17)
    row = 4 * SPOTS + 7  # frame 4, label 8
    spots.intensity[row] += 3000
    spots.total[row] += 3000
    spots.largest[row] += 3000
    result = ratios(spots, frames)
    bad = np.flatnonzero(result.pairs["rejected"] == Rejected.ZINGER)
    assert result.pairs["frame_off"][bad].tolist() == [4]
    assert result.ratios["label"][result.pairs["ratio"][bad]].tolist() == [8]
    assert "1 of 1500 spot pairs rejected: zinger" in result.notes
    assert result.ratios["n_rejected"].sum() >= 1


def test_zinger_among_pairs_with_masks_of_their_own() -> None:
    """Compare the frames of other pairs, as with -S pairs: two of them are too few."""
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 17)
    pairs = replace(frames, mask=np.arange(len(frames.mask)) // 2)
    for row in (4 * SPOTS + 7, 15 * SPOTS + 2):  # frame 4, label 8; frame 15, laser on, label 3
        for name in ("intensity", "total", "largest"):
            getattr(spots, name)[row] += 3000
    result = ratios(spots, pairs)
    bad = np.flatnonzero(result.pairs["rejected"] == Rejected.ZINGER)
    assert result.pairs["frame_off"][bad].tolist() == [4, 14]
    assert "2 of 1500 spot pairs rejected: zinger" in result.notes
    two = replace(pairs, block=np.arange(len(frames.mask)) // 4)
    assert "zinger" not in " ".join(ratios(spots, two).notes)


def test_moved_spot_is_no_zinger() -> None:
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 17)
    spots.largest[4 * SPOTS + 7] += 3000
    assert "zinger" not in " ".join(ratios(spots, frames).notes)


def test_outlier_is_rejected_and_its_neighbours_are_kept() -> None:
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 18)
    row = 5 * SPOTS + 3
    before = ratios(spots, frames)
    assert (before.pairs["rejected"] == Rejected.OUTLIER).sum() <= 1
    spots.intensity[row] += 20000
    result = ratios(spots, frames)
    bad = np.flatnonzero(result.pairs["rejected"] == Rejected.OUTLIER)
    assert 5 in result.pairs["frame_on"][bad]
    one = result.pairs["ratio"][bad[result.pairs["frame_on"][bad] == 5][0]]
    assert result.ratios["n_rejected"][one] == 1
    assert result.ratios["n_pairs"][one] == 4


def test_saturated_spots_are_left_out_unless_kept() -> None:
    frames = schedule("010101")
    spots, _ = spots_of(frames, 19)
    spots.flags[5] = int(Flag.OVERLOADED)
    result = ratios(spots, frames)
    assert (result.pairs["rejected"] == Rejected.SATURATED).sum() == 1
    assert "1 of 900 spot pairs rejected: saturated" in result.notes
    assert result.ratios["flags"][5] == int(Flag.OVERLOADED)
    kept = ratios(spots, frames, keep_saturated=True)
    assert not (kept.pairs["rejected"] == Rejected.SATURATED).any()


def test_zero_negative_and_unknown_intensities() -> None:
    frames = schedule("010101")
    spots, _ = spots_of(frames, 20)
    spots.intensity[spots.label == 1] = 0.0
    spots.intensity[spots.label == 2] *= -1
    spots.intensity[spots.label == 3] = np.nan
    result = ratios(spots, frames)
    bad = result.ratios["label"] <= 3
    assert np.isnan(result.ratios["R"][bad & (result.ratios["label"] != 2)]).all()
    assert np.isfinite(result.ratios["R"][~bad]).mean() > 0.9
    assert "30 of 900 spot pairs rejected: unknown" in result.notes
    assert "10 reflections have no pair left; their ratio is NaN" in result.notes
    assert any("no laser-off intensity above 0" in note for note in result.notes)


def test_one_pair() -> None:
    """Without a second pair nothing can be tested, and the run-wide error is not known."""
    frames = schedule("01", 1)
    spots, _ = spots_of(frames, 21, response=0.1)
    result = ratios(spots, frames)
    assert len(result.ratios["R"]) == SPOTS
    assert np.isnan(result.ratios["std_R"]).all()
    assert result.verdict.startswith("response not tested")
    assert any("the run-wide error is 0" in note for note in result.notes)
    assert result.figures["off/off"]["n"] == 0


def test_no_spots_and_no_pairs() -> None:
    frames = schedule("0101")
    spots, _ = spots_of(frames, 22)
    none = replace(
        spots,
        **{
            name: getattr(spots, name)[:0]
            for name in SpotRows.__dataclass_fields__
            if name != "gain"
        },
    )
    assert len(ratios(none, frames).ratios["R"]) == 0
    alone = replace(frames, mask=np.arange(len(frames.mask)))
    result = ratios(replace(spots, position=spots.position), alone)
    assert len(result.ratios["R"]) == 0
    assert "40 of 40 frames are in no pair" in result.notes


def test_consecutive_frames_of_a_state_make_null_pairs() -> None:
    found = same_state_pairs(schedule("01001", 1), 0)
    assert found.first.tolist() == [0]
    assert found.second.tolist() == [2]
    later = same_state_pairs(schedule("1111", 1, delays="1212"), 1)
    assert sorted(zip(later.first.tolist(), later.second.tolist(), strict=True)) == [(0, 2), (1, 3)]


def test_errors_are_those_of_the_scatter() -> None:
    """Coverage over many reflections, and the error of the pairs that the jitter makes."""
    inside, widths = [], []
    for seed in range(300, 308):
        frames = schedule("0101010101")
        spots, truth = spots_of(frames, seed, response=0.1)
        result = ratios(spots, frames)
        found = result.ratios
        pull = (found["R"] - truth[found["mask"], found["label"] - 1]) / found["sigma_R"]
        inside.append(np.abs(pull[np.isfinite(pull) & (found["I_off"] > 300)]))
        widths.append([result.figures[name]["width"] for name in ("off/off", "on/on")])
        assert result.figures["error of a pair"]["relative"] == pytest.approx(0.0283, rel=0.35)
    pulls = np.concatenate(inside)
    assert 0.60 < (pulls < 1).mean() < 0.75
    assert 0.90 < (pulls < 2).mean() < 0.98
    assert ((np.mean(widths, axis=0) > 0.9) & (np.mean(widths, axis=0) < 1.2)).all()


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_errors_that_are_wrong_are_corrected(wrong: float) -> None:
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 30)
    usual = ratios(spots, frames)
    other = replace(spots, sigma=spots.sigma * wrong, shared=spots.shared * wrong**2)
    result = ratios(other, frames)
    assert result.figures["noise factor"] == pytest.approx(
        usual.figures["noise factor"] / wrong**2, rel=0.25
    )
    weak = usual.ratios["I_off"] < 500
    change = result.ratios["sigma_R"][weak] / usual.ratios["sigma_R"][weak]
    assert np.nanmedian(change) == pytest.approx(1, abs=0.12)


def test_scale_of_pairs_takes_the_jitter_out() -> None:
    frames = schedule("0101010101")
    spots, _ = spots_of(frames, 31, common=0.2)
    plain, scaled = ratios(spots, frames), ratios(spots, frames, scale="pairs")
    strong = plain.ratios["I_off"] > 3000
    assert np.median(plain.ratios["R"][strong]) == pytest.approx(1.2, rel=0.02)
    assert np.median(scaled.ratios["R"][strong]) == pytest.approx(1.0, rel=0.003)
    assert scaled.figures["error of a pair"]["relative"] < 0.006
    assert np.median(scaled.frame_pairs["scale"]) == pytest.approx(1.2, rel=0.02)
    assert np.median(scaled.ratios["sigma_R"][strong]) < np.median(plain.ratios["sigma_R"][strong])
    assert "all spots change by" in scaled.verdict
    assert "--scale pairs removes" in scaled.verdict


@pytest.mark.parametrize("scale", ["none", "pairs"])
def test_no_response_is_not_seen(scale: str) -> None:
    seen = 0
    for seed in range(400, 440):
        frames = schedule("0101010101")
        spots, _ = spots_of(frames, seed)
        seen += ratios(spots, frames, scale=scale).verdict != "no response seen"
    assert seen <= 1


@pytest.mark.parametrize(("response", "common"), [(0.03, 0.0), (0.0, 0.05), (0.2, 0.0)])
def test_response_is_seen(response: float, common: float) -> None:
    seen = 0
    for seed in range(500, 510):
        frames = schedule("0101010101")
        spots, _ = spots_of(frames, seed, response=response, common=common)
        seen += ratios(spots, frames).verdict.startswith("response seen")
    assert seen >= 9


def test_odd_even_has_nothing_to_compare() -> None:
    frames = schedule("01")
    spots, _ = spots_of(frames, 41)
    result = ratios(spots, frames)
    assert result.figures["odd/even"]["n"] == 0
    assert math.isnan(result.figures["odd/even"]["probability"])


def run_of(folder: Path, seed: int, response: float) -> tuple[Any, Any]:
    """Ratios and truth of a simulated run."""
    path = folder / f"run_{seed}.h5"
    design = Design(
        size=(256, 256),
        angles=10,
        repeats=5,
        spots=80,
        drift=1.0,
        seed=seed,
        shape=SpotDesign(largest_response=response),
    )
    run = simulate_run(design)
    write_run(path, run, compression="none")
    parameters = Parameters(sync="blocks")
    with find_spots(path, parameters, backend="cpu", keep=()) as results:
        return results.ratios(), run.truth.spots


def test_slope_and_coverage_of_a_simulated_run(tmp_path: Path) -> None:
    logs, pulls = [], []
    for seed in (611, 612):
        result, truth = run_of(tmp_path, seed, 0.2)
        assert result.verdict.startswith("response seen")
        assert 0.75 < result.figures["off/off, scaled"]["width"] < 1.2
        for angle, X, Y, R, sigma in zip(
            *(result.ratios[name] for name in ("angle", "X", "Y", "R", "sigma_R")), strict=True
        ):
            same = np.flatnonzero(np.abs(truth.angle - angle) < 1e-3)
            away = np.hypot(*(truth.XY[same] - [X, Y]).T)
            nearest = same[away.argmin()]
            if away.min() < 1 and np.sort(away)[1] > 4 and 15 <= truth.snr[nearest] < 100:
                logs.append((math.log1p(truth.response[nearest]), math.log(R), sigma / R))
                pulls.append(abs(R - 1 - truth.response[nearest]) / sigma)
    true, found, sigma = np.array(logs).T
    weight = 1 / sigma**2
    true -= np.average(true, weights=weight)
    slope = (weight * true * found).sum() / (weight * true * true).sum()
    assert len(true) > 300
    assert 0.97 < slope < 1.03
    assert 0.60 < np.mean(np.array(pulls) < 1) < 0.77
    assert 0.90 < np.mean(np.array(pulls) < 2) < 0.99


def test_simulated_run_without_response(tmp_path: Path) -> None:
    result, _ = run_of(tmp_path, 621, 0.0)
    assert result.verdict == "no response seen"
