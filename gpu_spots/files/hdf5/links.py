"""The files that links and virtual datasets name, and how to follow links safely."""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py

from gpu_spots.files.paths import require_regular_file

LINK_PREFIX = "HDF5_EXT_PREFIX"
"""Environment variable: folders in which HDF5 looks for the files of external links first."""
VIRTUAL_PREFIX = "HDF5_VDS_PREFIX"
"""Environment variable: folders in which HDF5 looks for the files of virtual datasets first."""
MAX_LINKS = 16
"""Links in a row that HDF5 follows."""


def linked_file(group: h5py.Group, link: h5py.ExternalLink) -> Path | None:
    """Return the file that an external link of a group leads to; None if it is missing.

    Raises `InputError` if it is not a regular file.
    """
    file = Path(group.file.filename)
    what = f"the HDF5 file that a link in {file} leads to"
    return _found(file, link.filename, LINK_PREFIX, "", what)


def source_file(dataset: h5py.Dataset, name: str) -> Path | None:
    """Return a source file of a virtual dataset; None if it is missing.

    Raises `InputError` if it is not a regular file.
    """
    prefix = os.fsdecode(dataset.id.get_access_plist().get_virtual_prefix())
    return _found(Path(dataset.file.filename), name, VIRTUAL_PREFIX, prefix, "an HDF5 file")


def why_not_hdf5(path: Path | None) -> str | None:
    """Say why a file from `linked_file` or `source_file` is no HDF5 file; None if it is one."""
    if path is None:
        return "is missing"
    return None if h5py.is_hdf5(path) else "is not an HDF5 file"


def _found(file: Path, name: str, variable: str, prefix: str, what: str) -> Path | None:
    """Return the file that HDF5 opens for a name in another file; None if it is missing.

    Args:
        file: HDF5 file that has the name, as it was opened.
        name: name as it is stored.
        variable: `LINK_PREFIX` or `VIRTUAL_PREFIX`.
        prefix: folder that the access properties of a dataset name.
        what: what is expected there, for the message of `require_regular_file`.
    """
    found = next((place for place in _places(file, name, variable, prefix) if place.exists()), None)
    if found is not None:
        require_regular_file(found, what)
    return found


def _places(file: Path, name: str, variable: str, prefix: str) -> Iterator[Path]:
    """Yield the paths at which HDF5 looks for a file, in its order."""
    given = Path(name)
    if given.is_absolute():
        yield given
        given = Path(given.name)
    folders = [*os.environ.get(variable, "").split(":"), prefix]
    yield from (Path(folder) / given for folder in folders if folder)
    yield from (file.parent / given, given, file.resolve().parent / given)


def require_followable(group: h5py.Group, path: str) -> None:
    """Raise `InputError` if a link on the way to a path leads to a named pipe or a device.

    HDF5 opens what an external link names, and to open a named pipe blocks. Broken links are no
    error here.

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
            if n_left and found is not None and h5py.is_hdf5(found):
                with h5py.File(found, "r") as other:
                    _follow(other, f"/{link.path}/{rest}", n_left - 1)
            return
        if not rest or link is None:
            return
        item = at.get(part)
        if not isinstance(item, h5py.Group):
            return
        at = item
