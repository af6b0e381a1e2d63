"""`muster deployment explain`: why a deployment decides about a device, or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.options import hub_option, service_command
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_record, show_table

if TYPE_CHECKING:
    from muster.cli.connection import Invocation


@click.command()
@click.argument("name")
@click.option("--device", "device_id", required=True, metavar="ID", help="Which device.")
@hub_option
@service_command
@examples("muster deployment explain line-7 --device gateway-01")
def explain(invocation: Invocation, *, name: str, device_id: str, hub_host: str | None) -> None:
    """Say why a device is or is not targeted, which deployment won, and where modules come from."""
    client = invocation.hub(hub_host)
    found: dict[str, Any] = client.get("/configurations", name, "explanations", device_id)
    if invocation.as_json:
        show_json(found)
        return
    show_record(
        [
            ("Deployment", name),
            ("Device", device_id),
            ("Outcome", found["outcome"]),
            ("In words", found["summary"]),
            ("Next", found["remedy"]),
            ("Agent", found["agent"]),
        ]
    )
    if found["reasons"]:
        click.echo()
        show_table(
            ("PART OF THE CONDITION", "OUTCOME", "WHY"),
            [(each["condition"], each["outcome"], each["sentence"]) for each in found["reasons"]],
            empty="",
        )
    if found["deployments"]:
        click.echo()
        show_table(
            ("DEPLOYMENT", "PRIORITY", "KIND", "STATUS"),
            [
                (each["id"], each["priority"], each["kind"], each["status"])
                for each in found["deployments"]
            ],
            empty="",
        )
    if found["modules"]:
        click.echo()
        show_table(
            ("MODULE", "FROM"),
            [(module, source) for module, source in found["modules"].items()],
            empty="",
        )
