"""`muster demo`: the main job, shown step by step on a temporary instance."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from muster.cli.demo_stage import LOOPBACK, Stage, may_bind
from muster.terminal.examples import examples

_MQTT_PORT: Final = 8883


@click.command()
@click.option(
    "--engine",
    metavar="URI",
    help="A Docker Engine that runs one of the modules: unix:///var/run/docker.sock.",
)
@click.option(
    "--image", help="An image that the engine has, with Python and azure-iot-device inside."
)
@examples(
    "muster demo", "muster demo --engine unix:///var/run/docker.sock --image sensors/python:1"
)
def demo(engine: str | None, image: str | None) -> None:
    """Show the main job on a temporary instance, then clean up.

    Starts a service, creates enrollments, provisions ten devices with the official Azure IoT
    device SDK, and shows what an operator sees. Then one of them runs the edge runtime: modules
    are deployed to it by tags, its line is cut and restored, and nothing is lost. Takes a minute
    and a half.
    """
    if (engine is None) != (image is None):
        raise click.UsageError("--engine and --image belong together: give both or none.")
    for module, package in {
        "azure.iot.device": "azure-iot-device",
        "yaml": "'.[edge]'",
    }.items():
        if not _installed(module):
            raise click.ClickException(
                f"The demo needs a package that is not installed: pip install {package}"
            )
    from muster.cli.demo_edge import Containers, show_edge  # noqa: PLC0415 - now it is there
    from muster.cli.demo_fleet import show_fleet  # noqa: PLC0415 - likewise

    if not may_bind(LOOPBACK, _MQTT_PORT):
        raise click.ClickException(
            f"Port {_MQTT_PORT} of {LOOPBACK} is taken, and the SDKs know no other. Stop what "
            f"listens there (ss -ltnp 'sport = :{_MQTT_PORT}' names it)."
        )
    https_port = next((port for port in (443, 8443) if may_bind(LOOPBACK, port)), 0)
    containers = None
    if engine is not None and image is not None:
        containers = Containers(engine=engine, image=image)
    with tempfile.TemporaryDirectory(
        prefix="muster-demo-", ignore_cleanup_errors=True
    ) as directory:
        stage = Stage(Path(directory))
        try:
            info, key = show_fleet(stage, https_port)
            if containers is None:
                stage.console.print(
                    "\n   No Docker Engine was given (--engine, --image), so the edge device runs "
                    "a process module and no container.",
                    soft_wrap=True,
                )
            show_edge(stage, info, key, containers, int(info["ports"]["https"]))
        finally:
            stage.say("Stop what was started")
            stage.stop()
        stage.console.print("   The service has stopped; its data is gone. That was the main job.")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
