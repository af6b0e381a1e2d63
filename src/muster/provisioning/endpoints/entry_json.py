"""The JSON of enrollments towards operators (dps.md 3.2): with keys, or without them."""

from __future__ import annotations

from typing import Any

import msgspec

from muster.auth.symmetric_keys import SymmetricKeys
from muster.clock import format_time
from muster.model.enrollment import Entry, IndividualEnrollment
from muster.model.registration import RegistrationRecord
from muster.provisioning.endpoints import device_json
from muster.provisioning.entries import E, Stored

_TIMES = ("createdDateTimeUtc", "lastUpdatedDateTimeUtc")


def entry_json(stored: Stored[E], *, with_keys: bool) -> dict[str, Any]:
    """Write an entry; reading hides the keys, writing shows them (dps.md 0.14)."""
    entry: Entry = stored.entry
    shown: dict[str, Any] = msgspec.to_builtins(entry)
    shown["attestation"] = attestation_json(entry, stored.keys if with_keys else None)
    for name, moment in zip(
        _TIMES, (entry.created_date_time_utc, entry.last_updated_date_time_utc), strict=True
    ):
        if moment is not None:
            shown[name] = format_time(moment)
    return shown


def individual_json(
    stored: Stored[IndividualEnrollment], record: RegistrationRecord | None, *, with_keys: bool
) -> dict[str, Any]:
    """Write an individual enrollment with its registration state, `unassigned` at first."""
    shown = entry_json(stored, with_keys=with_keys)
    shown["registrationState"] = (
        device_json.record_json(record, for_device=False)
        if record
        else {"registrationId": stored.entry.registration_id, "status": "unassigned"}
    )
    return shown


def attestation_json(entry: Entry, keys: SymmetricKeys | None) -> dict[str, Any]:
    """Write an attestation mechanism; `keys` are shown when given."""
    symmetric_key = {"primaryKey": keys.primary, "secondaryKey": keys.secondary} if keys else {}
    return {"type": entry.attestation.type, "symmetricKey": symmetric_key}
