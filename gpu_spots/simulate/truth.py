"""Truth of a run: its frames, its spots, and the signal-to-noise ratio of each spot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Block, angle, laser state and repeat of each frame, in the order of measurement."""

    block: NDArray[np.int32]
    """(n_frames,) int32: index of the angle, in the order of the angles."""
    angle: Floats
    """(n_frames,) float64, degrees."""
    laser_on: NDArray[np.int32]
    """(n_frames,) int32: 1 with laser, 0 without."""
    repeat: NDArray[np.int32]
    """(n_frames,) int32: number of the pair at its angle and delay, or of the frame in a dark run,
    from 1.
    """

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.block)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Quantities that change from frame to frame."""

    delay: NDArray[np.int32]
    """(n_frames,) int32: index of the delay; -1 without laser."""
    spot_scale: Floats
    """(n_frames,) float64: scale of the spots' intensities, 1 on average."""
    shift: Floats
    """(n_frames, 2) float64, pixels: displacement of all spots (slips of the crystal)."""
    static: Floats
    """(s, 2) float64, pixels: centres of the spots that are on all frames."""
    static_radius: float
    """Half the width of the largest of them, pixels."""


@dataclass(frozen=True, slots=True)
class TrueSpots:
    """True spots, one row for each spot of a block.

    All frames of a block have the same spots, at the same places unless the crystal slips.
    """

    XY: Floats
    """(t, 2) float64, pixels: X and Y of the centre; a whole number is the middle of a pixel."""
    block: NDArray[np.int32]
    """(t,) int32: index of the block."""
    angle: Floats
    """(t,) float64, degrees."""
    I: Floats  # noqa: E741 (the manual's name)
    """(t,) float64, counts: total intensity without laser, before the scales of the frame."""
    response: Floats
    """(t,) float64: on/off - 1 at the first delay; 0 in a dark run."""
    sigma: Floats
    """(t, 2) float64, pixels: sigma along the major and the minor axis."""
    orientation: Floats
    """(t,) float64, degrees: of the major axis, from +X towards +Y; it points away from the beam,
    unless the spot is a cut-out.
    """
    snr: Floats
    """(t,) float64: see `expected_snr`."""
    responses: Floats
    """(t, n_delays) float64: on/off - 1 at each delay."""
    fraction: Floats
    """(t,) float64: part of the intensity that is counted: 1 in the open, less at gaps and in the
    shadow of the beamstop.
    """
    snr_matched: Floats
    """(t,) float64: see `matched_snr`."""
    profile: NDArray[np.int32]
    """(t,) int32: shape, an index into `gpu_spots.simulate.design.KINDS`."""
    partner: NDArray[np.int32]
    """(t,) int32: row of the spot beside it, at the chosen separation; -1: none."""

    def __len__(self) -> int:
        """Number of spots, over all blocks."""
        return len(self.I)


@dataclass(frozen=True, slots=True)
class Truth:
    """Truth that found spots are scored against."""

    shape: tuple[int, int]
    """n_X and n_Y, pixels."""
    schedule: Schedule
    """The frames."""
    spots: TrueSpots
    """The spots."""
    conditions: Conditions
    """Quantities that change from frame to frame."""


def steady(schedule: Schedule) -> Conditions:
    """Return the conditions of a run in which nothing changes but the laser."""
    n = len(schedule)
    return Conditions(
        np.where(schedule.laser_on > 0, 0, -1).astype(np.int32),
        np.ones(n),
        np.zeros((n, 2)),
        np.zeros((0, 2)),
        0.0,
    )


def lone_spots(
    XY: Floats,
    block: NDArray[np.int32],
    angle: Floats,
    I: Floats,  # noqa: E741
    response: Floats,
    sigma: Floats,
    orientation: Floats,
    snr: Floats,
) -> TrueSpots:
    """Return Gaussian spots in the open and without partners; see `TrueSpots` for the columns."""
    n = len(I)
    return TrueSpots(
        XY,
        block,
        angle,
        I,
        response,
        sigma,
        orientation,
        snr,
        np.asarray(response, np.float64)[:, None],
        np.ones(n),
        snr,
        np.zeros(n, np.int32),
        np.full(n, -1, np.int32),
    )


def expected_snr(
    intensity: Floats, area: Floats, background: Floats, gain: float, read_noise: float
) -> Floats:
    """Return the expected signal-to-noise of spots integrated in their 2-sigma ellipses.

    It is ``I / sqrt(gain * I + area * (gain * background + read_noise^2))``.

    Args:
        intensity: I, (t,) float64, counts.
        area: of the 2-sigma ellipse, (t,) float64, pixels.
        background: above the bias at the centre of the spot, (t,) float64, counts.
        gain: variance in counts^2 per count.
        read_noise: counts rms.
    """
    noise = np.sqrt(gain * intensity + area * (gain * background + read_noise**2))
    return np.asarray(intensity / noise, np.float64)


def matched_snr(
    signal: Floats, background: Floats, gain: float, read_noise: float, kernel: Floats
) -> float:
    """Return the signal-to-noise of a spot on one frame, as an exact matched filter sees it.

    The filter knows the shape and the place of the spot and the background. Its weights are
    ``w = s / v`` with ``s`` the expected counts of the spot and ``v = gain * (s + B) +
    read_noise^2 + 1/12`` the variance of a pixel; 1/12 is that of rounding. Without correlation
    the ratio is ``sqrt(sum(s^2 / v))``; that is the intensity over its smallest possible error
    (Cramer-Rao). With correlation it is ``sum(w s) / sqrt(w C w)``, C being the covariance of the
    pixels.

    Args:
        signal: s, (h, w) float64, counts.
        background: B, of the same shape, counts above the bias.
        gain: variance in counts^2 per count.
        read_noise: counts rms.
        kernel: of the correlation of the shot noise, see `noise_kernel`.

    Examples:
        >>> import numpy as np
        >>> one_pixel = np.array([[400.0]])
        >>> round(matched_snr(one_pixel, 0 * one_pixel, 1.0, 0.0, np.ones(1)), 2)
        20.0
    """
    shot = gain * np.maximum(signal + background, 0)
    # integer counts of a gain of 1 are not rounded
    white = read_noise**2 + (0 if gain == 1 and read_noise == 0 else 1 / 12)
    variance = np.maximum(shot + white, 1e-12)
    counted = signal > 0
    weights = np.where(counted, signal / variance, 0)
    if len(kernel) == 1:
        noise = (weights**2 * variance).sum()
    else:
        pad = len(kernel) // 2
        spread = smoothed(np.pad(weights, pad), kernel)
        noise = (spread**2 * np.pad(shot, pad, mode="edge")).sum() + white * (weights**2).sum()
    return float((weights * signal).sum() / np.sqrt(noise)) if noise > 0 else 0.0


def noise_kernel(sigma: float) -> Floats:
    """Return the kernel, along each axis, that correlates noise and keeps its variance.

    Args:
        sigma: of the Gaussian, pixels; 0: no correlation.

    Returns:
        (2 n + 1,) float64, the squares of which sum to 1.
    """
    half = int(np.ceil(3 * sigma))
    kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2)) if half else np.ones(1)
    return np.asarray(kernel / np.sqrt((kernel**2).sum()))


def smoothed(image: Floats, kernel: Floats) -> Floats:
    """Return an image, (n_X, n_Y), convolved with a kernel along both axes; 0 is outside."""
    half = len(kernel) // 2
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (half, half)
        padded = np.pad(image, pad)
        n = image.shape[axis]
        parts = (
            weight * (padded[:, k : k + n] if axis else padded[k : k + n])
            for k, weight in enumerate(kernel.tolist())
        )
        image = sum(parts, np.zeros_like(image))
    return image
