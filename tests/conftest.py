"""Shared fixtures: the backends that every contract test runs on."""

import pytest

from gpu_spots.backend import Backend, select_backend


@pytest.fixture(params=["cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each computing backend, on two threads."""
    return select_backend(request.param, threads=2)
