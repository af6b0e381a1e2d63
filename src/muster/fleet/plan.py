"""What a simulated fleet is to do, and where."""

from __future__ import annotations

from typing import Final

import msgspec

MIN_MESSAGE: Final = 32
"""Bytes of the smallest message: it holds its number."""
MAX_MESSAGE: Final = 262_144
"""Bytes of the largest message that a hub takes (hub-device.md 2.2)."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A service that speaks MQTT over TLS.

    Attributes:
        name: what it is called, also by its certificate.
        address: what to connect to; its name unless told.
        port: likewise.
    """

    name: str
    address: str = ""
    port: int = 8883

    @property
    def target(self) -> str:
        """What to connect to."""
        return self.address or self.name


class HubPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """An access policy of a hub that may connect as any device or module."""

    name: str
    key: bytes

    def __repr__(self) -> str:
        return f"HubPolicy(name={self.name!r}, key=***)"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation. Times in seconds, sizes in bytes.

    Attributes:
        count: devices.
        prefix: their registration IDs are this and a number from 1.
        dps: the provisioning service.
        id_scope: its ID scope.
        group_key: of the enrollment group the devices belong to.
        hubs: where hubs are that are not where their names say; by name in lower case.
        policies: of hubs, by name in lower case; needed by `edge` only.
        rate: telemetry messages a second and device; 0 for none.
        size: of a message.
        report_every_s: between reported properties of a device; 0 for none but the answers to
            desired properties.
        edge: each device is an IoT Edge device and connects as its `$edgeAgent`.
        at_once: devices that may register or connect at a time.
        token_lifetime_s: of SAS tokens; a new one is used when an eighth is left.
        keep_alive_s: promised to the hub; the C SDK's (hub-device.md 2.1).
    """

    count: int
    prefix: str
    dps: Place
    id_scope: str
    group_key: bytes
    hubs: dict[str, Place] = {}
    policies: dict[str, HubPolicy] = {}
    rate: float = 0.1
    size: int = 256
    report_every_s: float = 60.0
    edge: bool = False
    at_once: int = 200
    token_lifetime_s: float = 3_600.0
    keep_alive_s: int = 240

    def __repr__(self) -> str:
        return f"Plan(count={self.count}, prefix={self.prefix!r}, dps={self.dps!r})"

    def registration_id(self, number: int) -> str:
        """Return the ID of a device; they are of one length, so that lists are in order."""
        return f"{self.prefix}{number:0{len(str(self.count))}d}"

    def hub(self, host: str) -> Place:
        """Return where the hub is that a device was assigned to.

        One of another service is taken to listen on the provisioning service's port: there is only
        the official one, but in tests.
        """
        return self.hubs.get(host.lower()) or Place(name=host, port=self.dps.port)
