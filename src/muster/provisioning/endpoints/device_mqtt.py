"""The device API over MQTT and MQTT over WebSockets (dps.md 1.3).

A connection is always let in; a bad key is told at register, as the real service does (dps.md 0.6).
Sessions never persist. Requests of a connection are answered one after the other.

A newer connection takes over from an older one of the same registration (dps.md 8). As anybody may
connect, one that has proved itself gives way only to another that has.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Final
from urllib.parse import unquote

import structlog

from muster.clock import Clock
from muster.errors import MusterError
from muster.ids import Randomness, registration_key
from muster.model.decision import Fact
from muster.model.registration import ASSIGNING
from muster.net.mqtt import Accepted, MqttPeer, Refused
from muster.net.tasks import spawn
from muster.provisioning.authentication import Claim, RefusalError, RegisterRequest
from muster.provisioning.endpoints import device_json, errors
from muster.provisioning.endpoints.device_http import BODY_LIMIT
from muster.provisioning.registrations import (
    RETRY_AFTER_S,
    Operation,
    Registrations,
)
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connect,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

_RESPONSES: Final = "$dps/registrations/res/#"
_REGISTER: Final = "$dps/registrations/PUT/iotdps-register/"
_POLL: Final = "$dps/registrations/GET/iotdps-get-operationstatus/"
_USER_NAME: Final = re.compile(
    r"([^/]+)/registrations/([^/]+)(?:/(?:\?)?(?:api-version=([^&]*))?(?:&.*)?)?", re.IGNORECASE
)
_MAX_WAITING: Final = 32
_UNAUTHORIZED: Final = 401000
"""What MQTT clients see instead of 401002 (dps.md 3.6)."""

_log = structlog.get_logger(__name__)


class DeviceMqttEndpoint:
    """Accepts devices that want to register (`net.mqtt.MqttAcceptor`)."""

    def __init__(self, registrations: Registrations, clock: Clock, randomness: Randomness) -> None:
        self.registrations = registrations
        self.clock = clock
        self.randomness = randomness
        self.live: dict[str, _Session] = {}

    def accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        """Let a device in, whatever its key."""
        username = connect.username or ""
        parts = _USER_NAME.fullmatch(username)
        if parts is None:
            # A token put where the user name belongs is not written down.
            shown = username[:256] if "sig=" not in username else "(a token)"
            facts: dict[str, Fact] = {"username": shown}
            return self._turn_away(connect, peer, 4, "malformed-username", facts)
        if registration_key(connect.client_id) != registration_key(parts[2]):
            facts = {"client_id": connect.client_id[:128], "expected": parts[2][:128]}
            return self._turn_away(connect, peer, 2, "client-id-mismatch", facts)
        password = connect.password
        token = password.decode("utf-8", "replace") if password else None
        session = _Session(self, peer, Claim(parts[1], parts[2], token), parts[3] or "")
        older = self.live.get(session.key)
        if older is None or not older.proven:
            self.take_over(session)
        return Accepted(session, session_present=False)

    def take_over(self, session: _Session) -> None:
        """Make a connection the one of its registration."""
        older = self.live.get(session.key)
        self.live[session.key] = session
        if older is not None and older is not session:
            older.peer.close("replaced by a newer connection")

    def _turn_away(
        self, connect: Connect, peer: MqttPeer, code: int, check: str, facts: dict[str, Fact]
    ) -> Refused:
        request = RegisterRequest(
            claim=Claim("", connect.client_id, None),
            tracking_id=self.randomness.uuid(),
            transport=peer.transport,
            remote=peer.remote,
        )
        return Refused(code, self.registrations.refusals.turn_away(request, check, facts))


class _Session:
    """One connection (`net.mqtt.MqttSession`)."""

    __slots__ = (
        "_answering",
        "_api_version",
        "_claim",
        "_endpoint",
        "_packet_id",
        "_qos",
        "_waiting",
        "key",
        "peer",
        "proven",
    )

    def __init__(
        self, endpoint: DeviceMqttEndpoint, peer: MqttPeer, claim: Claim, api_version: str
    ) -> None:
        self.key = registration_key(claim.registration_id)
        self.peer = peer
        self.proven = False
        self._endpoint = endpoint
        self._claim = claim
        self._api_version = api_version
        self._qos: int | None = None
        self._packet_id = 0
        self._waiting: deque[Publish] = deque()
        self._answering: asyncio.Task[None] | None = None

    def started(self) -> None:
        """Nothing is sent unasked."""

    def received(self, packets: list[Packet]) -> None:
        """Take requests; a publish is acknowledged when it is answered, in the same record."""
        for packet in packets:
            if isinstance(packet, Publish):
                self._take(packet)
            elif isinstance(packet, Subscribe):
                self._subscribe(packet)
            elif isinstance(packet, Unsubscribe):
                if _RESPONSES in packet.filters:
                    self._qos = None
                self.peer.write(codec.encode(Unsuback(packet.packet_id)))
            # PUBACKs of answers need nothing: a device that missed one asks again.

    def closed(self, graceful: bool, reason: str) -> None:  # noqa: FBT001 - the port's form
        """Forget the connection; a registration that is under way is finished all the same."""
        if self._endpoint.live.get(self.key) is self:
            del self._endpoint.live[self.key]
        self._waiting.clear()

    def _subscribe(self, packet: Subscribe) -> None:
        granted = []
        for topic_filter, qos in packet.filters:
            if topic_filter != _RESPONSES:
                self.peer.close("subscribed to something else than the responses")
                return
            self._qos = min(qos, 1)
            granted.append(self._qos)
        self.peer.write(codec.encode(Suback(packet.packet_id, granted)))

    def _take(self, publish: Publish) -> None:
        if not publish.topic.startswith((_REGISTER, _POLL)):
            self.peer.close("published to an unknown topic")
            return
        if len(publish.payload) > BODY_LIMIT or len(self._waiting) >= _MAX_WAITING:
            self.peer.close("too much at once")
            return
        if self._answering is None:
            if self._answer_at_once(publish):
                return
            self._answering = spawn(self._answer_all(), "dps mqtt answers")
        self._waiting.append(publish)

    def _answer_at_once(self, publish: Publish) -> bool:
        """Answer a poll whose outcome is known."""
        if not publish.topic.startswith(_POLL):
            return False
        fields = _fields(publish)
        operation_id = unquote(fields.get("operationId", ""))
        operation = self._endpoint.registrations.just_finished(self._claim, operation_id)
        if operation is None:
            return False
        self._succeeded(publish, fields, operation)
        return True

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._waiting.popleft())
        finally:
            self._answering = None

    async def _answer(self, publish: Publish) -> None:
        fields = _fields(publish)
        rid = fields.get("$rid", "")
        endpoint = self._endpoint
        tracking = endpoint.randomness.uuid()
        try:
            operation = await self._do(publish, fields, tracking)
        except MusterError as error:
            status = errors.official(error).status
            number = _UNAUTHORIZED if isinstance(error, RefusalError) else None
            body = errors.body(error, tracking, endpoint.clock, number)
            # Without it, SDKs repeat what they take for transient after their own two seconds.
            wait_s = errors.retry_after_s(error) or (RETRY_AFTER_S if status >= 429 else None)
            self._respond(publish, status, rid, body, wait_s)
        except Exception as error:  # noqa: BLE001 - answered as 500, logged with its trace
            _log.exception("registration failed", tracking_id=tracking)
            body = errors.body(error, tracking, endpoint.clock)
            self._respond(publish, 500, rid, body, RETRY_AFTER_S)
        else:
            self._succeeded(publish, fields, operation)

    def _succeeded(self, publish: Publish, fields: dict[str, str], operation: Operation) -> None:
        if not self.proven and not self.peer.closed:
            self.proven = True
            self._endpoint.take_over(self)
        if publish.topic.startswith(_REGISTER):
            body = device_json.operation_json(operation)
        else:
            body = device_json.polled_json(operation, self._claim.registration_id)
        waiting = operation.status == ASSIGNING
        rid = fields.get("$rid", "")
        status, wait_s = (202, RETRY_AFTER_S) if waiting else (200, None)
        self._respond(publish, status, rid, body, wait_s)

    async def _do(self, publish: Publish, fields: dict[str, str], tracking: str) -> Operation:
        request = RegisterRequest(
            claim=self._claim,
            tracking_id=tracking,
            api_version=self._api_version,
            transport=self.peer.transport,
            remote=self.peer.remote,
        )
        registrations = self._endpoint.registrations
        if publish.topic.startswith(_POLL):
            operation_id = unquote(fields.get("operationId", ""))
            return await registrations.operation_status(request, operation_id)
        try:
            device_json.check_registration(publish.payload, self._claim.registration_id)
        except MusterError as error:
            await registrations.refusals.refuse(request, error)
            raise
        return await registrations.register(request)

    def _respond(
        self, publish: Publish, status: int, rid: str, body: bytes, retry_after_s: int | None
    ) -> None:
        if publish.qos and publish.packet_id is not None:
            self.peer.write(codec.encode_puback(publish.packet_id))
        # `$rid` first and as it came, then retry-after: clients parse by position (dps.md 0.7).
        topic = f"$dps/registrations/res/{status}/?$rid={rid}"
        if retry_after_s is not None:
            topic += f"&retry-after={retry_after_s}"
        # Java publishes before its SUBACK is there; it is answered all the same.
        qos = 1 if self._qos is None else self._qos
        packet_id = None
        if qos:
            self._packet_id = self._packet_id % 0xFFFF + 1
            packet_id = self._packet_id
        self.peer.write(codec.encode_publish(topic, body, qos=qos, packet_id=packet_id))


def _fields(publish: Publish) -> dict[str, str]:
    """Return what stands in the query of a request's topic."""
    query = publish.topic.partition("/?")[2]
    return dict(item.partition("=")[::2] for item in query.split("&"))
