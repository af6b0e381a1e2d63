"""Who this device is to its hub, and who its modules are (edge.md 2.2, 2.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec

AGENT: Final = "$edgeAgent"
"""Module ID of the agent."""
HUB: Final = "$edgeHub"
"""Module ID of the edge hub."""


class DeviceIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity that provisioning gave this device.

    Attributes:
        hub_host: host name of the assigned hub, a port after a colon where it is not the usual one.
        device_id: its ID there.
        key: of the device's symmetric key, raw bytes; signs for the hub as it did for the
            provisioning service (edge.md 0.2). `None` where it has a certificate.
        certificate: PEM file; `None` where it has a key.
        private_key: PEM file of the certificate.
    """

    hub_host: str
    device_id: str
    key: bytes | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def __repr__(self) -> str:
        return f"DeviceIdentity(hub_host={self.hub_host!r}, device_id={self.device_id!r}, key=***)"


class ModuleIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a module of this device.

    Attributes:
        module_id: its ID, for example `$edgeAgent`.
        generation_id: of the identity, as the hub says it.
        key: the module's primary key, raw bytes.
        managed_by: who made it, as the hub says it; `IotEdge` where a device did.
        is_current: False where the hub has said that it has other keys: this device lost the one
            that it had derived them of, or has never set them.
    """

    module_id: str
    generation_id: str
    key: bytes
    managed_by: str = ""
    is_current: bool = True

    def __repr__(self) -> str:
        return (
            f"ModuleIdentity(module_id={self.module_id!r}, "
            f"generation_id={self.generation_id!r}, key=***)"
        )


class ModuleIdentities(Protocol):
    """The identities of this device's modules: the hub's, and known offline too.

    Every call may raise `upstream.base.HubError` where the hub refuses, and
    `upstream.base.NoLinkError` where it is out of reach and what was asked for is not known.
    """

    async def all(self) -> list[ModuleIdentity]:
        """Return the hub's identities of this device; those last known while it is away."""

    async def ensure(self, module_id: str) -> ModuleIdentity:
        """Make an identity, or bring it up to date; the one last known while the hub is away."""

    async def remove(self, module_id: str) -> None:
        """Delete an identity; nothing if there is none."""


def container_name(module_id: str) -> str:
    """Return what a module is called on the device: a system module has no `$` (edge.md 3.3)."""
    return module_id.removeprefix("$")
