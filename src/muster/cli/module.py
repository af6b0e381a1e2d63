"""`muster module`: module identities of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli import identity_fields as fields
from muster.cli.certificate_options import certificate_options
from muster.cli.noun import NounGroup
from muster.cli.options import (
    confirm,
    etag_option,
    hub_option,
    key_options,
    read_keys,
    service_command,
    show_keys_option,
    yes_option,
)
from muster.cli.renew_key import renew_module_key
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
    from muster.cli.connection import Invocation


@click.group(cls=NounGroup)
@examples("muster module list gateway-01", "muster module show gateway-01 camera")
def module() -> None:
    """Module identities of a device."""


module.add_command(renew_module_key)


_arguments = (click.argument("device_id"), click.argument("module_id"))


@module.command()
@_arguments[0]
@_arguments[1]
@click.option("--managed-by", metavar="NAME", help="Who owns it, for example iotEdge.")
@key_options
@certificate_options
@hub_option
@show_keys_option
@service_command
@examples(
    "muster module create gateway-01 filter",
    "muster module create press-1 filter --certificate filter.pem",
)
def create(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str,
    managed_by: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    prints: dict[str, str | None],
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Create a module identity."""
    body: dict[str, Any] = {
        "deviceId": device_id,
        "moduleId": module_id,
        "authentication": fields.authentication(
            read_keys(primary_key, secondary_key, key_file), prints
        ),
    }
    if managed_by is not None:
        body["managedBy"] = managed_by
    created = invocation.hub(hub_host).put("/devices", device_id, "modules", module_id, body=body)
    _show(invocation, created, show_keys=show_keys)


@module.command()
@_arguments[0]
@_arguments[1]
@hub_option
@show_keys_option
@service_command
@examples("muster module show gateway-01 '$edgeAgent'")
def show(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str,
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Show a module identity."""
    found = invocation.hub(hub_host).get("/devices", device_id, "modules", module_id)
    _show(invocation, found, show_keys=show_keys)


@module.command("list")
@_arguments[0]
@hub_option
@service_command
@examples("muster module list gateway-01")
def list_modules(invocation: Invocation, *, device_id: str, hub_host: str | None) -> None:
    """List the modules of a device."""
    found = invocation.hub(hub_host).get("/devices", device_id, "modules")
    if invocation.as_json:
        show_json(without_secrets(found))
        return
    show_table(
        ("MODULE ID", "MANAGED BY", "CONNECTION", "LAST ACTIVITY"),
        [
            (
                each.get("moduleId"),
                each.get("managedBy"),
                each.get("connectionState"),
                to_the_second(fields.moment(each.get("lastActivityTime"))),
            )
            for each in found
        ],
        empty=f"{device_id} has no modules.",
    )


@module.command()
@_arguments[0]
@_arguments[1]
@click.option("--managed-by", metavar="NAME", help="Who owns it, for example iotEdge.")
@key_options
@certificate_options
@etag_option
@hub_option
@show_keys_option
@service_command
@examples("muster module update gateway-01 filter --key-file module.keys")
def update(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str,
    managed_by: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    prints: dict[str, str | None],
    etag: str | None,
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Change what is given, leave the rest."""
    keys = read_keys(primary_key, secondary_key, key_file)
    client = invocation.hub(hub_host)
    place = ("/devices", device_id, "modules", module_id)
    identity: dict[str, Any] = client.get(*place)
    if managed_by is not None:
        identity["managedBy"] = managed_by or None
    fields.put_keys(identity, keys)
    fields.put_thumbprints(identity, prints)
    if_match = fields.quoted(etag or identity.get("etag"))
    _show(invocation, client.put(*place, body=identity, if_match=if_match), show_keys=show_keys)


@module.command()
@_arguments[0]
@_arguments[1]
@etag_option
@yes_option
@hub_option
@service_command
@examples("muster module delete gateway-01 filter")
def delete(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str,
    etag: str | None,
    yes: bool,
    hub_host: str | None,
) -> None:
    """Delete a module identity with its twin."""
    confirm(f"Delete the module {device_id}/{module_id} with its twin?", yes=yes)
    client = invocation.hub(hub_host)
    client.delete("/devices", device_id, "modules", module_id, if_match=fields.quoted(etag))
    if not invocation.as_json:
        remark(f"The module {device_id}/{module_id} is deleted.")


@module.command("connection-string")
@_arguments[0]
@_arguments[1]
@fields.secondary_option
@hub_option
@service_command
@examples("muster module connection-string gateway-01 filter")
def connection_string(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str,
    secondary: bool,
    hub_host: str | None,
) -> None:
    """Print the connection string of a module, key included; with certificates there is none."""
    client = invocation.hub(hub_host)
    identity = client.get("/devices", device_id, "modules", module_id)
    fields.show_connection_string(invocation, client, identity, secondary=secondary)


def _show(invocation: Invocation, identity: dict[str, Any], *, show_keys: bool) -> None:
    shown = identity if show_keys else without_secrets(identity)
    if invocation.as_json:
        show_json(shown)
        return
    show_record(
        [
            ("Device ID", shown.get("deviceId")),
            ("Module ID", shown.get("moduleId")),
            ("Managed by", shown.get("managedBy")),
            *fields.connection_fields(shown),
            ("Generation", shown.get("generationId")),
            ("ETag", shown.get("etag")),
            *fields.key_fields(shown),
        ]
    )
