"""AMQP connections to the hubs, one `AmqpClient` for each (hub-device.md 3, hub-service.md 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.endpoints.amqp_client import AmqpClient

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_services import AmqpServices
    from muster.net.amqp import AmqpPeer
    from muster.wire.amqp.connection import ServerConnection


@final
class HubAmqpEndpoint:
    """An `AmqpAcceptor` for devices, modules, back ends and readers of events.

    Args:
        services: what connections need.
    """

    __slots__ = ("_services",)

    def __init__(self, services: AmqpServices) -> None:
        self._services = services

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> AmqpClient:
        """Take a connection."""
        return AmqpClient(self._services, connection, peer)
