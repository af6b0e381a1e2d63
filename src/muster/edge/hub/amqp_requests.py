"""Methods and twins over AMQP: a link for each direction (hub-device.md 3.6, 3.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from muster.edge.hub import errors
from muster.edge.hub.amqp_errors import INTERNAL
from muster.edge.hub.amqp_handler import LinkHandler
from muster.edge.hub.amqp_identity import MAX_QUEUED
from muster.edge.hub.mqtt_session import MAX_WAITING, REQUEST_PACE
from muster.errors import MusterError
from muster.model.method import MAX_PAYLOAD
from muster.net.amqp_requests import RequestLine
from muster.net.routing import decode_json
from muster.wire.amqp import messages, method_messages, twin_messages
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.twin_messages import MAX_REQUEST, TwinAnswer, TwinOperation

if TYPE_CHECKING:
    from muster.edge.hub.amqp_identity import AmqpIdentity
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.messages import Message

_METHOD_CREDIT: Final = 50


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
        answer = method_messages.answer(payload)
        if answer is not None:
            identity = self._identity
            identity.services.methods.answered(identity.ref, *answer)


def twin(identity: AmqpIdentity, link: Link) -> LinkHandler:
    """Accept one link of a pair for a twin."""
    identity.add(link)
    identity.twin.add(link)
    if isinstance(link, ReceivingLink):
        link.accept(MAX_WAITING, max_message_size=MAX_REQUEST)
    else:
        link.accept()
    return _Twin(identity, link)


@final
class _Twin(LinkHandler):
    """One link of a pair for the twin: requests one way, answers and changes the other."""

    def __init__(self, identity: AmqpIdentity, link: Link) -> None:
        self._identity = identity
        self._link = link
        self._line = RequestLine(
            link,
            REQUEST_PACE,
            identity.services.clock,
            most=MAX_WAITING,
            serve=self._serve,
            failed=self._failed,
        )

    def received(self, deliveries: list[Delivery]) -> None:
        """Take requests; they are served in order, at the pace of `REQUEST_PACE`."""
        self._line.received(deliveries)

    def detached(self) -> None:
        """No answers to what waits, no changes any more."""
        identity, link = self._identity, self._link
        self._line.clear()
        identity.twin.remove(link)
        if identity.subscribed is link:
            identity.subscribed = None
        identity.remove(link)

    def _failed(self) -> None:
        self._identity.client.detach(self._link, Error(INTERNAL))

    async def _serve(self, delivery: Delivery, request: Message) -> None:
        identity = self._identity
        services = identity.services
        try:
            answer = await self._answer(request)
        except MusterError as error:
            body = errors.body(error, services.randomness.uuid(), services.clock.now())
            answer = TwinAnswer(errors.status(error), body)
        delivery.accept()
        link = identity.twin.beside(self._link)
        if link is None:
            return
        reply = twin_messages.answer(answer, request.properties.correlation_id)
        if link.queued < MAX_QUEUED:
            link.send(messages.encode(reply), settled=True)
        else:
            identity.client.detach(link)
        identity.changed()

    async def _answer(self, request: Message) -> TwinAnswer:
        identity = self._identity
        twins = identity.services.twins
        match twin_messages.operation(request):
            case TwinOperation.GET:
                return TwinAnswer(200, await twins.get(identity.ref))
            case TwinOperation.REPORT:
                patch: dict[str, Any] = decode_json(request.data, dict[str, Any])
                expected = twin_messages.expected_version(request)
                version = await twins.report(identity.ref, patch, expected)
                return TwinAnswer(200, version=version)
            case TwinOperation.SUBSCRIBE:
                identity.subscribed = identity.twin.beside(self._link)
            case TwinOperation.UNSUBSCRIBE:
                identity.subscribed = None
        return TwinAnswer(200)
