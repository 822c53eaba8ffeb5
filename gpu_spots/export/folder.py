"""Base class of the formats with one file per frame."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gpu_spots.export.format import Format, Source
from gpu_spots.files.output.frames_of_spots import frame_names
from gpu_spots.files.output.new_folder import check_output_folder, complete_folder_or_absent


class FolderFormat(Format):
    """A format with one file per frame, in a new folder."""

    file_ending: str
    """Ending of the name of each file."""

    def opened(self, output: Path) -> AbstractContextManager[Path]:
        """Return a context manager with the temporary folder that becomes the output."""
        return complete_folder_or_absent(output)

    def check_output(self, output: Path, sources: Sequence[Path], force: bool) -> None:
        """Raise `OutputError` if the folder cannot be made, or is there already."""
        check_output_folder(output, sources, force, lambda name: name.endswith(self.file_ending))

    def frame_names(self, source: Source) -> list[str]:
        """Return the name of the file of each frame, without its ending."""
        return frame_names(source.results)
