"""`muster method`: direct methods of devices and modules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.client import path
from muster.cli.examples import examples
from muster.cli.options import JSON_VALUE, hub_option, service_command
from muster.cli.output import show_json, show_record, to_json

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

_SLACK_S: Final = 10.0


@click.group()
def method() -> None:
    """Direct methods: call a device or module and get its answer."""


@method.command()
@click.argument("device_id")
@click.argument("name")
@click.option("--module", "module_id", metavar="ID", help="Call this module of the device.")
@click.option("--payload", type=JSON_VALUE, help="What to call it with, as JSON or @FILE.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(5, 300),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="Time the device has for its answer, 5 to 300.",
)
@click.option(
    "--connect-timeout",
    "connect_timeout_s",
    type=click.IntRange(0, 300),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for a device that is not connected, 0 to 300.",
)
@hub_option
@service_command
@examples(
    "muster method invoke gateway-01 reboot",
    "muster method invoke gateway-01 ping --module '$edgeAgent' --payload '{}'",
    "muster method invoke sensor-7 setRate --payload '{\"seconds\": 5}' --connect-timeout 60",
)
def invoke(
    invocation: Invocation,
    *,
    device_id: str,
    name: str,
    module_id: str | None,
    payload: Any,
    timeout_s: int,
    connect_timeout_s: int,
    hub_host: str | None,
) -> None:
    """Call a method and show what the device answers.

    The status is the device's own; 200 means success by custom.
    """
    twin = ("/twins", device_id, *(("modules", module_id) if module_id is not None else ()))
    body = {
        "methodName": name,
        "payload": payload,
        "responseTimeoutInSeconds": timeout_s,
        "connectTimeoutInSeconds": connect_timeout_s,
    }
    reply = invocation.hub(hub_host).call(
        "POST",
        path(*twin, "methods"),
        body=body,
        read_timeout_s=timeout_s + connect_timeout_s + _SLACK_S,
    )
    result = json.loads(reply.content)
    if invocation.as_json:
        show_json(result)
        return
    show_record([("Status", result["status"])])
    click.echo(to_json(result["payload"]))
