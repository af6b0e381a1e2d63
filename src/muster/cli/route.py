"""`muster route`: which messages go to which endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.failures import FailedError, RefusedError
from muster.cli.noun import NounGroup
from muster.cli.options import (
    JSON_DOCUMENT,
    JSON_VALUE,
    confirm,
    hub_option,
    service_command,
    yes_option,
)
from muster.model.routing import FALLBACK, Source
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.connection import Invocation

SOURCE: Final = click.Choice([source.value for source in Source], case_sensitive=False)


def place(host: str, *segments: str) -> tuple[str, ...]:
    """Return the path of something of the routing of a hub."""
    return ("/admin/v1/routing/hubs", host, *segments)


def endpoint_option(*, required: bool) -> Callable[..., Any]:
    """Add `--endpoint`, which may be repeated."""
    return click.option(
        "--endpoint",
        "endpoint_names",
        multiple=True,
        required=required,
        metavar="NAME",
        help="Endpoint it is about; repeat for several. events is the built-in one.",
    )


@click.group(cls=NounGroup)
@examples("muster route list", "muster route test --body '{\"temperature\": 90}'")
def route() -> None:
    """Message routing: which messages go where, and why.

    A message goes to the endpoints of all routes it matches. One of a device that matches none goes
    to the built-in endpoint events by the route $fallback.
    """


_condition = click.option(
    "--condition", metavar="TEXT", help="What must be true of a message [default: true]."
)
_source = click.option(
    "--source", type=SOURCE, help="What it takes messages from [default: DeviceMessages]."
)
_enabled = click.option("--enable/--disable", "enabled", default=None, help="Whether it counts.")


@route.command("list")
@hub_option
@service_command
@examples("muster route list")
def list_routes(invocation: Invocation, *, hub_host: str | None) -> None:
    """List the routes of a hub."""
    found = invocation.dps().get(*place(invocation.own_hub(hub_host), "routes"))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("NAME", "SOURCE", "CONDITION", "ENDPOINTS", "ENABLED"),
        [
            (
                each["name"],
                each["source"],
                each["condition"],
                each["endpointNames"],
                each["isEnabled"],
            )
            for each in found
        ],
        empty="There are no routes.",
    )


@route.command()
@click.argument("name")
@hub_option
@service_command
@examples("muster route show alarms", "muster route show '$fallback'")
def show(invocation: Invocation, *, name: str, hub_host: str | None) -> None:
    """Show a route."""
    host = invocation.own_hub(hub_host)
    _show(invocation, invocation.dps().get(*place(host, "routes", name)))


@route.command()
@click.argument("name")
@endpoint_option(required=True)
@_condition
@_source
@_enabled
@hub_option
@service_command
@examples(
    "muster route create alarms --endpoint alarm-files --condition 'level = \"alarm\"'",
    "muster route create hot --endpoint hook --condition '$body.temperature > 80'",
    "muster route create north --endpoint hook --condition '$twin.tags.site = \"north\"'",
    "muster route create births --endpoint events --source DeviceLifecycleEvents",
)
def create(
    invocation: Invocation,
    *,
    name: str,
    endpoint_names: tuple[str, ...],
    condition: str | None,
    source: str | None,
    enabled: bool | None,
    hub_host: str | None,
) -> None:
    """Send messages that meet a condition to endpoints.

    In conditions a bare name is an application property, $body.… a part of a JSON body, $twin.… of
    the twin of whoever sent it, $connectionDeviceId a system property.
    """
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "routes", name)
    must_be_new(client, at, f"The route {name} exists already", f"muster route update {name}")
    body = {"endpointNames": endpoint_names, **_given(condition, source, enabled=enabled)}
    _show(invocation, save(client, at, body))


@route.command()
@click.argument("name")
@endpoint_option(required=False)
@_condition
@_source
@_enabled
@hub_option
@service_command
@examples(
    'muster route update alarms --condition \'level = "alarm" OR level = "error"\'',
    "muster route update '$fallback' --disable",
)
def update(
    invocation: Invocation,
    *,
    name: str,
    endpoint_names: tuple[str, ...],
    condition: str | None,
    source: str | None,
    enabled: bool | None,
    hub_host: str | None,
) -> None:
    """Change a route. Of $fallback only whether it is enabled can be changed."""
    if name == FALLBACK and (endpoint_names or condition or source):
        raise click.UsageError("$fallback can only be enabled and disabled.")
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "routes", name)
    body = {**client.get(*at), **_given(condition, source, enabled=enabled)}
    if endpoint_names:
        body["endpointNames"] = endpoint_names
    _show(invocation, save(client, at, body))


@route.command()
@click.argument("name")
@yes_option
@hub_option
@service_command
@examples("muster route delete alarms --yes")
def delete(invocation: Invocation, *, name: str, yes: bool, hub_host: str | None) -> None:
    """Delete a route."""
    host = invocation.own_hub(hub_host)
    confirm(f"Delete the route {name} of {host}?", yes=yes)
    invocation.dps().delete(*place(host, "routes", name))
    if not invocation.as_json:
        remark(f"The route {name} is deleted.")


@route.command()
@click.option("--body", type=JSON_VALUE, help="Of the message, as JSON or @FILE.")
@click.option("--properties", type=JSON_DOCUMENT, help="Application properties, as JSON or @FILE.")
@click.option(
    "--system",
    "system_properties",
    type=JSON_DOCUMENT,
    help='System properties by their names in conditions, as JSON: {"messageId": "1"}.',
)
@click.option("--device", "device_id", metavar="ID", help="Whose twin $twin is.")
@click.option("--module", "module_id", metavar="ID", help="The same for a module of the device.")
@click.option("--twin", type=JSON_DOCUMENT, help="A twin instead, as JSON or @FILE.")
@_source
@hub_option
@service_command
@examples(
    'muster route test --body \'{"temperature": 90}\' --properties \'{"level": "alarm"}\'',
    "muster route test --device gateway-01",
    'muster route test --source DeviceLifecycleEvents --properties \'{"opType": "x"}\' --json',
)
def test(
    invocation: Invocation,
    *,
    body: Any,
    properties: dict[str, Any] | None,
    system_properties: dict[str, Any] | None,
    device_id: str | None,
    module_id: str | None,
    twin: dict[str, Any] | None,
    source: str | None,
    hub_host: str | None,
) -> None:
    """Tell where a message would go, which routes match and why. Nothing is sent."""
    question = {
        "source": source,
        "body": body,
        "properties": properties,
        "systemProperties": system_properties,
        "deviceId": device_id,
        "moduleId": module_id,
        "twin": twin,
    }
    host = invocation.own_hub(hub_host)
    found = invocation.dps().post(
        *place(host, "test"),
        body={name: value for name, value in question.items() if value is not None},
    )
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("ROUTE", "MATCHES", "BECAUSE"),
        [(each["name"], each["matches"], " ".join(each["reasons"])) for each in found["routes"]],
        empty="There are no routes.",
    )
    remark("")
    show_table(
        ("GOES TO", "ENRICHED WITH"),
        [(each["name"], each["enrichments"]) for each in found["endpoints"]],
        empty="The message goes nowhere.",
    )


def must_be_new(client: Any, at: tuple[str, ...], headline: str, next_step: str) -> None:
    """Insist that there is nothing at a path yet.

    Raises:
        FailedError: there is.
    """
    try:
        client.get(*at)
    except RefusedError as error:
        if error.status == 404:
            return
        raise
    raise FailedError(headline, next_step=next_step)


def save(client: Any, at: tuple[str, ...], body: dict[str, Any]) -> dict[str, Any]:
    """Write a route or enrichment.

    Raises:
        RefusedError: it names an endpoint that is not there, or the service says no otherwise.
    """
    try:
        saved: dict[str, Any] = client.put(*at, body=body)
    except RefusedError as error:
        raise (error.with_next("muster endpoint list") if error.status == 404 else error) from None
    return saved


def _given(condition: str | None, source: str | None, *, enabled: bool | None) -> dict[str, Any]:
    values = {"condition": condition, "source": source, "isEnabled": enabled}
    return {name: value for name, value in values.items() if value is not None}


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(found)
        return
    show_record(
        [
            ("Name", found["name"]),
            ("Source", found["source"]),
            ("Condition", found["condition"]),
            ("Endpoints", found["endpointNames"]),
            ("Enabled", found["isEnabled"]),
        ]
    )
