"""The output file, as section 5 of the contract has it: what is in it, who can read it, and `open_spots`."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from gpu_spots import __version__, open_spots
from gpu_spots.columns import DATASETS, FRAMES_TYPE, SPOT_COLUMNS
from gpu_spots.errors import InputError, OutputError
from gpu_spots.files.output.new_file import NewFile, new_file
from gpu_spots.files.output.spots_file import SpotsFile
from helpers import FullDisk, chunk_offset, command, datasets, replaced, series, write_run

N, X, Y = 20, 24, 40
TABLE = {
    # path: type and shape, where n is spots, p pixels and k masks
    "stats/avg": ("float32", "XY", "counts"),
    "stats/std": ("float32", "XY", "counts"),
    "stats/iqr": ("float32", "XY", "counts"),
    "stats/max": ("uint16", "XY", "counts"),
    "stats/arg": ("int32", "XY", None),
    "stats/threshold": ("int32", "XY", "counts"),
    "masks_raw": ("uint8", "NXY", None),
    "masks_filtered": ("uint8", "NXY", None),
    "masks_synced": ("uint8", "kXY", None),
    "masks/labels": ("uint16", "kXY", None),
    "masks/counts": ("int32", "k", None),
    "spots/I": ("float64", "n", "counts"),
    "spots/XY": ("int32", "n2", "pixel"),
    "spots/box": ("int32", "n4", "pixel"),
    "spots/frame": ("int32", "n", None),
    "spots/label": ("int32", "n", None),
    "spots/mask": ("int32", "n", None),
    "spots/pixel_list": ("int32", "p", None),
    "spots/overload": ("int32", "n", "pixel"),
    "spots/pixel_list_BE": ("int64", "n2", None),
    "frame2spotsBE": ("int64", "N2", None),
}
"""The contract's datasets for 16-bit frames."""


def laser_run(folder: Path) -> Path:
    """A run with attributes and columns of its own in lauecollect."""

    def describe(file: h5py.File) -> None:
        group = file["lauecollect"]
        group.attrs["block_size"] = 2
        group["angle"].attrs["units"] = "deg"
        group["file"] = [f"a_{state}.mccd" for state in ("off", "on")] * 10
        group["comment"] = np.array([b"a", b"\xc3\xa4"] * 10)
        group["motor/phi"] = np.arange(20)
        group["one"] = 3.5

    return write_run(folder / "run__mccd.h5", describe)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Spots files of one run, without and with synchronized masks."""
    folder = tmp_path_factory.mktemp("spots")
    run = laser_run(folder)
    assert command(run, "-o", folder / "none.h5", "--quiet").status == 0
    assert (
        command(
            run,
            "-o",
            folder / "pairs.h5",
            "--quiet",
            "-S",
            "pairs",
            "-n",
            30,
            "-c",
            2.5,
            "-s",
            "2,1",
        ).status
        == 0
    )
    assert (
        command(
            run, "-o", folder / "kruskal.h5", "--quiet", "-m", "kruskal", "-S", "blocks", "-A", 0.01
        ).status
        == 0
    )
    return {name: folder / f"{name}.h5" for name in ("none", "pairs", "kruskal")} | {"run": run}


@pytest.fixture
def pairs(paths: dict[str, Path]) -> Iterator[h5py.File]:
    """The one with pairs, by plain h5py."""
    with h5py.File(paths["pairs"]) as file:
        yield file


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
        absent = {"frame_scale"} | ({"masks_synced"} if name == "none" else set())
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
            assert dataset.shape == tuple(lengths.get(n, n) for n in record.shape), path
            frames_type = record.dtypes == (FRAMES_TYPE,)
            assert dataset.dtype == ("uint16" if frames_type else record.dtypes[0]), path
            assert len(record.description) > 10, path
            attributes = {"description": record.description}
            assert dict(dataset.attrs) == attributes | (
                {"units": record.unit} if record.unit else {}
            )
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
        assert (data["spots/mask"][begin:end] == data["frame2mask"][frame]).all()
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


# --------------------------------------------------------------------------------------- open_spots


def test_open_spots_gives_what_is_in_the_file(paths: dict[str, Path], pairs: h5py.File) -> None:
    with open_spots(str(paths["pairs"])) as found:
        assert isinstance(found, SpotsFile)
        assert (found.n_frames, found.n_spots) == (N, len(pairs["spots/I"]))
        for name in ("avg", "std", "iqr", "max", "arg", "threshold"):
            assert np.array_equal(getattr(found, name), pairs[f"stats/{name}"])
            assert getattr(found, name).dtype == pairs[f"stats/{name}"].dtype
        for frame in (0, 1, 7, N - 1):
            assert np.array_equal(found.mask(frame), pairs["masks_filtered"][frame])
            assert np.array_equal(found.mask(frame, "raw"), pairs["masks_raw"][frame])
            assert np.array_equal(found.mask(frame, "synced"), pairs["masks_synced"][frame // 2])
            assert found.mask(frame).dtype == bool
            assert np.array_equal(found.labels(frame), pairs["masks/labels"][frame // 2])
            begin, end = pairs["frame2spotsBE"][frame]
            mine = found.spots(frame)
            assert list(mine) == [record.name for record in SPOT_COLUMNS]
            assert all(
                np.array_equal(values, pairs[f"spots/{name}"][begin:end])
                for name, values in mine.items()
            )
        assert all(
            np.array_equal(values, pairs[f"spots/{name}"]) for name, values in found.spots().items()
        )
        assert found.info["sync"] == "pairs"
        assert found.info.keys() == pairs["info"].attrs.keys()
        assert np.array_equal(found.columns["angle"], pairs["lauecollect/angle"])
        assert {"angle", "laser_on", "file", "comment"} <= found.columns.keys()


def test_pixels_of_a_spot_lie_in_its_box_and_carry_its_label(paths: dict[str, Path]) -> None:
    with open_spots(paths["pairs"]) as found:
        table = found.spots()
        for spot in (0, 3, found.n_spots - 1):
            x, y = found.pixels(spot).T
            assert [x.min(), x.max() + 1, y.min(), y.max() + 1] == table["box"][spot].tolist()
            assert (found.labels(int(table["frame"][spot]))[x, y] == table["label"][spot]).all()
            assert table["XY"][spot].tolist() in np.stack([x, y], axis=1).tolist()


def test_what_was_read_stays_when_the_file_is_closed(paths: dict[str, Path]) -> None:
    found = open_spots(paths["none"])
    average, table = found.avg, found.spots(2)
    assert "20 frames" in repr(found)
    found.close()
    assert average.mean() > 0
    assert len(table["I"]) > 0
    assert "closed" in repr(found)


def test_what_is_missing_is_a_key_error(paths: dict[str, Path]) -> None:
    with open_spots(paths["none"]) as found:
        with pytest.raises(KeyError, match="masks_synced"):
            found.mask(0, "synced")
        for frame in (N, -N - 1):
            with pytest.raises(IndexError, match=rf"frame {frame} of {N}"):
                found.spots(frame)


@pytest.mark.parametrize(
    "read",
    [
        lambda found: found.avg,
        lambda found: found.info,
        lambda found: found.columns,
        lambda found: found.n_spots,
        lambda found: found.mask(0),
        lambda found: found.labels(0),
        lambda found: found.spots(),
        lambda found: found.pixels(0),
    ],
)
def test_a_closed_file_is_a_value_error(
    paths: dict[str, Path], read: Callable[[SpotsFile], object]
) -> None:
    found = open_spots(paths["none"])
    found.close()
    with pytest.raises(
        ValueError, match=r"none\.h5: the spots file is closed; open it again with open_spots"
    ):
        read(found)
    assert found.n_frames == N


def test_what_keep_left_out_is_a_key_error(paths: dict[str, Path], tmp_path: Path) -> None:
    assert (
        command(paths["run"], "-o", tmp_path / "x.h5", "--keep", "filtered", "--quiet").status == 0
    )
    with open_spots(tmp_path / "x.h5") as found:
        assert found.mask(0).shape == (X, Y)
        assert "pixel_list_BE" not in found.spots()
        for name, read in (
            ("masks_raw", lambda: found.mask(0, "raw")),
            ("masks/labels", lambda: found.labels(0)),
            ("spots/pixel_list_BE", lambda: found.pixels(0)),
        ):
            with pytest.raises(KeyError, match=f"no {name}; --keep and -S"):
                read()


def test_an_index_is_an_integer_in_range(paths: dict[str, Path]) -> None:
    with open_spots(paths["pairs"]) as found:
        for read in (found.spots, found.mask, found.labels):
            for bad in ("6", 1.0):
                with pytest.raises(
                    TypeError,
                    match=f"frame: found {bad!r}, expected an integer from -{N} to {N - 1}",
                ):
                    read(bad)  # type: ignore[operator]
            with pytest.raises(IndexError, match=f"frame {N} of {N}"):
                read(N)
        n = found.n_spots
        for bad in (n, -n - 1):
            with pytest.raises(IndexError, match=f"spot {bad} of {n}"):
                found.pixels(bad)
        assert np.array_equal(found.pixels(-1), found.pixels(n - 1))
        assert np.array_equal(found.spots(-1)["I"], found.spots(np.int64(N - 1))["I"])


TABLES = [
    path for path in TABLE if path.startswith(("spots/", "frame2")) or path == "masks/counts"
] + ["frame2mask", "frame_level"]


@pytest.mark.parametrize("path", TABLES)
def test_a_flipped_byte_in_a_table_is_an_error_and_no_number(
    paths: dict[str, Path], tmp_path: Path, path: str
) -> None:
    damaged = tmp_path / "x.h5"
    shutil.copy(paths["pairs"], damaged)
    offset, _ = chunk_offset(damaged, 0, path)
    content = bytearray(damaged.read_bytes())
    content[offset + 1] ^= 4
    damaged.write_bytes(content)
    with h5py.File(damaged) as file, pytest.raises(OSError, match="filter returned failure"):
        file[path][...]

    def read() -> None:
        with open_spots(damaged) as found:
            found.spots()
            found.labels(0)
            found.pixels(0)

    if path in ("masks/counts", "frame_level"):
        return  # SpotsFile does not read these
    with pytest.raises(InputError, match=rf"x\.h5: {path} cannot be read: .*; the file is damaged"):
        read()


@pytest.mark.parametrize("path", ["stats/avg", "masks_filtered", "masks/labels"])
def test_damaged_images_are_input_errors(paths: dict[str, Path], tmp_path: Path, path: str) -> None:
    damaged = tmp_path / "x.h5"
    shutil.copy(paths["pairs"], damaged)
    offset, size = chunk_offset(damaged, 0, path)
    content = bytearray(damaged.read_bytes())
    content[offset : offset + size] = bytes(size)
    damaged.write_bytes(content)
    with (
        open_spots(damaged) as found,
        pytest.raises(InputError, match=rf"x\.h5: {path} cannot be read"),
    ):
        (found.avg, found.mask(0), found.labels(0))


def test_a_missing_table_is_an_input_error(paths: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(paths["none"], tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["spots/box"], file["info"]
    with open_spots(tmp_path / "x.h5") as found:
        with pytest.raises(
            InputError, match=r"x\.h5: not a spots file, it has no dataset spots/box"
        ):
            found.spots()
        with pytest.raises(InputError, match=r"x\.h5: not a spots file, it has no group info"):
            found.info  # noqa: B018


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("sync", ["none", "pairs"])
def test_small_frames_share_chunks(tmp_path: Path, compression: str, sync: str) -> None:
    """1000 frames of 3 x 5 pixels in few chunks, equal to those of the same frames between other pixels, in chunks of their own."""
    frames = np.random.default_rng(1).poisson(50, (1000, 3, 5)).astype(np.uint16)
    wide = np.zeros((1000, 70, 70), np.uint16)
    wide[:, :3, :5] = frames
    found = {}
    for name, stack in (("small", frames), ("wide", wide)):
        path = write_run(tmp_path / f"{name}__mccd.h5", frames=stack)
        assert (
            command(
                path, "-e", 0, "-d", 0, "-C", compression, "-S", sync, "--batch", 7, "--quiet"
            ).status
            == 0
        )
        found[name] = h5py.File(tmp_path / f"{name}__spots.h5")
    with found["small"] as small, found["wide"] as large:
        assert small["spots/I"].shape[0] > 100
        names = ["masks_raw", "masks_filtered", "masks/labels"] + (
            ["masks_synced"] if sync == "pairs" else []
        )
        for name in names:
            assert small[name].id.get_num_chunks() == 1
            assert small[name].dtype == large[name].dtype
            assert np.array_equal(small[name], large[name][:, :3, :5])
            assert large[name].chunks[0] == 1


def test_a_file_that_is_no_spots_file_is_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"run__mccd\.h5: not a spots file, it has no dataset frame2spotsBE"
    ):
        open_spots(paths["run"])
    (tmp_path / "x.h5").write_text("text")
    with pytest.raises(InputError, match=r"x\.h5: is not an HDF5 file"):
        open_spots(tmp_path / "x.h5")
    with pytest.raises(InputError, match=r"none\.h5: cannot be opened: No such file"):
        open_spots(tmp_path / "none.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("frame2spotsBE")
    with pytest.raises(InputError, match=r"group\.h5: not a spots file"):
        open_spots(tmp_path / "group.h5")


def test_a_spots_file_is_no_run(paths: dict[str, Path], tmp_path: Path) -> None:
    ended = command(paths["none"], "-o", tmp_path / "x.h5", "--quiet")
    assert ended.status == 1
    assert "is a spots file" in ended.stderr


# ------------------------------------------------------------------------------ what HDF5 writes to


def test_a_new_file_is_as_hdf5_makes_it_itself(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        random = np.random.default_rng(1)
        for i in range(30):
            file.create_dataset(
                f"a/{i}",
                data=random.integers(0, 9, (50, 60)),
                chunks=(7, 60),
                compression="gzip",
                track_times=False,
            )
            file[f"a/{i}"].attrs["units"] = "counts"
        del file["a/3"]
        file["a/4"][...] = random.integers(0, 1000, (50, 60))

    with new_file(tmp_path / "ours.h5", "ours.h5") as file:
        fill(file)
    with h5py.File(tmp_path / "its.h5", "w", libver=("earliest", "v110")) as file:
        fill(file)
    assert (tmp_path / "ours.h5").stat().st_size == (tmp_path / "its.h5").stat().st_size
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "its.h5") as its:
        found, expected = datasets(ours), datasets(its)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_what_was_written_is_read_back_before_it_is_closed(tmp_path: Path) -> None:
    with new_file(tmp_path / "x.h5", "x.h5") as file:
        dataset = file.create_dataset("a", (200, 1000), np.int32, chunks=(10, 1000))
        dataset[...] = np.arange(200_000).reshape(200, 1000)
        file.flush()
        assert np.array_equal(file["a"][...], np.arange(200_000).reshape(200, 1000))
        assert not file.create_dataset("b", (20, 20), np.int32)[...].any()


@pytest.mark.parametrize("room", [0, 100, 3000, 50_000])
def test_a_file_on_a_full_disk_works_on_and_then_tells(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch, room)
    file = NewFile(tmp_path / "x.h5", "x.h5")
    values = np.random.default_rng(1).integers(0, 2**31, (40, 1000))
    for i in range(5):
        file.create_dataset(f"a{i}", data=values + i, chunks=(3, 1000), compression="gzip")
    file.flush()
    # nothing seems amiss, so that HDF5 does not trip over it
    assert all(np.array_equal(file[f"a{i}"][...], values + i) for i in range(5))
    assert disk.refused
    with pytest.raises(OutputError, match=r"x\.h5: cannot be written: No space left on device"):
        file.check()
    file.close()
    with pytest.raises(OutputError, match="No space left on device"):
        file.check()


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(
            OutputError, match=r"shown\.h5: cannot be written: No such file or directory"
        ),
        new_file(tmp_path / "no/x.h5", "shown.h5"),
    ):
        pass


def test_damaged_metadata_that_is_not_needed_is_left_out(tmp_path: Path) -> None:
    """With a warning that names it; what is needed is an error."""
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
