"""A sound run, and what the command makes of it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from helpers import (
    command,
    write_run,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sound run in a folder of its own."""
    return write_run(tmp_path / "run__mccd.h5")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the results of that run for some options."""
    folder = tmp_path_factory.mktemp("sound")
    run = write_run(folder / "run__mccd.h5")

    @cache
    def output(*options: str) -> Path:
        path = folder / f"{' '.join(options)}.h5"
        assert command(run, *options, "-o", path, "--quiet").status == 0
        return path

    return output
