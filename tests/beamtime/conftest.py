"""One Dask cluster for all tests of many runs."""

from collections.abc import Iterator
from typing import Any

import pytest

from gpu_spots.beamtime.cluster import LocalWorkers, local_client


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of a cluster with two workers, each with a GPU of its own if there are two."""
    with local_client(LocalWorkers(2, ("0", "1"))) as found:
        yield found
