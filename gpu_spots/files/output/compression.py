"""The names that -C knows, and what they mean to h5py."""

from importlib.util import find_spec
from typing import Any

from gpu_spots.errors import ParameterError
from gpu_spots.packages import install_command

BUILT_IN = ("gzip", "lzf", "none")
PLUGINS = {
    "bitshuffle": "Bitshuffle",
    "blosc": "Blosc",
    "blosc2": "Blosc2",
    "bzip2": "BZip2",
    "lz4": "LZ4",
    "zstd": "Zstd",
}
"""Lossless filters of hdf5plugin; a reader of the file needs the plugin too."""


def available() -> tuple[str, ...]:
    """Return the names that can be used on this machine."""
    return BUILT_IN + (tuple(PLUGINS) if find_spec("hdf5plugin") else ())


def filter_options(name: str) -> dict[str, Any]:
    """Return keyword arguments for ``h5py.Group.create_dataset``.

    Raises `ParameterError` for a name that cannot be used here.
    """
    if name not in available():
        hint = f"; install it with {install_command('plugins')}" if name in PLUGINS else ""
        raise ParameterError(
            "compression", f"{name!r} is not one of {', '.join(available())}{hint}"
        )
    if name == "none":
        return {}
    if name in BUILT_IN:
        return {"compression": name}
    import hdf5plugin

    return {"compression": getattr(hdf5plugin, PLUGINS[name])()}
