"""Small simulated runs, sound and with one fault each, and their spots files."""

from pathlib import Path

from helpers import command

LASER = ("--angles", "12", "--pairs", "2")
BLOCKS = ("-S", "blocks")
DEFAULTS = ("-m", "clip", "--finder", "matched", "--normalise", "level")
SIMULATED = {
    "laser": LASER,
    "dark": ("--dark", "--angles", "16"),
    "drift": (*LASER, "--drift", "5"),
    "static": (*LASER, "--static-spots", "4"),
    "saturated": (*LASER, "--saturation", "1800"),
    "few_angles": ("--angles", "3", "--pairs", "8"),
}
"""Options of simulate by the name of the run."""
FOUND: dict[str, tuple[str, tuple[str, ...]]] = {
    "sound": ("laser", BLOCKS),
    "dark": ("dark", ()),
    "drift": ("drift", BLOCKS),
    "static": ("static", BLOCKS),
    "saturated": ("saturated", BLOCKS),
    "few_angles": ("few_angles", (*BLOCKS, "-a", "0")),
    "n_too_large": ("laser", (*BLOCKS, "-n", "80")),
    "n_too_small": ("laser", (*BLOCKS, "-n", "5")),
    "sound_defaults": ("laser", (*BLOCKS, *DEFAULTS)),
    "static_defaults": ("static", (*BLOCKS, *DEFAULTS)),
}
"""Run and options of find by the name of the spots file; others are defaults of the manual."""
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
"""Text that a page must show and not run."""


def spots_of(folder: Path, name: str) -> Path:
    """Return a spots file of `FOUND`; its run is in the same folder."""
    of, options = FOUND[name]
    run, spots = folder / f"{of}__mccd.h5", folder / f"{name}__spots.h5"
    if not run.exists():
        size = ("--size", "256", "--spots", "40", "--compression", "none")
        simulated = command("simulate", run, *size, *SIMULATED[of], name="gpu-spots")
        assert simulated.status == 0, simulated.stderr
    found = command(run, *options, "-o", spots, "--quiet")
    assert found.status == 0, found.stderr
    return spots
