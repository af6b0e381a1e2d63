"""The hubs devices are assigned to: the port to one hub, and the list of those that are linked.

A hub may live in this process (`muster.local_hub`) or anywhere its public REST API can be reached
(`remote_hub.py`); both are the same to provisioning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import msgspec

from muster.auth.keyring import Keyring
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import ConflictError, InvalidArgumentError, NotFoundError
from muster.model.enrollment import JsonObject
from muster.model.identity import Thumbprints
from muster.provisioning.allocation import Candidate
from muster.store.engine import Engine, Statement
from muster.store.queries import load

_SQL = load("linked_hubs")
_MAX_WEIGHT: Final = 1_000


class ProvisionedDevice(msgspec.Struct, frozen=True):
    """A device as its hub shall have it.

    Attributes:
        device_id: its identity.
        keys: the keys the device proved (dps.md 4.7).
        iot_edge: whether it is an IoT Edge device.
        tags: initial tags, used when the identity is created.
        desired: initial desired properties, likewise.
    """

    device_id: str
    keys: SymmetricKeys
    iot_edge: bool
    tags: JsonObject
    desired: JsonObject


class ModuleSnapshot(msgspec.Struct):
    """A module on its way to another hub.

    Attributes:
        module_id: its ID.
        managed_by: who looks after it.
        keys: its keys.
        tags: of its twin.
        desired: desired properties of its twin.
        thumbprints: of its certificates; `None` for a module that goes by its keys.
    """

    module_id: str
    managed_by: str | None
    keys: SymmetricKeys
    tags: JsonObject
    desired: JsonObject
    thumbprints: Thumbprints | None = None


class DeviceSnapshot(msgspec.Struct):
    """What moves with a device to another hub (dps.md 4.4)."""

    tags: JsonObject
    desired: JsonObject
    modules: list[ModuleSnapshot]


class LinkedHub(Protocol):
    """One hub, as provisioning uses it.

    Every call raises a `MusterError` when the hub refuses or cannot be reached.
    """

    @property
    def host(self) -> str:
        """Host name the devices will use."""

    @property
    def local(self) -> bool:
        """Whether calls finish at once, because the hub is in this process."""

    async def provision(
        self, device: ProvisionedDevice, also: Sequence[Statement] = (), *, known: bool = True
    ) -> bool:
        """Create the device with its twin and system modules, or update keys and capability.

        Writes nothing when nothing differs.

        Args:
            device: as it shall be.
            also: what a hub that shares the store commits with the device when it creates it.
            known: whether the device is likely to be there.

        Returns:
            Whether `also` was written.
        """

    async def export(self, device_id: str) -> DeviceSnapshot | None:
        """Return what a migration takes along, `None` when there is no such device."""

    async def restore(self, device: ProvisionedDevice, snapshot: DeviceSnapshot) -> None:
        """Create the device with what it brings from its old hub."""

    async def delete(self, device_id: str) -> None:
        """Delete the device if it is there."""

    async def is_enabled(self, device_id: str) -> bool | None:
        """Tell whether the device is enabled; `None` when there is no such device."""

    async def set_enabled(self, device_id: str, *, enabled: bool, reason: str) -> int | None:
        """Enable or disable the device; disabling drops its sessions at once.

        Returns:
            How many sessions were dropped; `None` when there is no such device.
        """

    async def close(self) -> None:
        """Release what the link holds."""


class HubLink(msgspec.Struct, frozen=True):
    """How a hub takes part.

    Attributes:
        host: its host name, lower case.
        allocation_weight: its share, 1 to 1000.
        apply_allocation_policy: whether it gets any more devices.
        local: whether it lives in this process.
    """

    host: str
    allocation_weight: int = 1
    apply_allocation_policy: bool = True
    local: bool = True


class LinkedHubs:
    """All linked hubs.

    Args:
        engine: where the links are kept.
        keyring: seals connection strings.
        local: returns the hub of that host in this process.
        remote: returns a hub behind a connection string.
    """

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        local: Callable[[str], LinkedHub],
        remote: Callable[[str], LinkedHub],
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._local = local
        self._remote = remote
        self._links: dict[str, HubLink] = {}
        self._hubs: dict[str, LinkedHub] = {}

    async def open(self) -> None:
        """Load all links; call once, after the local hubs are there."""
        for host, weight, apply, sealed in await self._engine.read(_SQL["all"], {}):
            link = HubLink(str(host), int(weight or 1), bool(apply), sealed is None)
            connection_string = (
                self._keyring.open(sealed, _context(link.host))
                if isinstance(sealed, bytes)
                else None
            )
            self._keep(link, connection_string)

    def all(self) -> list[HubLink]:
        """Return every link, by host."""
        return [self._links[host] for host in sorted(self._links)]

    def link(self, host: str) -> HubLink:
        """Return one link.

        Raises:
            NotFoundError: code `hub-not-linked`.
        """
        found = self._links.get(host.lower())
        if found is None:
            raise NotFoundError(f"The hub '{host}' is not linked", code="hub-not-linked")
        return found

    def find(self, host: str | None) -> LinkedHub | None:
        """Return a linked hub, or `None`."""
        return self._hubs.get(host.lower()) if host else None

    def candidates(self, named: list[str] | None) -> list[Candidate]:
        """Return the hubs a device may get, of those that take part (dps.md 4.3).

        Args:
            named: hosts of the enrollment; all linked hubs when empty.
        """
        wanted = {host.lower() for host in named or self._links}
        return [
            Candidate(link.host, link.allocation_weight)
            for link in self.all()
            if link.host in wanted and link.apply_allocation_policy
        ]

    async def put(self, link: HubLink, connection_string: str | None = None) -> None:
        """Link a hub, or change how it takes part.

        Args:
            link: the wish. A remote hub keeps its connection string when none is given.
            connection_string: of a remote hub, with RegistryWrite and ServiceConnect.

        Raises:
            InvalidArgumentError: weight out of range, or a remote hub without connection string.
        """
        if not 1 <= link.allocation_weight <= _MAX_WEIGHT:
            raise InvalidArgumentError(
                f"The allocation weight of a hub must be from 1 to {_MAX_WEIGHT}",
                code="invalid-allocation-weight",
            )
        known = self._links.get(link.host)
        if not link.local and connection_string is None and (known is None or known.local):
            raise InvalidArgumentError(
                "A remote hub needs its connection string", code="invalid-connection-string"
            )
        sealed: bytes | None = None
        if connection_string is not None:
            sealed = self._keyring.seal(connection_string, _context(link.host))
        elif not link.local:
            rows = await self._engine.read(_SQL["all"], {})
            sealed = cast("bytes", next(row[3] for row in rows if row[0] == link.host))
        await self._engine.write(
            Statement(
                _SQL["put"],
                {
                    "host": link.host,
                    "allocation_weight": link.allocation_weight,
                    "apply_allocation_policy": int(link.apply_allocation_policy),
                    "connection_string": sealed,
                },
            )
        )
        if connection_string is None and known is not None:
            self._links[link.host] = link
            return
        replaced = self._hubs.get(link.host)
        self._keep(link, connection_string)
        if replaced is not None:
            await replaced.close()

    async def close(self) -> None:
        """Release what the links hold."""
        for hub in self._hubs.values():
            await hub.close()

    async def unlink(self, host: str) -> None:
        """Take a hub out. Devices already assigned to it stay there until they register again.

        Raises:
            NotFoundError: code `hub-not-linked`.
            ConflictError: it is the last one; code `last-hub`.
        """
        link = self.link(host)
        if len(self._links) == 1:
            raise ConflictError(
                "The last hub cannot be unlinked; link another one first", code="last-hub"
            )
        await self._engine.write(Statement(_SQL["delete"], {"host": link.host}))
        del self._links[link.host]
        await self._hubs.pop(link.host).close()

    def _keep(self, link: HubLink, connection_string: str | None) -> None:
        self._links[link.host] = link
        self._hubs[link.host] = (
            self._local(link.host) if connection_string is None else self._remote(connection_string)
        )


def _context(host: str) -> str:
    return f"linked-hub:{host}"
