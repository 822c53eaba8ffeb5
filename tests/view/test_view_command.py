"""gpu-spots view as a program: its address, its end, and errors in one line."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from factories.tuned_runs import run_and_spots
from helpers import Ended, assert_refused, command, listing, started


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_and_spots(tmp_path_factory.mktemp("served"))[1]


def view(*arguments: object) -> Ended:
    return command("view", *arguments, "--no-browser", name="gpu-spots")


def test_it_serves_until_ctrl_c(spots: Path) -> None:
    before = listing(spots.parent)
    with started("view", spots, "--no-browser", name="gpu-spots") as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        page, _, token = address.partition("?token=")
        assert len(token) >= 32
        with urllib.request.urlopen(f"{page}api/run?token={token}", timeout=30) as answer:
            assert json.load(answer)["n_frames"] == 40
            assert "uvicorn" not in str(answer.headers)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(page, timeout=30)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 0
    assert stdout == ""
    assert stderr.splitlines() == ["Ctrl-C ends it", "ended"]
    assert listing(spots.parent) == before


def test_only_this_machine_can_ask(spots: Path) -> None:
    """The socket is bound to the loopback address."""
    from gpu_spots.view.server import open_socket

    listening = open_socket(0)
    try:
        assert listening.getsockname()[0] == "127.0.0.1"
    finally:
        listening.close()


def test_a_port_in_use(spots: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = view(spots, "--port", port)
    assert_refused(ended, 1, f"port {port}: is in use; choose another one with --port")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("none.h5",), 1, ("none.h5", "No such file")),
        (("--port", "0"), 2, ("--port", "1<=x<=65535")),
        ((), 2, ("RUN__spots.h5",)),
    ],
)
def test_errors(arguments: tuple[str, ...], status: int, words: tuple[str, ...]) -> None:
    assert_refused(view(*arguments), status, *words)


def test_files_that_are_no_spots_files(spots: Path, tmp_path: Path) -> None:
    run = spots.parent / "run__mccd.h5"
    assert_refused(view(run), 1, "run__mccd.h5", "not a spots file")
    cut = tmp_path / "cut__spots.h5"
    cut.write_bytes(spots.read_bytes()[:1000])
    assert_refused(view(cut), 1, "cut__spots.h5")
    assert_refused(view(spots, "--frames-from", "none.h5"), 1, "none.h5")


def test_without_the_packages_of_the_extra(spots: Path) -> None:
    program = (
        "import sys; sys.modules['starlette'] = None; sys.modules['starlette.types'] = None\n"
        "from gpu_spots.cli import gpu_spots; gpu_spots()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "view", str(spots)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "view: needs starlette" in ended.stderr
    assert "pip install starlette uvicorn" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
