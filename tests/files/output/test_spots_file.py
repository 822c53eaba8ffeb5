"""Content of the spots file, as section 5 of the contract has it, and who can read it."""

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from factories.spots_files import TABLE, N, X, Y
from gpu_spots import __version__, open_spots
from gpu_spots.columns import DATASETS, FRAMES_TYPE
from helpers import command, datasets, replaced, series, write_run

# --------------------------------------------------------------------------------------- what is in


@pytest.mark.parametrize("path", TABLE)
@pytest.mark.parametrize("name", ["none", "pairs", "kruskal"])
def test_every_dataset_of_the_contract_is_there(
    paths: dict[str, Path], name: str, path: str
) -> None:
    dtype, shape, units = TABLE[path]
    with h5py.File(paths[name]) as file:
        if path == "masks_synced" and name == "none":
            assert path not in file
            return
        dataset = file[path]
        sizes = {
            "N": N,
            "X": X,
            "Y": Y,
            "2": 2,
            "4": 4,
            "k": len(file["masks/counts"]),
            "n": len(file["spots/I"]),
        }
        sizes["p"] = len(file["spots/pixel_list"])
        assert sizes["n"] >= N
        assert (dataset.dtype, dataset.shape) == (
            np.dtype(dtype),
            tuple(sizes[letter] for letter in shape),
        )
        assert dataset.attrs.get("units") == units


@pytest.mark.parametrize("name", ["none", "pairs", "kruskal"])
def test_every_dataset_matches_its_record(paths: dict[str, Path], name: str) -> None:
    with h5py.File(paths[name]) as file:
        written = {path for path in datasets(file) if not path.startswith("lauecollect/")}
        assert not written - DATASETS.keys()
        required = {path for path, record in DATASETS.items() if not record.optional}
        grouped = {"masks_synced", "spots/I_prf", "spots/sigma_prf"}
        absent = {"per_frame/surface"} | (grouped if name == "none" else set())
        absent |= set() if name == "kruskal" else {"stats/n_used"}
        assert required <= written == DATASETS.keys() - absent
        lengths = {
            "n_frames": N,
            "n_masks": len(file["masks/counts"]),
            "n_spots": len(file["spots/I"]),
            "n_pixels": len(file["spots/pixel_list"]),
            "n_bins": len(file["noise/level"]),
            "n_X": X,
            "n_Y": Y,
        }
        for path in written:
            dataset, record = file[path], DATASETS[path]
            assert dataset.shape == tuple(
                n if isinstance(n, int) else lengths[n] for n in record.shape
            ), path
            frames_type = record.dtypes == (FRAMES_TYPE,)
            assert dataset.dtype == ("uint16" if frames_type else record.dtypes[0]), path
            assert len(record.description) > 10, path
            attributes = {"description": record.description}
            attributes |= {"units": record.unit} if record.unit else {}
            attributes |= {"long_name": record.label} if record.label else {}
            attributes |= {"interpretation": "image"} if dataset.shape[-2:] == (X, Y) else {}
            assert dict(dataset.attrs) == attributes
            if record.link:
                assert file.get(record.link, getlink=True).path == f"/{path}"


def test_numbers_of_masks(paths: dict[str, Path]) -> None:
    for name, n_masks in (("none", 20), ("pairs", 10), ("kruskal", 10)):
        with h5py.File(paths[name]) as file:
            assert len(file["masks/counts"]) == len(file["masks/labels"]) == n_masks


@pytest.mark.parametrize("name", ["none", "pairs", "kruskal"])
def test_links_lead_to_what_they_name(paths: dict[str, Path], name: str) -> None:
    links = {
        "masks/masks_raw": "masks_raw",
        "masks/masks_filtered": "masks_filtered",
        "spots/frame2spotsBE": "frame2spotsBE",
    }
    if name != "none":
        links["masks/masks_synced"] = "masks_synced"
    with h5py.File(paths[name]) as file:
        for link, target in links.items():
            assert isinstance(file.get(link, getlink=True), h5py.SoftLink)
            assert file[link] == file[target]
        assert ("masks_synced" in file["masks"]) == (name != "none")


@pytest.mark.parametrize("name", ["none", "pairs", "kruskal"])
def test_labels_masks_and_table_agree(paths: dict[str, Path], name: str) -> None:
    with h5py.File(paths[name]) as file:
        data = datasets(file)
    masks = data.get("masks_synced", data["masks_filtered"])
    structure = ndimage.generate_binary_structure(2, 1 if name == "pairs" else 2)
    for mask, labels, count in zip(masks, data["masks/labels"], data["masks/counts"], strict=True):
        expected, n_spots = ndimage.label(mask, structure)
        assert np.array_equal(labels, expected)
        assert count == n_spots
    for frame, (begin, end) in enumerate(data["frame2spotsBE"]):
        assert (data["spots/frame"][begin:end] == frame).all()
        assert data["spots/label"][begin:end].tolist() == list(range(1, end - begin + 1))
        assert (data["spots/mask"][begin:end] == data["per_frame/mask"][frame]).all()
    for i, (begin, end) in enumerate(data["spots/pixel_list_BE"]):
        pixels = data["spots/pixel_list"][begin:end]
        labels = data["masks/labels"][data["spots/mask"][i]]
        assert np.array_equal(np.flatnonzero(labels == data["spots/label"][i]), pixels)


def test_info_says_how_the_file_was_made(paths: dict[str, Path]) -> None:
    with h5py.File(paths["pairs"]) as file:
        info = dict(file["info"].attrs)
        assert not list(file["info"])
    asked = {
        "method": "n_removed",
        "n": 30,
        "alpha": 0.05,
        "cutoff": 2.5,
        "erosions": 1,
        "dilations": 2,
        "angles": 10,
        "sync": "pairs",
    }
    assert {name: info[name] for name in asked} == asked
    assert info["structure"].tolist() == [2, 1]
    assert info["compression"] == "gzip"
    assert info["n_removed"] == 6
    assert info["n_frames"] == 20
    assert info["input_file"] == str(paths["run"])
    assert info["frames_path"] == "/frames"
    assert (info["program"], info["version"], info["backend"]) == ("gpu_spots", __version__, "cpu")
    assert "NumPy" in info["device"]
    started = datetime.fromisoformat(info["start_time"])
    assert timedelta(0) <= datetime.now(UTC) - started < timedelta(hours=1)
    assert 0 < info["duration"] < 3600
    assert info["command_line"]


def test_info_of_a_kruskal_run(paths: dict[str, Path]) -> None:
    with h5py.File(paths["kruskal"]) as file:
        info = file["info"].attrs
        assert (info["method"], info["alpha"], info["n_removed"], info["n_blocks"]) == (
            "kruskal",
            0.01,
            0,
            10,
        )
        assert info["frames_per_block"].tolist() == [2] * 10
        assert file["stats/n_used"].shape == (X, Y)
        assert file["stats/n_used"].dtype == np.int32


def test_the_command_line_is_kept_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "a b__mccd.h5")
    monkeypatch.setattr("sys.argv", ["lu_hdf2spots", str(run), "-n", "0"])
    assert command(run, "-n", 0, "--quiet").status == 0
    with h5py.File(tmp_path / "a b__spots.h5") as file:
        assert file["info"].attrs["command_line"] == f"lu_hdf2spots '{run}' -n 0"
        assert file["info"].attrs["n"] == 25


def test_metadata_is_copied_with_its_attributes(paths: dict[str, Path], pairs: h5py.File) -> None:
    with h5py.File(paths["run"]) as run:
        copied, source = pairs["lauecollect"], run["lauecollect"]
        assert dict(copied.attrs) == {"block_size": 2}
        assert dict(copied["angle"].attrs) == {"units": "deg"}
        found, expected = datasets(copied), datasets(source)
    assert (
        found.keys()
        == expected.keys()
        == {"angle", "laser_on", "file", "comment", "motor/phi", "one"}
    )
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)


def test_pixels_that_are_invalid_on_some_frames_have_their_number_of_values(tmp_path: Path) -> None:
    frames = series(dtype="float32")
    frames[3, 5, 6] = np.nan
    path = write_run(tmp_path / "x__mccd.h5", frames=frames)
    assert command(path, "--quiet").status == 0
    with h5py.File(tmp_path / "x__spots.h5") as file:
        n_used = file["stats/n_used"][...]
        assert file["stats/threshold"].dtype == np.float64
        assert file["stats/max"].dtype == np.float32
    assert n_used.dtype == np.int32
    assert n_used[5, 6] == 19 - 19 // 4
    n_used[5, 6] = 15
    assert (n_used == 15).all()


def test_a_run_without_spots_has_empty_tables(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", frames=np.full((N, X, Y), 7, np.uint16))
    assert command(path, "-S", "pairs", "--quiet").status == 0
    with h5py.File(tmp_path / "x__spots.h5") as file:
        for name, (dtype, shape, _) in TABLE.items():
            assert file[name].dtype == dtype
            if shape[0] in "np":
                assert len(file[name]) == 0
        assert not file["frame2spotsBE"][...].any()
        assert not file["masks/labels"][...].any()
    with open_spots(tmp_path / "x__spots.h5") as found:
        assert found.n_spots == 0
        assert found.spots(3)["box"].shape == (0, 4)


# --------------------------------------------------------------------- more than 65535 spots a mask


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one frame has 300 x 300 spots of one pixel."""
    frames = np.full((6, 600, 600), 10, np.uint16)
    frames[1, 100:103, 200:203] = 50
    frames[3, 1::2, 1::2] = 99
    frames[4, 7, 8] = 20
    return write_run(tmp_path_factory.mktemp("crowded") / "run__mccd.h5", frames=frames)


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("sync", ["none", "pairs"])
def test_labels_are_made_wider_where_there_are_many(
    crowded: Path, compression: str, sync: str
) -> None:
    ended = command(
        crowded, "-a", 0, "-e", 0, "-d", 0, "-C", compression, "-S", sync, "--quiet", "--force"
    )
    assert ended.status == 0
    with h5py.File(crowded.parent / "run__spots.h5") as file:
        counts, labels = file["masks/counts"][...], file["masks/labels"]
        assert counts.tolist() == ([0, 1, 0, 90_000, 1, 0] if sync == "none" else [1, 90_000, 1])
        assert labels.dtype == np.uint32
        assert labels.shape == (len(counts), 600, 600)
        assert set(file["masks"]) == {"labels", "counts", "masks_raw", "masks_filtered"} | (
            {"masks_synced"} if sync == "pairs" else set()
        )
        assert labels.attrs["description"]
        assert labels.chunks == file["masks_filtered"].chunks
        masks = file["masks_filtered" if sync == "none" else "masks_synced"]
        for mask, label in zip(masks, labels, strict=True):
            assert np.array_equal(label, ndimage.label(mask, np.ones((3, 3)))[0])
        assert file["spots/label"][...].max() == 90_000


def test_65535_spots_fit_16_bits(tmp_path: Path) -> None:
    frames = np.full((4, 511, 514), 10, np.uint16)
    frames[2, ::2, ::2] = 99  # 256 * 257 = 65792
    frames[2].ravel()[np.flatnonzero(frames[2].ravel() == 99)[65535:]] = 10
    path = write_run(tmp_path / "x__mccd.h5", frames=frames)
    assert command(path, "-a", 0, "-e", 0, "-d", 0, "--quiet").status == 0
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert file["masks/counts"][2] == file["masks/labels"][2].max() == 65535
        assert file["masks/labels"].dtype == np.uint16


# ------------------------------------------------------------------------------------- who can read


def test_no_plugin_is_needed(paths: dict[str, Path]) -> None:
    built_in = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    for name in ("none", "pairs", "kruskal"):
        with h5py.File(paths[name]) as file:
            for path in datasets(file):
                created = file[path].id.get_create_plist()
                assert {
                    created.get_filter(i)[0] for i in range(created.get_nfilters())
                } <= built_in, path
            compressed = ("masks_raw", "masks_filtered", "masks/labels", "stats/avg")
            assert all(file[path].compression == "gzip" for path in compressed)


def test_the_format_is_one_that_old_readers_know(pairs: h5py.File) -> None:
    superblock = Path(pairs.filename).read_bytes()[8]
    assert superblock <= 3, "HDF5 1.10 reads superblocks up to version 3"


@pytest.fixture(scope="module")
def h5dump() -> Callable[..., str]:
    """Runs h5dump, which must not complain; gives what it says."""
    program = shutil.which("h5dump")
    if program is None:
        pytest.skip("h5dump is not installed")

    def dump(*arguments: object) -> str:
        command_line, environment = [program, *map(str, arguments)], {"HDF5_PLUGIN_PATH": "/none"}
        ended = subprocess.run(
            command_line, capture_output=True, text=True, timeout=60, env=environment
        )
        assert (ended.returncode, ended.stderr) == (0, ""), command_line
        return ended.stdout

    return dump


@pytest.mark.parametrize("name", ["none", "pairs", "kruskal"])
def test_h5dump_reads_everything(
    paths: dict[str, Path], name: str, h5dump: Callable[..., str]
) -> None:
    with h5py.File(paths[name]) as file:
        names = [*datasets(file), "masks/masks_raw", "spots/frame2spotsBE"]
    for path in names:
        assert "DATA {" in h5dump("-d", f"/{path}", paths[name])
    assert 'ATTRIBUTE "method"' in h5dump("-A", "-g", "/info", paths[name])


def test_h5dump_shows_the_same_values(
    paths: dict[str, Path], pairs: h5py.File, h5dump: Callable[..., str]
) -> None:
    for path in ("masks/counts", "spots/frame", "stats/arg"):
        shown = h5dump("-y", "-w", 0, "-d", f"/{path}", paths["pairs"])
        values = [
            int(value) for value in re.findall(r"-?\d+", shown.split("DATA {")[1].split("}")[0])
        ]
        assert values == pairs[path][...].ravel().tolist()


def chunks_of(path: Path) -> dict[tuple[str, tuple[int, ...]], tuple[int, bytes]]:
    """Place in the file and stored bytes of every chunk of a file."""
    found = {}

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks:
            for i in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(i)
                _, stored = item.id.read_direct_chunk(chunk.chunk_offset)
                found[name, chunk.chunk_offset] = chunk.byte_offset, stored

    with h5py.File(path) as file:
        file.visititems(look)
    return found


def test_equal_runs_store_equal_bytes(tmp_path: Path) -> None:
    """The order of the chunks in the file follows the batches, their bytes do not."""
    path = write_run(tmp_path / "run.h5", frames=series(shape=(70, 90)))
    each = []
    for i, options in enumerate(((2, 20), (2, 20), (1, 3))):
        output = tmp_path / f"{i}.h5"
        threads, batch = options
        ended = command(path, "-a", 0, "--threads", threads, "--batch", batch, "-o", output)
        assert ended.status == 0, ended.stderr
        each.append(chunks_of(output))
    assert each[0] == each[1]
    assert len(each[0]) > 60
    assert {key: stored for key, (_, stored) in each[0].items()} == {
        key: stored for key, (_, stored) in each[2].items()
    }
    assert each[0] != each[2]


def test_damaged_metadata_that_is_not_needed_is_left_out(tmp_path: Path) -> None:
    """A warning names it; damaged metadata that is needed is an error."""
    text = [f"{'long ' * 20}{i}" for i in range(20)]
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect_comment=text))
    content = path.read_bytes()
    begin = content.index(b"GCOL")
    path.write_bytes(content[:begin] + b"NONE" + content[begin + 4 :])
    ended = command(path, "--quiet")
    assert (ended.status, ended.stdout, len(ended.lines)) == (0, "", 1)
    assert "x__mccd.h5: lauecollect/comment is damaged and left out of the output" in ended.stderr
    with h5py.File(path) as run, h5py.File(tmp_path / "x__spots.h5") as found:
        assert set(found["lauecollect"]) == {"angle", "laser_on"}
        assert np.array_equal(found["lauecollect/angle"], run["lauecollect/angle"])
