"""Who this device is to its hub, and who its modules are (edge.md 2.2, 2.5)."""

from __future__ import annotations

from typing import Final

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
            provisioning service (edge.md 0.2).
    """

    hub_host: str
    device_id: str
    key: bytes

    def __repr__(self) -> str:
        return f"DeviceIdentity(hub_host={self.hub_host!r}, device_id={self.device_id!r}, key=***)"


class ModuleIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a module of this device.

    Attributes:
        module_id: its ID, for example `$edgeAgent`.
        generation_id: of the identity, as the hub says it.
        key: the module's primary key, raw bytes.
    """

    module_id: str
    generation_id: str
    key: bytes

    def __repr__(self) -> str:
        return (
            f"ModuleIdentity(module_id={self.module_id!r}, "
            f"generation_id={self.generation_id!r}, key=***)"
        )


def container_name(module_id: str) -> str:
    """Return what a module is called on the device: a system module has no `$` (edge.md 3.3)."""
    return module_id.removeprefix("$")
