"""Base class of the formats with one file per frame."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from gpu_spots.export.format import Format, Source
from gpu_spots.files.output.new_folder import check_output_folder, complete_folder_or_absent


class FolderFormat(Format):
    """A format with one file per frame, in a new folder."""

    file_ending: str
    """What the name of each file ends with."""

    def opened(self, output: Path) -> AbstractContextManager[Path]:
        """Return a context manager with the temporary folder that becomes the output."""
        return complete_folder_or_absent(output)

    def check_output(self, output: Path, sources: Sequence[Path], force: bool) -> None:
        """Raise `OutputError` if the folder cannot be made, or is there already."""
        check_output_folder(output, sources, force, lambda name: name.endswith(self.file_ending))

    def frame_names(self, source: Source) -> list[str]:
        """Return the name of the file of each frame, without its ending.

        It is the name of the frame's image if the run has these, else the number of the frame.
        """
        stem = re.sub(r"(__spots)?\.h5$", "", Path(source.name).name)
        digits = max(4, len(str(source.results.n_frames - 1)))
        numbered = [f"{stem}_{frame:0{digits}}" for frame in range(source.results.n_frames)]
        files = source.results.columns.get("file")
        if files is None or np.shape(files) != (source.results.n_frames,):
            return numbered
        names = [re.split(r"[/\\]", str(file))[-1].rpartition(".")[0] for file in files.tolist()]
        is_good = all(re.fullmatch(r"[\w.+-]+", name) and name[0] != "." for name in names)
        return names if is_good and len(set(names)) == len(names) else numbered
