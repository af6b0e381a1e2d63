"""What the configuration of a device says, whichever file format it came from (edge.md 4)."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

DEFAULT_HOME: Final = Path("/var/lib/aziot/edged")
"""Directory of all state."""

JsonObject: TypeAlias = dict[str, Any]


class Reprovisioning(enum.StrEnum):
    """When a device that has an identity asks the provisioning service again (edge.md 2.6)."""

    DYNAMIC = "Dynamic"
    ALWAYS_ON_STARTUP = "AlwaysOnStartup"
    ON_ERROR_ONLY = "OnErrorOnly"


class SymmetricKeyAttestation(msgspec.Struct, frozen=True, kw_only=True):
    """Proof by a symmetric key.

    Attributes:
        registration_id: with the provisioning service.
        key: individual or derived, raw bytes.
    """

    registration_id: str
    key: bytes

    def __repr__(self) -> str:
        return f"SymmetricKeyAttestation(registration_id={self.registration_id!r}, key=***)"


class X509Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """Proof by a client certificate.

    Attributes:
        registration_id: `None` for the certificate's common name.
        certificate: PEM file, leaf first.
        private_key: PEM file.
    """

    registration_id: str | None
    certificate: Path
    private_key: Path


class TpmAttestation(msgspec.Struct, frozen=True, kw_only=True):
    """Proof by a TPM."""

    registration_id: str


class DpsProvisioning(msgspec.Struct, frozen=True, kw_only=True):
    """The device registers with a provisioning service.

    Attributes:
        endpoint: `https://host[:port]`.
        id_scope: of the service.
        attestation: how the device proves who it is.
        payload: custom data sent with each registration; `None` for none.
    """

    endpoint: str
    id_scope: str
    attestation: SymmetricKeyAttestation | X509Attestation | TpmAttestation
    payload: Path | None = None


class ManualProvisioning(msgspec.Struct, frozen=True, kw_only=True):
    """The device was given its hub and key, or certificate.

    Attributes:
        hub_host: its hub.
        device_id: its ID there.
        key: raw bytes; `None` where it has a certificate.
        certificate: PEM file; `None` where it has a key.
        private_key: PEM file of the certificate.
    """

    hub_host: str
    device_id: str
    key: bytes | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def __repr__(self) -> str:
        return f"ManualProvisioning(hub_host={self.hub_host!r}, device_id={self.device_id!r})"


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The network that container modules share.

    Attributes:
        name: of it.
        ipv6: whether it has IPv6.
        ipam: `Config` entries of the engine's IPAM, as the engine takes them.
    """

    name: str = "azure-iot-edge"
    ipv6: bool = False
    ipam: tuple[JsonObject, ...] = ()


class ContainerEngine(msgspec.Struct, frozen=True, kw_only=True):
    """The container engine (`moby_runtime`).

    Attributes:
        uri: `unix:///var/run/docker.sock`, `http://host:port`.
        network: for modules.
        elevated: whether modules may have privileges and capabilities
            (`allow_elevated_docker_permissions`).
    """

    uri: str = "unix:///var/run/docker.sock"
    network: Network = Network()
    elevated: bool = True


class ImageCollection(msgspec.Struct, frozen=True, kw_only=True):
    """When images that no module uses any more are removed (`image_garbage_collection`).

    Attributes:
        enabled: whether at all.
        every_days: days from one time to the next.
        age_s: seconds for which an image must have been out of use.
        at_minute: of the day, in the machine's local time.
    """

    enabled: bool = True
    every_days: int = 1
    age_s: int = 7 * 86_400
    at_minute: int = 0


class Sockets(msgspec.Struct, frozen=True, kw_only=True):
    """Where the local APIs are.

    Attributes:
        management: URI the daemon listens on.
        workload: likewise; the socket all modules may use.
        management_requests: requests at a time on one management socket.
        workload_requests: requests at a time on one workload socket.
    """

    management: str = "unix:///var/run/iotedge/mgmt.sock"
    workload: str = "unix:///var/run/iotedge/workload.sock"
    management_requests: int = 50
    workload_requests: int = 50


class EdgeCa(msgspec.Struct, frozen=True, kw_only=True):
    """The device's CA, which issues the certificates of its modules (edge.md 2.7).

    Attributes:
        certificate: PEM file of one that was brought; `None` to make one.
        private_key: its PEM file.
        lifetime_days: of one that is made.
        renew_at: part of its life after which one that was made is replaced.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    lifetime_days: int = 90
    renew_at: float = 0.8


class EdgeHubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the edge hub listens; a key of this runtime's own.

    Attributes:
        address: to bind; empty for all addresses.
        mqtt_port: the official SDKs know no other than 8883.
        https_port: for HTTPS and WebSockets; they know no other than 443.
        amqp_port: they know no other than 5671.
    """

    address: str = ""
    mqtt_port: int = 8883
    https_port: int = 443
    amqp_port: int = 5671


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says of the agent.

    Attributes:
        env: of it; `UpstreamProtocol`, `RuntimeLogLevel` and time constants of edge.md 5.3 count.
        image: accepted so that files of the official runtime work; the agent is built in.
    """

    env: dict[str, str] = {}
    image: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One device.

    Attributes:
        source: the file this came from, for messages.
        provisioning: how the device gets its identity; `None` for `source = "none"`.
        hostname: of this device, at most 64 characters.
        parent_hostname: of the edge device above it; `None` for none.
        home: directory of all state.
        reprovisioning: see `Reprovisioning`.
        trust_bundle: PEM file of further CAs to trust, of the hub and for modules.
        agent: see `AgentSettings`.
        edge_hub: see `EdgeHubSettings`.
        engine: see `ContainerEngine`.
        image_collection: see `ImageCollection`.
        sockets: see `Sockets`.
        edge_ca: see `EdgeCa`.
        additional_info: what the owner wants the management API to say of the device, besides.
    """

    source: Path
    provisioning: DpsProvisioning | ManualProvisioning | None
    hostname: str
    parent_hostname: str | None = None
    home: Path = DEFAULT_HOME
    reprovisioning: Reprovisioning = Reprovisioning.DYNAMIC
    trust_bundle: Path | None = None
    agent: AgentSettings = AgentSettings()
    edge_hub: EdgeHubSettings = EdgeHubSettings()
    engine: ContainerEngine = ContainerEngine()
    image_collection: ImageCollection = ImageCollection()
    sockets: Sockets = Sockets()
    edge_ca: EdgeCa = EdgeCa()
    additional_info: dict[str, str] = {}
