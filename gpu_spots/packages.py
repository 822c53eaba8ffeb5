"""Optional packages, and the command that installs them."""

EXTRAS = {
    "gpu": ("cupy-cuda13x", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"),
    "gpu12": ("cupy-cuda12x", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"),
    "plugins": ("hdf5plugin",),
    "images": ("fabio",),
    "plots": ("matplotlib",),
    "export": ("pandas", "pyarrow"),
    "report": ("jinja2",),
    "view": ("starlette", "uvicorn"),
    "cluster": ("cryptography", "dask", "dask-jobqueue", "distributed", "jinja2", "pyyaml"),
    "ewoks": ("ewokscore",),
}
"""Packages of each extra of pyproject.toml."""


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra by their own names.

    Examples:
        >>> install_command("images")
        'pip install fabio'
    """
    return f"pip install {' '.join(EXTRAS[extra])}"
