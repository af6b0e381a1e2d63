"""Which service a client talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.net.amqp import amqp_protocol_factory
from muster.net.mqtt import mqtt_protocol_factory
from muster.provisioning.endpoints.device_amqp import registers
from muster.wire.amqp.performatives import SaslInit

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from muster.app.hub_plane import HubPlane
    from muster.app.provisioning_plane import ProvisioningPlane
    from muster.ids import Randomness
    from muster.net.amqp import AmqpAcceptor, AmqpOwner, AmqpPeer, AmqpProtocolFactory
    from muster.net.mqtt import Answer, MqttAcceptor, MqttPeer, MqttProtocolFactory
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.events import Event
    from muster.wire.mqtt.packets import Connect


@final
class FrontDoors:
    """Makes the protocols of connections that may be for either service.

    Args:
        provisioning: the provisioning service.
        hubs: the hubs.
        randomness: for the name that AMQP clients know us by.
    """

    def __init__(
        self, provisioning: ProvisioningPlane, hubs: HubPlane, randomness: Randomness
    ) -> None:
        self._mqtt = MqttFrontDoor(provisioning.mqtt, hubs.mqtt)
        self._amqp = AmqpFrontDoor(provisioning.amqp, hubs.amqp)
        # As real hubs call themselves (hub-device.md 3.1).
        self._container_id = f"DeviceGateway_{randomness.token_bytes(16).hex()}"

    def mqtt(self, transport: str) -> MqttProtocolFactory:
        """Return what makes MQTT connections."""
        return mqtt_protocol_factory(self._mqtt, transport=transport)

    def amqp(self, transport: str) -> AmqpProtocolFactory:
        """Return what makes AMQP connections."""
        return amqp_protocol_factory(self._amqp, self._container_id, transport=transport)


@final
class MqttFrontDoor:
    """Sends each MQTT client where its user name says: to the provisioning service or a hub.

    One listener serves both (design.md 3): `{idScope}/registrations/{id}/api-version=…` is a
    device that wants to register (dps.md 1.3), anything else one that is at home in a hub.
    """

    def __init__(self, provisioning: MqttAcceptor, hub: MqttAcceptor) -> None:
        self._provisioning = provisioning
        self._hub = hub

    def accept(self, connect: Connect, peer: MqttPeer) -> Answer | Coroutine[Any, Any, Answer]:
        """Hand the client to the service it talks to."""
        parts = (connect.username or "").split("/", 3)
        registers = len(parts) > 2 and parts[1].lower() == "registrations"
        return (self._provisioning if registers else self._hub).accept(connect, peer)


@final
class AmqpFrontDoor:
    """Sends each AMQP client where its SASL user name says, as `MqttFrontDoor` does.

    `{idScope}/registrations/{id}` is a device that wants to register (dps.md 1.4). Whoever says
    nothing with SASL, or comes without it, is at home in a hub.
    """

    def __init__(self, provisioning: AmqpAcceptor, hub: AmqpAcceptor) -> None:
        self.provisioning = provisioning
        self.hub = hub

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> AmqpOwner:
        """Wait for the client's first words."""
        return _Newcomer(self, connection, peer)


@final
class _Newcomer:
    """A connection that belongs to a service as soon as it has said something."""

    __slots__ = ("_connection", "_door", "_owner", "_peer")

    def __init__(self, door: AmqpFrontDoor, connection: ServerConnection, peer: AmqpPeer) -> None:
        self._door = door
        self._connection = connection
        self._peer = peer
        self._owner: AmqpOwner | None = None

    def received(self, events: list[Event]) -> None:
        """Choose the service by the first event, and hand everything on to it."""
        owner = self._owner
        if owner is None:
            first = events[0]
            to_register = isinstance(first, SaslInit) and registers(first)
            service = self._door.provisioning if to_register else self._door.hub
            owner = self._owner = service.accept(self._connection, self._peer)
        owner.received(events)

    def writable(self) -> None:
        """More can be sent."""
        if self._owner is not None:
            self._owner.writable()

    def closed(self, reason: str) -> None:
        """The connection is over."""
        if self._owner is not None:
            self._owner.closed(reason)
