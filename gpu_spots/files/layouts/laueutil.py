"""Layouts of LaueUtil and LaueProc."""

from collections.abc import Iterator

import h5py

from gpu_spots.files.layouts.layout import Layout
from gpu_spots.files.layouts.search import Parts, frames_required


class LaueUtil(Layout):
    """Frames at one path, metadata in the group ``lauecollect``."""

    def stacks(self, file: h5py.File) -> Iterator[Parts]:
        """Yield the frames. Raises `InputError` for anything but a dataset at their path."""
        for path in self.paths:
            if path in file:  # also true for a link that leads nowhere
                yield (frames_required(file, path),)

    def columns_root(self, path: str) -> None:
        """Return None: only ``lauecollect`` has angles and laser states."""


LAUEUTIL = LaueUtil(name="LaueUtil", title="LaueUtil", frames="`/frames`", paths=("frames",))
LAUEPROC = Layout(
    name="LaueProc", title="LaueProc", frames="`/Data3D/Images`", paths=("Data3D/Images",)
)
