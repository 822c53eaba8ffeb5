"""Layouts of frames and metadata that the command reads."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import (
    assert_equal_results,
    assert_refused,
    command,
    datasets_of,
    listing,
    process,
    replaced,
    series,
    write_run,
)


def stored(frames: np.ndarray, **options: object) -> Callable[[h5py.File], object]:
    return replaced(frames=lambda file: file.create_dataset("frames", data=frames, **options))


LAYOUTS = {
    "contiguous": stored(series()),
    "a chunk a frame": stored(series(), chunks=(1, 24, 40)),
    "several frames a chunk": stored(series(), chunks=(7, 24, 40)),
    "chunks that cut frames": stored(series(), chunks=(3, 10, 16)),
    "gzip": stored(series(), chunks=(1, 24, 40), compression="gzip"),
    "gzip and shuffle": stored(series(), chunks=(4, 24, 40), compression="gzip", shuffle=True),
    "lzf": stored(series(), chunks=(2, 24, 40), compression="lzf"),
    "checksums": stored(series(), chunks=(2, 24, 40), fletcher32=True, compression="gzip"),
    "big-endian": stored(series().astype(">u2")),
    "big-endian gzip": stored(
        series().astype(">u2"), chunks=(1, 24, 40), compression="gzip", shuffle=True
    ),
    "resizable": stored(series(), maxshape=(None, 24, 40)),
    "soft link": replaced(frames=h5py.SoftLink("/elsewhere"), elsewhere=series()),
}


@pytest.mark.parametrize("edit", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_of_frames_gives_the_same(
    sound: Callable[..., Path], tmp_path: Path, edit: Callable[[h5py.File], object]
) -> None:
    path = write_run(tmp_path / "x__mccd.h5", edit)
    assert command(path, "-S", "pairs", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound("-S", "pairs"))
    assert datasets_of(tmp_path / "x__spots.h5")["stats/max"].dtype.isnative


def test_frames_in_a_file_that_is_linked(sound: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    data = tmp_path / "elsewhere" / "data.h5"
    with h5py.File(data, "w") as file:
        file["images"] = series()
    path = write_run(
        tmp_path / "x__mccd.h5", replaced(frames=h5py.ExternalLink("elsewhere/data.h5", "/images"))
    )
    assert command(path, "-S", "pairs", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound("-S", "pairs"))
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert (file["info"].attrs["input_file"], file["info"].attrs["frames_path"]) == (
            str(path),
            "/frames",
        )
    before = listing(tmp_path)
    for output in (path, data):
        assert_refused(
            command(path, "-o", output, "--force", "--quiet"), 1, str(output), "is the input file"
        )
    assert listing(tmp_path) == before


def test_metadata_in_a_file_that_is_linked_is_copied(
    sound: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["angles"] = np.arange(20) // 2 * 1.5
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(
            lauecollect_angle=h5py.ExternalLink("log.h5", "/angles"),
            states=np.arange(20) % 2,
            lauecollect_laser_on=h5py.SoftLink("/states"),
        ),
    )
    # in another folder a copy of the links would lead nowhere
    assert (
        command(path, "-S", "pairs", "-o", tmp_path / "elsewhere" / "x.h5", "--quiet").status == 0
    )
    assert_equal_results(tmp_path / "elsewhere" / "x.h5", sound("-S", "pairs"))


def test_frames_of_several_files_joined_to_one_stack(
    sound: Callable[..., Path], tmp_path: Path
) -> None:
    stack = h5py.VirtualLayout((20, 24, 40), np.uint16)
    for i in range(2):
        with h5py.File(tmp_path / f"data_{i}.h5", "w") as file:
            file["images"] = series()[10 * i : 10 * i + 10]
        stack[10 * i : 10 * i + 10] = h5py.VirtualSource(
            tmp_path / f"data_{i}.h5", "images", (10, 24, 40)
        )
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(frames=lambda file: file.create_virtual_dataset("frames", stack)),
    )
    assert command(path, "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    data = (tmp_path / "data_1.h5").read_bytes()
    assert_refused(
        command(path, "-o", tmp_path / "data_1.h5", "--force", "--quiet"),
        1,
        "data_1.h5",
        "is the input file",
    )
    assert (tmp_path / "data_1.h5").read_bytes() == data
    (tmp_path / "data_1.h5").unlink()
    assert_refused(
        command(path, "--quiet", "--force"), 1, "x__mccd.h5", "frame 10", "data_1.h5", "is missing"
    )


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_files_of_old_and_new_hdf5(sound: Callable[..., Path], tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x__mccd.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["frames"] = series()
        for name, values in (("angle", np.arange(20) // 2 * 1.5), ("laser_on", np.arange(20) % 2)):
            file[f"lauecollect/{name}"] = values
        file["lauecollect/file"] = ["a_off.mccd", "a_on.mccd"] * 10
    assert command(path, "-S", "pairs", "--quiet").status == 0
    found, expected = datasets_of(tmp_path / "x__spots.h5"), datasets_of(sound("-S", "pairs"))
    assert np.array_equal(found["spots/I"], expected["spots/I"])
    assert found["lauecollect/file"][1] == b"a_on.mccd"


@pytest.mark.parametrize("place", ["images", "entry/deep/er/images"])
def test_the_only_stack_is_found_wherever_it_is(
    sound: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    def move(file: h5py.File) -> None:
        file.move("frames", place)
        file["one_image"] = np.zeros((24, 40))
        file["one_frame"] = np.zeros((1, 24, 40))
        file["text"] = np.full((2, 2, 2), b"x")
        file["flags"] = np.zeros((2, 2, 2), bool)
        file["complex"] = np.zeros((2, 2, 2), complex)

    path = write_run(tmp_path / "x__mccd.h5", move)
    assert command(path, "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert file["info"].attrs["frames_path"] == f"/{place}"


def test_frames_names_the_stack_to_take(sound: Callable[..., Path], tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        file["other/images"] = file["frames"][...]
        file["frames"][...] = 7

    path = write_run(tmp_path / "x__mccd.h5", add)
    assert command(path, "--frames", "other/images", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert file["info"].attrs["frames_path"] == "/other/images"


def test_the_default_place_is_taken_before_others(tmp_path: Path) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5",
        lambda file: file.create_dataset("other", data=np.zeros((20, 4, 5), "u2")),
    )
    assert command(path, "--quiet").status == 0


NAMES = [f"scan_{45 + i // 2}.000_{state}_1.mccd" for i, state in enumerate(["off", "on"] * 10)]
STRINGS = {
    "vlen": NAMES,
    "vlen ASCII": np.array([name.encode() for name in NAMES], h5py.string_dtype("ascii")),
    "fixed": np.array([name.encode() for name in NAMES]),
    "fixed UTF-8": np.array([name.encode() for name in NAMES], h5py.string_dtype("utf-8", 40)),
}


@pytest.mark.parametrize("names", STRINGS.values(), ids=STRINGS)
def test_text_of_every_kind_is_read(
    sound: Callable[..., Path], tmp_path: Path, names: object
) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5", replaced(lauecollect_laser_on=None, lauecollect_file=names)
    )
    assert command(path, "-S", "pairs", "--quiet").status == 0
    found, expected = datasets_of(tmp_path / "x__spots.h5"), datasets_of(sound("-S", "pairs"))
    assert np.array_equal(found["masks_synced"], expected["masks_synced"])
    assert found["lauecollect/file"].tolist() == [name.encode() for name in NAMES]


@pytest.mark.parametrize(
    "angles",
    [
        np.arange(20) // 2 * 1.5,
        np.arange(20) // 2 * np.float32(1.5),
        np.arange(20) // 2,
        [f"{i // 2 * 1.5:.3f}" for i in range(20)],
    ],
    ids=["float64", "float32", "int64", "text"],
)
def test_angles_of_every_type_are_read(tmp_path: Path, angles: object) -> None:
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect_angle=angles))
    assert command(path, "-S", "blocks", "--quiet").status == 0
    assert len(datasets_of(tmp_path / "x__spots.h5")["masks/counts"]) == 10


def test_a_run_without_metadata_is_read_where_none_is_asked_for(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect=None))
    assert command(path, "-a", 0, "--quiet").status == 0
    assert "lauecollect" not in {
        name.split("/")[0] for name in datasets_of(tmp_path / "x__spots.h5")
    }


def test_the_input_is_not_changed(run: Path) -> None:
    before, state = run.read_bytes(), run.stat()
    run.chmod(0o444)
    assert command(run, "-S", "pairs", "--quiet").status == 0
    assert run.read_bytes() == before
    assert run.stat().st_mtime_ns == state.st_mtime_ns


def test_an_input_may_be_read_by_others_at_the_same_time(run: Path) -> None:
    with h5py.File(run):
        assert process(run, "--quiet").status == 0


@pytest.mark.parametrize(
    ("method", "what"), [("n_removed", "frames were"), ("clip", "the background was")]
)
def test_the_summary_says_what_was_scaled(method: str, what: str, tmp_path: Path) -> None:
    """The second half of the run has 4/5 of the light: 50 counts, then 40."""
    frames = series(shape=(40, 60))
    frames[10:] = frames[10:] * 4 // 5
    run = write_run(tmp_path / "a__mccd.h5", frames=frames)
    ended = command(run, "-m", method, "--normalise", "level")
    (line,) = [line for line in ended.lines if "scaled by" in line]
    least, most = (float(word) for word in line.removeprefix(f"{what} scaled by ").split(" to "))
    assert most / least == pytest.approx(5 / 4, abs=0.05)
