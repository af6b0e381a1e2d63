"""One MQTT connection of a device or module, from its packets to the hub and back.

Telemetry is the hot path: a batch of packets becomes records with one prefix comparison each, one
append to the log, and one write with all PUBACKs when the log says they are durable. Everything
else (twin requests, subscriptions) stands in one line per connection and is served in order, at
the pace of `REQUEST_PACE`. PUBACKs leave in the order of their PUBLISHes [MQTT-4.6.0-2], whatever
they wait for.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeAlias, final

from muster.errors import MusterError
from muster.hub.connections import TAKEN_OVER, TOKEN_EXPIRED
from muster.hub.endpoints import mqtt_messages, mqtt_twins
from muster.hub.endpoints.mqtt_faults import PacketFaults
from muster.hub.endpoints.mqtt_messages import Devicebound, telemetry_topic
from muster.hub.endpoints.request_pace import MAX_WAITING, REQUEST_PACE
from muster.hub.telemetry import MAX_PENDING, MAX_PENDING_ALL, partition_of
from muster.model.fault import FaultKind, FaultTransport
from muster.model.identity import wire_time
from muster.model.message import FLAG_RETAIN, FLAG_WILL, MAX_MESSAGE_SIZE, encode_head
from muster.net.mqtt_acks import Acknowledgements
from muster.net.paced_line import PacedLine
from muster.net.peer import ORDINARY_ENDS, SERVICE_STOPS
from muster.wire.mqtt import codec, device_filters, device_methods, device_twins, property_bag
from muster.wire.mqtt.device_filters import TWIN_DESIRED
from muster.wire.mqtt.device_names import TWIN_GET, TWIN_PATCH
from muster.wire.mqtt.packets import Puback, Publish, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from muster.hub.connection import Connection
    from muster.hub.endpoints.session_services import SessionServices
    from muster.hub.hubs import Hub
    from muster.hub.intake import Appended, Intake
    from muster.model.decision import Fact
    from muster.model.fault import Fault
    from muster.model.identity import IdentityRef
    from muster.net.mqtt import MqttPeer
    from muster.net.mqtt_acks import Acknowledgement
    from muster.wire.mqtt.device_filters import TopicFilters
    from muster.wire.mqtt.packets import Packet, Will

MAX_WAITING_SIZE: Final = 512 * 1024
"""Like `MAX_WAITING`, in bytes of their bodies."""

_Packet: TypeAlias = "Publish | Subscribe | Unsubscribe"
_Request: TypeAlias = "tuple[_Packet, Acknowledgement | None]"
"""What stands in line: a packet, and the PUBACK that waits for it."""


@final
class DeviceSession:
    """An `MqttSession` and a `Link`.

    Args:
        services: shared by all sessions.
        hub: where the identity lives.
        ref: who it is.
        generation_id: of the identity.
        stamp: the first part of every record of this connection.
        peer: the connection.
        filters: the stored subscriptions, `None` for none.
        clean: the client asked for CleanSession 1: nothing is stored.
        will: its last words, already checked.
    """

    __slots__ = (
        "_acks",
        "_devicebound",
        "_faults",
        "_feed",
        "_filters",
        "_head",
        "_hub",
        "_intake",
        "_limit",
        "_line",
        "_partition",
        "_paused",
        "_pending",
        "_prefix",
        "_services",
        "_stamp",
        "_started",
        "_topic",
        "_violated",
        "_will",
        "clean",
        "connection",
        "peer",
        "ref",
    )

    def __init__(
        self,
        services: SessionServices,
        hub: Hub,
        ref: IdentityRef,
        *,
        generation_id: str,
        stamp: bytes,
        peer: MqttPeer,
        filters: TopicFilters | None,
        clean: bool,
        will: Will | None,
    ) -> None:
        self._services = services
        self._hub = hub
        self.ref = ref
        self.peer = peer
        self.clean = clean
        self.connection: Connection | None = None
        self._feed = services.feed(
            hub, ref, generation_id, send=self._send_desired, heard_at=lambda: peer.last_received
        )
        self._filters = filters
        self._will = will
        self._stamp = stamp
        self._prefix = telemetry_topic(ref) + "/"
        self._limit = len(stamp) + 3 + MAX_MESSAGE_SIZE
        self._intake: Intake = services.telemetry.intake(hub)
        self._partition = partition_of(ref.device_id, services.telemetry.partitions)
        self._topic = ""
        self._head = b""
        self._devicebound: Devicebound | None = None
        self._faults: PacketFaults | None = None
        self._acks = Acknowledgements(peer)
        self._pending = 0
        self._paused = False
        self._line: PacedLine[_Request] = PacedLine(
            REQUEST_PACE,
            services.clock,
            serve=self._serve,
            served=self._resume,
            failed=self._line_failed,
            over=lambda: peer.closed,
        )
        self._started = False
        self._violated = False

    # -- Link ----------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the connection is neither closed nor closing."""
        return not self.peer.closed

    def close(self, reason: str) -> None:
        """Close the connection."""
        if self._devicebound is not None:
            # Now: a slow client must not keep messages from the connection that takes over.
            self._devicebound.close()
        self.peer.close(reason)

    def desired_changed(self, body: bytes, version: int) -> None:
        """Send a change of desired properties to a client that subscribed."""
        if self._filters and TWIN_DESIRED in self._filters:
            if self._feed is not None:
                self._feed.changed(body, version)
            else:
                self._send_desired(body, version)

    def takes_method(self, name: str) -> bool:
        """Tell whether the client may be sent a direct method."""
        return self._started and device_methods.takes(self._filters, name)

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method."""
        self.peer.write(device_methods.request(request_id, name, payload))

    # -- MqttSession ---------------------------------------------------------------------------

    def started(self) -> None:
        """CONNACK has been written."""
        self._started = True
        if self.connection is not None:
            self.connection.takes_methods()
        self._follow_messages()
        self._catch_up()

    def received(self, packets: list[Packet]) -> None:
        """Take a batch of packets; see the module."""
        if self._hub.faults is not None or self._faults is not None:
            packets = self._meet_faults(packets)
        prefix = self._prefix
        skip = len(prefix)
        stamp = self._stamp
        topic = self._topic
        head = self._head
        limit = self._limit
        records: list[bytes] = []
        packet_ids: list[int] = []
        for packet in packets:
            if type(packet) is Publish and (
                packet.topic == topic or packet.topic.startswith(prefix)
            ):
                if packet.topic != topic or packet.retain:
                    head = stamp + encode_head(packet.topic[skip:], packet.retain)
                    topic = "" if packet.retain else packet.topic
                record = head + packet.payload
                if len(record) > limit and self._too_large(packet):
                    break
                records.append(record)
                if packet.packet_id is not None:
                    packet_ids.append(packet.packet_id)
            else:
                if records:
                    self._store(records, packet_ids)
                    records, packet_ids = [], []
                if not self._take(packet):
                    break
        self._topic = topic
        self._head = head
        if records:
            self._store(records, packet_ids)

    def closed(self, graceful: bool, reason: str) -> None:  # noqa: FBT001 - net passes it by name
        """The connection is over: publish the will of a device that died, stop all work."""
        if self._faults is not None:
            self._faults.let_go()
        if self._feed is not None:
            self._feed.close()
        connection, self.connection = self.connection, None
        if connection is None:
            return
        connection.detach()
        if self._devicebound is not None:
            self._devicebound.close()
        will, self._will = self._will, None
        # When the service stops, the device did not die.
        if will is not None and self._started and not graceful and reason != SERVICE_STOPS:
            self._append_unheard(self._will_record(will))
        self._line.clear()
        if reason == TOKEN_EXPIRED:
            self._decide("connection-expired", {"token_expiry": wire_time(connection.expires_at)})
        elif reason not in ORDINARY_ENDS and reason != TAKEN_OVER and not self._violated:
            self._decide("connection-closed", {"reason": reason, "remote": self.peer.remote})

    # -- telemetry -----------------------------------------------------------------------------

    def _store(self, records: list[bytes], packet_ids: list[int]) -> None:
        services = self._services
        size = sum(map(len, records))
        try:
            future = self._intake.append(self._partition, records)
        except MusterError as error:
            self.peer.close(error.message)
            return
        acknowledgement = self._acks.expect(packet_ids, size)
        future.add_done_callback(functools.partial(self._stored, acknowledgement))
        if self._hub.faults is not None:
            self._hub.faults.when_stored(self.ref, records, future)
        self._pending += size
        services.telemetry.pending += size
        if self._pending > MAX_PENDING or services.telemetry.pending > MAX_PENDING_ALL:
            self._pause()
        if self.connection is not None:
            self.connection.touch(services.clock.time())

    def _stored(self, acknowledgement: Acknowledgement, future: Appended) -> None:
        self._pending -= acknowledgement.size
        self._services.telemetry.pending -= acknowledgement.size
        if future.cancelled() or future.exception() is not None:
            # Never acknowledged, so the device sends it again; the store logs what went wrong.
            self.peer.close("telemetry could not be stored")
            return
        self._resume()
        self._acks.give(acknowledgement)

    def _too_large(self, packet: Publish) -> bool:
        """Close the connection if a message is over the limit when measured exactly."""
        size = len(packet.payload)
        for key, value in property_bag.decode(packet.topic[len(self._prefix) :]):
            size += len(key.encode()) + len((value or "").encode())
        if size <= MAX_MESSAGE_SIZE:
            return False
        self._violation("message-too-large", {"size": size, "limit": MAX_MESSAGE_SIZE})
        return True

    def _will_record(self, will: Will) -> bytes:
        bag = will.topic[len(self._prefix) :]
        flags = FLAG_WILL | (FLAG_RETAIN if will.retain else 0)
        return self._stamp + encode_head(bag, flags) + will.payload

    def _append_unheard(self, record: bytes) -> None:
        """Store a message nobody waits for."""
        try:
            future = self._intake.append(self._partition, [record])
        except MusterError:
            # The log is closing; there is nobody left to tell.
            return
        future.add_done_callback(_consume)

    # -- injected faults -----------------------------------------------------------------------

    def fault_began(self, fault: Fault) -> bool:
        """End the connection as an injected fault does."""
        if not fault.touches(FaultTransport.MQTT):
            return False
        if fault.kind is FaultKind.RESET:
            self.peer.reset(fault.reason)
        else:
            self.close(fault.reason)
        return True

    def _meet_faults(self, packets: list[Packet]) -> list[Packet]:
        """Return those packets that are to be taken now."""
        faults = self._faults
        if faults is None:
            faults = self._faults = PacketFaults(
                self.ref,
                self.peer,
                telemetry=self._prefix[:-1],
                keep=self._keep,
                release=self._release,
            )
        packets = faults.meet(self._hub.faults, packets)
        if faults.holding:
            self._pause()
        return packets

    def _keep(self, message: Publish) -> None:
        """Store a message that is not acknowledged; the client sends it again."""
        bag = message.topic[len(self._prefix) :]
        self._append_unheard(self._stamp + encode_head(bag, message.retain) + message.payload)

    def _release(self, packets: list[Packet]) -> None:
        self.received(packets)
        self._resume()

    # -- everything else -----------------------------------------------------------------------

    def _take(self, packet: Packet) -> bool:
        """Take one packet that is no telemetry; False when it ended the connection."""
        if isinstance(packet, Publish):
            return self._take_publish(packet)
        if isinstance(packet, Subscribe | Unsubscribe):
            if isinstance(packet, Subscribe):
                for topic_filter, _qos in packet.filters:
                    if not device_filters.allowed(self.ref, topic_filter):
                        self._violation("topic-not-allowed", {"topic": topic_filter[:512]})
                        return False
            self._enqueue(packet, 64 * len(packet.filters))
        elif isinstance(packet, Puback) and self._devicebound is not None:
            self._devicebound.acknowledged(packet.packet_id)
            if self.connection is not None:
                self.connection.touch(self._services.clock.time())
        return True

    def _take_publish(self, packet: Publish) -> bool:
        topic = packet.topic
        if topic.startswith(TWIN_PATCH):
            # Acknowledged when it is safe.
            self._enqueue(packet, len(packet.payload), self._expect(packet))
            return True
        if topic.startswith((TWIN_GET, device_methods.REPLY)):
            # A question is done with when it has arrived, and so is a method's answer, also one
            # that nobody waits for any more.
            acknowledgement = self._expect(packet)
            if acknowledgement is not None:
                self._acks.give(acknowledgement)
            if topic.startswith(TWIN_GET):
                self._enqueue(packet, len(packet.payload))
            else:
                self._take_answer(packet)
            return True
        if topic == self._prefix[:-1]:
            record = self._stamp + encode_head("", packet.retain) + packet.payload
            self._store([record], [] if packet.packet_id is None else [packet.packet_id])
            return True
        self._violation("topic-not-allowed", {"topic": topic[:512]})
        return False

    def _take_answer(self, packet: Publish) -> None:
        reply = device_methods.parse_reply(packet.topic)
        if self.connection is not None and reply is not None:
            self.connection.method_answered(reply.request_id, reply.status, packet.payload)
            self.connection.touch(self._services.clock.time())

    def _expect(self, packet: Publish) -> Acknowledgement | None:
        """Take a place in the order of PUBACKs."""
        if packet.packet_id is None:
            return None
        return self._acks.expect([packet.packet_id])

    def _enqueue(
        self, packet: _Packet, size: int, acknowledgement: Acknowledgement | None = None
    ) -> None:
        self._line.add((packet, acknowledgement), size)
        if len(self._line) > MAX_WAITING or self._line.size > MAX_WAITING_SIZE:
            self._pause()

    def _line_failed(self) -> None:
        # What stands behind it would never be answered.
        self.peer.close("internal error")

    async def _serve(self, request: _Request) -> None:
        packet, acknowledgement = request
        try:
            if isinstance(packet, Publish):
                await self._serve_twin(packet, acknowledgement)
            else:
                await self._serve_subscription(packet)
        except MusterError as error:
            self.peer.close(error.message)
            return
        if self.connection is not None:
            self.connection.touch(self._services.clock.time())

    async def _serve_twin(self, request: Publish, acknowledgement: Acknowledgement | None) -> None:
        answer = await mqtt_twins.answer(self._services, self._hub, self.ref, request, self._feed)
        if acknowledgement is not None:
            self._acks.give(acknowledgement)
        self.peer.write(answer)

    async def _serve_subscription(self, request: Subscribe | Unsubscribe) -> None:
        before = self._filters or {}
        after, answer = device_filters.subscribed(before, request)
        if len(after) > device_filters.MAX_FILTERS:
            self._violation("too-many-subscriptions", {"limit": device_filters.MAX_FILTERS})
            return
        if after != before:
            if not self.clean:
                await self._services.subscriptions.save(self.ref, after)
                self._services.connections.session_changed(self.ref)
            self._filters = device_filters.compact(after)
        self.peer.write(codec.encode(answer))
        if self.connection is not None:
            self.connection.takes_methods()
        self._follow_messages()
        if TWIN_DESIRED in after and TWIN_DESIRED not in before:
            self._catch_up()

    def _catch_up(self) -> None:
        """Send the changes of desired properties that the client missed, if it subscribed."""
        if self._feed is not None and self._filters and TWIN_DESIRED in self._filters:
            self._feed.subscribed()

    def _send_desired(self, body: bytes, version: int) -> None:
        self.peer.write(device_twins.desired(body, version))

    def _follow_messages(self) -> None:
        """Begin or cease to deliver cloud-to-device messages, as the client has subscribed."""
        qos = mqtt_messages.granted(self.ref, self._filters)
        if self._devicebound is None:
            if qos is None or self.peer.closed:
                return
            messages = self._services.cloud_to_device
            self._devicebound = Devicebound(self.ref, messages, self.peer)
        self._devicebound.subscribed(qos)

    # -- ends ----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.peer.pause_reading()

    def _resume(self) -> None:
        """If paused, read again when both the log and the line have caught up by half."""
        if (
            self._paused
            and self._pending <= MAX_PENDING // 2
            and len(self._line) <= MAX_WAITING // 2
            and self._line.size <= MAX_WAITING_SIZE // 2
            and not (self._faults is not None and self._faults.holding)
            and not self.peer.closed
        ):
            self._paused = False
            self.peer.resume_reading()

    def _violation(self, check: str, facts: dict[str, Fact]) -> None:
        """Close a connection whose client did what no client may do (hub-device.md 2.2)."""
        self._violated = True
        self._decide(check, facts)
        self.peer.close(check)

    def _decide(self, check: str, facts: dict[str, Fact]) -> None:
        """Record why the connection is closed."""
        self._services.decide(self._hub.host, self.ref.text, check, facts, outcome="closed")


def _consume(future: Appended) -> None:
    if not future.cancelled():
        # Looked at, so that a failure is not reported as forgotten: the store logged it.
        future.exception()
