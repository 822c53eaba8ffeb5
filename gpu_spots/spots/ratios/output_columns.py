"""Columns of the ratios file."""

import numpy as np

from gpu_spots.spots.ratios.error_model import residuals
from gpu_spots.spots.ratios.tables import Estimates, FramePairs, Keys, PairTable, SpotRows, Table


def ratio_columns(
    table: PairTable, found: Estimates, keys: Keys, spots: SpotRows, error: float
) -> Table:
    """Return the columns of the group ``ratios``."""
    used = table.used
    n_all = np.bincount(table.ratio, minlength=table.n_ratios)
    everything = np.ones(len(table.ratio), bool)
    place = (spots.position[table.off] + spots.position[table.on]) / 2
    with np.errstate(all="ignore"):
        each = table.I_on / table.I_off
        mean = table.sums(each, used) / found.n
        spread = table.sums((each - mean[table.ratio]) ** 2, used) / (found.n - 1.0)
        pulls = residuals(table, found.R, found.I_off, error)
        chi2 = table.sums(np.where(used, pulls, 0.0) ** 2, used)
    flags = np.zeros(table.n_ratios, np.int64)
    np.bitwise_or.at(flags, table.ratio, spots.flags[table.off] | spots.flags[table.on])
    several = found.n >= 2
    return {
        "mask": keys.mask.astype(np.int32),
        "label": keys.label.astype(np.int32),
        "delay": keys.delay,
        "angle": keys.angle,
        "X": table.sums(place[:, 0], everything) / n_all,
        "Y": table.sums(place[:, 1], everything) / n_all,
        "n_pairs": found.n.astype(np.int32),
        "n_rejected": (n_all - found.n).astype(np.int32),
        "I_off": found.I_off,
        "sigma_I_off": found.sigma_off,
        "I_on": found.I_on,
        "sigma_I_on": found.sigma_on,
        "R": found.R,
        "sigma_R": found.sigma_R,
        "eta": found.R - 1,
        "mean_R": mean,
        "std_R": np.where(several, np.sqrt(spread), np.nan),
        "chi2": np.where(several, chi2, np.nan),
        "flags": flags.astype(np.uint16),
    }


def pair_columns(table: PairTable, chosen: FramePairs, error: float) -> Table:
    """Return the columns of the group ``pairs``."""
    with np.errstate(all="ignore"):
        R = table.I_on / table.I_off
        variance = table.var_on + R * R * table.var_off + table.shared * (1 - R) ** 2
        sigma = np.sqrt(variance / table.I_off**2 + (error * R) ** 2)
    return {
        "ratio": table.ratio.astype(np.int32),
        "frame_off": chosen.first[table.pair].astype(np.int32),
        "frame_on": chosen.second[table.pair].astype(np.int32),
        "I_off": table.I_off,
        "I_on": table.I_on,
        "sigma_I_off": np.sqrt(table.var_off + table.shared),
        "sigma_I_on": np.sqrt(table.var_on + table.shared),
        "R": R,
        "sigma_R": sigma,
        "distance": table.distance,
        "rejected": table.rejected,
        "spot_off": table.off.astype(np.int64),
        "spot_on": table.on.astype(np.int64),
    }
