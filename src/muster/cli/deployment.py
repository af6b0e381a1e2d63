"""`muster deployment`: modules for all edge devices that match a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.configuration_commands import Noun, add_commands, content_of
from muster.cli.deployment_explain import explain
from muster.cli.deployment_watch import watch
from muster.cli.noun import NounGroup
from muster.cli.options import JSON_DOCUMENT, hub_option, service_command
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_table

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

_NOUN: Final = Noun("deployment", True, "@manifest.json")


@click.group(cls=NounGroup)
@examples(
    'muster deployment create line-7 --content @manifest.json --target "tags.line = 7"',
    "muster deployment watch line-7",
    "muster deployment explain line-7 --device gateway-01",
)
def deployment() -> None:
    """Automatic deployments: modules for all edge devices that match a condition."""


add_commands(deployment, _NOUN)
deployment.add_command(watch)
deployment.add_command(explain)


@deployment.command("set-modules")
@click.argument("device_id")
@click.option(
    "--content", type=JSON_DOCUMENT, required=True, help="The manifest, as JSON or @FILE."
)
@hub_option
@service_command
@examples("muster deployment set-modules gateway-01 --content @manifest.json")
def set_modules(
    invocation: Invocation, *, device_id: str, content: dict[str, Any], hub_host: str | None
) -> None:
    """Give one edge device modules by hand. A deployment that targets it will override them."""
    client = invocation.hub(hub_host)
    client.post("/devices", device_id, "applyConfigurationContent", body=content_of(content))
    modules = client.get("/devices", device_id, "modules")
    if invocation.as_json:
        show_json([each["moduleId"] for each in modules])
        return
    show_table(
        ("MODULE ID", "MANAGED BY", "CONNECTION"),
        [(each["moduleId"], each.get("managedBy"), each["connectionState"]) for each in modules],
        empty="The device has no modules.",
    )
    remark(f"What it runs: muster twin show {device_id} --module '$edgeAgent'")
