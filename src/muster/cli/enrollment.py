"""`muster enrollment`: individual enrollments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli import enrollment_fields as fields
from muster.cli.enrollment_export import export_enrollments
from muster.cli.enrollment_import import import_enrollments
from muster.cli.noun import NounGroup
from muster.cli.options import (
    REGISTRATION_ID,
    confirm,
    etag_option,
    read_keys,
    service_command,
    show_keys_option,
    top_option,
    yes_option,
)
from muster.cli.simulate_register import simulate_enrollment
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, without_secrets

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

COLLECTION: Final = "/enrollments"


@click.group(cls=NounGroup)
@examples(
    "muster enrollment create gateway-01 --edge",
    "muster enrollment list",
    "muster enrollment import devices.csv",
)
def enrollment() -> None:
    """Individual enrollments: devices enrolled one by one."""


enrollment.add_command(import_enrollments)
enrollment.add_command(export_enrollments)
enrollment.add_command(simulate_enrollment)

_device_id = click.option(
    "--device-id", metavar="ID", help="Device ID in the hub [default: the registration ID]."
)


@enrollment.command()
@click.argument("registration_id", type=REGISTRATION_ID)
@_device_id
@fields.field_options
@show_keys_option
@service_command
@examples(
    'muster enrollment create gateway-01 --edge --tags \'{"site": "plant-a"}\'',
    "muster enrollment create sensor-7 --device-id line-7-sensor --show-keys",
    "printf '%s\\n' \"$KEY\" | muster enrollment create sensor-8 --key-file -",
)
def create(
    invocation: Invocation,
    /,
    *,
    registration_id: str,
    device_id: str | None,
    show_keys: bool,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    **given: Any,
) -> None:
    """Enroll a device. Without keys the service makes a pair."""
    entry = fields.new_entry("registrationId", registration_id)
    if device_id:
        entry["deviceId"] = device_id
    keys = read_keys(primary_key, secondary_key, key_file)
    fields.apply_fields(entry, keys=keys, **given)
    client = invocation.dps()
    created = client.put(COLLECTION, registration_id, body=entry)
    _show(invocation, client, created, show_keys=show_keys)
    if not invocation.as_json and not show_keys:
        remark(f"The device's key: muster enrollment show {registration_id} --show-keys")


@enrollment.command()
@click.argument("registration_id")
@show_keys_option
@service_command
@examples(
    "muster enrollment show gateway-01", "muster enrollment show gateway-01 --show-keys --json"
)
def show(invocation: Invocation, *, registration_id: str, show_keys: bool) -> None:
    """Show an enrollment and what became of it."""
    client = invocation.dps()
    _show(invocation, client, client.get(COLLECTION, registration_id), show_keys=show_keys)


@enrollment.command("list")
@top_option
@service_command
@examples("muster enrollment list", "muster enrollment list --top 20 --json")
def list_enrollments(invocation: Invocation, *, top: int | None) -> None:
    """List the enrollments."""
    query = {"query": "SELECT *"}
    found = invocation.dps().pages("POST", f"{COLLECTION}/query", body=query, top=top)
    if invocation.as_json:
        show_json([without_secrets(entry) for entry in found])
        return
    show_table(
        ("REGISTRATION ID", "DEVICE ID", "PROVISIONING", "EDGE", "REGISTRATION", "HUB"),
        [
            (
                entry.get("registrationId"),
                _state(entry).get("deviceId") or entry.get("deviceId"),
                entry.get("provisioningStatus", "enabled"),
                fields.is_edge(entry),
                _state(entry).get("status", "unassigned"),
                _state(entry).get("assignedHub"),
            )
            for entry in found
        ],
        empty="There are no individual enrollments. Create one: muster enrollment create ID",
    )


@enrollment.command()
@click.argument("registration_id")
@_device_id
@fields.field_options
@etag_option
@click.option("--any-hub", is_flag=True, help="Let every linked hub be chosen again.")
@show_keys_option
@service_command
@examples(
    "muster enrollment update gateway-01 --provisioning-status disabled",
    'muster enrollment update gateway-01 --tags \'{"site": "plant-b"}\' --hub plant-b.example.org',
)
def update(
    invocation: Invocation,
    /,
    *,
    registration_id: str,
    device_id: str | None,
    any_hub: bool,
    show_keys: bool,
    etag: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    **given: Any,
) -> None:
    """Change what is given, leave the rest. `--device-id ''` removes the device ID."""
    keys = read_keys(primary_key, secondary_key, key_file)

    def change(entry: dict[str, Any]) -> None:
        if any_hub:
            entry.pop("iotHubs", None)
            entry.pop("iotHubHostName", None)
        if device_id is not None:
            entry["deviceId"] = device_id or None
        fields.apply_fields(entry, keys=keys, **given)

    client = invocation.dps()
    entry, read_etag = fields.changed_entry(client, COLLECTION, registration_id, change)
    updated = client.put(COLLECTION, registration_id, body=entry, if_match=etag or read_etag)
    _show(invocation, client, updated, show_keys=show_keys)


@enrollment.command()
@click.argument("registration_id")
@etag_option
@yes_option
@service_command
@examples("muster enrollment delete gateway-01")
def delete(invocation: Invocation, *, registration_id: str, etag: str | None, yes: bool) -> None:
    """Delete an enrollment. The device in its hub stays; to stop it, revoke it first."""
    confirm(f"Delete the enrollment {registration_id}?", yes=yes)
    invocation.dps().delete(COLLECTION, registration_id, if_match=etag or "*")
    if not invocation.as_json:
        remark(f"The enrollment {registration_id} is deleted.")


def _show(
    invocation: Invocation, client: RestClient, entry: dict[str, Any], *, show_keys: bool
) -> None:
    registration_id = str(entry["registrationId"])
    entry = without_secrets(entry)
    if show_keys:
        fields.add_keys(client, COLLECTION, registration_id, entry)
    if invocation.as_json:
        show_json(entry)
        return
    state = _state(entry)
    show_record(
        [
            ("Registration ID", registration_id),
            ("Device ID", state.get("deviceId") or entry.get("deviceId")),
            ("Registration", state.get("status", "unassigned")),
            ("Assigned hub", state.get("assignedHub")),
            ("Error", state.get("errorMessage")),
            ("Registered", state.get("lastUpdatedDateTimeUtc")),
            *fields.summary(entry),
        ]
    )


def _state(entry: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = entry.get("registrationState") or {}
    return state
