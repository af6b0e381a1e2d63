"""A device, or the `$edgeAgent` of an IoT Edge device, at its hub (hub-device.md 2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec

from muster.auth import sas_token
from muster.fleet.conversation import Owner, TimedConversation
from muster.fleet.plan import MIN_MESSAGE, HubPolicy
from muster.net.conversation import Failure
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect, Pingreq, Pingresp, Puback, Publish, Suback

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.fleet.desired import Desired
    from muster.fleet.tally import Tally
    from muster.wire.mqtt.packets import Packet

EDGE_AGENT: Final = "$edgeAgent"
IN_FLIGHT: Final = 100
"""Telemetry that may wait for its acknowledgement; what is due beyond it is held back."""

_API_VERSION: Final = "2021-04-12"
_REFUSED: Final = 0x80
_JSON: Final = "$.ct=application%2Fjson&$.ce=utf-8"
_FRAME: Final = MIN_MESSAGE - len('{"number":,"padding":""}')
"""Digits that the number of a message may have."""
_PINGREQ: Final = codec.encode(Pingreq())

_TWIN_ANSWERS: Final = "$iothub/twin/res/"
_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/"
_METHODS: Final = "$iothub/methods/POST/"
_TWIN_ANSWER: Final = re.compile(
    re.escape(_TWIN_ANSWERS) + r"([0-9]+)/\?\$rid=([gr])[0-9]+(?:&.*)?"
)
_METHOD: Final = re.compile(re.escape(_METHODS) + r"[^/]+/\?\$rid=([^&]+)")
_GET: Final = "g"
_REPORT: Final = "r"

_UNTIMED: Final = -1.0
"""Note of a packet whose acknowledgement is not one of telemetry."""


class Identity(msgspec.Struct, frozen=True):
    """Who connects: a device by its own key, or its `$edgeAgent` by a policy of the hub.

    Attributes:
        host: the hub.
        device_id: of the device.
        key: the device's own.
        policy: of the hub; set for `$edgeAgent`, whose own key only the daemon on a real device
            knows.
    """

    host: str
    device_id: str
    key: bytes
    policy: HubPolicy | None = None

    def __repr__(self) -> str:
        return f"Identity({self.client_id!r})"

    @property
    def client_id(self) -> str:
        """The MQTT client ID."""
        return self.device_id if self.policy is None else f"{self.device_id}/{EDGE_AGENT}"

    @property
    def path(self) -> str:
        """Where topics and tokens say who this is."""
        path = f"devices/{self.device_id}"
        return path if self.policy is None else f"{path}/modules/{EDGE_AGENT}"

    def connect(self, expiry: int, keep_alive_s: int) -> Connect:
        """Return a CONNECT with a token that is good until `expiry` (unix seconds)."""
        resource = f"{self.host}/{self.path}"
        if self.policy is None:
            token = sas_token.sign(resource, self.key, expiry)
        else:
            token = sas_token.sign(resource, self.policy.key, expiry, self.policy.name)
        return Connect(
            self.client_id,
            f"{self.host}/{self.client_id}/?api-version={_API_VERSION}",
            token.encode(),
            clean_session=False,
            keep_alive_s=keep_alive_s,
        )

    @property
    def filters(self) -> list[tuple[str, int]]:
        """What the SDKs subscribe to for all their features."""
        own = [] if self.policy else [(f"{self.path}/messages/devicebound/#", 1)]
        return [*own, (f"{_TWIN_ANSWERS}#", 1), (f"{_DESIRED}#", 1), (f"{_METHODS}#", 1)]


class SessionOwner(Owner, Protocol):
    """An `Owner` who is told of the beginning, too."""

    def began(self, session: Session) -> None:
        """Note that the hub has accepted and the subscriptions stand. Called once."""


@final
class Session(TimedConversation):
    """CONNECT, SUBSCRIBE to everything, get the twin; then answer, and do what the owner says.

    Args:
        owner: told of beginning and end.
        identity: who this is.
        connect: `Identity.connect`.
        desired: what the device knows of its desired properties; kept up to date.
        tally: where everything is counted.
        padding: what fills messages to their size.
        sent: messages the device has sent before.

    Attributes:
        sent: messages the device has sent.
    """

    __slots__ = (
        "_connect",
        "_desired",
        "_identity",
        "_padding",
        "_pinged",
        "_requests",
        "_session_owner",
        "_tally",
        "sent",
    )

    def __init__(
        self,
        owner: SessionOwner,
        identity: Identity,
        connect: Connect,
        *,
        desired: Desired,
        tally: Tally,
        padding: bytes,
        sent: int,
    ) -> None:
        super().__init__(owner)
        self._session_owner = owner
        self._identity = identity
        self._connect: Connect | None = connect
        self._desired = desired
        self._tally = tally
        self._padding = padding
        self._pinged = False
        self._requests = 0
        self.sent = sent

    # What the owner has it do.

    def send(self, times: int) -> None:
        """Send telemetry."""
        client = self._client
        room = max(min(times, IN_FLIGHT - client.in_flight), 0)
        self._tally.held_back += times - room
        if not room:
            return
        topic = f"{self._identity.path}/messages/events/{_JSON}"
        now = self._owner.monotonic()
        for _ in range(room):
            self.sent += 1
            self.write(client.publish(topic, _message(self.sent, self._padding), now))

    def report(self, properties: dict[str, Any] | None = None) -> None:
        """Report properties; unless told otherwise, how many messages were sent."""
        if properties is None:
            properties = {"simulation": {"sent": self.sent}}
        topic = f"$iothub/twin/PATCH/properties/reported/?$rid={self._request(_REPORT)}"
        self.write(self._client.publish(topic, msgspec.json.encode(properties), _UNTIMED))

    def ping(self) -> None:
        """Show that it is alive; end when the last ping was not answered."""
        if self._pinged:
            self.end(Failure(kind="no answer to a ping"))
            return
        self._pinged = True
        self.write(_PINGREQ)

    # What the hub says.

    def connect(self) -> Connect:
        """Return the CONNECT; only once, because it is not kept."""
        connect, self._connect = self._connect, None
        if connect is None:
            raise AssertionError("a session connects once")
        return connect

    def accepted(self) -> None:
        """Subscribe."""
        self.write(self._client.subscribe(self._identity.filters, _UNTIMED))

    def take(self, packet: Packet) -> None:
        """Take a packet."""
        if isinstance(packet, Puback):
            sent_at = self._client.settle(packet)
            if sent_at != _UNTIMED:
                self._tally.messages += 1
                self._tally.ack_times.add(self._owner.monotonic() - sent_at)
        elif isinstance(packet, Publish):
            self._published(packet)
            # Afterwards: what is acknowledged has been dealt with.
            if packet.packet_id is not None and not self._over:
                self.write(codec.encode_puback(packet.packet_id))
        elif isinstance(packet, Suback):
            self._client.settle(packet)
            self._subscribed(packet)
        elif isinstance(packet, Pingresp):
            self._pinged = False

    def _subscribed(self, packet: Suback) -> None:
        if _REFUSED in packet.return_codes:
            self._tally.errors["subscription refused"] += 1
        self._session_owner.began(self)
        topic = f"$iothub/twin/GET/?$rid={self._request(_GET)}"
        self.write(self._client.publish(topic, b" ", _UNTIMED))

    def _published(self, packet: Publish) -> None:
        topic = packet.topic
        if topic.startswith(_TWIN_ANSWERS):
            self._twin_answered(packet)
        elif topic.startswith(_DESIRED):
            self._apply(self._desired.patch, packet.payload)
        elif topic.startswith(_METHODS):
            self._answer_method(packet)
        else:
            self._tally.cloud_to_device += 1

    def _twin_answered(self, packet: Publish) -> None:
        found = _TWIN_ANSWER.fullmatch(packet.topic)
        if found is None:
            self.end(Failure(kind="protocol: the answer about the twin cannot be read"))
            return
        status, request = int(found[1]), found[2]
        if status >= 300:
            what = "read" if request == _GET else "report"
            self._tally.errors[f"twin {what} {status}"] += 1
        elif request == _GET:
            self._apply(self._desired.whole, packet.payload)
        else:
            self._tally.twin_reports += 1

    def _apply(
        self, take_in: Callable[[dict[str, Any]], dict[str, Any] | None], payload: bytes
    ) -> None:
        try:
            document = msgspec.json.decode(payload, type=dict[str, Any])
        except msgspec.MsgspecError:
            self.end(Failure(kind="protocol: the twin is no JSON object"))
            return
        before = self._desired.version
        report = take_in(document)
        self._tally.applied(before, self._desired.version)
        if report is not None:
            self.report(report)

    def _answer_method(self, packet: Publish) -> None:
        found = _METHOD.fullmatch(packet.topic)
        if found is None:
            self.end(Failure(kind="protocol: the method call cannot be read"))
            return
        topic = f"$iothub/methods/res/200/?$rid={found[1]}"
        self.write(self._client.publish(topic, packet.payload or b"null", _UNTIMED))
        self._tally.methods += 1

    def _request(self, kind: str) -> str:
        self._requests += 1
        return f"{kind}{self._requests}"


def padding(size: int) -> bytes:
    """Return what fills messages to `size` bytes, of which `MIN_MESSAGE` are for the rest."""
    return b"x" * (size - MIN_MESSAGE)


def _message(number: int, filling: bytes) -> bytes:
    head = b'{"number":%d,"padding":"%s' % (number, filling)
    return head + b"x" * (_FRAME - len(str(number))) + b'"}'
