"""Libraries that decompress chunks."""

import pytest

from gpu_spots.files.hdf5 import codecs


@pytest.fixture(params=["deflate", "isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use each library that decompresses, without those that are preferred."""
    if request.param != "deflate":
        monkeypatch.setattr(codecs, "deflate", None)
    if request.param == "zlib":
        monkeypatch.setattr(codecs, "isal_zlib", None)
    return request.param
