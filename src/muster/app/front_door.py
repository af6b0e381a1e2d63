"""Which service an MQTT client talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from muster.net.mqtt import Accepted, MqttAcceptor, MqttPeer, Refused
    from muster.wire.mqtt.packets import Connect


@final
class MqttFrontDoor:
    """Sends each MQTT client where its user name says: to the provisioning service or a hub.

    One listener serves both (design.md 3): `{idScope}/registrations/{id}/api-version=…` is a
    device that wants to register (dps.md 1.3), anything else one that is at home in a hub.
    """

    def __init__(self, provisioning: MqttAcceptor, hub: MqttAcceptor) -> None:
        self._provisioning = provisioning
        self._hub = hub

    async def accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        """Hand the client to the service it talks to."""
        parts = (connect.username or "").split("/", 3)
        registers = len(parts) > 2 and parts[1].lower() == "registrations"
        return await (self._provisioning if registers else self._hub).accept(connect, peer)
