"""``gpu-spots view``: a local page with the frames, masks and spots of a run."""

import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpu_spots import watchdog
from gpu_spots.cli.device_options import DEVICE_OPTIONS, device_options
from gpu_spots.cli.errors import OneLineCommand, Stopped, debug_option, naming_options
from gpu_spots.cli.output_options import frames_from_option, spots_argument
from gpu_spots.cli.terminal import say, show

if TYPE_CHECKING:
    from gpu_spots.view.viewed import Viewed

PAUSE = 5.0
"""Seconds after which the watchdog is told that all is well."""


@click.command("view", cls=OneLineCommand)
@spots_argument
@frames_from_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the page  [default: a free one]",
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser")
@device_options
@debug_option
def view(
    spots: Path,
    frames_from: Path | None,
    port: int | None,
    no_browser: bool,
    **device: Any,
) -> None:
    """Look at the frames, masks and spots of a run, and tune the finder.

    Opens a page in the browser, and serves it until Ctrl-C. Only programs on this machine that know
    the address, which has a random token, can read it. Nothing is written.

    On another machine, run it there with --no-browser --port 8765, forward the port with
    "ssh -L 8765:127.0.0.1:8765 MACHINE", and open the address that it prints in your own browser.
    """
    # here, so that --help and wrong usage answer at once
    from gpu_spots.backend import choose_backend
    from gpu_spots.cli.find_command import find_command, output_beside, recorded_inputs
    from gpu_spots.errors import GpuSpotsError, InputError
    from gpu_spots.files.output.frames_of_spots import open_frames
    from gpu_spots.files.output.spots_file import open_spots
    from gpu_spots.packages import install_command

    try:
        from gpu_spots.view.app import make_app
        from gpu_spots.view.guard import new_token
        from gpu_spots.view.server import address, open_browser, open_socket, serving
    except ModuleNotFoundError as error:
        raise GpuSpotsError(
            f"view: needs {error.name}; install it with {install_command('view')}"
        ) from None
    from gpu_spots.view.viewed import Viewed

    with naming_options(), ExitStack() as opened:
        backend, _ = choose_backend(device.pop(DEVICE_OPTIONS[0]), **device)
        results = opened.enter_context(open_spots(spots))
        stack, why = None, ""
        try:
            stack = opened.enter_context(open_frames(results, frames_from))
        except InputError as error:
            if frames_from is not None:
                raise
            why = str(error)
            say(f"warning: {why}; the page shows the statistics and the spots only")
        sources, words = recorded_inputs(results.info, stack)
        viewed = Viewed(
            results,
            stack,
            why,
            backend,
            lambda parameters: find_command(sources, words, parameters, output_beside(str(spots))),
        )
        listening = open_socket(port or 0)
        token = new_token()
        opened.enter_context(serving(make_app(viewed, token), listening))
        url = address(listening, token)
        show(url)
        if not no_browser and not open_browser(url):
            say("no browser can be opened here; open the address in one")
        say("Ctrl-C ends it")
        threading.Thread(target=_prepare, args=(viewed,), name="warm-up", daemon=True).start()
        try:
            while not threading.Event().wait(PAUSE):
                watchdog.progress()  # to wait for requests is no stall
        except (KeyboardInterrupt, Stopped):
            say("ended")


def _prepare(viewed: "Viewed") -> None:
    """Prepare answers. What goes wrong is said to who asks, and files may be closed meanwhile."""
    with suppress(Exception):
        viewed.warm_up()
