"""`muster enrichment`: application properties that messages get on their way to endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, yes_option
from muster.cli.route import endpoint_option, must_be_new, place, save
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table

if TYPE_CHECKING:
    from muster.cli.connection import Invocation


@click.group(cls=NounGroup)
@examples("muster enrichment create site '$twin.tags.site' --endpoint archive")
def enrichment() -> None:
    """Properties added to messages on their way to endpoints.

    A value is a text, $iothubname, or a path into the sender's twin such as $twin.tags.site.
    """


@enrichment.command("list")
@hub_option
@service_command
@examples("muster enrichment list")
def list_enrichments(invocation: Invocation, *, hub_host: str | None) -> None:
    """List the enrichments of a hub."""
    found = invocation.dps().get(*place(invocation.own_hub(hub_host), "enrichments"))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("KEY", "VALUE", "ENDPOINTS"),
        [(each["key"], each["value"], each["endpointNames"]) for each in found],
        empty="There are no enrichments. Add one: muster enrichment create KEY VALUE",
    )


@enrichment.command()
@click.argument("key")
@click.argument("value")
@endpoint_option(required=True)
@hub_option
@service_command
@examples(
    "muster enrichment create site '$twin.tags.site' --endpoint hook",
    "muster enrichment create hub '$iothubname' --endpoint events --endpoint hook",
)
def create(
    invocation: Invocation,
    *,
    key: str,
    value: str,
    endpoint_names: tuple[str, ...],
    hub_host: str | None,
) -> None:
    """Add a property to all messages that go to these endpoints."""
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "enrichments", key)
    must_be_new(
        client, at, f"The enrichment {key} exists already", f"muster enrichment update {key}"
    )
    _show(invocation, save(client, at, {"value": value, "endpointNames": endpoint_names}))


@enrichment.command()
@click.argument("key")
@click.option("--value", metavar="TEXT", help="Another value.")
@endpoint_option(required=False)
@hub_option
@service_command
@examples("muster enrichment update site --value '$twin.tags.location.site'")
def update(
    invocation: Invocation,
    *,
    key: str,
    value: str | None,
    endpoint_names: tuple[str, ...],
    hub_host: str | None,
) -> None:
    """Change an enrichment."""
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "enrichments", key)
    body = client.get(*at)
    if value is not None:
        body["value"] = value
    if endpoint_names:
        body["endpointNames"] = endpoint_names
    _show(invocation, save(client, at, body))


@enrichment.command()
@click.argument("key")
@yes_option
@hub_option
@service_command
@examples("muster enrichment delete site --yes")
def delete(invocation: Invocation, *, key: str, yes: bool, hub_host: str | None) -> None:
    """Delete an enrichment."""
    host = invocation.own_hub(hub_host)
    confirm(f"Delete the enrichment {key} of {host}?", yes=yes)
    invocation.dps().delete(*place(host, "enrichments", key))
    if not invocation.as_json:
        remark(f"The enrichment {key} is deleted.")


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(found)
        return
    show_record(
        [
            ("Key", found["key"]),
            ("Value", found["value"]),
            ("Endpoints", found["endpointNames"]),
        ]
    )
