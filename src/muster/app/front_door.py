"""Which service an MQTT client talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from muster.net.mqtt import Answer, MqttAcceptor, MqttPeer
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

    def accept(self, connect: Connect, peer: MqttPeer) -> Answer | Coroutine[Any, Any, Answer]:
        """Hand the client to the service it talks to."""
        parts = (connect.username or "").split("/", 3)
        registers = len(parts) > 2 and parts[1].lower() == "registrations"
        return (self._provisioning if registers else self._hub).accept(connect, peer)
