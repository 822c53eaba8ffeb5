"""Where HDF5 looks for the files that links and virtual datasets name, and what it would find there."""

import os
from pathlib import Path

import h5py

from gpu_spots.files.paths import require_regular_file

LINK_PREFIX = "HDF5_EXT_PREFIX"
"""Environment variable: folders in which HDF5 looks for the files of external links first."""
VIRTUAL_PREFIX = "HDF5_VDS_PREFIX"
"""Environment variable: folders in which HDF5 looks for the files of virtual datasets first."""
MAX_LINKS = 16
"""Links in a row that HDF5 follows."""


def find_file(file: Path, name: str, variable: str, prefix: str = "") -> Path | None:
    """Return the file that HDF5 opens for a name that stands in another file; None where there is none.

    Args:
        file: the HDF5 file that has the name, as it was opened.
        name: the name as it is stored.
        variable: `LINK_PREFIX` or `VIRTUAL_PREFIX`.
        prefix: the folder that the access properties of a dataset name.
    """
    given = Path(name)
    if given.is_absolute():
        if given.exists():
            return given
        given = Path(given.name)
    folders = [*os.environ.get(variable, "").split(":"), prefix]
    places = [Path(folder) / given for folder in folders if folder]
    places += [file.parent / given, given, file.resolve().parent / given]
    return next((place for place in places if place.exists()), None)


def require_followable(group: h5py.Group, path: str) -> None:
    """Raise `InputError` where a link on the way to a path leads to a named pipe, a device or the like.

    HDF5 opens what an external link names, and to open a named pipe blocks. Links that lead nowhere
    are left to those who follow them.

    Args:
        group: where a relative path begins.
        path: what is about to be opened.
    """
    _follow(group, path, MAX_LINKS)


def _follow(group: h5py.Group, path: str, n_left: int) -> None:
    at = group.file if path.startswith("/") else group
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for i, part in enumerate(parts):
        link = at.get(part, getlink=True)
        rest = "/".join(parts[i + 1 :])
        if isinstance(link, h5py.SoftLink) and n_left:
            _follow(at, f"{link.path}/{rest}", n_left - 1)
            return
        if isinstance(link, h5py.ExternalLink):
            found = linked_file(at, link)
            if found is not None and n_left and h5py.is_hdf5(found):
                with h5py.File(found, "r") as other:
                    _follow(other, f"/{link.path}/{rest}", n_left - 1)
            return
        if not rest or link is None:
            return
        item = at.get(part)
        if not isinstance(item, h5py.Group):
            return
        at = item


def linked_file(group: h5py.Group, link: h5py.ExternalLink) -> Path | None:
    """Return the file that an external link leads to; None where it is missing.

    Raises `InputError` where it is no regular file.
    """
    found = find_file(Path(group.file.filename), link.filename, LINK_PREFIX)
    if found is not None:
        require_regular_file(found, f"the HDF5 file that a link in {group.file.filename} leads to")
    return found
