"""`muster enrollment-group`: devices enrolled by a common key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli import enrollment_fields as fields
from muster.cli.derive_key import compute_device_key, derive_key
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
from muster.cli.registration import show_registrations
from muster.cli.simulate_register import simulate_member
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

COLLECTION: Final = "/enrollmentGroups"


@click.group("enrollment-group", cls=NounGroup)
@examples(
    "muster enrollment-group create line-7 --edge",
    "muster enrollment-group derive-key --group line-7 sensor-01",
)
def enrollment_group() -> None:
    """Enrollment groups: every device has a key derived from the group's."""


enrollment_group.add_command(derive_key)
enrollment_group.add_command(compute_device_key)
enrollment_group.add_command(simulate_member)


@enrollment_group.command()
@click.argument("group", type=REGISTRATION_ID)
@fields.field_options
@show_keys_option
@service_command
@examples(
    "muster enrollment-group create line-7 --edge --tags '{\"line\": 7}'",
    "muster enrollment-group create fleet --key-file group.key --allocation-policy hashed",
)
def create(
    invocation: Invocation,
    /,
    *,
    group: str,
    show_keys: bool,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    **given: Any,
) -> None:
    """Create a group. Without keys the service makes a pair."""
    entry = fields.new_entry("enrollmentGroupId", group)
    keys = read_keys(primary_key, secondary_key, key_file)
    fields.apply_fields(entry, keys=keys, **given)
    client = invocation.dps()
    created = client.put(COLLECTION, group, body=entry)
    _show(invocation, client, created, show_keys=show_keys)
    if not invocation.as_json:
        remark(
            f"A device's key: muster enrollment-group derive-key --group {group} REGISTRATION_ID"
        )


@enrollment_group.command()
@click.argument("group")
@show_keys_option
@service_command
@examples(
    "muster enrollment-group show line-7", "muster enrollment-group show line-7 --show-keys --json"
)
def show(invocation: Invocation, *, group: str, show_keys: bool) -> None:
    """Show a group."""
    client = invocation.dps()
    _show(invocation, client, client.get(COLLECTION, group), show_keys=show_keys)


@enrollment_group.command("list")
@top_option
@service_command
@examples("muster enrollment-group list")
def list_groups(invocation: Invocation, *, top: int | None) -> None:
    """List the groups."""
    query = {"query": "SELECT *"}
    found = invocation.dps().pages("POST", f"{COLLECTION}/query", body=query, top=top)
    if invocation.as_json:
        show_json([without_secrets(entry) for entry in found])
        return
    show_table(
        ("GROUP", "PROVISIONING", "EDGE", "ALLOCATION", "HUBS", "LAST UPDATED"),
        [
            (
                entry.get("enrollmentGroupId"),
                entry.get("provisioningStatus", "enabled"),
                fields.is_edge(entry),
                entry.get("allocationPolicy") or fields.SERVICE_DEFAULT,
                entry.get("iotHubs") or entry.get("iotHubHostName"),
                to_the_second(entry.get("lastUpdatedDateTimeUtc")),
            )
            for entry in found
        ],
        empty="There are no enrollment groups. Create one: muster enrollment-group create ID",
    )


@enrollment_group.command()
@click.argument("group")
@fields.field_options
@etag_option
@click.option("--any-hub", is_flag=True, help="Let every linked hub be chosen again.")
@show_keys_option
@service_command
@examples(
    "muster enrollment-group update line-7 --provisioning-status disabled",
    "muster enrollment-group update line-7 --reprovision-policy never",
)
def update(
    invocation: Invocation,
    /,
    *,
    group: str,
    any_hub: bool,
    show_keys: bool,
    etag: str | None,
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    **given: Any,
) -> None:
    """Change what is given, leave the rest. New keys make every derived key invalid."""
    keys = read_keys(primary_key, secondary_key, key_file)

    def change(entry: dict[str, Any]) -> None:
        if any_hub:
            entry.pop("iotHubs", None)
            entry.pop("iotHubHostName", None)
        fields.apply_fields(entry, keys=keys, **given)

    client = invocation.dps()
    entry, read_etag = fields.changed_entry(client, COLLECTION, group, change)
    updated = client.put(COLLECTION, group, body=entry, if_match=etag or read_etag)
    _show(invocation, client, updated, show_keys=show_keys)


@enrollment_group.command()
@click.argument("group")
@etag_option
@yes_option
@service_command
@examples("muster enrollment-group delete line-7")
def delete(invocation: Invocation, *, group: str, etag: str | None, yes: bool) -> None:
    """Delete a group. Its devices stay in their hubs, but cannot register again."""
    confirm(f"Delete the enrollment group {group}?", yes=yes)
    invocation.dps().delete(COLLECTION, group, if_match=etag or "*")
    if not invocation.as_json:
        remark(f"The enrollment group {group} is deleted.")


@enrollment_group.command()
@click.argument("group")
@top_option
@service_command
@examples("muster enrollment-group registrations line-7")
def registrations(invocation: Invocation, *, group: str, top: int | None) -> None:
    """List the registration records of a group."""
    show_registrations(invocation, group, top)


def _show(
    invocation: Invocation, client: RestClient, entry: dict[str, Any], *, show_keys: bool
) -> None:
    group = str(entry["enrollmentGroupId"])
    entry = without_secrets(entry)
    if show_keys:
        fields.add_keys(client, COLLECTION, group, entry)
    if invocation.as_json:
        show_json(entry)
        return
    show_record([("Enrollment group", group), *fields.summary(entry)])
