"""The JSON devices send and get, the same on every transport (dps.md 1.5, 1.6)."""

from __future__ import annotations

from typing import Any

import msgspec

from muster.clock import format_time
from muster.errors import InvalidArgumentError
from muster.ids import registration_key
from muster.model import registration as model
from muster.model.registration import RegistrationRecord
from muster.net.routing import decode_json
from muster.provisioning.registrations import Operation


class DeviceRegistration(msgspec.Struct, rename="camel"):
    """What a device may send; all of it may be missing, and more may be there.

    Its `payload` is for the webhook of custom allocation (dps.md 4.5), which there is not yet.
    """

    registration_id: str | None = None
    tpm: Any = None


def check_registration(body: bytes, registration_id: str) -> DeviceRegistration:
    """Check the body of a register or lookup request; empty or blank is fine (dps.md 0.9).

    Args:
        body: as received.
        registration_id: of the address or user name, which the body's must be, too.

    Returns:
        What the device sent.

    Raises:
        InvalidArgumentError: it is no JSON object, or names another registration.
    """
    text = body.strip()
    sent: DeviceRegistration | None = None
    if text:
        sent = decode_json(text, DeviceRegistration | None)
    named = sent.registration_id if sent else None
    if named is not None and registration_key(named) != registration_key(registration_id):
        raise InvalidArgumentError(
            "Invalid RegistrationId", code="invalid-registration-id", subject=registration_id
        )
    return sent or DeviceRegistration()


def operation_json(operation: Operation) -> bytes:
    """Write the state of an operation."""
    shown: dict[str, Any] = {"operationId": operation.operation_id, "status": operation.status}
    if operation.record is not None:
        shown["registrationState"] = record_json(operation.record, for_device=True)
    return msgspec.json.encode(shown)


def polled_json(operation: Operation, registration_id: str) -> bytes:
    """Write the answer to a poll; while assigning it names the registration (dps.md 0.4)."""
    if operation.record is not None:
        return operation_json(operation)
    return msgspec.json.encode(
        {
            "operationId": operation.operation_id,
            "status": operation.status,
            "registrationState": {"registrationId": registration_id, "status": operation.status},
        }
    )


def record_json(record: RegistrationRecord, *, for_device: bool) -> dict[str, Any]:
    """Write a registration record; devices also learn their enrollment group."""
    assigned = record.status == model.ASSIGNED
    shown: dict[str, Any] = {
        "registrationId": record.registration_id,
        "createdDateTimeUtc": format_time(record.created_at),
        "assignedHub": record.assigned_hub if assigned else None,
        "deviceId": record.device_id if assigned else None,
        "status": record.status,
        "substatus": record.substatus,
        "errorCode": record.error_code,
        "errorMessage": record.error_message,
        "lastUpdatedDateTimeUtc": format_time(record.updated_at),
        "etag": record.etag,
    }
    if for_device and record.group_id:
        shown["symmetricKey"] = {"enrollmentGroupId": record.group_id}
    return {name: value for name, value in shown.items() if value is not None}


def encode(shown: dict[str, Any]) -> bytes:
    """Write any of the above as bytes."""
    return msgspec.json.encode(shown)
