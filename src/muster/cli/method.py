"""`muster method`: direct methods of devices and modules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.client import path
from muster.cli.method_options import method_call, method_options
from muster.cli.noun import NounGroup
from muster.cli.options import hub_option, service_command
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_record, to_json

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

_SLACK_S: Final = 10.0


@click.group(cls=NounGroup)
@examples("muster method invoke gateway-01 reboot")
def method() -> None:
    """Direct methods: call a device or module and get its answer."""


@method.command()
@click.argument("device_id")
@click.argument("name")
@click.option("--module", "module_id", metavar="ID", help="Call this module of the device.")
@method_options
@hub_option
@service_command
@examples(
    "muster method invoke gateway-01 reboot",
    "muster method invoke gateway-01 ping --module '$edgeAgent' --payload '{}'",
    "muster method invoke sensor-7 setRate --payload '{\"seconds\": 5}' --connect-timeout 60",
)
def invoke(
    invocation: Invocation,
    /,
    *,
    device_id: str,
    name: str,
    module_id: str | None,
    hub_host: str | None,
    **how: Any,
) -> None:
    """Call a method and show what the device answers.

    The status is the device's own; 200 means success by custom.
    """
    twin = ("/twins", device_id, *(("modules", module_id) if module_id is not None else ()))
    reply = invocation.hub(hub_host).call(
        "POST",
        path(*twin, "methods"),
        body=method_call(name, **how),
        read_timeout_s=how["timeout_s"] + how["connect_timeout_s"] + _SLACK_S,
    )
    result = json.loads(reply.content)
    if invocation.as_json:
        show_json(result)
        return
    show_record([("Status", result["status"])])
    click.echo(to_json(result["payload"]))
