"""Time to export tables of many spots.

    python benchmarks/export.py [--spots 1000000] [--formats csv,parquet,refl] [--folder DIR]

The spots file is made of random numbers, in DIR, default the system's temporary folder.
"""

import argparse
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from gpu_spots.cli.progress import WarningsOnly
from gpu_spots.columns import FRAMES_TYPE, SPOT_COLUMNS
from gpu_spots.export.format import ExportOptions
from gpu_spots.export.formats import export_spots

SPOTS_PER_FRAME = 200
SIZE = 1024
PIXELS = 50
TYPES = {FRAMES_TYPE: "uint16"}
"""Types of columns that depend on the frames."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spots", type=int, default=1_000_000)
    parser.add_argument("--formats", default="csv,parquet,refl,imaged11,imaged11-h5,cxi")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        spots = Path(folder) / "run__spots.h5"
        write_spots(spots, options.spots)
        for name in options.formats.split(","):
            begin, cpu = time.perf_counter(), time.process_time()
            output, n_spots, _ = export_spots(spots, name, None, ExportOptions(), WarningsOnly())
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            size = output.stat().st_size / 1e6
            print(
                f"{name:12} {n_spots} spots: {seconds:6.2f} s ({cpu:.2f} s of CPU), {size:.0f} MB"
            )


def write_spots(path: Path, n_spots: int) -> None:
    """Write a spots file with what the exports of tables need of it."""
    rng = np.random.default_rng(0)
    n_frames = -(-n_spots // SPOTS_PER_FRAME)
    ends = np.minimum(np.arange(1, n_frames + 1) * SPOTS_PER_FRAME, n_spots)
    ranges = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    frame = np.repeat(np.arange(n_frames, dtype=np.int32), np.diff(ranges)[:, 0])
    positions = rng.integers(10, SIZE - 10, (n_spots, 2), np.int32)
    pixels = np.arange(n_spots + 1) * PIXELS
    with h5py.File(path, "w") as file:
        file["frame2spotsBE"] = ranges
        file["stats/avg"] = np.zeros((SIZE, SIZE), np.float32)
        file["spots/I"] = rng.lognormal(6, 2, n_spots)
        file["spots/XY"] = positions
        file["spots/box"] = np.stack([positions - 4, positions + 4], axis=2).reshape(n_spots, 4)
        file["spots/frame"] = frame
        file["spots/label"] = np.arange(n_spots, dtype=np.int32) % SPOTS_PER_FRAME + 1
        file["spots/mask"] = frame
        file["spots/pixel_list_BE"] = np.stack([pixels[:-1], pixels[1:]], axis=1)
        file["spots/overload"] = np.zeros(n_spots, np.int32)
        file["lauecollect/angle"] = np.arange(n_frames) // 2 * 0.5
        file["lauecollect/laser_on"] = np.arange(n_frames) % 2
        file.create_group("info")
        for record in SPOT_COLUMNS:
            if record.path not in file:
                shape = (n_spots, *(length for length in record.shape[1:] if length != "n_spots"))
                values = rng.uniform(1, 1000, tuple(map(int, shape)))
                file[record.path] = values.astype(TYPES.get(record.dtypes[0], record.dtypes[0]))


if __name__ == "__main__":
    main()
