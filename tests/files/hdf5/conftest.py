"""Libraries that decompress chunks."""

import pytest

from gpu_spots.files.hdf5 import codecs


@pytest.fixture(params=["deflate", "isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library that decompresses; those that would come first are missing."""
    if request.param != "deflate":
        monkeypatch.setattr(codecs, "deflate", None)
    if request.param == "zlib":
        monkeypatch.setattr(codecs, "isal_zlib", None)
    return request.param
