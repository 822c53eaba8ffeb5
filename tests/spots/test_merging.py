"""Merged ratios against plain loops, and runs that must not be merged."""

import math

import numpy as np
import pytest

from gpu_spots.errors import InputError
from gpu_spots.spots.ratios.merging import RunRatios, merge_runs

ANGLES, SPOTS = 6, 25


def run_of(seed: int, *, shift: float = 0.0, chosen: float = 1.0, name: str = "") -> RunRatios:
    """Ratios of a run of one crystal: the same spots, each seen with a probability."""
    truth = np.random.default_rng(99)
    n = ANGLES * SPOTS
    true = 1 + truth.uniform(-0.2, 0.2, n)
    place = truth.uniform(0, 500, (n, 2))
    hkl = np.stack([np.arange(n) // 3, np.arange(n) % 3, np.full(n, -1)], axis=1)
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(n)[: round(chosen * n)])
    kept = rng.permutation(kept)
    sigma = rng.uniform(0.01, 0.05, n)
    columns: dict[str, np.ndarray] = {
        "h": hkl[:, 0].astype(np.int32),
        "k": hkl[:, 1].astype(np.int32),
        "l": hkl[:, 2].astype(np.int32),
        "angle": np.repeat(np.arange(ANGLES), SPOTS) + rng.uniform(-2e-4, 2e-4, n),
        "delay": np.where(np.arange(n) % 2, 1e-9, 2e-9) * (1 + 1e-12 * rng.standard_normal(n)),
        "X": place[:, 0] + shift + rng.normal(0, 0.2, n),
        "Y": place[:, 1] + rng.normal(0, 0.2, n),
        "n_pairs": np.full(n, 5, np.int32),
        "R": true + sigma * rng.standard_normal(n),
        "sigma_R": sigma,
        "flags": (1 << rng.integers(0, 4, n)).astype(np.uint16),
    }
    return RunRatios(name or f"run{seed}.h5", {key: v[kept] for key, v in columns.items()})


@pytest.mark.parametrize("by", ["hkl", "position"])
def test_means_are_those_of_plain_loops(by: str) -> None:
    runs = [run_of(1), run_of(2, chosen=0.8), run_of(3, chosen=0.5)]
    found = merge_runs(runs, by)
    groups: dict[tuple[float, ...], list[tuple[int, int]]] = {}
    for number, run in enumerate(runs):
        for row in range(len(run.columns["R"])):
            key = tuple(int(run.columns[name][row]) for name in "hkl")
            groups.setdefault(key, []).append((number, row))
    merged, members = found.merged, found.members
    assert len(merged["R"]) == len(groups) == ANGLES * SPOTS
    seen = set()
    chi2_all, freedom = 0.0, 0
    for row in range(len(groups)):
        mine = np.flatnonzero(members["merged"] == row)
        pairs = [(int(members["run"][m]), int(members["ratio"][m])) for m in mine]
        key = tuple(int(runs[pairs[0][0]].columns[name][pairs[0][1]]) for name in "hkl")
        assert sorted(pairs) == sorted(groups[key])
        seen.add(key)
        R = [runs[i].columns["R"][j] for i, j in pairs]
        weights = [1 / runs[i].columns["sigma_R"][j] ** 2 for i, j in pairs]
        mean = sum(w * r for w, r in zip(weights, R, strict=True)) / sum(weights)
        assert merged["R"][row] == pytest.approx(mean, rel=1e-12)
        assert merged["sigma_R"][row] == pytest.approx(1 / math.sqrt(sum(weights)), rel=1e-12)
        assert merged["n_runs"][row] == merged["n_ratios"][row] == len(pairs)
        assert merged["n_pairs"][row] == 5 * len(pairs)
        flags = 0
        for i, j in pairs:
            flags |= int(runs[i].columns["flags"][j])
        assert merged["flags"][row] == flags
        chi2 = sum(w * (r - mean) ** 2 for w, r in zip(weights, R, strict=True))
        if len(pairs) == 1:
            assert math.isnan(merged["chi2"][row])
            assert math.isnan(merged["sigma_ext"][row])
        else:
            assert merged["chi2"][row] == pytest.approx(chi2, rel=1e-9)
            outer = math.sqrt(chi2 / (len(pairs) - 1) / sum(weights))
            assert merged["sigma_ext"][row] == pytest.approx(outer, rel=1e-9)
            chi2_all, freedom = chi2_all + chi2, freedom + len(pairs) - 1
    assert len(seen) == len(groups)
    assert found.figures["chi2"] == pytest.approx(chi2_all)
    assert found.figures["degrees of freedom"] == freedom
    assert 0.7 < chi2_all / freedom < 1.3
    if by == "position":
        away = members["distance"]
        assert 0 < away.max() < 1.5
        first = np.array([np.flatnonzero(members["merged"] == r)[0] for r in range(len(groups))])
        assert not away[first].any()
        row = int(np.flatnonzero(away)[0])
        i, j = int(members["run"][row]), int(members["ratio"][row])
        place = [merged[name][members["merged"][row]] for name in ("X", "Y")]
        here = [runs[i].columns[name][j] for name in ("X", "Y")]
        assert away[row] == pytest.approx(math.dist(place, here))
    else:
        assert np.isnan(members["distance"]).all()


def test_runs_are_compared() -> None:
    runs = [run_of(1), run_of(2), run_of(3, chosen=0.5)]
    runs[2].columns["R"][:] *= 1.1
    found = merge_runs(runs, "hkl").comparison
    assert list(zip(found["run_1"], found["run_2"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert found["n"].tolist() == [150, 75, 75]
    assert (found["correlation"] > 0.9).all()
    assert 0.8 < found["chi2"][0] / 150 < 1.2
    assert (found["chi2"][1:] / 75 > 3).all()
    np.testing.assert_allclose(found["scale"], [1, 1.1, 1.1], atol=0.01)
    assert 0.9 < found["slope"][0] < 1.05
    order = [np.lexsort([run.columns["k"], run.columns["h"]]) for run in runs[:2]]
    R, sigma = (
        [run.columns[name][rows] for run, rows in zip(runs, order, strict=False)]
        for name in ("R", "sigma_R")
    )
    covariance = np.cov(R[0], R[1], aweights=1 / (sigma[0] ** 2 + sigma[1] ** 2))
    expected = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    assert found["correlation"][0] == pytest.approx(expected, rel=1e-9)
    assert found["slope"][0] == pytest.approx(covariance[0, 1] / covariance[0, 0], rel=1e-9)


def test_reflections_of_several_angles_are_one_by_hkl() -> None:
    runs = [run_of(1), run_of(2)]
    for run in runs:
        run.columns["h"] = run.columns["h"] % 10
    found = merge_runs(runs, "hkl").merged
    assert len(found["R"]) == 30  # 10 x 3 indices, each at one of the delays
    assert found["n_runs"].max() == 2
    assert found["n_ratios"].max() > 4


def test_rows_that_are_not_known_are_left_out_and_told() -> None:
    runs = [run_of(1), run_of(2)]
    runs[0].columns["R"][:2] = np.nan
    runs[1].columns["sigma_R"][0] = 0.0
    runs[1].columns["h"][5] = runs[1].columns["k"][5] = runs[1].columns["l"][5] = 0
    found = merge_runs(runs, "hkl")
    assert found.notes == [
        "run1.h5: 2 ratios without a value or an error are left out",
        "run2.h5: 1 ratios without a value or an error are left out",
        "run2.h5: 1 ratios without Miller indices are left out",
    ]
    assert len(found.members["R"]) == 300 - 4


@pytest.mark.parametrize(
    ("by", "edit", "words"),
    [
        ("hkl", {"h": 1000}, "no reflection with the same Miller indices and delay"),
        ("hkl", {"delay": 1.0}, "no reflection with the same Miller indices and delay"),
        ("position", {"angle": 90.0}, "no reflection .* found angles of .* degrees, expected"),
        ("position", {"delay": 1.0}, "no reflection at the same angle, delay and position"),
    ],
)
def test_runs_without_a_common_reflection(by: str, edit: dict[str, float], words: str) -> None:
    runs = [run_of(1), run_of(2)]
    for name, value in edit.items():
        runs[1].columns[name] = (runs[1].columns[name] + value).astype(runs[1].columns[name].dtype)
    with pytest.raises(InputError, match=f"run1.h5: {words}"):
        merge_runs(runs, by)


def test_positions_that_agree_by_chance_are_refused() -> None:
    """Two crystals: as many positions agree as those of any other spots would."""
    runs = [run_of(1), run_of(2)]
    rng = np.random.default_rng(8)
    for name in "XY":
        for run in runs:
            run.columns[name] = rng.uniform(0, 60, len(run.columns[name]))
    with pytest.raises(InputError, match="agree with other runs only by chance, found "):
        merge_runs(runs, "position")
    assert len(merge_runs(runs, "hkl").merged["R"]) == ANGLES * SPOTS


def test_slips_of_less_than_three_pixels_are_allowed() -> None:
    found = merge_runs([run_of(1), run_of(2, shift=1.5)], "position")
    assert found.figures["in several runs"] > 0.9 * ANGLES * SPOTS
    assert 1 < np.median(found.members["distance"][found.members["run"] == 1]) < 2
