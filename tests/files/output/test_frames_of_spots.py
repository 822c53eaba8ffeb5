"""Frames of a spots file, found as it records them or given by the user."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.tuned_runs import columns, run_and_spots, spotty
from gpu_spots import open_spots
from gpu_spots.errors import InputError
from gpu_spots.files.output.frames_of_spots import open_frames
from helpers import assert_refused, command, listing

OTHER = r"is not that of .*run__spots.h5, found other values at the maxima in stats/max; "


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its spots file."""
    return run_and_spots(tmp_path_factory.mktemp("frames"), "-S", "pairs")


def write(path: Path, frames: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["frames"] = frames
        for key, values in columns().items():
            file[f"lauecollect/{key}"] = values
    return path


def read(spots: Path, run: Path, frame: int) -> np.ndarray:
    with open_spots(spots) as results, open_frames(results, run) as stack:
        found = np.empty((1, *stack.shape[1:]), stack.dtype)
        stack.read(frame, frame + 1, found)
    return found[0]


def test_frames_of_another_run_of_equal_shape_are_refused(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each command that shows or uses frames refuses those of another run, and writes nothing."""
    other = write(tmp_path / "other.h5", spotty(seed=4))
    with pytest.raises(InputError, match=f"^{other}: its frame [0-9]+ {OTHER}"):
        read(made[1], other, 0)
    before = listing(tmp_path)
    output = ("-o", tmp_path / "output.html")
    for words in (("report", *output), ("export", "cleaned", *output), ("view",), ("tune",)):
        ended = command(*words, made[1], "--frames-from", other, name="gpu-spots")
        assert_refused(ended, 1, f"{other}: its frame ", "give the run with --frames-from")
    assert listing(tmp_path) == before


def test_one_changed_frame_is_an_error_when_it_is_read(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    with open_spots(made[1]) as results:
        fewest = int(np.bincount(results.arg.ravel(), minlength=len(spotty())).argmin())
        assert (results.arg == fewest).any()
    frames = spotty()
    frames[fewest] += 1
    other = write(tmp_path / "other.h5", frames)
    assert np.array_equal(read(made[1], other, fewest - 1), frames[fewest - 1])
    with pytest.raises(InputError, match=f"^{other}: its frame {fewest} {OTHER}"):
        read(made[1], other, fewest)


def test_an_unreadable_frame_leaves_the_others(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Also if it is the one that tells which run it is."""
    with open_spots(made[1]) as results:
        most = int(np.bincount(results.arg[results.valid]).argmax())
    run = tmp_path / "run__mccd.h5"
    with h5py.File(shutil.copy(made[0], run), "r+") as file:
        frames = file["frames"][:]
        del file["frames"]
        chunked = file.create_dataset("frames", data=frames, chunks=(1, *frames.shape[1:]))
        chunked.id.write_direct_chunk((most, 0, 0), b"\0")
    assert np.array_equal(read(made[1], run, most - 1), frames[most - 1])
    with pytest.raises(InputError, match=f"frame {most}"):
        read(made[1], run, most)
