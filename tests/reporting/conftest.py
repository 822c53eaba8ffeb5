"""Spots files of small runs, made once for all tests of a process."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from factories.reports import spots_of


@pytest.fixture(scope="session")
def spots_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the spots file of a run of `factories.reports`; who changes one, copies it first."""
    folder = tmp_path_factory.mktemp("reports")
    return cache(lambda name: spots_of(folder, name))
