"""A device as a row of the database, and the steps that store a new one with its twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from muster.errors import AlreadyExistsError
from muster.hub import credentials, twin_rows
from muster.hub.credentials import Credentials
from muster.hub.registry import SQL, Device
from muster.model.identity import AuthenticationType, IdentityRef, Thumbprints
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.auth.keyring import Keyring
    from muster.model.twin import Twin
    from muster.store.engine import Row

_PresenceColumns: TypeAlias = tuple[int | None, float | None, float | None, float | None]
_ThumbprintColumns: TypeAlias = tuple[str | None, str | None]
_DeviceColumns: TypeAlias = tuple[
    str, str, str, int, str | None, float, str, bytes | None, int, str | None
]


def stored(keyring: Keyring, hub: int, row: Row) -> Device:
    """Return the device in a row of `get_device` or `list_devices`.

    Args:
        keyring: opens its keys.
        hub: the hub's number.
        row: of the database.
    """
    (
        device_id,
        generation_id,
        etag,
        enabled,
        status_reason,
        status_updated_at,
        kind,
        sealed,
        iot_edge,
        parent_scope,
    ) = cast("_DeviceColumns", row[:10])
    ref = IdentityRef(hub, device_id)
    keys = credentials.unseal(keyring, ref, sealed)
    primary, secondary = cast("_ThumbprintColumns", row[15:17])
    return Device(
        ref,
        generation_id,
        etag,
        bool(enabled),
        status_reason,
        status_updated_at,
        Credentials(AuthenticationType(kind), keys, Thumbprints(primary, secondary)),
        bool(iot_edge),
        parent_scope,
    )


def presence(row: Row) -> _PresenceColumns:
    """Return what such a row says of the device's connection, for `Connections.presence`."""
    return cast("_PresenceColumns", row[10:14])


def messages(row: Row) -> int:
    """Return how many cloud-to-device messages wait for the device of such a row."""
    return cast("int", row[14])


def to_params(keyring: Keyring, device: Device) -> dict[str, str | bytes | int | float | None]:
    """Return the parameters that write a device."""
    return {
        "hub": device.ref.hub,
        "device_id": device.ref.device_id,
        "generation_id": device.generation_id,
        "etag": device.etag,
        "enabled": int(device.enabled),
        "status_reason": device.status_reason,
        "status_updated_at": device.status_updated_at,
        "iot_edge": int(device.iot_edge),
        "parent_scope": device.parent_scope,
        **device.credentials.to_params(keyring, device.ref),
    }


def insertion(keyring: Keyring, device: Device, twin: Twin) -> list[Statement]:
    """Return the steps that store a new device with its twin.

    A write of them raises `AlreadyExistsError`, code `device-exists`, for one that is there.
    """
    device_id = device.ref.device_id
    return [
        Statement(
            SQL["insert_device"],
            to_params(keyring, device),
            expect=1,
            otherwise=AlreadyExistsError(
                f"A device with ID '{device_id}' is already registered.",
                code="device-exists",
                subject=device_id,
            ),
        ),
        twin_rows.insert(device.ref, twin),
    ]
