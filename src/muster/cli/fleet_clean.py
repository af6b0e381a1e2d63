"""Deleting what a simulation has left behind: its devices, their records, and a group it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from muster.cli.failures import FailedError, RefusedError
from muster.cli.fleet_plan import GROUPS
from muster.cli.progress import Progress
from muster.terminal.output import remark

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_BULK: Final = 100
"""Identities in one bulk operation (hub-service.md 1.1)."""


def clean(
    invocation: Invocation,
    assigned: dict[str, list[str]],
    registration_ids: list[str],
    *,
    group: str | None,
) -> None:
    """Delete the devices.

    Args:
        invocation: where the service is.
        assigned: device IDs by hub.
        registration_ids: of the devices.
        group: the enrollment group that was created for them, if any.

    Raises:
        FailedError: not all could be deleted.
    """
    dps = invocation.dps()
    if group is not None:
        dps.delete(GROUPS, group, if_match="*")
    total = sum(map(len, assigned.values()))
    left = 0
    with Progress("Deleting devices", max(total, 1)) as progress:
        for host, device_ids in assigned.items():
            hub = invocation.hub(host)
            for start in range(0, len(device_ids), _BULK):
                batch = device_ids[start : start + _BULK]
                left += _delete(hub, batch)
                progress.advance(len(batch))
    for registration_id in registration_ids:
        _forget(dps, registration_id)
    if left:
        raise FailedError(
            f"{left:,} of {total:,} devices could not be deleted", next_step="muster device list"
        )
    remark(f"{total:,} devices are deleted.")


def _delete(hub: RestClient, device_ids: list[str]) -> int:
    entries = [{"id": device_id, "importMode": "delete"} for device_id in device_ids]
    result: dict[str, Any] = hub.post("/devices", body=entries)
    return len(result.get("errors") or ())


def _forget(dps: RestClient, registration_id: str) -> None:
    try:
        dps.delete("/registrations", registration_id, if_match="*")
    except RefusedError as error:
        if error.status != 404:
            raise
