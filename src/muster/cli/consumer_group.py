"""`muster consumer-group`: names under which the event stream of a hub is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, yes_option
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

COLLECTION: Final = "/admin/v1/consumer-groups/hubs"


@click.group("consumer-group", cls=NounGroup)
@examples("muster consumer-group create analysis")
def consumer_group() -> None:
    """Names under which the built-in event stream of a hub is read. $Default is always there."""


@consumer_group.command("list")
@hub_option
@service_command
@examples("muster consumer-group list")
def list_groups(invocation: Invocation, *, hub_host: str | None) -> None:
    """List the consumer groups of a hub."""
    found = invocation.dps().get(COLLECTION, invocation.own_hub(hub_host))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("NAME", "CREATED"),
        [(each["name"], to_the_second(each["createdTime"])) for each in found],
        empty="There are no consumer groups.",
    )


@consumer_group.command()
@click.argument("name")
@hub_option
@service_command
@examples("muster consumer-group create dashboard")
def create(invocation: Invocation, *, name: str, hub_host: str | None) -> None:
    """Create a consumer group, one for each program that reads on its own."""
    host = invocation.own_hub(hub_host)
    found: dict[str, Any] = invocation.dps().put(COLLECTION, host, name, body={})
    if invocation.as_json:
        show_json(found)
    else:
        remark(f"The consumer group {found['name']} of {host} is there.")


@consumer_group.command()
@click.argument("name")
@yes_option
@hub_option
@service_command
@examples("muster consumer-group delete dashboard --yes")
def delete(invocation: Invocation, *, name: str, yes: bool, hub_host: str | None) -> None:
    """Delete a consumer group."""
    host = invocation.own_hub(hub_host)
    confirm(f"Delete the consumer group {name} of {host}?", yes=yes)
    invocation.dps().delete(COLLECTION, host, name)
    if not invocation.as_json:
        remark(f"The consumer group {name} is deleted.")
