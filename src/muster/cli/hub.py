"""`muster hub`: the hubs that devices are assigned to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.auth import connection_string as connection_strings
from muster.cli.enrollment_fields import ALLOCATION_POLICIES
from muster.cli.failures import FailedError, RefusedError
from muster.cli.hub_retention import retention
from muster.cli.hub_twin_catch_up import twin_catch_up
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, read_text, service_command, yes_option
from muster.errors import InvalidArgumentError
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, warn, without_secrets

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

COLLECTION: Final = "/admin/v1/hubs"


@click.group(cls=NounGroup)
@examples("muster hub list", "muster hub show plant-a.example.org")
def hub() -> None:
    """The hubs that devices are assigned to: this service's own, and linked ones elsewhere."""


hub.add_command(retention)
hub.add_command(twin_catch_up)

_weight = click.option(
    "--allocation-weight",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Share of the devices it gets by hashed allocation, 1 to 1000 [default: 1].",
)
_apply = click.option(
    "--apply-allocation/--no-apply-allocation",
    default=None,
    help="Whether devices are assigned to it [default: yes].",
)


@hub.command("list")
@service_command
@examples("muster hub list")
def list_hubs(invocation: Invocation) -> None:
    """List the hubs."""
    found = invocation.dps().get(COLLECTION)
    if invocation.as_json:
        show_json(without_secrets(found))
        return
    show_table(
        ("HOST", "KIND", "WEIGHT", "TAKES PART"),
        [
            (each["host"], _kind(each), each.get("allocationWeight"), _takes_part(each))
            for each in found
        ],
        empty="There are no hubs. Create one: muster hub create HOST",
    )


@hub.command()
@click.argument("host")
@service_command
@examples("muster hub show plant-a.example.org")
def show(invocation: Invocation, *, host: str) -> None:
    """Show a hub and how many devices it has."""
    found = invocation.dps().get(COLLECTION, host)
    if found.get("local"):
        found["statistics"] = _statistics(invocation.hub(host))
    _show(invocation, found)


@hub.command()
@click.argument("host")
@_weight
@_apply
@service_command
@examples("muster hub create plant-b.example.org --allocation-weight 3")
def create(
    invocation: Invocation,
    *,
    host: str,
    allocation_weight: int | None,
    apply_allocation: bool | None,
) -> None:
    """Create a hub in this service and let devices be assigned to it."""
    client = invocation.dps()
    _must_be_new(client, host)
    body = {"host": host, "local": True, **_allocation(allocation_weight, apply=apply_allocation)}
    _show(invocation, client.put(COLLECTION, host, body=body))
    if not invocation.as_json:
        remark(f"The server certificate names it. Devices must be able to resolve {host}.")


@hub.command()
@click.argument("host", required=False)
@click.option(
    "--connection-string",
    metavar="TEXT",
    help="With RegistryWrite and ServiceConnect. Visible to other users: see the file option.",
)
@click.option(
    "--connection-string-file", metavar="FILE", help="Read it from FILE (or - for stdin)."
)
@_weight
@_apply
@service_command
@examples("muster hub link --connection-string-file hub.txt")
def link(
    invocation: Invocation,
    *,
    host: str | None,
    connection_string: str | None,
    connection_string_file: str | None,
    allocation_weight: int | None,
    apply_allocation: bool | None,
) -> None:
    """Link a hub that runs elsewhere: another Muster, or an Azure IoT Hub."""
    text = _connection_string(connection_string, connection_string_file)
    try:
        named = connection_strings.parse(text)
    except InvalidArgumentError as error:
        raise click.UsageError(f"{error.message}.") from None
    if named.key_name is None or named.key is None:
        raise click.UsageError(
            "The connection string must be an access policy's, with SharedAccessKeyName and "
            "SharedAccessKey."
        )
    host = host or named.host
    client = invocation.dps()
    _must_be_new(client, host)
    body = {
        "host": host,
        "local": False,
        "connectionString": text,
        **_allocation(allocation_weight, apply=apply_allocation),
    }
    _show(invocation, client.put(COLLECTION, host, body=body))


@hub.command()
@click.argument("host")
@click.option("--connection-string", metavar="TEXT", help="A new one, of a linked hub.")
@click.option(
    "--connection-string-file", metavar="FILE", help="Read it from FILE (or - for stdin)."
)
@_weight
@_apply
@service_command
@examples(
    "muster hub update plant-a.example.org --no-apply-allocation",
    "muster hub update plant-b.example.org --allocation-weight 5",
)
def update(
    invocation: Invocation,
    *,
    host: str,
    connection_string: str | None,
    connection_string_file: str | None,
    allocation_weight: int | None,
    apply_allocation: bool | None,
) -> None:
    """Change how a hub takes part in allocation, or how a linked one is reached."""
    client = invocation.dps()
    current: dict[str, Any] = client.get(COLLECTION, host)
    body = {
        "host": current["host"],
        "local": current.get("local"),
        "allocationWeight": current.get("allocationWeight"),
        "applyAllocationPolicy": current.get("applyAllocationPolicy"),
        **_allocation(allocation_weight, apply=apply_allocation),
    }
    if connection_string or connection_string_file:
        body["connectionString"] = _connection_string(connection_string, connection_string_file)
    _show(invocation, client.put(COLLECTION, host, body=body))


@hub.command()
@click.argument("host")
@yes_option
@service_command
@examples("muster hub unlink plant-b.example.org --yes")
def unlink(invocation: Invocation, *, host: str, yes: bool) -> None:
    """Take a hub out of this service. Devices that are in it stay there."""
    _delete(invocation, host, yes=yes)


@hub.command()
@click.argument("host")
@yes_option
@service_command
@examples("muster hub delete plant-b.example.org --yes")
def delete(invocation: Invocation, *, host: str, yes: bool) -> None:
    """Take a hub out of this service; the same as unlink."""
    _delete(invocation, host, yes=yes)


@hub.command("allocation-policy")
@click.argument("policy", type=click.Choice(ALLOCATION_POLICIES), required=False)
@service_command
@examples("muster hub allocation-policy", "muster hub allocation-policy hashed")
def allocation_policy(invocation: Invocation, *, policy: str | None) -> None:
    """Show or set how a hub is chosen where an enrollment does not say."""
    client = invocation.dps()
    if policy is not None:
        client.patch("/admin/v1/dps", body={"allocationPolicy": policy})
    found = client.get("/admin/v1/dps")
    if invocation.as_json:
        show_json(found)
        return
    click.echo(found.get("allocationPolicy"))


def _delete(invocation: Invocation, host: str, *, yes: bool) -> None:
    confirm(f"Take the hub {host} out of this service?", yes=yes, grave=True)
    invocation.dps().delete(COLLECTION, host)
    if not invocation.as_json:
        remark(f"{host} is no hub of this service any more.")


def _must_be_new(client: RestClient, host: str) -> None:
    try:
        client.get(COLLECTION, host)
    except RefusedError as error:
        if error.status == 404:
            return
        raise
    raise FailedError(f"The hub {host} exists already", next_step=f"muster hub update {host}")


def _connection_string(text: str | None, file: str | None) -> str:
    if (text is None) == (file is None):
        raise click.UsageError("Give --connection-string-file or --connection-string.")
    if text is not None:
        warn("a connection string on the command line is visible in process lists")
        return text.strip()
    return read_text(str(file), "--connection-string-file").strip()


def _allocation(weight: int | None, *, apply: bool | None) -> dict[str, Any]:
    values = {"allocationWeight": weight, "applyAllocationPolicy": apply}
    return {name: value for name, value in values.items() if value is not None}


def _statistics(client: RestClient) -> dict[str, int]:
    return {**client.get("/statistics/devices"), **client.get("/statistics/service")}


def _kind(found: dict[str, Any]) -> str:
    return "local" if found.get("local") else "linked"


def _takes_part(found: dict[str, Any]) -> bool:
    return bool(found.get("applyAllocationPolicy", True))


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(without_secrets(found))
        return
    statistics = found.get("statistics") or {}
    show_record(
        [
            ("Host", found.get("host")),
            ("Kind", _kind(found)),
            ("Allocation weight", found.get("allocationWeight")),
            ("Takes part in allocation", _takes_part(found)),
            ("Devices", statistics.get("totalDeviceCount")),
            ("  enabled", statistics.get("enabledDeviceCount")),
            ("  disabled", statistics.get("disabledDeviceCount")),
            ("  connected", statistics.get("connectedDeviceCount")),
        ]
    )
