"""Objects of an HDF5 file: opening by path, with an error that names a broken link, and groups."""

import resource
from collections.abc import Collection, Iterator
from typing import Any

import h5py
import numpy as np

from gpu_spots import watchdog
from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.heaps import attribute
from gpu_spots.files.hdf5.links import linked_file, require_followable, why_not_hdf5

FAILURES = (KeyError, OSError, RuntimeError, TypeError, ValueError)
"""Errors that h5py raises if a file is damaged or a link is broken."""
SPARE_FILES = 64
"""Number of open files to allow for in addition to those of the input."""


def absolute(path: str) -> str:
    """Return a path with exactly one leading slash."""
    return "/" + path.strip("/")


def item_at(file: h5py.Group, path: str, parameter: str | None = None) -> h5py.HLObject:
    """Return the object at ``path``.

    Args:
        file: HDF5 file or group.
        path: path in it.
        parameter: name of the parameter that gives the path, for the message; None: none does.

    Raises:
        InputError: there is no object. The message names the missing file if a link leads to one,
            or the kind of object that is there instead of a file.
    """
    watchdog.reading(f"{file.file.filename}: {path}")
    missing = f"{file.file.filename}: no dataset {path!r}"
    if parameter is not None:
        missing += f" ({given(parameter)})"
    try:
        require_followable(file, path)
        return file[path]
    except FAILURES as error:
        why = why_broken(file, path) or (
            None if "doesn't exist" in str(error) else hdf5_reason(error)
        )
        raise InputError(f"{missing}: {why}" if why else missing) from None
    except InputError as error:
        raise InputError(f"{missing}: {error}") from None


def why_broken(file: h5py.Group, path: str) -> str | None:
    """Say which link on the way to ``path`` is broken, or which object is damaged.

    None if all can be opened.
    """
    parts = [part for part in path.split("/") if part]
    for end in range(1, len(parts) + 1):
        place = "/" + "/".join(parts[:end])
        try:
            link = file.file.get(place, getlink=True)
            if isinstance(link, h5py.HardLink) and (why := _damage(file.file, place)):
                return why
            if link is None or isinstance(link, h5py.HardLink):
                continue
            require_followable(file.file, place)
            if _leads_somewhere(file.file, place):
                continue
            if isinstance(link, h5py.SoftLink):
                return f"{place} is a broken link to {link.path}"
            why = why_not_hdf5(linked_file(file.file, link))
        except FAILURES:
            return None
        except InputError as error:
            where = f" in the file {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            return f"{place} is a link to {link.path}{where}: {error}"
        why = why or f"cannot be opened or has no {link.path}"
        return f"{place} is a link to {link.path} in the file {link.filename}, which {why}"
    return None


def _damage(file: h5py.File, place: str) -> str | None:
    """Say why an object that a hard link leads to cannot be opened; None where it can be."""
    try:
        file[place]
    except FAILURES as error:
        return _damaged(place, error)
    return None


def _damaged(place: str, error: Exception) -> str:
    return f"{place} is damaged and cannot be opened: {hdf5_reason(error)}"


def _leads_somewhere(file: h5py.File, path: str) -> bool:
    try:
        return file.get(path) is not None
    except FAILURES:  # a link that leads to itself
        return False


def allow_open_files(number: int, what: str) -> None:
    """Let this process have so many files open at once, each by HDF5 and by a reader.

    Raises `InputError` where the system does not.
    """
    needed = 2 * number + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        except (OSError, ValueError):
            raise InputError(
                f"{what}: the frames are in {number} files, found a limit of {soft} open files, "
                f"expected at least {needed}; "
                f"ulimit -n {needed} may allow more"
            ) from None


def text_of(item: h5py.HLObject, name: str) -> str:
    """Return an attribute that is a text; empty where there is none.

    Raises `InputError` where it is damaged.
    """
    value = attribute_of(item, name)
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else ""
    )


def attribute_of(item: h5py.HLObject, name: str) -> Any:
    """Return an attribute; None where there is none. Raises `InputError` where it is damaged."""
    try:
        return attribute(item, name)
    except FAILURES as error:
        raise InputError(
            f"{item.file.filename}: attribute {name} of {item.name} cannot be read: "
            f"{hdf5_reason(error)}"
        ) from error


def names_in(group: h5py.Group) -> list[str]:
    """Return the names in a group, sorted; those that are not UTF-8 are left out."""
    return [name for name in group if isinstance(name, str)]


def groups_in(group: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """Yield name and group of each group in a group, sorted by name, as `members`."""
    for name, item in members(group):
        if isinstance(item, h5py.Group):
            yield name, item


def members(
    group: h5py.Group, *, skip_damaged: bool = False
) -> Iterator[tuple[str, h5py.HLObject]]:
    """Yield name and object of everything in a group, sorted by name.

    Broken links are left out. Raises `InputError` for a damaged object, unless
    ``skip_damaged``.
    """
    for name in names_in(group):
        try:
            item = member(group, name)
        except InputError:
            if not skip_damaged:
                raise
            continue
        if item is not None:
            yield name, item


def member(group: h5py.Group, path: str) -> h5py.HLObject | None:
    """Return the object at a path below a group; None where there is none.

    None also stands for a broken link, or one to a named pipe or the like. A damaged object is an
    error: it could be the pixel mask, which must not be lost without a word.

    Raises:
        InputError: an object on the way, to which a hard link leads, cannot be opened.
    """
    try:
        link = (
            group.get(path, getlink=True) if "/" not in path and not is_hard(group, path) else None
        )
        if isinstance(link, h5py.ExternalLink):
            linked_file(group, link)
        elif link is not None or "/" in path:
            require_followable(group, path)
        return group[path]
    except (*FAILURES, InputError):
        if why := _damage_on_the_way(group, path):
            raise InputError(f"{group.file.filename}: {why}") from None
        return None


def _damage_on_the_way(group: h5py.Group, path: str) -> str | None:
    """Say which object on a path of hard links is damaged; None where there is none."""
    at: h5py.HLObject | None = group.file if path.startswith("/") else group
    for part in filter(None, path.split("/")):
        if not isinstance(at, h5py.Group):
            return None
        place = f"{at.name.rstrip('/')}/{part}"
        try:
            if part not in names_in(at):
                return None
            if not is_hard(at, part):
                return None
            at = at[part]
        except FAILURES as error:
            return _damaged(place, error)
    return None


def is_hard(group: h5py.Group, name: str) -> bool:
    """Return whether a name of a group is no soft or external link.

    Raises KeyError where there is no such name.
    """
    return group.id.links.get_info(name.encode(errors="surrogateescape")).type == h5py.h5l.TYPE_HARD


def datasets_below(group: h5py.Group, path: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield path and dataset of each dataset in a group and in groups in it, through links as well.

    Each is yielded once; those of a group come before those of groups in it.

    Args:
        group: group to begin with.
        path: path of the group.
        depth: number of levels of groups, 1 or more.
    """
    seen: set[Any] = set()
    for base, _, items in _groups_below(group, path, depth):
        for name, item in items:
            if isinstance(item, h5py.Dataset) and item.id not in seen:
                seen.add(item.id)
                yield f"{base}/{name}", item


def broken_links_below(
    group: h5py.Group, path: str, depth: int, names: Collection[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield path and description (`why_broken`) of each broken link, as `datasets_below`.

    ``names``: look only at links of these names, in lower case.
    """
    for base, parent, _ in _groups_below(group, path, depth):
        for name in names_in(parent):
            if (names is not None and name.lower() not in names) or is_hard(parent, name):
                continue
            why = why_broken(group.file, f"{base}/{name}")
            if why is not None:
                yield f"{base}/{name}", why


def _groups_below(
    group: h5py.Group, path: str, depth: int
) -> Iterator[tuple[str, h5py.Group, list[tuple[str, h5py.HLObject]]]]:
    """Yield path, group and members of a group and of groups in it, each once, level by level."""
    seen: set[Any] = {group.id}
    level = [(path.rstrip("/"), group)]
    for _ in range(depth):
        deeper = []
        for base, parent in level:
            items = list(members(parent))
            yield base, parent, items
            for name, item in items:
                if isinstance(item, h5py.Group) and item.id not in seen:
                    seen.add(item.id)
                    deeper.append((f"{base}/{name}", item))
        level = deeper
