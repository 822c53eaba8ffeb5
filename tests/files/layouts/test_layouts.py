"""Every layout gives the spots of the same frames as an array, or a clear error."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.layouts_data import (
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
)
from gpu_spots import Parameters, find_spots
from gpu_spots.errors import InputError
from gpu_spots.files.frames import FileStack, open_run
from gpu_spots.files.layouts.recognise import LAYOUTS
from gpu_spots.inputs import Inputs
from helpers import ROOT, assert_refused, assert_same, chunk_offset, command, datasets, listing


def results(path: Path) -> dict[str, np.ndarray]:
    """Return all datasets of a spots file, except the run's own metadata."""
    with h5py.File(path) as file:
        return {
            name: values
            for name, values in datasets(file).items()
            if not name.startswith("lauecollect/")
        }


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the results of the same run as an array, with synced masks."""
    path = tmp_path_factory.mktemp("direct") / "run__spots.h5"
    find_spots(
        frames_of(),
        Parameters.manual(sync="pairs"),
        columns={"angle": ANGLES, "laser_on": STATES},
        output=path,
    ).close()
    return results(path)


def refuses(path: Path, *options: object, words: tuple[str, ...], status: int = 1) -> None:
    """``find`` and ``info`` refuse a file in one line with these words; nothing new is left."""
    before = listing(path.parent)
    assert_refused(command(path, *options, "--quiet"), status, *words)
    assert_refused(command("info", path, *options, name="gpu-spots"), status, *words)
    assert listing(path.parent) == before


# ------------------------------------------------------------------------------- what is recognised


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_gives_what_its_frames_give(
    layout: str, direct: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write, kind, frames_path = WRITERS[layout]
    path = write(tmp_path / "run_master.h5")
    table = tmp_path / "states.csv"
    table.write_text("laser_on\n" + "\n".join(map(str, STATES)) + "\n")
    options = ("--table", table) if layout == "DECTRIS" else ()  # which has no place for them
    ended = command(path, "-S", "pairs", *options, "-o", tmp_path / "out.h5", "--quiet")
    assert (ended.status, ended.stderr) == (0, "")
    found, expected = results(tmp_path / "out.h5"), dict(direct)
    # some layouts have angles as they were read back
    angles = found.pop("per_frame/angle"), expected.pop("per_frame/angle")
    np.testing.assert_allclose(*angles, atol=0.0005, equal_nan=True)
    assert_same(found, expected)
    assert found.keys() == expected.keys()
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["info"].attrs["layout"], file["info"].attrs["frames_path"]) == (
            kind,
            frames_path,
        )
        assert np.round(file["lauecollect/angle"][:], 3).tolist() == ANGLES.tolist()
        assert file["lauecollect/angle"].attrs["origin"] == file["info"].attrs["angles_from"]


@pytest.mark.parametrize("layout", WRITERS)
def test_info_gives_the_title_of_the_layout(layout: str, tmp_path: Path) -> None:
    write, name, _ = WRITERS[layout]
    ended = command("info", write(tmp_path / "run_master.h5"), name="gpu-spots")
    assert ended.status == 0, ended.stderr
    [title] = {record.title for record in LAYOUTS if record.name == name}
    assert re.search(rf"^layout +{re.escape(title)}$", ended.stdout, re.MULTILINE)


def test_every_layout_has_a_writer() -> None:
    names = {name for _, name, _ in WRITERS.values()}
    assert names | {"LaueUtil"} == {record.name for record in LAYOUTS}


def test_the_documentation_lists_the_layouts_in_their_order() -> None:
    docs = ROOT / "docs"
    table = (docs / "your-files.md").read_text().partition("| given by `--frames` |")[2]
    rows = [
        [re.sub(r"^\[(.*)\]\(.*\)$", r"\1", cell.strip()) for cell in line.split("|")[1:3]]
        for line in table.partition("\n\n")[0].splitlines()[1:]
    ]
    assert rows == [[record.title, record.frames] for record in LAYOUTS if record.frames]
    [row] = re.findall(r"^\| `layout` \|.*$", (docs / "file-format.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) - {"layout"} == {record.name for record in LAYOUTS}


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int32", "float32", ">u2"])
def test_frames_of_other_types(dtype: str, tmp_path: Path) -> None:
    path = write_dectris(
        tmp_path / "run_master.h5", frames_of(dtype), detector={"description": "Jungfrau"}
    )
    with (
        find_spots(path) as found,
        find_spots(frames_of(dtype), columns={"angle": ANGLES}) as expected,
    ):
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


@pytest.mark.parametrize(
    ("options", "apart", "decoded"),
    [
        ([{}, {}, {}], None, False),
        ([{"chunks": (1, 4, 40)}, {"chunks": (1, 6, 40)}, {"chunks": (2, 4, 10)}], 12, False),
        (
            [
                {"chunks": (1, 4, 40)},
                {"chunks": None, "compression": None},
                {"chunks": None, "compression": None},
            ],
            4,
            False,
        ),
        ([{"chunks": (1, 5, 40)}, {"chunks": (1, 6, 40)}, {"chunks": (1, 4, 40)}], None, False),
        (
            [
                {"chunks": None, "compression": None},
                {"compression": None},
                {"chunks": None, "compression": None},
            ],
            1,
            True,
        ),
    ],
)
def test_rows_are_read_across_files(
    options: list[dict[str, Any]], apart: int | None, decoded: bool, tmp_path: Path
) -> None:
    """Rows can be read apart where that is so in all files."""
    path, frames = write_dectris(tmp_path / "run_master.h5"), frames_of()
    for number, option in enumerate(options):
        with h5py.File(tmp_path / f"run_data_{number + 1:06}.h5", "w") as file:
            stored(file, "entry/data/data", frames[7 * number : 7 * number + 7], **option)
    with open_run(path) as stack:
        assert (stack.rows_apart, stack.is_decoded) == (apart, decoded)
        for begin, end, first, last in (
            (0, 20, 0, 24),
            (3, 17, 5, 6),
            (6, 8, 23, 24),
            (14, 14, 2, 9),
            (13, 15, 0, 12),
        ):
            into = np.empty((end - begin, last - first, SHAPE[1]), np.uint16)
            stack.read_rows(begin, end, first, last, into)
            assert np.array_equal(into, frames[begin:end, first:last])


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
        assert "angles_from" not in stack.provenance.record


def test_a_default_that_is_a_plot_does_not_hide_the_frames(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        group(file, "entry/plot", "NXdata", signal="y")["y"] = np.zeros(5)
        file.attrs["default"], file["entry"].attrs["default"] = "entry", "plot"

    with open_run(write_nexus(tmp_path / "run.h5", edit=edit)) as stack:
        assert stack.provenance.frames_path == "/entry/data/data"


@pytest.mark.parametrize("default", ["/", ".", "entry/../entry"])
def test_a_default_that_leads_in_circles_ends(default: str, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file.attrs["default"] = default

    path = write_nexus(tmp_path / "run.h5", edit=edit)
    if ".." in default:
        refuses(path, words=("run.h5", "no dataset"))
    else:
        with open_run(path) as stack:
            assert stack.provenance.frames_path == "/entry/data/data"


def test_old_nexus_marks_the_signal_on_the_dataset(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/data"].attrs["signal"]
        file["entry/data/data"].attrs["signal"] = 1
        file["entry/data/sum"] = np.zeros((N_FRAMES, 3, 3))

    with open_run(write_nexus(tmp_path / "run.h5", edit=edit)) as stack:
        assert stack.provenance.frames_path == "/entry/data/data"


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
        assert stack.provenance.frames_path == "/entry/data/data"
        assert np.array_equal(into, frames_of())


# ------------------------------------------------------------------------------------- which frames


def test_frames_may_name_the_datasets_one_by_one(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    options = Inputs(("/entry/data/data_000003", "entry/data/data_000001"), angles_path=None)
    with open_run(path, options) as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, 13, into)
        assert np.array_equal(into, np.concatenate([frames_of()[14:], frames_of()[:7]]))


@pytest.mark.parametrize("place", ["/entry/data", "entry", "entry/data/"])
def test_frames_may_name_a_group(place: str, tmp_path: Path) -> None:
    with open_run(write_dectris(tmp_path / "run_master.h5"), Inputs((place,))) as stack:
        assert stack.shape == (N_FRAMES, *SHAPE)


def test_several_scans_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "run.h5", scans=("1.1", "2.1", "10.1"))
    refuses(
        path,
        words=(
            "several datasets could be the frames",
            "/1.1/measurement/eiger (20, 24, 40) uint16",
            "/2.1/",
            "/10.1/",
            "--frames",
        ),
    )
    for place in ("2.1/measurement/eiger", "/2.1"):
        with open_run(path, Inputs((place,))) as stack:
            assert stack.provenance.frames_path.startswith("/2.1/")
            assert stack.columns["angle"] is not None
            columns: Any = stack.columns
            assert columns.origin["laser_on"] == "/2.1/measurement/laser_on"


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
        (
            write_lima,
            second("entry_0000", "entry_0001"),
            ("/entry_0000/measurement/data", "/entry_0001/measurement/data"),
        ),
        (write_anything, second("run", "old"), ("/old/of/today/images", "/run/of/today/images")),
        (write_crystfel, second("data", "data/jungfrau"), ("--frames",)),
    ],
    ids=["entries", "NXdata", "CXI", "Lima", "anything", "CrystFEL"],
)
def test_two_stacks_are_listed(
    write: Callable[..., Path],
    edit: Callable[[h5py.File], None],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    refuses(
        write(tmp_path / "run.h5", edit=edit),
        words=("several datasets could be the frames", *words, "choose one with --frames"),
    )


def test_many_stacks_are_not_all_listed(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "run.h5", scans=tuple(f"{i}.1" for i in range(1, 13)))
    refuses(path, words=("/1.1/measurement/eiger", "and 4 more"))


# -------------------------------------------------------------------------------- damage and oddity


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    (tmp_path / "run_data_000002.h5").unlink()
    refuses(
        path,
        words=("run_master.h5", "data_000002", "the file run_data_000002.h5, which is missing"),
    )


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
    refuses(
        path,
        words=(
            "/entry/data has data_000001 and data_000003",
            "the datasets between them are missing",
            "--frames",
        ),
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            np.zeros((6, 24, 41), np.uint16),
            (
                "data_000003 has frames of 24 x 41 uint16",
                "expected 24 x 40 uint16 as in /entry/data/data_000001",
            ),
        ),
        (
            np.zeros((6, 24, 40), np.int32),
            ("data_000003 has frames of 24 x 40 int32", "expected 24 x 40 uint16"),
        ),
        (
            np.zeros((6, 24), np.uint16),
            ("data_000003 has shape (6, 24)", "expected three dimensions"),
        ),
        (np.zeros((6, 24, 40), np.uint64), ("data_000003 is uint64", "expected one of")),
        (
            np.zeros((0, 24, 40), np.uint16),
            ("data_000003 has shape (0, 24, 40)", "at least one frame"),
        ),
    ],
    ids=["size", "type", "2-D", "uint64", "empty"],
)
def test_parts_that_differ_are_named(
    other: np.ndarray, words: tuple[str, ...], tmp_path: Path
) -> None:
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
    with (
        open_run(path) as stack,
        pytest.raises(
            InputError, match=r"run_data_000003\.h5: /entry/data/data: frame 4 .*never written"
        ),
    ):
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


FEW_OPEN_FILES = """
import resource, sys
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (60, most))
with open_run(sys.argv[1]) as stack:
    stack.check_whole()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (60, most))
def refuse(*_):
    raise ValueError("not allowed to raise maximum limit")
resource.setrlimit = refuse
try:
    open_run(sys.argv[1]).__enter__()
except InputError as error:
    print(error)
"""


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """The limit is raised as far as the system lets us. This process may have many files open."""
    path = write_dectris(tmp_path / "run_master.h5", per_file=1)
    ended = subprocess.run(
        [sys.executable, "-c", FEW_OPEN_FILES, path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    limit, refused = ended.stdout.splitlines()
    assert int(limit) == 2 * N_FRAMES + 64
    assert re.search(
        r"run_master\.h5: /entry/data: the frames are in 20 files.* 60 open files, "
        r"expected at least 104",
        refused,
    )


def test_an_output_may_not_be_one_of_the_parts(tmp_path: Path) -> None:
    path = write_dectris(tmp_path / "run_master.h5")
    assert_refused(
        command(path, "-o", tmp_path / "run_data_000002.h5", "--force", "--quiet"),
        1,
        "the output is the input file",
    )


def test_a_file_without_frames_says_what_it_has(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["data/data"]
        file["data/modules"] = np.zeros((5, 2, 7, 9), "u2")

    path = write_crystfel(tmp_path / "run.h5", edit=edit)
    refuses(
        path,
        words=(
            "no /frames and no 3-D numeric dataset",
            "/data/modules (5, 2, 7, 9) uint16",
            "--frames",
        ),
    )
    refuses(
        path,
        "--frames",
        "/data/modules",
        words=("/data/modules has shape (5, 2, 7, 9)", "expected three dimensions"),
    )
    refuses(
        path, "--frames", "/data", words=("/data is a group", "expected the dataset of the frames")
    )


def test_a_group_with_two_stacks_is_refused(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "run.h5", edit=second("entry/data", "entry/raw"))
    refuses(
        path,
        "--frames",
        "/entry",
        words=("/entry is a group with several datasets", "/entry/data/data", "/entry/raw/data"),
    )


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_wrong_bytes_anywhere_give_results_or_one_line(
    layout: str, seed: int, tmp_path: Path
) -> None:
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


def test_stored_frames_need_no_particular_chunks(tmp_path: Path) -> None:
    """Parts may be stored differently, as long as their frames are alike."""
    path = write_dectris(tmp_path / "run_master.h5")
    with h5py.File(tmp_path / "run_data_000002.h5", "w") as file:
        stored(file, "entry/data/data", frames_of()[7:14], chunks=(3, 5, 40), compression="lzf")
    with open_run(path) as stack:
        into = np.empty(stack.shape, stack.dtype)
        stack.read(0, N_FRAMES, into)
        assert np.array_equal(into, frames_of())
        assert stack.storage()["read_through_hdf5"] == "filters lzf"
        assert stack.step == 3
