"""Every layout that users have gives the spots that the same frames give as an array; or is refused by name."""

import resource
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpu_spots import Parameters, find_spots
from gpu_spots.errors import InputError
from gpu_spots.files.frames import FileStack, open_run
from gpu_spots.inputs import InputOptions
from helpers import assert_refused, assert_same, chunk_offset, command, datasets, listing
from layouts_data import (
    ANGLES,
    N_FRAMES,
    SHAPE,
    STATES,
    WRITERS,
    frames_of,
    group,
    stored,
    write_anything,
    write_bliss,
    write_crystfel,
    write_cxi,
    write_dectris,
    write_lima,
    write_nexus,
    write_nxdata,
    write_virtual,
)


def results(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a spots file but the run's own metadata."""
    with h5py.File(path) as file:
        return {name: values for name, values in datasets(file).items() if not name.startswith("lauecollect/")}


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the same run gives as an array, with synchronized masks."""
    path = tmp_path_factory.mktemp("direct") / "run__spots.h5"
    find_spots(frames_of(), Parameters(sync="pairs"), columns={"angle": ANGLES, "laser_on": STATES}, output=path).close()
    return results(path)


def refuses(path: Path, *options: object, words: tuple[str, ...], status: int = 1) -> None:
    """``find`` and ``info`` refuse a file in one line with these words; nothing new is left."""
    before = listing(path.parent)
    assert_refused(command(path, *options, "--quiet"), status, *words)
    assert_refused(command("info", path, *options, name="gpu-spots"), status, *words)
    assert listing(path.parent) == before


# -------------------------------------------------------------------------------------------------------------------- what is recognised


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_gives_what_its_frames_give(layout: str, direct: dict[str, np.ndarray], tmp_path: Path) -> None:
    write, kind, frames_path = WRITERS[layout]
    path = write(tmp_path / "run_master.h5")
    table = tmp_path / "states.csv"
    table.write_text("laser_on\n" + "\n".join(map(str, STATES)) + "\n")
    options = ("--table", table) if layout == "DECTRIS" else ()  # which has no place for them
    ended = command(path, "-S", "pairs", *options, "-o", tmp_path / "out.h5", "--quiet")
    assert (ended.status, ended.stderr) == (0, "")
    assert_same(results(tmp_path / "out.h5"), direct)
    assert results(tmp_path / "out.h5").keys() == direct.keys()
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["info"].attrs["layout"], file["info"].attrs["frames_path"]) == (kind, frames_path)
        assert np.round(file["lauecollect/angle"][:], 3).tolist() == ANGLES.tolist()
        assert file["lauecollect/angle"].attrs["origin"] == file["info"].attrs["angles_from"]


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int32", "float32", ">u2"])
def test_frames_of_other_types(dtype: str, tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5", frames_of(dtype), detector={"description": "Jungfrau"})
    with find_spots(path) as found, find_spots(frames_of(dtype), columns={"angle": ANGLES}) as expected:
        for name in ("avg", "threshold"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        assert found.n_spots == expected.n_spots


@pytest.mark.parametrize("per_file", [1, 3, 7, 20])
def test_a_stack_over_several_files_reads_as_one(per_file: int, tmp_path: Path) -> None:
    frames = frames_of()
    with open_run(write_dectris(tmp_path / "run_master.h5", per_file=per_file)) as stack:
        assert (stack.shape, stack.dtype) == (frames.shape, frames.dtype)
        assert len(stack.files) == 1 + -(-N_FRAMES // per_file)
        for begin in range(N_FRAMES + 1):
            for end in range(begin, N_FRAMES + 1):
                into = np.full((end - begin, *SHAPE), 7, np.uint16)
                stack.read(begin, end, into)
                assert np.array_equal(into, frames[begin:end])


def test_threads_read_across_files_at_once(tmp_path: Path) -> None:
    frames = frames_of()
    wrong: list[tuple[int, int]] = []

    def read(stack: FileStack, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(100):
            begin, end = sorted(rng.integers(0, N_FRAMES + 1, 2).tolist())
            into = np.empty((end - begin, *SHAPE), np.uint16)
            stack.read(begin, end, into)
            if not np.array_equal(into, frames[begin:end]):
                wrong.append((begin, end))

    with open_run(write_dectris(tmp_path / "run_master.h5", per_file=3)) as stack:
        threads = [threading.Thread(target=read, args=(stack, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_lauecollect_comes_first_in_every_layout(tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        file["lauecollect/angle"] = ANGLES + 100
        file["lauecollect/laser_on"] = 1 - STATES

    with open_run(write_nexus(tmp_path / "run.h5", edit=add)) as stack:
        assert stack.columns["angle"].tolist() == (ANGLES + 100).tolist()
        assert stack.columns["laser_on"].tolist() == (1 - STATES).tolist()
        assert "angles_from" not in stack.record


def test_a_default_that_is_a_plot_does_not_hide_the_frames(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        group(file, "entry/plot", "NXdata", signal="y")["y"] = np.zeros(5)
        file.attrs["default"], file["entry"].attrs["default"] = "entry", "plot"

    with open_run(write_nexus(tmp_path / "run.h5", edit=edit)) as stack:
        assert stack.path == "/entry/data/data"


@pytest.mark.parametrize("default", ["/", ".", "entry/../entry"])
def test_a_default_that_leads_in_circles_ends(default: str, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file.attrs["default"] = default

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    if ".." in default:
        refuses(path, words=("run.h5", "no dataset"))
    else:
        with open_run(path) as stack:
            assert stack.path == "/entry/data/data"


def test_old_nexus_marks_the_signal_on_the_dataset(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/data"].attrs["signal"]
        file["entry/data/data"].attrs["signal"] = 1
        file["entry/data/sum"] = np.zeros((N_FRAMES, 3, 3))

    with open_run(write_nexus(tmp_path / "run.h5", edit=edit)) as stack:
        assert stack.path == "/entry/data/data"


def test_a_signal_that_holds_all_of_a_dectris_run_is_taken(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((N_FRAMES, *SHAPE), "u2")
        layout[:7] = h5py.VirtualSource("run_data_000001.h5", "/entry/data/data", (7, *SHAPE))
        layout[7:14] = h5py.VirtualSource("run_data_000002.h5", "/entry/data/data", (7, *SHAPE))
        layout[14:] = h5py.VirtualSource("run_data_000003.h5", "/entry/data/data", (6, *SHAPE))
        file["entry/data"].create_virtual_dataset("data", layout)
        file["entry/data"].attrs["signal"] = "data"

    with open_run(write_dectris(tmp_path / "run_master.h5", edit=edit)) as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert stack.path == "/entry/data/data"
        assert np.array_equal(into, frames_of())


# ------------------------------------------------------------------------------------------------------------------- which frames


def test_frames_may_name_the_datasets_one_by_one(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    options = InputOptions(("/entry/data/data_000003", "entry/data/data_000001"), angles_path=None)
    with open_run(path, options) as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, 13, into)
        assert np.array_equal(into, np.concatenate([frames_of()[14:], frames_of()[:7]]))


@pytest.mark.parametrize("place", ["/entry/data", "entry", "entry/data/"])
def test_frames_may_name_a_group(place: str, tmp_path: Path) -> None:
    with open_run(write_dectris(tmp_path / "run_master.h5"), InputOptions((place,))) as stack:
        assert stack.shape == (N_FRAMES, *SHAPE)


def test_several_scans_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "run.h5", scans=("1.1", "2.1", "10.1"))
    refuses(
        path, words=("several datasets could be the frames", "/1.1/measurement/eiger (20, 24, 40) uint16", "/2.1/", "/10.1/", "--frames")
    )
    for place in ("2.1/measurement/eiger", "/2.1"):
        with open_run(path, InputOptions((place,))) as stack:
            assert stack.path.startswith("/2.1/")
            assert stack.columns["angle"] is not None
            assert stack.columns.origin["laser_on"] == "/2.1/measurement/laser_on"


def second(*places: str) -> Callable[[h5py.File], None]:
    """An edit that copies what is at the first place to the others."""

    def edit(file: h5py.File) -> None:
        for place in places[1:]:
            file.copy(places[0], place)

    return edit


@pytest.mark.parametrize(
    ("write", "edit", "words"),
    [
        (write_nexus, second("entry", "entry2"), ("/entry/data/data", "/entry2/data/data")),
        (write_nexus, second("entry/data", "entry/raw"), ("/entry/data/data", "/entry/raw/data")),
        (write_cxi, second("entry_1", "entry_2"), ("/entry_1/data_1/data",)),
        (write_lima, second("entry_0000", "entry_0001"), ("/entry_0000/measurement/data", "/entry_0001/measurement/data")),
        (write_anything, second("run", "old"), ("/old/of/today/images", "/run/of/today/images")),
        (write_crystfel, second("data", "data/jungfrau"), ("--frames",)),
    ],
    ids=["entries", "NXdata", "CXI", "Lima", "anything", "CrystFEL"],
)
def test_two_stacks_are_listed(
    write: Callable[..., Path], edit: Callable[[h5py.File], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    refuses(write(tmp_path / "run.h5", edit=edit), words=("several datasets could be the frames", *words, "--frames PATH"))


def test_many_stacks_are_not_all_listed(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "run.h5", scans=tuple(f"{i}.1" for i in range(1, 13)))
    refuses(path, words=("/1.1/measurement/eiger", "and 4 more"))


# -------------------------------------------------------------------------------------------------------------------- damage and oddity


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    (tmp_path / "run_data_000002.h5").unlink()
    refuses(path, words=("run_master.h5", "data_000002", "the file run_data_000002.h5, which is missing"))


@pytest.mark.parametrize("layout", ["BLISS", "virtual"])
def test_other_missing_files_are_named(layout: str, tmp_path: Path) -> None:
    path = WRITERS[layout][0](tmp_path / "run.h5")
    gone = tmp_path / ("lima_1.1.h5" if layout == "BLISS" else "run_part1.h5")
    gone.unlink()
    refuses(path, words=(gone.name, "missing"))


def test_a_link_to_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    (tmp_path / "run_data_000002.h5").write_text("text")
    refuses(path, words=("run_data_000002.h5", "not an HDF5 file"))
    with h5py.File(tmp_path / "run_data_000002.h5", "w") as file:
        file["other"] = 1
    refuses(path, words=("run_data_000002.h5", "has no /entry/data/data"))


def test_a_missing_number_is_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/data/data_000002"]

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    refuses(path, words=("/entry/data has data_000001 and data_000003", "between them is missing", "--frames"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            np.zeros((6, 24, 41), np.uint16),
            ("data_000003 has frames of 24 x 41 uint16", "expected 24 x 40 uint16 as in /entry/data/data_000001"),
        ),
        (np.zeros((6, 24, 40), np.int32), ("data_000003 has frames of 24 x 40 int32", "expected 24 x 40 uint16")),
        (np.zeros((6, 24), np.uint16), ("data_000003 has shape (6, 24)", "expected three dimensions")),
        (np.zeros((6, 24, 40), np.uint64), ("data_000003 is uint64", "expected one of")),
        (np.zeros((0, 24, 40), np.uint16), ("data_000003 has shape (0, 24, 40)", "at least one frame")),
    ],
    ids=["size", "type", "2-D", "uint64", "empty"],
)
def test_parts_that_differ_are_named(other: np.ndarray, words: tuple[str, ...], tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    with h5py.File(tmp_path / "run_data_000003.h5", "w") as file:
        file["entry/data/data"] = other
    refuses(path, words=("run_master.h5", *words))


def test_damage_in_one_of_the_files_is_named(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    part = tmp_path / "run_data_000002.h5"
    begin, size = chunk_offset(part, 4, "entry/data/data")
    content = bytearray(part.read_bytes())
    content[begin : begin + size] = bytes(size)
    part.write_bytes(content)
    assert_refused(command(path, "--quiet"), 1, "run_data_000002.h5", "frame 4 cannot be read")


def test_a_frame_that_was_never_written_is_named_before_any_is_read(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    with h5py.File(tmp_path / "run_data_000003.h5", "w") as file:
        file.create_dataset("entry/data/data", (6, *SHAPE), "u2", chunks=(1, *SHAPE))[:4] = 7
    with open_run(path) as stack, pytest.raises(InputError, match=r"run_data_000003\.h5: /entry/data/data: frame 4 .*never written"):
        stack.check_whole()
    ended = command("info", path, name="gpu-spots")
    assert ended.status == 0
    assert "run_data_000003.h5: /entry/data/data: frame 4" in ended.stdout


def test_a_part_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    with open_run(path) as stack:
        with (tmp_path / "run_data_000002.h5").open("ab") as file:
            file.write(b"more")
        with pytest.raises(InputError, match=r"run_data_000002\.h5.*was changed"):
            stack.check_whole()


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is raised as far as the system lets us."""
    path = write_dectris(tmp_path / "run_master.h5", per_file=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, before[1]))
        with open_run(path) as stack:
            stack.check_whole()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2 * N_FRAMES + 64
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, before[1]))
        monkeypatch.setattr(resource, "setrlimit", refuse)
        with pytest.raises(InputError, match=r"run_master\.h5: /entry/data: its frames are in 20 files.* 104 open files .* 60 are allowed"):
            open_run(path).__enter__()
    finally:
        monkeypatch.undo()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def refuse(*_: object) -> None:
    raise ValueError("not allowed to raise maximum limit")


def test_an_output_may_not_be_one_of_the_parts(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    assert_refused(command(path, "-o", tmp_path / "run_data_000002.h5", "--force", "--quiet"), 1, "the output is the input file")


def test_a_file_without_frames_says_what_it_has(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["data/data"]
        file["data/modules"] = np.zeros((5, 2, 7, 9), "u2")

    path = write_crystfel(tmp_path / "run.h5", edit=edit)
    refuses(path, words=("no /frames and no 3-D numeric dataset", "/data/modules (5, 2, 7, 9) uint16", "--frames"))
    refuses(path, "--frames", "/data/modules", words=("/data/modules has shape (5, 2, 7, 9)", "expected three dimensions"))
    refuses(path, "--frames", "/data", words=("/data is a group", "expected the dataset of the frames"))


def test_a_group_with_two_stacks_is_refused(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "run.h5", edit=second("entry/data", "entry/raw"))
    refuses(path, "--frames", "/entry", words=("/entry is a group with several datasets", "/entry/data/data", "/entry/raw/data"))


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_wrong_bytes_anywhere_give_results_or_one_line(layout: str, seed: int, tmp_path: Path) -> None:
    path = WRITERS[layout][0](tmp_path / "run_master.h5")
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, min(len(content), 12000), 40):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    ended = command(path, "-a", 0, "-o", tmp_path / "out.h5", "--quiet")
    if ended.status:
        assert_refused(ended, 1)
        assert not (tmp_path / "out.h5").exists()


# ----------------------------------------------------------------------------------------------------------------- angles and states


def columns_of(path: Path, **options: object) -> dict[str, list]:
    with open_run(path, InputOptions(**options)) as stack:
        return {name: values.tolist() for name, values in stack.columns.items()}


def test_paths_name_the_columns(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["my/angles"], file["my/states"] = ANGLES + 7, np.where(STATES, "ON", "off").astype("S3")

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    found = columns_of(path, angles_path="my/angles", laser_path="/my/states")
    assert found["angle"] == (ANGLES + 7).tolist()
    assert found["laser_on"][:2] == [b"off", b"ON"]
    ended = command(path, "-S", "pairs", "--angles-path", "my/angles", "--laser-path", "my/states", "-o", tmp_path / "out.h5", "--quiet")
    assert ended.status == 0, ended.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["info"].attrs["angles_from"], file["info"].attrs["laser_from"]) == ("/my/angles", "/my/states")
        assert file["lauecollect/angle"][:].tolist() == (ANGLES + 7).tolist()


def test_a_table_takes_the_place_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("angle,laser_on,comment\n" + "\n".join(f"{i // 4},{'on' if i % 2 else 'off'},c{i}" for i in range(N_FRAMES)) + "\n")
    path = write_nexus(tmp_path / "run.h5")
    found = columns_of(path, table=table)
    assert found["angle"] == [i // 4 for i in range(N_FRAMES)]
    assert found["laser_on"] == ["on" if i % 2 else "off" for i in range(N_FRAMES)]
    assert command(path, "-S", "blocks", "-a", 5, "--table", table, "-o", tmp_path / "out.h5", "--quiet").status == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["masks/counts"]) == 5
        assert file["lauecollect/comment"].asstr()[3] == "c3"
        assert file["lauecollect/angle"].attrs["origin"] == f"{table}: angle"


def test_states_of_a_table_are_not_mixed_with_the_files_own(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["lauecollect/angle"], file["lauecollect/laser_on"] = ANGLES, np.zeros(N_FRAMES)

    table = tmp_path / "table.csv"
    table.write_text("delay\n" + "-\n100ps\n" * 10)
    assert "laser_on" not in columns_of(write_nexus(tmp_path / "run.h5", edit=edit), table=table)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--angles-path", "nowhere"), ("no dataset 'nowhere'",)),
        (("--angles-path", "/entry"), ("/entry is a group",)),
        (("--angles-path", "/entry/data/data"), ("/entry/data/data has shape (20, 24, 40)", "each of the 20 frames")),
        (("--angles-path", "short"), ("short has shape (19,)", "each of the 20 frames")),
        (("--laser-path", "/entry/sample/rotation_angle", "-S", "pairs"), ("/entry/sample/rotation_angle is '1.5' at frame 2",)),
        (("--table", "short.csv"), ("short.csv: has 19 rows", "each of the 20 frames")),
        (("--table", "none.csv"), ("none.csv", "No such file")),
    ],
)
def test_columns_that_do_not_fit_are_refused(options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_nexus(tmp_path / "run.h5", edit=lambda file: file.create_dataset("short", data=ANGLES[:19]))
    (tmp_path / "short.csv").write_text("angle\n" + "1\n" * 19)
    assert_refused(command(path, *options, "--quiet"), 1, *words)


def test_a_table_and_a_path_are_one_too_many(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "run.h5")
    refuses(path, "--table", "x.csv", "--angles-path", "/a", words=("--angles-path", "a table is given as well"), status=2)


def test_of_several_turning_motors_none_is_guessed(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/goniometer/phi"]
        file["entry/sample/goniometer/phi"] = ANGLES * 2

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    words = ("several datasets could be the angles", "/entry/sample/goniometer/omega", "/entry/sample/goniometer/phi", "--angles-path")
    assert_refused(command(path, "--quiet"), 1, *words)
    assert columns_of(path, angles_path="/entry/sample/goniometer/phi")["angle"] == (ANGLES * 2).tolist()
    assert command(path, "-a", 0, "--quiet").status == 0


def test_angles_of_another_length_are_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/goniometer/omega"], file["entry/sample/goniometer/phi"], file["entry/sample/goniometer/chi"]
        file["entry/sample/goniometer/omega"] = np.arange(21.0)

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    assert_refused(
        command(path, "--quiet"), 1, "no angles for 20 frames", "/entry/sample/goniometer/omega (21,)", "--angles-path", "--table"
    )


def test_angles_whose_file_is_missing_are_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/goniometer/omega"], file["entry/sample/goniometer/phi"], file["entry/sample/goniometer/chi"]
        file["entry/sample/goniometer/omega"] = h5py.ExternalLink("run_meta.h5", "/omega")

    path = write_dectris(tmp_path / "run_master.h5", edit=edit)
    words = ("/entry/sample/goniometer/omega is a link", "the file run_meta.h5, which is missing", "--angles-path")
    assert_refused(command(path, "--quiet"), 1, *words)


def test_a_laser_energy_is_not_a_state(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/sample/laser_on"]
        file["entry/sample/laser"] = np.linspace(0, 1, N_FRAMES)

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    assert_refused(command(path, "-S", "pairs", "--quiet"), 1, "no laser states found", "--laser-path")


def test_the_axis_of_the_data_is_taken_before_other_angles(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["scan/sample/omega"] = ANGLES[::-1]

    path = write_nxdata(tmp_path / "run.h5", edit=edit)
    assert columns_of(path)["angle"] == ANGLES.tolist()
    # also where the frames are named at another place than that of the axis
    assert columns_of(path, frames_path=("/scan/instrument/ccd/image",))["angle"] == ANGLES.tolist()


def test_a_motor_in_degrees_is_an_angle_in_bliss(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["1.1/measurement/rot"]

    assert columns_of(write_bliss(tmp_path / "run.h5", edit=edit))["angle"] == ANGLES.tolist()


def test_a_virtual_dataset_with_a_hole_is_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((N_FRAMES, *SHAPE), "u2")
        layout[:12] = h5py.VirtualSource("run_part0.h5", "x", (12, *SHAPE))
        del file["entry/data/data"]
        file["entry/data"].create_virtual_dataset("data", layout)

    refuses(write_virtual(tmp_path / "run.h5", edit=edit), words=("/entry/data/data", "frame 12 cannot be read"))


def test_stored_frames_need_no_particular_chunks(tmp_path: Path) -> None:
    """Parts may be stored differently, as long as their frames are alike."""
    path = write_dectris(tmp_path / "run_master.h5")
    with h5py.File(tmp_path / "run_data_000002.h5", "w") as file:
        stored(file, "entry/data/data", frames_of()[7:14], chunks=(3, 5, 40), compression="lzf")
    with open_run(path) as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, frames_of())
        assert stack.why_not_direct == "filters lzf"
        assert stack.step == 3


# ------------------------------------------------------------------------------------------------------------------ virtual datasets


def write_mapped(path: Path, mapping: Callable[[h5py.VirtualLayout, list[h5py.VirtualSource]], None], **options: object) -> Path:
    """A virtual dataset, as ``mapping`` fills it from three files of 8, 8 and 4 frames, and one in the same file."""
    frames, sources = frames_of(), []
    for number, begin in enumerate(range(0, N_FRAMES, 8)):
        part = path.with_name(f"{path.stem}_{number}.h5")
        with h5py.File(part, "w") as file:
            stored(file, "entry/x", frames[begin : begin + 8], **options)
            sources.append(h5py.VirtualSource(part.name, "entry/x", (min(8, N_FRAMES - begin), *SHAPE)))
    layout = h5py.VirtualLayout((N_FRAMES, *SHAPE), "u2")
    mapping(layout, sources)
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        group(entry, "data", "NXdata", signal="data").create_virtual_dataset("data", layout)
    return path


def in_order(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[16:], layout[:8], layout[8:16] = sources[2], sources[0], sources[1]


def backwards(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8], layout[8:16], layout[16:] = sources[1], sources[0], sources[2]


def interleaved(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[0:16:2], layout[1:16:2], layout[16:] = sources[0], sources[1], sources[2]


def cropped(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8, :, 10:], layout[:8, :, :10] = sources[0][:, :, :30], sources[0][:, :, 30:]
    layout[8:16], layout[16:] = sources[1], sources[2]


def some_frames(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:7], layout[7:15], layout[15:19], layout[19:] = sources[0][1:], sources[1], sources[2], sources[0][:1]


def overlapping(layout: h5py.VirtualLayout, sources: list[h5py.VirtualSource]) -> None:
    layout[:8], layout[4:12], layout[12:20] = sources[0], sources[1], sources[1]


@pytest.mark.parametrize(
    ("mapping", "options", "direct"),
    [
        (in_order, {}, True),
        (backwards, {}, True),
        (in_order, {"chunks": None, "compression": None}, True),
        (in_order, {"compression": "lzf"}, False),
        (interleaved, {}, False),
        (cropped, {}, False),
        (some_frames, {}, False),
        (overlapping, {}, False),
    ],
)
def test_a_virtual_stack_is_read_as_h5py_reads_it(mapping: Callable, options: dict, direct: bool, tmp_path: Path) -> None:
    """From its sources, by all threads, where they follow each other as they are; else by HDF5."""
    path = write_mapped(tmp_path / "run.h5", mapping, **options)
    with h5py.File(path) as file:
        expected = file["entry/data/data"][...]
    with open_run(path) as stack:
        assert (stack.why_not_direct is None) == direct
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, expected)
        stack.read(5, 18, into[:13])
        assert np.array_equal(into[:13], expected[5:18])
        assert stack.path == "/entry/data/data"
        assert len(stack.files) == (3 if mapping is overlapping else 4)


def test_a_virtual_stack_of_datasets_in_its_own_file(tmp_path: Path) -> None:
    frames = frames_of()
    with h5py.File(tmp_path / "run.h5", "w") as file:
        layout = h5py.VirtualLayout(frames.shape, "u2")
        for i in range(0, N_FRAMES, 5):
            layout[i : i + 5] = h5py.VirtualSource(stored(file, f"parts/{i}", frames[i : i + 5]))
        group(group(file, "entry", "NXentry"), "data", "NXdata", signal="data").create_virtual_dataset("data", layout)
    with open_run(tmp_path / "run.h5") as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, frames)
        assert stack.why_not_direct is None


def test_a_virtual_stack_whose_source_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_mapped(tmp_path / "run.h5", in_order)
    (tmp_path / "run_1.h5").write_bytes((tmp_path / "run_1.h5").read_bytes()[:2000])
    assert_refused(command(path, "-a", 0, "--quiet"), 1, "run.h5", "frame 8 cannot be read")
