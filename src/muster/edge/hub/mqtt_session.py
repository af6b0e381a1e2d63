"""One MQTT connection of a module or leaf device to the edge hub (edge.md 6.3, hub-device.md 2).

Telemetry becomes one `Broker.accept` for each batch of packets, and PUBACKs leave when that has
been committed, in the order of their PUBLISHes. Everything else stands in one line and is served
in order, at the pace of `REQUEST_PACE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import structlog

from muster.edge.hub import errors
from muster.edge.hub.broker import Bag
from muster.edge.hub.mqtt_deliveries import Deliveries
from muster.errors import MusterError
from muster.model.pacing import Pace
from muster.net.mqtt_acks import Acknowledgements
from muster.net.paced_line import PacedLine
from muster.net.routing import decode_json
from muster.net.tasks import spawn
from muster.wire.mqtt import codec, device_filters, device_methods, device_names, device_twins
from muster.wire.mqtt.device_filters import TWIN_DESIRED, own_topic
from muster.wire.mqtt.device_names import TWIN_GET, TWIN_PATCH
from muster.wire.mqtt.packets import Puback, Publish, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from muster.edge.hub.authentication import Admission
    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef
    from muster.net.mqtt import MqttPeer
    from muster.net.mqtt_acks import Acknowledgement
    from muster.wire.mqtt.device_filters import TopicFilters
    from muster.wire.mqtt.packets import Packet, Will

MAX_PENDING: Final = 2 * 1024 * 1024
"""Bytes of a client's telemetry that may wait for the disk before it is not read any more."""
MAX_WAITING: Final = 64
"""Requests of a client that may stand in line likewise ..."""
MAX_WAITING_SIZE: Final = 512 * 1024
"""... and bytes of them."""
REQUEST_PACE: Final = Pace(rate=50.0, burst=50)
"""Requests of one client, seconds apart: a client whose request fails asks again at once."""

_Request: TypeAlias = "tuple[Publish | Subscribe | Unsubscribe, Acknowledgement | None]"
_log = structlog.get_logger(__name__)


@final
class ClientSession:
    """An `MqttSession` and a `clients.Link`.

    Args:
        services: of the edge hub.
        ref: who it is.
        peer: the connection.
        admission: that it may connect.
        filters: what a session of the last time has subscribed to, `None` for nothing.
        clean: the client asked for CleanSession 1: nothing is kept.
        will: its last words, already checked.
    """

    def __init__(
        self,
        services: Services,
        ref: IdentityRef,
        peer: MqttPeer,
        *,
        admission: Admission,
        filters: TopicFilters | None,
        clean: bool,
        will: Will | None,
    ) -> None:
        self._services = services
        self._ref = ref
        self._peer = peer
        self._admission = admission
        self._filters = filters
        self._clean = clean
        self._will = will
        self._telemetry = f"{own_topic(ref)}/messages/events"
        self._bag: Bag | None = None
        self._acks = Acknowledgements(peer)
        self._deliveries = Deliveries(services, ref, peer)
        self._pending = 0
        self._line: PacedLine[_Request] = PacedLine(
            REQUEST_PACE,
            services.clock,
            serve=self._serve,
            served=self._resume,
            failed=lambda: peer.close("internal error"),
            over=lambda: peer.closed,
        )
        self._paused = False
        self._started = False

    # -- Link ----------------------------------------------------------------------------------

    @property
    def ref(self) -> IdentityRef:
        """Whose it is."""
        return self._ref

    @property
    def expires_at(self) -> int:
        """When its token expires."""
        return self._admission.expires_at

    @property
    def over(self) -> tuple[str, ...]:
        """Over which edge devices it is spoken for."""
        return self._admission.over

    def close(self, reason: str) -> None:
        """End it."""
        self._deliveries.close()
        self._peer.close(reason)

    def takes_desired(self) -> bool:
        """Tell whether the client has subscribed to desired properties."""
        return self._started and TWIN_DESIRED in (self._filters or ())

    def desired_changed(self, body: bytes, version: int) -> None:
        """Send a patch of desired properties."""
        self._peer.write(device_twins.desired(body, version))

    def takes_methods(self) -> bool:
        """Tell whether the client has subscribed to any method."""
        return self._started and device_methods.takes_any(self._filters)

    def takes_method(self, name: str) -> bool:
        """Tell whether the client has subscribed to a method."""
        return self._started and device_methods.takes(self._filters, name)

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method."""
        self._peer.write(device_methods.request(request_id, name, payload))

    def takes_messages(self) -> bool:
        """Tell whether the client has subscribed to cloud-to-device messages."""
        return self._started and self._deliveries.takes_messages

    async def deliver(self, bag: str, body: bytes) -> bool:
        """Send a cloud-to-device message; tell whether the client has acknowledged it."""
        return await self._deliveries.devicebound(bag, body)

    # -- MqttSession ---------------------------------------------------------------------------

    def started(self) -> None:
        """CONNACK has been written."""
        self._started = True
        self._deliveries.subscribed(self._filters)
        self._services.clients.changed(self)

    def received(self, packets: list[Packet]) -> None:
        """Take a batch of packets; see the module."""
        messages: list[tuple[Bag, bytes]] = []
        packet_ids: list[int] = []
        for packet in packets:
            if type(packet) is Publish and packet.topic.startswith(self._telemetry):
                bag = self._bag_of(packet.topic)
                if bag is None or self._services.broker.too_large(bag, packet.payload):
                    self._violation("a message is too large or to a wrong topic", packet.topic)
                    break
                messages.append((bag, packet.payload))
                if packet.packet_id is not None:
                    packet_ids.append(packet.packet_id)
                continue
            if messages:
                self._store(messages, packet_ids)
                messages, packet_ids = [], []
            if not self._take(packet):
                break
        if messages:
            self._store(messages, packet_ids)

    def closed(self, graceful: bool, reason: str) -> None:  # noqa: FBT001 - net passes it by name
        """The connection is over."""
        self._deliveries.close()
        self._line.clear()
        self._services.clients.detach(self)
        will, self._will = self._will, None
        if will is not None and self._started and not graceful:
            text = will.topic[len(self._telemetry) :].removeprefix("/")
            bag = Bag(self._ref, f"{text}&iothub-MessageType=Will" if text else _WILL)
            self._store([(bag, will.payload)], [])
        _log.info("client disconnected", identity=self._ref.text, reason=reason)

    # -- telemetry -----------------------------------------------------------------------------

    def _bag_of(self, topic: str) -> Bag | None:
        """Return the bag of a telemetry topic, `None` when it is none."""
        rest = topic[len(self._telemetry) :]
        if rest and rest[0] != "/":
            return None
        text = rest[1:].removesuffix("/")
        if self._bag is None or self._bag.text != text:
            self._bag = Bag(self._ref, text)
        return self._bag

    def _store(self, messages: list[tuple[Bag, bytes]], packet_ids: list[int]) -> None:
        size = sum(len(bag.text) + len(body) for bag, body in messages)
        acknowledgement = self._acks.expect(packet_ids, size)
        self._pending += size
        if self._pending > MAX_PENDING:
            self._pause()
        # Tasks begin in the order in which they were made, so messages keep theirs.
        spawn(self._accept(messages, acknowledgement), "edge hub telemetry")

    async def _accept(
        self, messages: list[tuple[Bag, bytes]], acknowledgement: Acknowledgement
    ) -> None:
        try:
            await self._services.broker.accept(self._ref, messages)
        except MusterError as error:
            # Not acknowledged, so the client sends it again.
            self._peer.close(error.message)
            return
        finally:
            self._pending -= acknowledgement.size
        self._acks.give(acknowledgement)
        self._resume()

    # -- everything else -----------------------------------------------------------------------

    def _take(self, packet: Packet) -> bool:
        """Take one packet that is no telemetry; False when it ended the connection."""
        if isinstance(packet, Publish):
            return self._take_publish(packet)
        if isinstance(packet, Subscribe):
            for topic_filter, _qos in packet.filters:
                if not device_filters.allowed(self._ref, topic_filter):
                    self._violation("a subscription is not allowed", topic_filter)
                    return False
        if isinstance(packet, Subscribe | Unsubscribe):
            self._enqueue(packet, 64 * len(packet.filters), None)
        elif isinstance(packet, Puback):
            self._deliveries.acknowledged(packet.packet_id)
        return True

    def _take_publish(self, packet: Publish) -> bool:
        topic = packet.topic
        if not topic.startswith((TWIN_GET, TWIN_PATCH, device_methods.REPLY)):
            self._violation("a topic is not allowed", topic)
            return False
        acknowledgement = None
        if packet.packet_id is not None:
            acknowledgement = self._acks.expect([packet.packet_id])
            if not topic.startswith(TWIN_PATCH):
                # A question, or a method's answer, is done with when it has arrived.
                self._acks.give(acknowledgement)
                acknowledgement = None
        if topic.startswith(device_methods.REPLY):
            reply = device_methods.parse_reply(topic)
            if reply is not None:
                self._services.methods.answered(
                    self._ref, reply.request_id, reply.status, packet.payload
                )
        else:
            self._enqueue(packet, len(packet.payload), acknowledgement)
        return True

    def _enqueue(
        self,
        packet: Publish | Subscribe | Unsubscribe,
        size: int,
        acknowledgement: Acknowledgement | None,
    ) -> None:
        self._line.add((packet, acknowledgement), size)
        if len(self._line) > MAX_WAITING or self._line.size > MAX_WAITING_SIZE:
            self._pause()

    async def _serve(self, request: _Request) -> None:
        packet, acknowledgement = request
        try:
            if isinstance(packet, Publish):
                await self._serve_twin(packet, acknowledgement)
            else:
                await self._serve_subscription(packet)
        except MusterError as error:
            self._peer.close(error.message)

    async def _serve_twin(self, request: Publish, acknowledgement: Acknowledgement | None) -> None:
        services = self._services
        reading = request.topic.startswith(TWIN_GET)
        tail = request.topic[len(TWIN_GET if reading else TWIN_PATCH) :]
        status, version, body = 200, None, b""
        parameters = device_names.parse_twin_parameters(tail)
        try:
            if reading:
                body = await services.twins.get(self._ref)
            else:
                patch: dict[str, Any] = decode_json(request.payload, dict[str, Any])
                version = await services.twins.report(self._ref, patch, parameters.version())
                status = 204
        except MusterError as error:
            status = errors.status(error)
            body = errors.body(error, services.randomness.uuid(), services.clock.now())
        if acknowledgement is not None:
            self._acks.give(acknowledgement)
        self._peer.write(device_twins.response(parameters.request_id, status, body, version))

    async def _serve_subscription(self, request: Subscribe | Unsubscribe) -> None:
        before = self._filters or {}
        after, answer = device_filters.subscribed(before, request)
        if len(after) > device_filters.MAX_FILTERS:
            self._violation("there are too many subscriptions", "")
            return
        if after != before and not self._clean:
            await self._services.sessions.save(self._ref, after)
        self._filters = device_filters.compact(after)
        self._peer.write(codec.encode(answer))
        self._deliveries.subscribed(self._filters)
        self._services.clients.changed(self)

    # -- flow ----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._peer.pause_reading()

    def _resume(self) -> None:
        """If paused, read again when both the disk and the line have caught up by half."""
        if (
            self._paused
            and self._pending <= MAX_PENDING // 2
            and len(self._line) <= MAX_WAITING // 2
            and self._line.size <= MAX_WAITING_SIZE // 2
            and not self._peer.closed
        ):
            self._paused = False
            self._peer.resume_reading()

    def _violation(self, what: str, topic: str) -> None:
        """Close a connection whose client did what no client may do (hub-device.md 2.2)."""
        _log.warning("client broke a rule", identity=self._ref.text, rule=what, topic=topic[:512])
        self._peer.close(what)


_WILL: Final = "iothub-MessageType=Will"
