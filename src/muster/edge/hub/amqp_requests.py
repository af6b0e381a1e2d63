"""Methods and twins over AMQP: a link for each direction (hub-device.md 3.6, 3.7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from muster.edge.hub import errors
from muster.edge.hub.amqp_handler import LinkHandler
from muster.edge.hub.amqp_identity import MAX_QUEUED
from muster.edge.hub.mqtt_session import MAX_WAITING, REQUEST_PACE
from muster.errors import InvalidArgumentError, MusterError
from muster.model.method import MAX_PAYLOAD
from muster.net.routing import decode_json
from muster.net.tasks import spawn
from muster.wire.amqp import messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.method_ids import METHOD_STATUS, request_id
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.types import Int

if TYPE_CHECKING:
    from muster.edge.hub.amqp_identity import AmqpIdentity
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link

_METHOD_CREDIT: Final = 50
_MAX_TWIN_REQUEST: Final = 128 * 1024
_REPORTED: Final = "/properties/reported"
_NOTIFICATIONS: Final = "/notifications/twin/properties/desired"
_INT32: Final = range(-(1 << 31), 1 << 31)


def methods(identity: AmqpIdentity, link: Link) -> LinkHandler:
    """Accept one link of a pair for methods."""
    identity.add(link)
    identity.methods.add(link)
    if isinstance(link, ReceivingLink):
        link.accept(_METHOD_CREDIT, max_message_size=MAX_PAYLOAD + 4_096)
    else:
        link.accept()
    return _Methods(identity, link)


@final
class _Methods(LinkHandler):
    """One link of a pair for methods."""

    def __init__(self, identity: AmqpIdentity, link: Link) -> None:
        self._identity = identity
        self._link = link

    def begin(self) -> None:
        """The pair may be whole now."""
        self._identity.changed()

    def received(self, deliveries: list[Delivery]) -> None:
        """Take answers. Each is accepted, or Node's would never be over (hub-device.md 12.3)."""
        for delivery in deliveries:
            self._answered(delivery.payload)
            delivery.accept()

    def detached(self) -> None:
        """The pair is not whole any more."""
        self._identity.methods.remove(self._link)
        self._identity.remove(self._link)

    def _answered(self, payload: bytes) -> None:
        try:
            message = messages.decode(payload)
        except RemoteProtocolError:
            return
        found = request_id(message.properties.correlation_id)
        status = message.application_properties.get(METHOD_STATUS)
        if found is not None and isinstance(status, int) and int(status) in _INT32:
            identity = self._identity
            identity.services.methods.answered(identity.ref, found, int(status), message.data)


def twin(identity: AmqpIdentity, link: Link) -> LinkHandler:
    """Accept one link of a pair for a twin."""
    identity.add(link)
    identity.twin.add(link)
    if isinstance(link, ReceivingLink):
        link.accept(MAX_WAITING, max_message_size=_MAX_TWIN_REQUEST)
    else:
        link.accept()
    return _Twin(identity, link)


class _Answer(NamedTuple):
    status: int
    body: bytes = b""
    version: int | None = None


@final
class _Twin(LinkHandler):
    """One link of a pair for the twin: requests one way, answers and changes the other."""

    def __init__(self, identity: AmqpIdentity, link: Link) -> None:
        self._identity = identity
        self._link = link
        self._line: list[Delivery] = []
        self._working = False
        self._arrival = 0.0

    def received(self, deliveries: list[Delivery]) -> None:
        """Take requests; they are served in order, at the pace of `REQUEST_PACE`."""
        self._line += deliveries
        if len(self._line) >= MAX_WAITING and isinstance(self._link, ReceivingLink):
            # Requests come settled, which would earn them new credit at once.
            self._link.set_credit(0)
        if not self._working:
            self._working = True
            spawn(self._work(), "edge hub amqp twin")

    def detached(self) -> None:
        """No answers to what waits, no changes any more."""
        identity, link = self._identity, self._link
        self._line.clear()
        identity.twin.remove(link)
        if identity.subscribed is link:
            identity.subscribed = None
        identity.remove(link)

    async def _work(self) -> None:
        clock = self._identity.services.clock
        try:
            while self._line:
                wait_s = REQUEST_PACE.wait_s(self._arrival, clock.monotonic())
                if wait_s:
                    await asyncio.sleep(wait_s)
                if not self._line:
                    break
                self._arrival = REQUEST_PACE.after(self._arrival, clock.monotonic())
                await self._serve(self._line.pop(0))
                if len(self._line) <= MAX_WAITING // 2 and isinstance(self._link, ReceivingLink):
                    self._link.set_credit(MAX_WAITING)
        finally:
            self._working = False

    async def _serve(self, delivery: Delivery) -> None:
        identity = self._identity
        services = identity.services
        try:
            request = messages.decode(delivery.payload)
        except RemoteProtocolError as error:
            delivery.reject(Error(error.condition, error.description))
            return
        try:
            answer = await self._answer(request)
        except MusterError as error:
            body = errors.body(error, services.randomness.uuid(), services.clock.now())
            answer = _Answer(errors.status(error), body)
        delivery.accept()
        link = identity.twin.beside(self._link)
        if link is None:
            return
        annotations: dict[Any, Any] = {"status": Int(answer.status)}
        if answer.version is not None:
            annotations["version"] = answer.version
        reply = Message(
            Data([answer.body]),
            Properties(correlation_id=request.properties.correlation_id),
            message_annotations=annotations,
        )
        if link.queued < MAX_QUEUED:
            link.send(messages.encode(reply), settled=True)
        else:
            identity.client.detach(link)
        identity.changed()

    async def _answer(self, request: Message) -> _Answer:
        identity = self._identity
        twins = identity.services.twins
        annotations = request.message_annotations
        operation = str(annotations.get("operation") or "").upper()
        resource = str(annotations.get("resource") or "").lower()
        if operation == "GET":
            return _Answer(200, await twins.get(identity.ref))
        if operation == "PATCH" and resource == _REPORTED:
            patch: dict[str, Any] = decode_json(request.data, dict[str, Any])
            expected = annotations.get("version")
            wanted = int(expected) if isinstance(expected, int) else None
            return _Answer(200, version=await twins.report(identity.ref, patch, wanted))
        if resource == _NOTIFICATIONS and operation in {"PUT", "DELETE"}:
            subscribed = operation == "PUT"
            identity.subscribed = identity.twin.beside(self._link) if subscribed else None
            return _Answer(200)
        raise InvalidArgumentError("There is no such operation on a twin.")
