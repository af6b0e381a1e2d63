"""One MQTT connection to the hub: packets on one side, calls and answers on the other.

It lives from CONNECT to the end of the connection; `session.py` makes one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec
import structlog

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.upstream import topics
from muster.edge.upstream.base import Feature, HubError, JsonObject, Message, NoLinkError
from muster.edge.upstream.topics import CloudMessage, DesiredPatch, MethodCall, TwinAnswer
from muster.net import conversation
from muster.net.conversation import Conversation, Failure
from muster.net.summary import Summary
from muster.net.tasks import spawn
from muster.wire.mqtt import codec
from muster.wire.mqtt.errors import LocalProtocolError
from muster.wire.mqtt.packets import Pingreq, Pingresp, Puback, Publish, Suback, Unsuback

if TYPE_CHECKING:
    from muster.edge.upstream.login import Login
    from muster.wire.mqtt.packets import Connect, Packet

MAX_METHODS: Final = 32
"""Direct methods that are answered at a time; further ones get status 429."""
MAX_INBOX: Final = 64
"""Messages that wait for their owner; the hub sends 50 at most before it wants answers."""

_REFUSED: Final = 0x80
_MISTAKE: Final = b'{"message":"internal error; the device\'s log has more"}'
_PINGREQ: Final = codec.encode(Pingreq())
_log = structlog.get_logger(__name__)


class ConnectionOwner(conversation.Owner, Protocol):
    """Who made the connection; calls come from the event loop and must not block."""

    def began(self, connection: Connection) -> None:
        """Note that the hub has accepted and the subscriptions stand. Called once."""

    def room(self) -> None:
        """Note that telemetry was acknowledged."""

    def desired_changed(self, patch: JsonObject) -> None:
        """See `base.Owner`."""

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """See `base.Owner`."""

    async def message(self, message: Message) -> None:
        """See `base.Owner`."""


@final
class Waiting:
    """What is known of a packet that the hub has not acknowledged.

    Args:
        size: bytes of telemetry; 0 for anything else.
        done: told of the acknowledgement; `None` where nobody waits for it.
    """

    __slots__ = ("done", "size")

    def __init__(self, size: int = 0, done: asyncio.Future[None] | None = None) -> None:
        self.size = size
        self.done = done


@final
class _Received:
    """A packet of the hub that wants to be acknowledged, in its turn."""

    __slots__ = ("dealt_with", "packet_id")

    def __init__(self, packet_id: int) -> None:
        self.packet_id = packet_id
        self.dealt_with = False


@final
class Connection(Conversation[Waiting]):
    """CONNECT, SUBSCRIBE; then telemetry, requests and answers until the end.

    Args:
        owner: see there.
        login: who connects.
        connect: `Login.connect`.
        features: what to subscribe to.

    Attributes:
        bytes_in_flight: of telemetry that is not acknowledged.
        progress_at: when the hub has last acknowledged something, or had nothing to acknowledge;
            seconds of the event loop.
        heard_at: when it has last said anything; likewise.
    """

    __slots__ = (
        "_acknowledging",
        "_begun",
        "_connect",
        "_delivery",
        "_features",
        "_filters",
        "_hub",
        "_inbox",
        "_login",
        "_loop",
        "_methods",
        "_pinged_at",
        "_request",
        "_requests",
        "_unknown",
        "bytes_in_flight",
        "heard_at",
        "progress_at",
    )

    def __init__(
        self,
        owner: ConnectionOwner,
        login: Login,
        connect: Connect,
        features: frozenset[Feature],
    ) -> None:
        super().__init__(owner)
        self._hub = owner
        self._login = login
        self._connect: Connect | None = connect
        self._features = features
        self._loop = asyncio.get_running_loop()
        self._request = 0
        self._requests: dict[str, asyncio.Future[tuple[int, bytes]]] = {}
        self._acknowledging: deque[_Received] = deque()
        self._inbox: deque[tuple[Message, _Received | None]] = deque()
        self._filters: dict[str, int] | None = None
        self._begun = False
        self._delivery: asyncio.Task[None] | None = None
        self._methods: set[asyncio.Task[None]] = set()
        self._pinged_at: float | None = None
        # At most a line a second: a hub must not fill the disk with its nonsense.
        self._unknown = Summary("the hub says something unknown")
        self.bytes_in_flight = 0
        self.progress_at = self.heard_at = self._loop.time()

    # What the session has it do.

    @property
    def in_flight(self) -> int:
        """Packets that the hub has not acknowledged."""
        return self._client.in_flight

    @property
    def idle(self) -> bool:
        """Whether neither side waits for an answer; a message may be delivered again."""
        return not (self._client.in_flight or self._requests or self._methods)

    @property
    def methods(self) -> frozenset[asyncio.Task[None]]:
        """Direct methods that are being answered."""
        return frozenset(self._methods)

    def want(self, features: frozenset[Feature]) -> None:
        """Subscribe to what these need, and to nothing else."""
        self._features = features
        before = self._filters
        if before is None or self._over:
            return
        self._filters = after = topics.filters(self._login, features)
        self._expect()
        if added := [(name, qos) for name, qos in after.items() if name not in before]:
            self.write(self._client.subscribe(added, Waiting()))
        if dropped := [name for name in before if name not in after]:
            self.write(self._client.unsubscribe(dropped, Waiting()))

    def send(self, topic: str, body: bytes, size: int, done: asyncio.Future[None]) -> None:
        """Publish telemetry.

        Args:
            topic: with its property bag.
            body: content.
            size: that counts as in flight.
            done: gets `None`; `HubError` where it cannot be sent at all, `NoLinkError` where the
                connection ends before it is acknowledged.
        """
        if self._over:
            done.set_exception(NoLinkError("the connection to the hub was lost"))
            return
        try:
            self._publish(topic, body, Waiting(size, done))
        except LocalProtocolError as error:
            done.set_exception(HubError(f"the message cannot be sent: {error.reason}", 400))
        else:
            self.bytes_in_flight += size

    async def ask(self, topic: str, body: bytes) -> bytes:
        """Ask about the twin.

        Args:
            topic: with `{}` for the number of the request.
            body: JSON.

        Raises:
            NoLinkError: the connection has ended.
            HubError: the hub refuses.
        """
        if self._over:
            raise NoLinkError("the connection to the hub has ended")
        self._request += 1
        request_id = str(self._request)
        answered: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._expect()
        self._requests[request_id] = answered
        try:
            self._publish(topic.format(request_id), body, Waiting())
            status, content = await answered
        finally:
            self._requests.pop(request_id, None)
        if status >= 300:
            raise HubError(_reason(content) or f"the hub answers {status}", status)
        return content

    def ping(self) -> None:
        """Ask the hub whether it is there."""
        if self._pinged_at is None:
            self._pinged_at = self._loop.time()
            self.write(_PINGREQ)

    def watch(self, answer_s: float, progress_s: float) -> None:
        """End the connection where the hub does not do its part.

        Args:
            answer_s: how long a ping may take.
            progress_s: how long nothing at all may be acknowledged, or answered, while something
                is to be (users.md, pain 20).
        """
        now = self._loop.time()
        if self._pinged_at is not None and now - self._pinged_at > answer_s:
            self.end(Failure(kind="no answer to a ping"))
        elif (self.in_flight or self._requests) and now - self.progress_at > progress_s:
            what = f"{self.in_flight} packets" if self.in_flight else "a request about the twin"
            self.end(
                Failure(
                    kind="no progress",
                    detail=f"the hub is connected but has left {what} unanswered for "
                    f"{progress_s:.0f} s",
                )
            )

    def end(self, failure: Failure | None) -> None:
        """Close; whoever waits for an answer is told that there will be none."""
        if self._over:
            return
        super().end(failure)
        error = NoLinkError("the connection to the hub was lost")
        for note in self._client.abandon():
            if note.done is not None and not note.done.done():
                note.done.set_exception(error)
        for answered in self._requests.values():
            if not answered.done():
                answered.set_exception(error)
        if self._delivery is not None and self._delivery is not asyncio.current_task():
            self._delivery.cancel()

    # What the hub says.

    def connect(self) -> Connect:
        """Return the CONNECT; only once, because it is not kept."""
        connect, self._connect = self._connect, None
        if connect is None:
            raise AssertionError("a connection connects once")
        return connect

    def accepted(self) -> None:
        """Subscribe."""
        self._filters = topics.filters(self._login, self._features)
        self.write(self._client.subscribe(list(self._filters.items()), Waiting()))

    def take(self, packet: Packet) -> None:
        """Take a packet."""
        self.heard_at = self._loop.time()
        if isinstance(packet, Puback):
            self._settle(packet)
        elif isinstance(packet, Publish):
            self._published(packet)
        elif isinstance(packet, Suback):
            self._settle(packet)
            if _REFUSED in packet.return_codes:
                self.end(Failure(kind="subscription refused"))
            elif not self._begun:
                self._begun = True
                self._hub.began(self)
        elif isinstance(packet, Unsuback):
            self._settle(packet)
        elif isinstance(packet, Pingresp):
            self._pinged_at = None

    def _publish(self, topic: str, body: bytes, note: Waiting) -> None:
        self._expect()
        self.write(self._client.publish(topic, body, note))

    def _expect(self) -> None:
        """Begin to wait for the hub, unless it owes something already."""
        if not (self._client.in_flight or self._requests):
            self.progress_at = self._loop.time()

    def _settle(self, answer: Puback | Suback | Unsuback) -> None:
        note = self._client.settle(answer)
        self.progress_at = self.heard_at
        if note.done is not None and not note.done.done():
            note.done.set_result(None)
        if note.size:
            self.bytes_in_flight -= note.size
            self._hub.room()

    def _published(self, packet: Publish) -> None:
        received = None
        if packet.packet_id is not None:
            received = _Received(packet.packet_id)
            self._acknowledging.append(received)
        said = topics.read(self._login, packet.topic)
        if isinstance(said, CloudMessage):
            self._inbox.append((Message(bag=said.bag, body=packet.payload), received))
            if len(self._inbox) > MAX_INBOX:
                self.end(Failure(kind="protocol: too many messages at a time"))
            elif self._delivery is None:
                self._delivery = spawn(self._deliver(), "cloud-to-device messages")
            return
        if isinstance(said, TwinAnswer):
            self._answered(said, packet.payload)
        elif isinstance(said, DesiredPatch):
            self._patched(packet.payload)
        elif isinstance(said, MethodCall):
            self._called(said, packet.payload)
        else:
            self._unknown.add("a topic that is none", packet.topic[:100])
        # Afterwards: what is acknowledged has been dealt with.
        self._acknowledge(received)

    def _acknowledge(self, received: _Received | None) -> None:
        """Acknowledge in the order in which the packets came [MQTT-4.6.0-2]."""
        if received is None or self._over:
            return
        received.dealt_with = True
        waiting = self._acknowledging
        while waiting and waiting[0].dealt_with:
            self.write(codec.encode_puback(waiting.popleft().packet_id))

    def _answered(self, said: TwinAnswer, payload: bytes) -> None:
        answered = self._requests.get(said.request_id)
        if answered is not None and not answered.done():
            self.progress_at = self.heard_at
            answered.set_result((said.status, payload))

    def _patched(self, payload: bytes) -> None:
        try:
            patch = foreign_json.decode(payload, dict[str, Any])
        except ForeignJsonError:
            self.end(Failure(kind="protocol: a desired-property patch is no JSON object"))
            return
        self._hub.desired_changed(patch)

    def _called(self, call: MethodCall, payload: bytes) -> None:
        try:
            argument = foreign_json.decode(payload) if payload.strip() else None
        except ForeignJsonError:
            self._reply(call, 400, {"message": "the payload is not JSON"})
            return
        if len(self._methods) >= MAX_METHODS:
            self._reply(call, 429, {"message": "too many methods are being answered"})
            return
        task = spawn(self._answer(call, argument), "direct method")
        self._methods.add(task)
        task.add_done_callback(self._methods.discard)

    async def _answer(self, call: MethodCall, argument: Any) -> None:
        try:
            status, answer = await self._hub.method(call.name, argument)
            body = msgspec.json.encode(answer)
        except Exception:  # noqa: BLE001 - the caller gets an answer whatever happens
            _log.exception("direct method failed", method=call.name[:100])
            status, body = 500, _MISTAKE
        self._reply(call, status, msgspec.Raw(body))

    def _reply(self, call: MethodCall, status: int, answer: Any) -> None:
        if not self._over:
            topic = topics.METHOD_ANSWER.format(status, call.request_id)
            try:
                self._publish(topic, msgspec.json.encode(answer), Waiting())
            except LocalProtocolError as error:
                self._unknown.add("a direct method that cannot be answered", error.reason)

    async def _deliver(self) -> None:
        """Give messages to the owner, one after the other."""
        while self._inbox and not self._over:
            message, received = self._inbox[0]
            try:
                await self._hub.message(message)
            except Exception:  # noqa: BLE001 - not completed, so the hub delivers it again
                _log.exception("a cloud-to-device message was not taken")
                self.end(Failure(kind="a cloud-to-device message was not taken"))
            self._inbox.popleft()
            self._acknowledge(received)
        self._delivery = None


def _reason(content: bytes) -> str:
    try:
        found = foreign_json.decode(content, dict[str, Any])
    except ForeignJsonError:
        return ""
    return str(found.get("message") or found.get("Message") or "")[:500]
