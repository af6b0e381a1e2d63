"""Who connects to the hub, and through which door."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from muster import __version__
from muster.auth import sas_token
from muster.edge.identity import HUB
from muster.model.auth_chain import AuthChain
from muster.net.tunnel import Proxy
from muster.wire.mqtt.packets import Connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.edge.identity import DeviceIdentity, ModuleIdentity

HTTPS_PORT: Final = 443
MQTT_PORT: Final = 8883

_API_VERSION: Final = "2021-04-12"


class Transport(enum.StrEnum):
    """How MQTT travels."""

    MQTT = "mqtt"
    WEBSOCKET = "mqtt-ws"


def transports(upstream_protocol: str | None) -> tuple[Transport, ...]:
    """Return what is tried, in this order, for an `UpstreamProtocol` (edge.md 5.3).

    Protocols are compared without case. AMQP means MQTT, with the same choice of ports: decision
    22. Anything else is as if nothing was said.
    """
    return {
        "mqtt": (Transport.MQTT,),
        "mqttws": (Transport.WEBSOCKET,),
        "amqpws": (Transport.WEBSOCKET,),
    }.get((upstream_protocol or "").lower(), (Transport.MQTT, Transport.WEBSOCKET))


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The server to talk to: the hub itself, or the edge device above this one.

    Attributes:
        host: its name, which its certificate must be for.
        https_port: for HTTPS and WebSockets.
        mqtt_port: likewise.
        address: to connect to; `None` where the name is to be resolved.
        proxy: for HTTPS and WebSockets; MQTT does not go through it. `None` for none.
    """

    host: str
    https_port: int = HTTPS_PORT
    mqtt_port: int = MQTT_PORT
    address: str | None = None
    proxy: Proxy | None = None

    @classmethod
    def of(
        cls, hub_host: str, parent_hostname: str | None, environment: Mapping[str, str]
    ) -> Gateway:
        """Return the server for a hub, which may have an HTTPS port behind its name.

        Args:
            hub_host: `host[:port]`, as the provisioning service said it.
            parent_hostname: of the edge device above; `None` for none.
            environment: says the proxy, see `Proxy.of`.

        Raises:
            ValueError: what it says is no proxy.
        """
        host, _, port = (parent_hostname or hub_host).partition(":")
        return cls(
            host=host,
            https_port=int(port) if port.isdecimal() and len(port) < 6 else HTTPS_PORT,
            proxy=Proxy.of(host, environment),
        )


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """An identity that connects.

    Attributes:
        hub_host: its hub, as the provisioning service said it.
        device_id: of the device.
        module_id: `None` for the device itself.
        key: raw bytes of its own key; `None` where the connection has a client certificate. With a
            chain, of the edge hub that speaks for it.
        chain: over which an edge hub speaks for it; `None` when it speaks for itself.
    """

    hub_host: str
    device_id: str
    key: bytes | None
    module_id: str | None = None
    chain: AuthChain | None = None

    def __repr__(self) -> str:
        return f"Login(hub_host={self.hub_host!r}, client_id={self.client_id!r}, key=***)"

    @classmethod
    def of_module(cls, device: DeviceIdentity, module: ModuleIdentity) -> Login:
        """Return the login of a module of this device."""
        return cls(
            hub_host=device.hub_host,
            device_id=device.device_id,
            module_id=module.module_id,
            key=module.key,
        )

    @classmethod
    def on_behalf(cls, edge_hub: Login, chain: AuthChain) -> Login:
        """Return the login by which an edge hub speaks for an identity below it.

        Args:
            edge_hub: its own; it has a key.
            chain: from the identity up to that edge hub's device.
        """
        device_id, _, module_id = chain.identity.partition("/")
        return cls(
            hub_host=edge_hub.hub_host,
            device_id=device_id,
            module_id=module_id or None,
            key=edge_hub.key,
            chain=chain,
        )

    @property
    def hub_name(self) -> str:
        """What the hub is called where a port has no place."""
        return self.hub_host.partition(":")[0]

    @property
    def client_id(self) -> str:
        """The MQTT client ID."""
        return self.device_id if self.module_id is None else f"{self.device_id}/{self.module_id}"

    @property
    def path(self) -> str:
        """Where topics and URLs say who this is; IDs as they are."""
        path = f"devices/{self.device_id}"
        return path if self.module_id is None else f"{path}/modules/{self.module_id}"

    def token(self, expiry: int) -> str:
        """Return a token that is good until `expiry` (unix seconds).

        Raises:
            ValueError: there is no key.
        """
        if self.key is None:
            raise ValueError("an identity with a certificate has no token")
        signer = self.path
        if self.chain is not None:
            signer = f"devices/{self.chain.actor}/modules/{HUB}"
        return sas_token.sign(f"{self.hub_name}/{signer}", self.key, expiry)

    def connect(self, expiry: int, keep_alive_s: int) -> Connect:
        """Return a CONNECT with a token that is good until `expiry`.

        The session is a clean one: whoever connects subscribes anew and asks for the twin, so
        nothing that the hub kept for an earlier connection could add to that.
        """
        chain = "" if self.chain is None else f"&auth-chain={quote(self.chain.text, safe='')}"
        return Connect(
            self.client_id,
            f"{self.hub_name}/{self.client_id}/?api-version={_API_VERSION}"
            f"&DeviceClientType={quote(PRODUCT, safe='')}{chain}",
            None if self.key is None else self.token(expiry).encode(),
            clean_session=True,
            keep_alive_s=keep_alive_s,
        )


PRODUCT: Final = f"muster-edge/{__version__}"
"""What this device says it is."""
