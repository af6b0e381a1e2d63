"""Registration records: what became of a device that proved itself (dps.md 1.6, 3.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

ASSIGNING: Final = "assigning"
ASSIGNED: Final = "assigned"
FAILED: Final = "failed"
DISABLED: Final = "disabled"

INITIAL_ASSIGNMENT: Final = "initialAssignment"
DEVICE_DATA_MIGRATED: Final = "deviceDataMigrated"
DEVICE_DATA_RESET: Final = "deviceDataReset"
REPROVISIONED_TO_INITIAL: Final = "reprovisionedToInitialAssignment"


class RegistrationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest outcome for one registration ID.

    Attributes:
        registration_id: as the device spelt it first.
        created_at: first time the device proved itself.
        updated_at: latest time.
        etag: the same string for devices and for services.
        status: assigned, failed or disabled.
        substatus: how it came to its hub; only when assigned.
        assigned_hub: host name of the hub; kept when a later attempt fails.
        first_hub: hub of the first assignment.
        device_id: its identity in that hub.
        error_code: official number, when failed.
        error_message: for the device's log, when failed.
        group_id: enrollment group it registered through, absent for an individual enrollment.
    """

    registration_id: str
    created_at: datetime
    updated_at: datetime
    etag: str
    status: str
    substatus: str | None = None
    assigned_hub: str | None = None
    first_hub: str | None = None
    device_id: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    group_id: str | None = None
