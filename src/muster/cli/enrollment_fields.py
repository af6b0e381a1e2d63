"""What individual enrollments and enrollment groups have in common (dps.md 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from muster.cli.options import ENABLED, JSON_DOCUMENT, key_options
from muster.errors import InvalidArgumentError
from muster.model.twin import check_limits, without_service_members

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.client import RestClient
    from muster.model.twin import Section

F = TypeVar("F", bound="Callable[..., Any]")

REPROVISION_POLICIES: Final[dict[str, dict[str, bool]]] = {
    "reprovisionandmigratedata": {"updateHubAssignment": True, "migrateDeviceData": True},
    "reprovisionandresetdata": {"updateHubAssignment": True, "migrateDeviceData": False},
    "never": {"updateHubAssignment": False, "migrateDeviceData": False},
}
"""By the names of the official CLI (dps.md 6.1)."""

SERVICE_DEFAULT: Final = "default"
"""On the command line: no allocation policy of its own, the service's default holds."""

ALLOCATION_POLICIES: Final = ("hashed", "static")

READ_ONLY: Final = ("registrationState", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "etag")


def field_options(command: F) -> F:
    """Add the options that set fields; `apply_fields` applies them."""
    options = (
        click.option(
            "--edge/--no-edge",
            "--edge-enabled/--no-edge-enabled",
            "edge",
            default=None,
            help="Whether these are IoT Edge devices [default: no].",
        ),
        click.option(
            "--tags",
            "--initial-twin-tags",
            "tags",
            type=JSON_DOCUMENT,
            help="Tags of the initial twin, as JSON or @FILE.",
        ),
        click.option(
            "--desired",
            "--initial-twin-properties",
            "desired",
            type=JSON_DOCUMENT,
            help="Desired properties of the initial twin, as JSON or @FILE.",
        ),
        click.option(
            "--allocation-policy",
            type=click.Choice([*ALLOCATION_POLICIES, SERVICE_DEFAULT]),
            help="How a hub is chosen [default: as the service's default].",
        ),
        click.option(
            "--hub",
            "--iot-hubs",
            "iot_hubs",
            multiple=True,
            metavar="HOST",
            help="A hub that may be chosen; repeat for several [default: every linked one].",
        ),
        click.option(
            "--reprovision-policy",
            type=click.Choice(list(REPROVISION_POLICIES)),
            help="What happens when a device registers again [default: reprovisionandmigratedata].",
        ),
        click.option(
            "--provisioning-status",
            type=ENABLED,
            help="Whether devices may register [default: enabled].",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return key_options(command)


def apply_fields(
    entry: dict[str, Any],
    *,
    edge: bool | None,
    tags: dict[str, Any] | None,
    desired: dict[str, Any] | None,
    allocation_policy: str | None,
    iot_hubs: tuple[str, ...],
    reprovision_policy: str | None,
    provisioning_status: str | None,
    keys: dict[str, str],
) -> dict[str, Any]:
    """Put what was given into an enrollment's JSON, leave the rest, and return it."""
    if edge is not None:
        entry["capabilities"] = {**(entry.get("capabilities") or {}), "iotEdge": edge}
    twin = dict(entry.get("initialTwin") or {})
    if tags is not None:
        _check_section(tags, "tags")
        twin["tags"] = tags
    if desired is not None:
        _check_section(desired, "desired")
        twin["properties"] = {**(twin.get("properties") or {}), "desired": desired}
    if twin:
        entry["initialTwin"] = twin
    if allocation_policy == SERVICE_DEFAULT:
        entry.pop("allocationPolicy", None)
        allocation_policy = None
    values = {
        "allocationPolicy": allocation_policy,
        "iotHubs": list(iot_hubs) or None,
        "reprovisionPolicy": reprovision_policy and REPROVISION_POLICIES[reprovision_policy],
        "provisioningStatus": provisioning_status,
        "attestation": {"type": "symmetricKey", "symmetricKey": keys} if keys else None,
    }
    entry.update({name: value for name, value in values.items() if value is not None})
    return entry


def _check_section(document: dict[str, Any], section: Section) -> None:
    """Refuse what no hub takes; the service keeps it, and the device could never be assigned."""
    try:
        check_limits(without_service_members(document), section)
    except InvalidArgumentError as error:
        raise click.UsageError(f"--{section}: {error.message}.") from None


def new_entry(id_name: str, entry_id: str) -> dict[str, Any]:
    """Return the JSON of an enrollment whose keys the service is to make."""
    return {id_name: entry_id, "attestation": {"type": "symmetricKey", "symmetricKey": {}}}


def changed_entry(
    client: RestClient, collection: str, entry_id: str, change: Callable[[dict[str, Any]], Any]
) -> tuple[dict[str, Any], str]:
    """Read an enrollment for an update, and change it.

    Args:
        client: of the provisioning service.
        collection: `/enrollments` or `/enrollmentGroups`.
        entry_id: which.
        change: changes the JSON in place.

    Returns:
        What to PUT, and the etag it was read with. Keys are left out unless they change: the
        service keeps those it has.
    """
    current: dict[str, Any] = client.get(collection, entry_id)
    etag = str(current.get("etag") or "*")
    entry = {name: value for name, value in current.items() if name not in READ_ONLY}
    attestation = entry.get("attestation")
    if isinstance(attestation, dict) and attestation.get("type") == "symmetricKey":
        entry["attestation"] = {"type": "symmetricKey", "symmetricKey": {}}
    change(entry)
    return entry, etag


def add_keys(client: RestClient, collection: str, entry_id: str, entry: dict[str, Any]) -> None:
    """Put the keys into an enrollment that was read: only this call tells them."""
    entry["attestation"] = client.post(collection, entry_id, "attestationmechanism")


def summary(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the common fields of an enrollment for people to read."""
    twin = entry.get("initialTwin") or {}
    attestation = entry.get("attestation") or {}
    keys = attestation.get("symmetricKey") or {}
    return [
        ("Provisioning status", entry.get("provisioningStatus", "enabled")),
        ("Attestation", attestation.get("type")),
        ("IoT Edge", is_edge(entry)),
        ("Allocation policy", entry.get("allocationPolicy") or "(the service's default)"),
        ("Hubs", entry.get("iotHubs") or entry.get("iotHubHostName")),
        ("Reprovision policy", reprovision_name(entry.get("reprovisionPolicy"))),
        ("Initial tags", twin.get("tags")),
        ("Initial desired", (twin.get("properties") or {}).get("desired")),
        ("Created", entry.get("createdDateTimeUtc")),
        ("Last updated", entry.get("lastUpdatedDateTimeUtc")),
        ("ETag", entry.get("etag")),
        ("Primary key", keys.get("primaryKey")),
        ("Secondary key", keys.get("secondaryKey")),
    ]


def is_edge(entry: dict[str, Any]) -> bool:
    """Tell whether an enrollment, or an identity, is about IoT Edge devices."""
    return bool((entry.get("capabilities") or {}).get("iotEdge"))


def reprovision_name(policy: dict[str, Any] | None) -> str:
    """Return the official CLI's name of a reprovision policy; absent means the first."""
    if policy is None:
        return next(iter(REPROVISION_POLICIES))
    update = bool(policy.get("updateHubAssignment", True))
    migrate = bool(policy.get("migrateDeviceData", True))
    for name, known in REPROVISION_POLICIES.items():
        if (update, migrate) == (known["updateHubAssignment"], known["migrateDeviceData"]):
            return name
    return "never"
