"""`muster hub twin-catch-up`: desired properties that devices missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.options import service_command
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_record

if TYPE_CHECKING:
    from muster.cli.connection import Invocation


@click.command("twin-catch-up")
@click.argument("host", required=False)
@click.option("--on/--off", "wanted", default=None, help="Switch it on or off.")
@service_command
@examples(
    "muster hub twin-catch-up",
    "muster hub twin-catch-up plant-a.example.org --on",
    "muster hub twin-catch-up plant-a.example.org --off",
)
def twin_catch_up(invocation: Invocation, *, host: str | None, wanted: bool | None) -> None:
    """Show or set whether devices are sent the desired properties they missed.

    Off by default, as in Azure: a change reaches who is connected, and a device that was away must
    ask for its twin. When on, a device or module that subscribes to changes is sent what is newer
    than what it was sent last. Each one gets all of them once, with its first connection after this
    was switched on.
    """
    client, host = invocation.dps(), invocation.own_hub(host)
    path = ("/admin/v1/hubs", host, "twin-catch-up")
    found: dict[str, Any] = client.get(*path)
    if wanted is not None:
        found = client.put(*path, body={"enabled": wanted})
    if invocation.as_json:
        show_json(found)
        return
    show_record([("Twin catch-up", "on" if found["enabled"] else "off")])
