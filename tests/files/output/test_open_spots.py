"""Spots files read with `open_spots`: values, missing and damaged datasets."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.spots_files import TABLE, N, X, Y
from gpu_spots import open_spots
from gpu_spots.columns import SPOT_COLUMNS
from gpu_spots.errors import InputError
from gpu_spots.files.output.spots_file import SpotsFile
from helpers import chunk_offset, command, write_run


def test_open_spots_gives_what_is_in_the_file(paths: dict[str, Path], pairs: h5py.File) -> None:
    with open_spots(str(paths["pairs"])) as found:
        assert isinstance(found, SpotsFile)
        assert (found.n_frames, found.n_spots) == (N, len(pairs["spots/I"]))
        assert found.shape == (N, *pairs["stats/avg"].shape)
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
            with pytest.raises(KeyError, match=f"no {name}; keep and sync define"):
                read()


def test_an_index_is_an_integer_in_range(paths: dict[str, Path]) -> None:
    with open_spots(paths["pairs"]) as found:
        reads: list[Callable[[Any], object]] = [found.spots, found.mask, found.labels]
        for read in reads:
            for bad in ("6", 1.0):
                with pytest.raises(
                    TypeError,
                    match=f"frame: found {bad!r}, expected an integer from -{N} to {N - 1}",
                ):
                    read(bad)
            with pytest.raises(IndexError, match=f"frame {N} of {N}"):
                read(N)
        n = found.n_spots
        for bad in (n, -n - 1):
            with pytest.raises(IndexError, match=f"spot {bad} of {n}"):
                found.pixels(bad)
        assert np.array_equal(found.pixels(-1), found.pixels(n - 1))
        last: Any = np.int64(N - 1)
        assert np.array_equal(found.spots(-1)["I"], found.spots(last)["I"])


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
    """Small frames share a chunk, and have the masks that they have as part of wide frames."""
    frames = np.random.default_rng(1).poisson(50, (300, 3, 5)).astype(np.uint16)
    wide = np.zeros((300, 70, 70), np.uint16)
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
