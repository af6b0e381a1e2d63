"""What an MQTT client is sent at QoS 1: messages to its inputs, and from the cloud.

A message to an input is done when the client has acknowledged it; what is not acknowledged when
the connection ends comes again, in order. With QoS 0 a message is done when it has been written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.edge.hub.broker import inputs
from muster.errors import MusterError
from muster.net.tasks import spawn
from muster.wire.mqtt import codec, device_filters
from muster.wire.mqtt.device_filters import own_topic

if TYPE_CHECKING:
    from muster.edge.hub.heads import Services
    from muster.edge.hub.queue import Stored
    from muster.model.identity import IdentityRef
    from muster.net.mqtt import MqttPeer
    from muster.wire.mqtt.device_filters import TopicFilters

MAX_UNACKNOWLEDGED: Final = 64
"""Messages to inputs a client may leave without PUBACK before it gets more."""
ACKNOWLEDGE_S: Final = 60.0
"""A client that acknowledges nothing for so long is disconnected, so that it comes anew."""
CONGESTED: Final = 256 * 1024
"""Bytes on their way to a client that are enough for the moment."""

_LOOK_S: Final = 0.02
_PACKET_IDS: Final = 0xFFFF
_log = structlog.get_logger(__name__)


@final
class Deliveries:
    """Those of one connection.

    Args:
        services: of the edge hub.
        ref: whose.
        peer: the connection.
    """

    def __init__(self, services: Services, ref: IdentityRef, peer: MqttPeer) -> None:
        self._services = services
        self._ref = ref
        self._peer = peer
        self._own = own_topic(ref)
        self._outlet = services.queues.outlet(inputs(ref.module_id))
        self._input_qos: int | None = None
        self._message_qos: int | None = None
        self._last_packet_id = 0
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._room = asyncio.Semaphore(MAX_UNACKNOWLEDGED)
        self._feeding: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def takes_messages(self) -> bool:
        """Whether the client has subscribed to cloud-to-device messages."""
        return self._message_qos is not None

    def subscribed(self, filters: TopicFilters | None) -> None:
        """Deliver from now on what these filters ask for."""
        ref = self._ref
        self._message_qos = device_filters.granted(filters, device_filters.message_filters(ref))
        self._input_qos = device_filters.granted(filters, device_filters.input_filters(ref))
        if self._input_qos is not None and self._feeding is None and not self._closed:
            # Inputs are of modules of this device; those of others have theirs elsewhere.
            if ref.device_id == self._services.device_id:
                self._feeding = spawn(self._feed(), "edge hub inputs")
        elif self._input_qos is None and self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    async def devicebound(self, bag: str, body: bytes) -> bool:
        """Send a cloud-to-device message; tell whether the client has it."""
        if self._message_qos is None or self._peer.closed:
            return False
        topic = f"{self._own}/messages/devicebound/{bag}"
        async with asyncio.timeout(ACKNOWLEDGE_S):
            return await self._write(topic, body, self._message_qos)

    def acknowledged(self, packet_id: int) -> None:
        """Take a PUBACK; one for nothing is ignored."""
        future = self._waiting.pop(packet_id, None)
        if future is not None and not future.done():
            future.set_result(True)

    def close(self) -> None:
        """The connection is over: what was not acknowledged is for the next one."""
        self._closed = True
        self._input_qos = self._message_qos = None
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(False)

    async def _feed(self) -> None:
        """Send what comes to the inputs of a module."""
        outlet = self._outlet
        try:
            await outlet.rewind()
            while True:
                outlet.ready.clear()
                batch = await outlet.take()
                for message in batch:
                    await self._room.acquire()
                    await self._uncongested()
                    # Written here and now: whoever comes next looks at what is on its way.
                    topic = f"{self._own}/inputs/{message.bag}"
                    taken = self._write(topic, message.body, self._input_qos)
                    spawn(self._finish(message, taken), "edge hub input")
                if not batch:
                    await outlet.ready.wait()
        except MusterError as error:
            self._peer.close(error.message)

    async def _uncongested(self) -> None:
        """Return when the client has read most of what is on its way."""
        peer = self._peer
        while peer.buffered > CONGESTED and not peer.closed:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(_LOOK_S)

    async def _finish(self, message: Stored, taken: asyncio.Future[bool]) -> None:
        try:
            async with asyncio.timeout(ACKNOWLEDGE_S):
                if await taken:
                    self._outlet.done([message])
        except TimeoutError:
            _log.warning("client does not acknowledge", identity=self._ref.text)
            self._peer.close("messages are not acknowledged")
        finally:
            self._room.release()

    def _write(self, topic: str, body: bytes, qos: int | None) -> asyncio.Future[bool]:
        """Send; the future tells whether the client has it, or that the connection is over."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if qos is None or self._peer.closed:
            taken.set_result(False)
        elif qos:
            packet_id = self._next_packet_id()
            self._waiting[packet_id] = taken
            self._peer.write(codec.encode_publish(topic, body, 1, packet_id))
        else:
            self._peer.write(codec.encode_publish(topic, body))
            taken.set_result(True)
        return taken

    def _next_packet_id(self) -> int:
        """Return a packet ID that nothing waits under. The client's own IDs are others."""
        while True:
            self._last_packet_id = self._last_packet_id % _PACKET_IDS + 1
            if self._last_packet_id not in self._waiting:
                return self._last_packet_id
