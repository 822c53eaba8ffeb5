"""Server of the page, on this machine only."""

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from gpu_spots.errors import GpuSpotsError
from gpu_spots.view.guard import Guard

HOST = "127.0.0.1"
"""Address that is listened at: other machines cannot reach it."""


def open_socket(port: int) -> socket.socket:
    """Return a socket that listens at a port of this machine; 0: a free one.

    Raises:
        GpuSpotsError: The port is in use, or cannot be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"{error.strerror}".lower()
        raise GpuSpotsError(
            f"port {port}: {why}; choose another one with --port, or leave --port out"
        ) from None
    return listening


@contextmanager
def serving(app: Guard, listening: socket.socket) -> Iterator[None]:
    """Answer requests in a thread until the block ends."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # a request that is no HTTP is not worth a line
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="view", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
        listening.close()


def address(listening: socket.socket, token: str) -> str:
    """Return the address of the page."""
    return f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"


def open_browser(url: str) -> bool:
    """Open a page in the browser of this machine; return False if there is no screen for it."""
    has_screen = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if not has_screen or os.environ.get("SSH_CONNECTION"):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
