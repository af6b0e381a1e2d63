"""Settings of the service, as `muster up` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

DEFAULT_DATA_DIR: Final = "muster-data"
DEFAULT_HTTPS_PORT: Final = 443
FALLBACK_HTTPS_PORT: Final = 8443
"""Served instead of 443 where an ordinary user may not bind that (design.md 3)."""
DEFAULT_MQTT_PORT: Final = 8883
DEFAULT_AMQP_PORT: Final = 5671


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance needs to know.

    Attributes:
        data_dir: where everything that must survive is kept.
        listen: address to bind; empty for all addresses of the machine.
        hostname: the name devices and operators reach the provisioning service by.
        hubs: host names of the local hubs; those that do not exist yet are created and linked.
            Empty: one hub with the service's own host name.
        https_port: port of HTTPS and WebSockets; `None` for 443, or 8443 where that is barred.
        mqtt_port: port of MQTT over TLS.
        amqp_port: port of AMQP over TLS.
        amqp_plain_port: port of AMQP without TLS, for clients that insist on it; 0 for none.
        partitions: partitions of each hub's telemetry; fixed when a hub's log is first made.
        retention_s: how long telemetry is kept, in seconds.
        retention_bytes: how much telemetry a hub keeps at most.
        files_dir: below it file endpoints of hubs write; `None` for `files` in `data_dir`.
    """

    data_dir: Path
    listen: str = ""
    hostname: str = "localhost"
    hubs: tuple[str, ...] = ()
    https_port: int | None = None
    mqtt_port: int = DEFAULT_MQTT_PORT
    amqp_port: int = DEFAULT_AMQP_PORT
    amqp_plain_port: int = 0
    partitions: int = 4
    retention_s: float = 7 * 86_400.0
    retention_bytes: int = 10 * 1024**3
    files_dir: Path | None = None


class Ports(msgspec.Struct, frozen=True, rename="camel"):
    """Ports an instance serves; `amqp_plain` is `None` unless it was asked for."""

    https: int
    mqtt: int
    amqp: int
    amqp_plain: int | None = None


class HubInfo(msgspec.Struct, frozen=True, rename="camel"):
    """How to reach one hub: as an operator, and as a reader of its events.

    Attributes:
        fault_injection: faults may be injected into its traffic on purpose.
    """

    host: str
    connection_string: str
    event_hub_connection_string: str
    fault_injection: bool = False


class InstanceInfo(msgspec.Struct, frozen=True, rename="camel"):
    """How to reach an instance: what `muster info --json` prints (design.md 3).

    Holds connection strings, so it lies in the data directory with mode 0600.

    Attributes:
        address: where programs on the same machine reach its HTTPS port, whatever names they
            know: `127.0.0.1:443`.
        dps_fault_injection: faults may be injected into registrations on purpose.
    """

    id_scope: str
    dps_host: str
    dps_connection_string: str
    hubs: list[HubInfo]
    ca_file: str
    console_url: str | None
    ports: Ports
    version: str
    pid: int
    address: str
    dps_fault_injection: bool = False
