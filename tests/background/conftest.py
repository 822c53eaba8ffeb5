"""What a run learns of its background."""

from typing import Any

import pytest

from gpu_spots import first_pass, pipeline
from gpu_spots.model import Background


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[Background]:
    """The background of each run, with what is not written."""
    found = []

    def learn(*arguments: Any) -> Background:
        found.append(first_pass.learn(*arguments))
        return found[-1]

    monkeypatch.setattr(pipeline, "learn", learn)
    return found
