"""Command ``gpu-spots devices``: list the GPUs, and the reason why one cannot be used."""

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option
from gpu_spots.cli.terminal import show


@click.command("devices", cls=OneLineCommand)
@debug_option
def devices() -> None:
    """List the GPUs, and the reason why one cannot be used.

    A small kernel is compiled for each GPU and run on it. The CPU can always be used. Runs on
    several GPUs (find --device 0,1) are experimental.
    """
    from gpu_spots.cuda.devices import list_devices
    from gpu_spots.errors import BackendError

    try:
        for device in list_devices():
            show(f"{device.number}: {device.description}: {device.problem or 'can be used'}")
    except BackendError as error:
        show(f"no GPU: {error}")
