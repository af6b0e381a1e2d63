"""`muster device`: device identities of a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli import identity_fields as fields
from muster.cli.certificate_options import certificate_options
from muster.cli.device_revoke import restore, revocations, revoke
from muster.cli.enrollment_fields import is_edge
from muster.cli.failures import FailedError
from muster.cli.noun import NounGroup
from muster.cli.options import (
    ENABLED,
    confirm,
    etag_option,
    hub_option,
    key_options,
    read_keys,
    service_command,
    show_keys_option,
    yes_option,
)
from muster.cli.renew_key import renew_device_key
from muster.terminal.examples import examples
from muster.terminal.output import (
    remark,
    show_json,
    show_record,
    show_table,
    to_the_second,
    without_secrets,
)

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

COLLECTION: Final = "/devices"
MAX_LIST: Final = 1000
"""Devices that the registry API lists at most (hub-service.md 1.1 row 1)."""


@click.group(cls=NounGroup)
@examples("muster device list", "muster device show gateway-01", "muster device revoke gateway-01")
def device() -> None:
    """Device identities of a hub; revoke a device and let it in again."""


device.add_command(revoke)
device.add_command(restore)
device.add_command(revocations)
device.add_command(renew_device_key)

_status_options = (
    click.option("--status", type=ENABLED, help="Whether it may connect."),
    click.option("--status-reason", metavar="TEXT", help="Why; up to 128 characters."),
)
_parent = click.option(
    "--parent",
    "parent_id",
    metavar="ID",
    help="The IoT Edge device it is a child of; '' for none.",
)


@device.command()
@click.argument("device_id")
@click.option("--edge/--no-edge", default=False, help="Whether it is an IoT Edge device.")
@_status_options[0]
@_status_options[1]
@_parent
@key_options
@certificate_options
@hub_option
@show_keys_option
@service_command
@examples(
    "muster device create press-1",
    "muster device create gateway-02 --edge --hub plant-a.example.org",
    "muster device create press-2 --certificate press-2.pem",
    "muster device create press-3 --parent gateway-01",
)
def create(
    invocation: Invocation,
    *,
    device_id: str,
    edge: bool,
    status: str | None,
    status_reason: str | None,
    parent_id: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    prints: dict[str, str | None],
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Create a device identity by hand. Devices that provision themselves need none."""
    body: dict[str, Any] = {
        "deviceId": device_id,
        "status": status or "enabled",
        "authentication": fields.authentication(
            read_keys(primary_key, secondary_key, key_file), prints
        ),
        "capabilities": {"iotEdge": edge},
    }
    if status_reason is not None:
        body["statusReason"] = status_reason
    client = invocation.hub(hub_host)
    _put_parent(client, body, parent_id)
    created = client.put(COLLECTION, device_id, body=body)
    _show(invocation, created, show_keys=show_keys)
    if not invocation.as_json:
        remark(f"For the device: muster device connection-string {device_id}")


@device.command()
@click.argument("device_id")
@hub_option
@show_keys_option
@service_command
@examples("muster device show gateway-01")
def show(invocation: Invocation, *, device_id: str, hub_host: str | None, show_keys: bool) -> None:
    """Show a device identity."""
    found = invocation.hub(hub_host).get(COLLECTION, device_id)
    _show(invocation, found, show_keys=show_keys)


@device.command("list")
@click.option(
    "--top",
    type=click.IntRange(1, MAX_LIST),
    default=MAX_LIST,
    show_default=True,
    metavar="N",
    help="Show N at most.",
)
@hub_option
@service_command
@examples("muster device list", "muster device list --hub plant-a.example.org --json")
def list_devices(invocation: Invocation, *, top: int, hub_host: str | None) -> None:
    """List the devices of a hub, in the order of their IDs."""
    client = invocation.hub(hub_host)
    found = client.get(COLLECTION, params={"top": str(top)})
    if invocation.as_json:
        show_json(without_secrets(found))
    else:
        show_table(
            ("DEVICE ID", "STATUS", "CONNECTION", "EDGE", "LAST ACTIVITY"),
            [
                (
                    each.get("deviceId"),
                    each.get("status"),
                    each.get("connectionState"),
                    is_edge(each),
                    to_the_second(fields.moment(each.get("lastActivityTime"))),
                )
                for each in found
            ],
            empty="The hub has no devices.",
        )
    if len(found) == top:
        total = client.get("/statistics/devices").get("totalDeviceCount", top)
        if total > top:
            remark(
                f"These are {top:,} of {total:,} devices; the registry lists {MAX_LIST:,} at most."
            )


@device.command()
@click.argument("device_id")
@click.option("--edge/--no-edge", default=None, help="Whether it is an IoT Edge device.")
@_status_options[0]
@_status_options[1]
@_parent
@key_options
@certificate_options
@etag_option
@hub_option
@show_keys_option
@service_command
@examples(
    "muster device update gateway-01 --status disabled --status-reason maintenance",
    "muster device update press-1 --edge",
    "muster device update press-3 --parent ''",
    "muster device update press-2 --secondary-certificate press-2-next.pem",
)
def update(
    invocation: Invocation,
    *,
    device_id: str,
    edge: bool | None,
    status: str | None,
    status_reason: str | None,
    parent_id: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    prints: dict[str, str | None],
    etag: str | None,
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Change what is given, leave the rest. Disabling a device ends its connection."""
    keys = read_keys(primary_key, secondary_key, key_file)
    client = invocation.hub(hub_host)
    identity: dict[str, Any] = client.get(COLLECTION, device_id)
    if edge is not None:
        identity["capabilities"] = {**(identity.get("capabilities") or {}), "iotEdge": edge}
    if status is not None:
        identity["status"] = status
    if status_reason is not None:
        identity["statusReason"] = status_reason or None
    _put_parent(client, identity, parent_id)
    fields.put_keys(identity, keys)
    fields.put_thumbprints(identity, prints)
    updated = client.put(
        COLLECTION, device_id, body=identity, if_match=fields.quoted(etag or identity.get("etag"))
    )
    _show(invocation, updated, show_keys=show_keys)


@device.command()
@click.argument("device_id")
@etag_option
@yes_option
@hub_option
@service_command
@examples("muster device delete press-1")
def delete(
    invocation: Invocation, *, device_id: str, etag: str | None, yes: bool, hub_host: str | None
) -> None:
    """Delete a device identity with its modules and twins. It can provision itself again."""
    confirm(f"Delete the device {device_id} with its modules and twins?", yes=yes)
    invocation.hub(hub_host).delete(COLLECTION, device_id, if_match=fields.quoted(etag))
    if not invocation.as_json:
        remark(f"The device {device_id} is deleted. To keep it out: muster device revoke")


@device.command("connection-string")
@click.argument("device_id")
@fields.secondary_option
@hub_option
@service_command
@examples("muster device connection-string press-1")
def connection_string(
    invocation: Invocation, *, device_id: str, secondary: bool, hub_host: str | None
) -> None:
    """Print the connection string of a device, key included; with certificates there is none."""
    client = invocation.hub(hub_host)
    identity = client.get(COLLECTION, device_id)
    fields.show_connection_string(invocation, client, identity, secondary=secondary)


def _put_parent(client: RestClient, identity: dict[str, Any], parent_id: str | None) -> None:
    """Make a device the child of another; of nobody with an empty ID (hub-service.md 1.2)."""
    if parent_id is None:
        return
    scope = ""
    if parent_id:
        parent: dict[str, Any] = client.get(COLLECTION, parent_id)
        if not is_edge(parent):
            raise FailedError(
                f"{parent_id} is no IoT Edge device, so it cannot be a parent",
                next_step=f"muster device update {parent_id} --edge",
            )
        scope = parent["deviceScope"]
    if is_edge(identity):
        identity["parentScopes"] = [scope] if scope else []
    else:
        identity.pop("parentScopes", None)
        identity["deviceScope"] = scope


def _show(invocation: Invocation, identity: dict[str, Any], *, show_keys: bool) -> None:
    shown = identity if show_keys else without_secrets(identity)
    if invocation.as_json:
        show_json(shown)
        return
    show_record(
        [
            ("Device ID", shown.get("deviceId")),
            ("Status", shown.get("status")),
            ("Status reason", shown.get("statusReason")),
            ("Status changed", fields.moment(shown.get("statusUpdatedTime"))),
            ("IoT Edge", is_edge(shown)),
            *fields.connection_fields(shown),
            ("Device scope", shown.get("deviceScope")),
            ("Parent scopes", shown.get("parentScopes")),
            ("Generation", shown.get("generationId")),
            ("ETag", shown.get("etag")),
            *fields.key_fields(shown),
        ]
    )
