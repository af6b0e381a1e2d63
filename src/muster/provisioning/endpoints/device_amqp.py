"""The device API over AMQP and AMQP over WebSockets (dps.md 1.4).

The device says who it is with SASL PLAIN, where everybody is let in; whether that is true is told
in the answer to its open frame, as the real service does. Then one link takes its requests and
another one answers them. Requests of a connection are answered one after the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import unquote

import structlog

from muster.errors import InvalidArgumentError, MusterError
from muster.model.registration import ASSIGNING
from muster.net.tasks import spawn
from muster.provisioning.authentication import Claim, RegisterRequest
from muster.provisioning.endpoints import device_json, errors
from muster.provisioning.endpoints.device_http import BODY_LIMIT
from muster.provisioning.registrations import RETRY_AFTER_S, Operation
from muster.wire.amqp import messages
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.errors import RESOURCE_LIMIT_EXCEEDED, RemoteProtocolError
from muster.wire.amqp.events import LinkAttached, LinkDetached, OutcomeReceived
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.performatives import Error, Open, SaslInit
from muster.wire.amqp.sasl import PLAIN, plain_credentials
from muster.wire.amqp.types import Described, Int, Symbol, ULong

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.ids import Randomness
    from muster.net.amqp import AmqpPeer
    from muster.provisioning.registrations import Registrations
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link

_CREDIT: Final = 10
_MAX_WAITING: Final = 32
_MAX_MESSAGE: Final = BODY_LIMIT + 4_096
"""Bytes of a request with all that is around its body."""
_REGISTER: Final = "iotdps-register"
_POLL: Final = "iotdps-get-operationstatus"
_LOOKUP: Final = "iotdps-get-registration"
_API_VERSION: Final = "com.microsoft:api-version"
_OPEN_ERROR: Final = Symbol("com.microsoft:open-error")
_ERROR: Final = ULong(0x1D)

_CONDITIONS: Final = {
    400: "com.microsoft:argument-error",
    401: "amqp:unauthorized-access",
    404: "amqp:not-found",
    413: "amqp:link:message-size-exceeded",
    429: "com.microsoft:device-container-throttled",
}
"""By status; everything else is an internal error, which SDKs repeat the request after."""
_INTERNAL: Final = "amqp:internal-error"

_log = structlog.get_logger(__name__)


def registers(init: SaslInit) -> bool:
    """Tell whether who opens a connection so is a device that wants to register."""
    if init.mechanism != PLAIN:
        return False
    credentials = plain_credentials(init.initial_response)
    parts = () if credentials is None else credentials.user.split("/")
    return len(parts) == 3 and parts[1].lower() == "registrations"


@final
class DeviceAmqpEndpoint:
    """Accepts devices that want to register (`net.amqp.AmqpAcceptor`)."""

    def __init__(self, registrations: Registrations, clock: Clock, randomness: Randomness) -> None:
        self.registrations = registrations
        self.clock = clock
        self.randomness = randomness

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> _Connection:
        """Take a connection whose first event is one that `registers`."""
        return _Connection(self, connection, peer)

    def error(self, failure: Exception, tracking: str) -> Error:
        """Return what a device is told about a failure."""
        status = errors.official(failure).status
        wait_s = errors.retry_after_s(failure) or (RETRY_AFTER_S if status >= 429 else None)
        body = errors.body(failure, tracking, self.clock).decode()
        return Error(_CONDITIONS.get(status, _INTERNAL), body, _wait(wait_s, Symbol))


@final
class _Connection:
    """One connection (`net.amqp.AmqpOwner`)."""

    __slots__ = (
        "_answering",
        "_api_version",
        "_claim",
        "_connection",
        "_endpoint",
        "_over",
        "_peer",
        "_replies",
        "_waiting",
    )

    def __init__(
        self, endpoint: DeviceAmqpEndpoint, connection: ServerConnection, peer: AmqpPeer
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._peer = peer
        self._claim = Claim("", "", None)
        self._api_version = ""
        self._replies: SendingLink | None = None
        self._waiting: deque[Delivery] = deque()
        self._answering = False
        self._over = False

    def received(self, events: list[Event]) -> None:
        """Take what the device says."""
        for event in events:
            match event:
                case SaslInit():
                    self._sasl(event)
                case Open():
                    spawn(self._open(), "dps amqp open")
                case LinkAttached():
                    self._attached(event.link)
                case LinkDetached():
                    if event.link is self._replies:
                        self._replies = None
                case Delivery():
                    self._take(event)
                case OutcomeReceived() if not event.settled:
                    event.sent.settle()

    def writable(self) -> None:
        """Answers are few and small: nobody waits to send."""

    def closed(self, reason: str) -> None:
        """Forget what waits; a registration that is under way is finished all the same."""
        self._over = True
        self._waiting.clear()

    def _sasl(self, init: SaslInit) -> None:
        credentials = plain_credentials(init.initial_response)
        if credentials is None:
            self._connection.sasl_refuse()
            return
        id_scope, _, registration_id = credentials.user.split("/", 2)
        self._claim = Claim(id_scope, registration_id, credentials.password)
        self._connection.sasl_accept()

    async def _open(self) -> None:
        endpoint = self._endpoint
        tracking = endpoint.randomness.uuid()
        try:
            await endpoint.registrations.check(self._request(tracking))
        except Exception as failure:  # noqa: BLE001 - told to the device, logged with its trace
            if not isinstance(failure, MusterError):
                _log.exception("registration failed", tracking_id=tracking)
            error = endpoint.error(failure, tracking)
            described = Described(
                _ERROR, [Symbol(error.condition), error.description, error.info or {}]
            )
            self._connection.close(error, properties={_OPEN_ERROR: described})
        else:
            self._connection.open()

    def _attached(self, link: Link) -> None:
        if not _leads_to(link.address, self._claim):
            link.detach(Error("amqp:not-found", "The address is not that of the registration."))
            return
        version = link.properties.get(_API_VERSION)
        if isinstance(version, str):
            self._api_version = version[:64]
        if isinstance(link, ReceivingLink):
            link.accept(_CREDIT, max_message_size=_MAX_MESSAGE)
        else:
            link.accept()
            self._replies = link

    def _take(self, delivery: Delivery) -> None:
        replies = self._replies
        # Answers wait for credit; a device that grants none asks in vain.
        if max(len(self._waiting), 0 if replies is None else replies.queued) >= _MAX_WAITING:
            self._connection.close(Error(RESOURCE_LIMIT_EXCEEDED, "Too much at once."))
            return
        self._waiting.append(delivery)
        if not self._answering:
            self._answering = True
            spawn(self._answer_all(), "dps amqp answers")

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._waiting.popleft())
        finally:
            self._answering = False

    async def _answer(self, delivery: Delivery) -> None:
        endpoint = self._endpoint
        tracking = endpoint.randomness.uuid()
        try:
            request = messages.decode(delivery.payload)
        except RemoteProtocolError as error:
            delivery.reject(Error(error.condition, error.description))
            return
        try:
            body, wait_s = await self._do(request, tracking)
        except Exception as failure:  # noqa: BLE001 - told to the device, logged with its trace
            if not isinstance(failure, MusterError):
                _log.exception("registration failed", tracking_id=tracking)
            delivery.reject(endpoint.error(failure, tracking))
            return
        delivery.accept()
        if self._replies is not None:
            correlation_id = request.properties.correlation_id
            reply = Message(
                Data([body]), Properties(correlation_id=correlation_id), _wait(wait_s, str)
            )
            self._replies.send(messages.encode(reply))

    async def _do(self, request: Message, tracking: str) -> tuple[bytes, int | None]:
        """Do what is asked; return the body of the answer, and the seconds to wait."""
        registrations = self._endpoint.registrations
        registering = self._request(tracking)
        properties = request.application_properties
        operation_type = properties.get("iotdps-operation-type")
        if operation_type == _POLL:
            operation_id = str(properties.get("iotdps-operation-id") or "")
            operation = await registrations.operation_status(registering, operation_id)
            return (
                device_json.polled_json(operation, self._claim.registration_id),
                _wait_s(operation),
            )
        if operation_type == _LOOKUP:
            record = await registrations.lookup(registering)
            return device_json.encode(device_json.record_json(record, for_device=True)), None
        try:
            if operation_type != _REGISTER:
                raise InvalidArgumentError("Unknown iotdps-operation-type.")
            device_json.check_registration(request.data, self._claim.registration_id)
        except MusterError as error:
            await registrations.refusals.refuse(registering, error)
            raise
        operation = await registrations.register(registering)
        return device_json.operation_json(operation), _wait_s(operation)

    def _request(self, tracking: str) -> RegisterRequest:
        return RegisterRequest(
            claim=self._claim,
            tracking_id=tracking,
            api_version=self._api_version,
            transport=self._peer.transport,
            remote=self._peer.remote,
        )


def _leads_to(address: str, claim: Claim) -> bool:
    """Tell whether a link's address is that of the registration; the C SDK writes a host first."""
    path = address.partition("://")[2].partition("/")[2] if "://" in address else address
    expected = f"{claim.id_scope}/registrations/{claim.registration_id}"
    return unquote(path).strip("/").lower() == expected.lower()


def _wait_s(operation: Operation) -> int | None:
    return RETRY_AFTER_S if operation.status == ASSIGNING else None


def _wait(wait_s: int | None, kind: type[str]) -> dict[Any, Any]:
    """Return the seconds to wait in both spellings: Node and C read the one, C# the other."""
    if wait_s is None:
        return {}
    return {kind("retry-after"): Int(wait_s), kind("Retry-After"): Int(wait_s)}
