"""Cloud-to-device messages on MQTT: topic, window, acknowledgement (hub-device.md 2.3, 2.4, 2.6).

PUBACK completes a message; MQTT has no word for rejecting or abandoning. What is not acknowledged
when the connection ends is available again at once, and a resumed session gets it right after
CONNACK. With QoS 0 a message is completed when it has been written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from muster.errors import MusterError, PreconditionFailedError
from muster.model.identity import wire_time
from muster.model.queued_message import Ack
from muster.net.tasks import spawn
from muster.wire.mqtt import codec, device_filters, property_bag
from muster.wire.mqtt.device_filters import own_topic

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muster.hub.cloud_to_device import CloudToDevice
    from muster.model.identity import IdentityRef
    from muster.model.queued_message import Delivery
    from muster.net.mqtt import MqttPeer
    from muster.wire.mqtt.device_filters import TopicFilters

MAX_UNACKNOWLEDGED: Final = 16
"""Messages a client may leave without PUBACK before it gets more (hub-device.md 2.2)."""

_PACKET_IDS: Final = 0xFFFF


def granted(ref: IdentityRef, filters: TopicFilters | None) -> int | None:
    """Return the QoS at which a session wants messages, `None` when it does not."""
    return device_filters.granted(filters, device_filters.message_filters(ref))


def topic(ref: IdentityRef, delivery: Delivery) -> str:
    """Return the topic of a message, its properties included.

    There is always a property bag, `%24.to` first: C# fails without one, and the C SDK compares
    with the escaped names (hub-device.md 0.3).
    """
    message = delivery.message
    address = f"{own_topic(ref)}/messages/devicebound"
    properties: list[tuple[str, str | None]] = [("$.to", message.to or f"/{address}")]
    system = (
        ("$.mid", message.message_id),
        ("$.cid", message.correlation_id),
        ("$.uid", message.user_id),
        ("$.ct", message.content_type),
        ("$.ce", message.content_encoding),
        ("$.exp", None if message.expires_at is None else wire_time(message.expires_at)),
        ("iothub-ack", None if message.ack is Ack.NONE else message.ack.value),
    )
    properties += [(name, value) for name, value in system if value is not None]
    properties += message.properties.items()
    return f"{address}/{property_bag.encode(properties)}"


@final
class Devicebound:
    """The messages of one connection.

    Args:
        ref: whose.
        messages: where they wait.
        peer: the connection.
    """

    __slots__ = (
        "_last_packet_id",
        "_more",
        "_peer",
        "_qos",
        "_receiver",
        "_ref",
        "_unacknowledged",
        "_working",
    )

    def __init__(self, ref: IdentityRef, messages: CloudToDevice, peer: MqttPeer) -> None:
        self._ref = ref
        self._peer = peer
        self._receiver = messages.attach(ref, self._wake)
        self._qos: int | None = None
        self._unacknowledged: dict[int, str] = {}
        self._last_packet_id = 0
        self._more = False
        self._working = False

    def subscribed(self, qos: int | None) -> None:
        """Deliver from now on at a QoS, or with `None` not any more."""
        self._qos = qos
        self._wake()

    def acknowledged(self, packet_id: int) -> None:
        """Take a PUBACK; one for nothing is ignored."""
        token = self._unacknowledged.pop(packet_id, None)
        if token is not None:
            spawn(self._completed(self._receiver.complete(token)), "mqtt message completion")
            self._go_on()

    def close(self) -> None:
        """The connection is over: what was not acknowledged is for the next one."""
        self._qos = None
        self._receiver.close()

    def _wake(self) -> None:
        self._more = True
        self._go_on()

    def _go_on(self) -> None:
        if self._more and not self._working and self._room():
            self._working = True
            spawn(self._deliver(), "mqtt messages")

    def _room(self) -> int:
        """Return how many messages may be sent now."""
        if self._qos is None or self._peer.closed:
            return 0
        return MAX_UNACKNOWLEDGED - len(self._unacknowledged)

    async def _deliver(self) -> None:
        try:
            while self._more and (room := self._room()):
                self._more = False
                found = await self._receiver.take(room)
                if len(found) == room:
                    self._more = True
                for delivery in found:
                    await self._send(delivery)
        except MusterError as error:
            self._peer.close(error.message)
        finally:
            self._working = False

    async def _send(self, delivery: Delivery) -> None:
        name = topic(self._ref, delivery)
        if self._qos:
            packet_id = self._next_packet_id()
            self._unacknowledged[packet_id] = delivery.lock_token
            self._peer.write(codec.encode_publish(name, delivery.message.body, 1, packet_id))
        elif self._qos == 0 and not self._peer.closed:
            self._peer.write(codec.encode_publish(name, delivery.message.body))
            await self._completed(self._receiver.complete(delivery.lock_token))
        else:
            # Unsubscribed meanwhile.
            self._receiver.let_go(delivery.lock_token)

    async def _completed(self, completion: Coroutine[Any, Any, None]) -> None:
        try:
            await completion
        except PreconditionFailedError:
            # Purged, or deleted with the device, while the client had it.
            return
        except MusterError as error:
            # It was not completed and will be delivered again.
            self._peer.close(error.message)

    def _next_packet_id(self) -> int:
        """Return a packet ID that no message waits under. The client's own IDs are others."""
        while True:
            self._last_packet_id = self._last_packet_id % _PACKET_IDS + 1
            if self._last_packet_id not in self._unacknowledged:
                return self._last_packet_id


def telemetry_topic(ref: IdentityRef) -> str:
    """Return the topic an identity sends telemetry to, without a property bag."""
    return f"{own_topic(ref)}/messages/events"
