"""A run to look at, and what asks the viewer."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np

from factories.tuned_runs import columns, spotty
from gpu_spots.backend import select_backend
from gpu_spots.cli.find_command import find_command, recorded_inputs
from gpu_spots.errors import InputError
from gpu_spots.files.output.frames_of_spots import open_frames
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.view.app import make_app
from gpu_spots.view.viewed import Viewed
from helpers import command

TOKEN = "a-token"
SCRIPT = "<script>alert(1)<\\script>"
"""A name that a careless page would run; HDF5 has no names with a slash."""


def run_to_view(folder: Path, *options: object) -> Path:
    """A run whose dataset and metadata have odd names; its spots file."""
    run, spots = folder / "run__mccd.h5", folder / f"{SCRIPT}__spots.h5"
    with h5py.File(run, "w") as file:
        file[SCRIPT] = spotty()
        for key, values in columns().items():
            file[f"lauecollect/{key}"] = values
        file[f"lauecollect/{SCRIPT}"] = np.arange(len(spotty()))
    wanted = (*options, "--frames", SCRIPT, "-o", spots, "--quiet")
    ended = command("find", run, *wanted, name="gpu-spots")
    assert ended.status == 0, ended.stderr
    return spots


@contextmanager
def viewed_run(spots: Path, frames_from: Path | None = None) -> Iterator[Viewed]:
    """Open a spots file for the page, as the command does."""
    with ExitStack() as opened:
        results = opened.enter_context(open_spots(spots))
        stack, why = None, ""
        try:
            stack = opened.enter_context(open_frames(results, frames_from))
        except InputError as error:
            why = str(error)
        sources, words = recorded_inputs(results.info, stack)
        yield Viewed(
            results,
            stack,
            why,
            select_backend("cpu", 2),
            lambda parameters: find_command(sources, words, parameters, "again.h5"),
        )


class Asker:
    """Asks the application without a network."""

    def __init__(self, viewed: Viewed) -> None:
        self.app = make_app(viewed, TOKEN)

    def __call__(
        self,
        path: str,
        token: str | None = TOKEN,
        method: str = "GET",
        host: str = "127.0.0.1:8765",
        **parameters: Any,
    ) -> httpx.Response:
        """Ask, and return the answer."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                given = parameters if token is None else {**parameters, "token": token}
                return await client.request(method, path, params=given, headers={"host": host})

        return asyncio.run(ask())
