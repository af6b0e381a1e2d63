"""A device registers with the provisioning service (dps.md 1.3): the same steps as the SDKs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, final
from urllib.parse import quote

import msgspec

from muster.auth import sas_token
from muster.fleet.conversation import TimedConversation
from muster.net.conversation import Failure
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect, Puback, Publish, Suback

if TYPE_CHECKING:
    from muster.fleet.conversation import Owner
    from muster.wire.mqtt.packets import Packet

_API_VERSION: Final = "2019-03-31"
_KEEP_ALIVE_S: Final = 60
_RESPONSES: Final = "$dps/registrations/res/"
_ANSWER: Final = re.compile(re.escape(_RESPONSES) + r"([0-9]{3})/\?(.*)")
_PATIENCE_S: Final = 60.0
"""For each answer; the SDKs' for CONNACK."""
_POLL_AFTER_S: Final = 2.0
"""Where the service does not say when."""


class _State(msgspec.Struct, rename="camel"):
    assigned_hub: str = ""
    device_id: str = ""
    error_code: int = 0
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    operation_id: str = ""
    status: str = ""
    registration_state: _State | None = None
    error_code: int = 0
    message: str = ""
    tracking_id: str = ""


@final
class Registration(TimedConversation):
    """CONNECT, SUBSCRIBE, register, poll until the result is there, DISCONNECT.

    Args:
        owner: told of the end.
        id_scope: of the service.
        registration_id: of the device.
        key: the device's own.
        expiry: of its token, unix seconds.

    Attributes:
        assigned: hub and device ID, once the device is assigned.
    """

    __slots__ = ("_expiry", "_id", "_id_scope", "_key", "_operation", "_requests", "assigned")

    def __init__(
        self, owner: Owner, id_scope: str, registration_id: str, key: bytes, expiry: int
    ) -> None:
        super().__init__(owner)
        self._id_scope = id_scope
        self._id = registration_id
        self._key = key
        self._expiry = expiry
        self._operation = ""
        self._requests = 0
        self.assigned: tuple[str, str] | None = None

    def connect(self) -> Connect:
        """Return the CONNECT."""
        resource = f"{self._id_scope}/registrations/{self._id}"
        return Connect(
            self._id,
            f"{resource}/api-version={_API_VERSION}",
            sas_token.sign(resource, self._key, self._expiry, "registration").encode(),
            keep_alive_s=_KEEP_ALIVE_S,
        )

    def accepted(self) -> None:
        """Subscribe to the answers."""
        self._ask(self._client.subscribe([(f"{_RESPONSES}#", 1)], 0.0))

    def take(self, packet: Packet) -> None:
        """Take a packet."""
        if isinstance(packet, Publish):
            if packet.packet_id is not None:
                self.write(codec.encode_puback(packet.packet_id))
            self._answered(packet)
        elif isinstance(packet, Suback):
            self._client.settle(packet)
            body = msgspec.json.encode({"registrationId": self._id, "payload": None})
            self._request("PUT/iotdps-register/?$rid={}", body)
        elif isinstance(packet, Puback):
            self._client.settle(packet)

    def awoken(self) -> None:
        """Ask for the result, or give up."""
        if not self._operation:
            super().awoken()
            return
        operation, self._operation = quote(self._operation, safe=""), ""
        self._request(f"GET/iotdps-get-operationstatus/?$rid={{}}&operationId={operation}", b" ")

    def _request(self, tail: str, body: bytes) -> None:
        self._requests += 1
        topic = "$dps/registrations/" + tail.format(self._requests)
        self._ask(self._client.publish(topic, body, 0.0))

    def _ask(self, data: bytes) -> None:
        self.write(data)
        self._owner.wake_in(_PATIENCE_S)

    def _answered(self, packet: Publish) -> None:
        found = _ANSWER.fullmatch(packet.topic)
        try:
            answer = msgspec.json.decode(packet.payload, type=_Answer)
        except msgspec.MsgspecError:
            answer = None
        if found is None or answer is None:
            self.end(Failure(kind="registration: the answer cannot be read"))
            return
        status, parameters = int(found[1]), found[2]
        wait_s = _retry_after_s(parameters)
        state = answer.registration_state or _State()
        if status >= 300:
            self.end(_refusal(status, answer, wait_s or 0.0))
        elif answer.status == "assigning":
            self._operation = answer.operation_id
            self._owner.wake_in(_POLL_AFTER_S if wait_s is None else wait_s)
        elif answer.status == "assigned":
            self.assigned = state.assigned_hub, state.device_id
            self.leave()
        else:
            self.end(
                Failure(
                    kind=f"registration {answer.status}",
                    detail=state.error_message or f"the registration is {answer.status}",
                    final=True,
                )
            )


def _refusal(status: int, answer: _Answer, wait_s: float) -> Failure:
    message = answer.message or "the service gave no reason"
    tracking = f", tracking ID {answer.tracking_id}" if answer.tracking_id else ""
    return Failure(
        kind=f"registration {status}",
        detail=f"{message} (error {answer.error_code or status}{tracking})",
        final=status != 429 and status < 500,
        wait_s=wait_s,
    )


def _retry_after_s(parameters: str) -> float | None:
    for pair in parameters.split("&"):
        name, _, value = pair.partition("=")
        if name.lower() == "retry-after" and value.isdecimal():
            return float(value)
    return None
