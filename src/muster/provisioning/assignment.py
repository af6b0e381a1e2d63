"""Where a device goes: which hub it gets, and what happens to its identity there (dps.md 4.3, 4.4).

`choose` decides and touches nothing; `settle` carries it out in the hubs. Everything `settle` does
can be done again: a crash in between is healed by the device's next attempt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from muster.errors import NotFoundError
from muster.model import registration as model
from muster.model.decision import Fact
from muster.model.enrollment import IndividualEnrollment
from muster.provisioning import allocation
from muster.provisioning.authentication import Proof, RegisterRequest
from muster.provisioning.hubs import LinkedHub, LinkedHubs, ProvisionedDevice
from muster.provisioning.settings import ServiceSettings
from muster.store.engine import Statement

_LAST_STICKY_API: Final = "2018-04-01"
"""Up to here, devices without a policy stay on their hub (dps.md 4.4)."""


class Choice(msgspec.Struct):
    """A hub for a device, or none; `facts` say how it came about."""

    hub: LinkedHub | None
    facts: dict[str, Fact]


class Assignment:
    """Chooses hubs and moves devices into them.

    Args:
        hubs: all linked hubs.
        settings: has the service's default allocation policy.
    """

    def __init__(self, hubs: LinkedHubs, settings: ServiceSettings) -> None:
        self._hubs = hubs
        self._settings = settings

    def choose(self, request: RegisterRequest, proof: Proof) -> Choice:
        """Return the device's hub: the one it has if it is to stay, else the policy's choice."""
        entry, record = proof.entry, proof.record
        name = entry.allocation_policy or self._settings.allocation_policy
        facts: dict[str, Fact] = {"entry": proof.entry_name, "policy": name}
        current = self._hubs.find(record.assigned_hub) if record else None
        if current is not None and _stays(request, proof):
            return Choice(current, {**facts, "stays": True})
        candidates = self._hubs.candidates(entry.iot_hubs)
        policy = allocation.find(name)
        if policy is not None:
            with contextlib.suppress(NotFoundError):
                host = policy.choose(request.claim.registration_id, candidates)
                return Choice(self._hubs.find(host), facts)
        named = ", ".join(entry.iot_hubs or ())
        linked = ", ".join(each.host for each in candidates)
        return Choice(None, {**facts, "candidates": named or linked or "none"})

    def device(self, request: RegisterRequest, proof: Proof) -> ProvisionedDevice:
        """Return the identity the device shall have.

        Its ID never changes while there is a record (dps.md 4.4).
        """
        entry, record = proof.entry, proof.record
        wanted = isinstance(entry, IndividualEnrollment) and entry.device_id
        initial = entry.initial_twin
        return ProvisionedDevice(
            device_id=(record and record.device_id) or wanted or request.claim.registration_id,
            keys=proof.keys,
            iot_edge=entry.iot_edge,
            tags=(initial and initial.tags) or {},
            desired=initial.desired if initial else {},
        )

    def substatus(self, proof: Proof, hub: LinkedHub) -> str:
        """Return what `settle` does to the device, in the words of its record."""
        record, host = proof.record, hub.host.lower()
        old_host = record.assigned_hub if record else None
        if record is None or old_host is None or old_host.lower() == host:
            return model.INITIAL_ASSIGNMENT
        if record.first_hub and record.first_hub.lower() == host:
            return model.REPROVISIONED_TO_INITIAL
        return model.DEVICE_DATA_MIGRATED if _migrates(proof) else model.DEVICE_DATA_RESET

    async def settle(
        self, proof: Proof, hub: LinkedHub, device: ProvisionedDevice, also: Sequence[Statement]
    ) -> bool:
        """Bring the device into its hub.

        Args:
            proof: has the hub it comes from.
            hub: its hub from now on.
            device: as it shall be there.
            also: what may be committed with the device if it is new.

        Returns:
            Whether `also` was written.

        Raises:
            MusterError: a hub refuses or cannot be reached.
        """
        record = proof.record
        old_host = record.assigned_hub if record else None
        if old_host is None or old_host.lower() == hub.host.lower():
            return await hub.provision(device, also, known=record is not None)
        old = self._hubs.find(old_host)
        snapshot = await old.export(device.device_id) if old and _migrates(proof) else None
        if snapshot is None:
            await hub.provision(device)
        else:
            await hub.restore(device, snapshot)
        if old is not None:
            await old.delete(device.device_id)
        return False


def _migrates(proof: Proof) -> bool:
    policy = proof.entry.reprovision_policy
    return policy is None or policy.migrate_device_data


def _stays(request: RegisterRequest, proof: Proof) -> bool:
    policy = proof.entry.reprovision_policy
    if policy is None:
        return "" < request.api_version <= _LAST_STICKY_API
    return not policy.update_hub_assignment
