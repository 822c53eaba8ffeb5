"""Simple program that a scientist would write, with which the whole command is compared.

    python benchmarks/naive.py INPUT.h5 OUTPUT.h5 [FRAMES_PATH]

The manual's defaults without the check of angles: n_removed 25 %, cutoff 3, one erosion, two
dilations, structure 2,2, no sync. Plain h5py with gzip, one thread, NumPy's and SciPy's own
functions. It needs four times the stack in memory.
"""

import sys
from contextlib import suppress

import h5py
import numpy as np
from scipy import ndimage

with suppress(ImportError):
    import hdf5plugin  # noqa: F401


def main(source: str, target: str, path: str = "frames") -> None:
    """Read everything, compute everything, write everything."""
    with h5py.File(source) as file:
        frames = file[path][...]
    kept = np.sort(frames, axis=0)[: len(frames) - len(frames) * 25 // 100]
    avg, std = kept.mean(0), kept.std(0)
    maps = {
        "avg": avg,
        "std": std,
        "iqr": np.subtract(*np.percentile(kept, [75, 25], axis=0)),
        "max": frames.max(0),
        "arg": frames.argmax(0),
    }
    square, threshold = ndimage.generate_binary_structure(2, 2), avg + 3.0 * std
    raw, filtered, labels, counts, table, pixels = [], [], [], [], [], []
    for i, frame in enumerate(frames):
        mask = (frame >= threshold) & (frame > avg)
        clean = ndimage.binary_dilation(ndimage.binary_erosion(mask, square), square, iterations=2)
        numbered, count = ndimage.label(clean, square)
        raw.append(mask.astype("u1"))
        filtered.append(clean.astype("u1"))
        labels.append(numbered.astype("u2"))
        counts.append(count)
        if not count:
            continue
        index = np.arange(1, count + 1)
        intensity = ndimage.sum_labels(frame - avg, numbered, index)
        peak = ndimage.maximum_position(frame, numbered, index)
        for j, box in enumerate(ndimage.find_objects(numbered)):
            x, y = np.nonzero(numbered[box] == j + 1)
            pixels.append((x + box[0].start) * frame.shape[1] + y + box[1].start)
            table.append(
                (
                    intensity[j],
                    *peak[j],
                    box[0].start,
                    box[0].stop,
                    box[1].start,
                    box[1].stop,
                    i,
                    j + 1,
                )
            )
    with h5py.File(target, "w") as file:
        for name, value in maps.items():
            file.create_dataset(
                f"stats/{name}",
                data=value.astype("f4") if value.dtype == "f8" else value,
                compression="gzip",
            )
        for name, stack in {
            "masks_raw": raw,
            "masks_filtered": filtered,
            "masks/labels": labels,
        }.items():
            dataset = file.create_dataset(
                name,
                frames.shape,
                stack[0].dtype,
                chunks=(1, *frames.shape[1:]),
                compression="gzip",
            )
            for i, image in enumerate(stack):
                dataset[i] = image
        file["masks/counts"] = counts
        file["spots/table"] = np.array(table)
        file["spots/pixel_list"] = np.concatenate(pixels) if pixels else np.zeros(0, "i4")


if __name__ == "__main__":
    main(*sys.argv[1:])
