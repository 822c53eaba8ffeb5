"""Fixture with the background that a run computes."""

from typing import Any

import pytest

from gpu_spots import first_pass, pipeline
from gpu_spots.model import Background


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[Background]:
    """The background of each run, with what is not written."""
    found = []

    def compute_background(*arguments: Any) -> Background:
        found.append(first_pass.compute_background(*arguments))
        return found[-1]

    monkeypatch.setattr(pipeline, "compute_background", compute_background)
    return found
