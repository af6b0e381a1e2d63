"""What readers ask about the stream: `$management` (hub-service.md 4.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.auth.access_policies import Right
from muster.errors import InvalidArgumentError, MusterError, UnauthorizedError
from muster.hub.authentication import RefusedError
from muster.hub.endpoints import errors
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.events_amqp import entity_hub
from muster.net.tasks import spawn
from muster.wire.amqp import addresses, messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.messages import AmqpValue, Message, Properties
from muster.wire.amqp.types import Array, Int, Symbol, Timestamp

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_grants import Grant
    from muster.hub.event_readers import EventReaders
    from muster.hub.hubs import Hubs
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link, ReceivingLink
    from muster.wire.amqp.types import Value

_NODE: Final = "$management"
_CREDIT: Final = 100
_MAX_REQUEST: Final = 16_384
_STREAM: Final = "com.microsoft:eventhub"
_PARTITION: Final = "com.microsoft:partition"


@final
class ManagementLinks:
    """A `LinkService` for `$management`, both ways.

    Args:
        hubs: the hubs of this service.
        readers: knows the partitions.
    """

    __slots__ = ("_hubs", "_readers")

    def __init__(self, hubs: Hubs, readers: EventReaders) -> None:
        self._hubs = hubs
        self._readers = readers

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is `$management`, of a stream or of whichever is named later."""
        return address.match(_NODE) is not None or address.match(f"*/{_NODE}") is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept whoever may read the events of any hub; each request says of which."""
        grant = self._grant(client, address)
        if isinstance(link, SendingLink):
            link.accept()
            return _Replies(grant)
        link.accept(_CREDIT, max_message_size=_MAX_REQUEST)
        return _Requests(self, client, link, grant)

    async def answer(self, client: AmqpClient, request: Message) -> dict[Value, Value]:
        """Return what is asked for.

        Raises:
            InvalidArgumentError: code `invalid-management-request`.
            NotFoundError: codes `stream-not-found`, `partition-not-found`.
            RefusedError: the client may not.
        """
        asked = request.application_properties
        kind, name = asked.get("type"), asked.get("name")
        if asked.get("operation") != "READ" or not isinstance(name, str):
            raise InvalidArgumentError(
                "The operation must be READ, with the name of an event stream.",
                code="invalid-management-request",
            )
        hub = entity_hub(self._hubs, name)
        address = addresses.parse(f"{name}/{_NODE}")
        client.grants.service(address, Right.SERVICE_CONNECT, hub=hub)
        partitions = self._readers.partitions()
        if kind == _STREAM:
            return {
                "name": name,
                "type": _STREAM,
                "created_at": Timestamp(hub.created_at * 1000),
                "partition_count": Int(len(partitions)),
                "partition_ids": Array(str, list(partitions)),
            }
        if kind != _PARTITION:
            raise InvalidArgumentError(
                f"The type must be {_STREAM} or {_PARTITION}.", code="invalid-management-request"
            )
        partition = str(asked.get("partition"))
        state = await self._readers.state(hub, partition)
        return {
            "name": name,
            "type": _PARTITION,
            "partition": partition,
            "begin_sequence_number": state.first_sequence,
            "last_enqueued_sequence_number": state.last_sequence,
            "last_enqueued_offset": state.last_offset,
            "last_enqueued_time_utc": Timestamp(state.last_enqueued_at * 1000),
            "is_partition_empty": state.empty,
        }

    def _grant(self, client: AmqpClient, address: Address) -> Grant:
        refusals: list[UnauthorizedError] = []
        for hub in self._hubs.all():
            own = addresses.parse(f"{hub.host}/{_NODE}")
            try:
                return client.grants.service(own, Right.SERVICE_CONNECT, hub=hub)
            except UnauthorizedError as error:
                refusals.append(error)
        raise refusals[0]


@final
class _Replies(LinkHandler):
    """The way answers go. They are sent settled, so nothing comes back."""

    auxiliary = True

    def __init__(self, grant: Grant) -> None:
        self.grant = grant


@final
class _Requests(LinkHandler):
    """The way requests come."""

    auxiliary = True

    def __init__(
        self, service: ManagementLinks, client: AmqpClient, link: ReceivingLink, grant: Grant
    ) -> None:
        self.grant = grant
        self._service = service
        self._client = client
        self._session = link.session

    def received(self, deliveries: list[Delivery]) -> None:
        """Answer requests, each when it can be."""
        for delivery in deliveries:
            self._client.request_began()
            spawn(self._serve(delivery), "amqp management")

    async def _serve(self, delivery: Delivery) -> None:
        try:
            await self._read(delivery)
        finally:
            self._client.request_ended()

    async def _read(self, delivery: Delivery) -> None:
        request = Message()
        status, description, condition = 200, "OK", ""
        body: Value = None
        try:
            request = messages.decode(delivery.payload)
            body = await self._service.answer(self._client, request)
        except RemoteProtocolError as error:
            status, description, condition = 400, error.description, error.condition
        except MusterError as error:
            tracking_id, delay_s = "", 0.0
            if isinstance(error, RefusedError):
                host = self._client.grants.host
                tracking_id, delay_s = self._client.refused(host, _NODE, error)
            refusal = self._client.error(error, tracking_id)
            status, description = errors.official(error).status, refusal.description or ""
            condition = refusal.condition
            await asyncio.sleep(delay_s)
        delivery.accept()
        self._reply(request.properties, status, description, condition, body)

    def _reply(
        self, asked: Properties, status: int, description: str, condition: str, body: Value
    ) -> None:
        link = self._reply_link(asked.reply_to)
        if link is None:
            return
        properties: dict[Value, Value] = {
            "status-code": Int(status),
            "status-description": description,
        }
        if condition:
            properties["error-condition"] = Symbol(condition)
        answer = Message(AmqpValue(body), Properties(correlation_id=asked.message_id), properties)
        self._client.answer(link, answer)

    def _reply_link(self, reply_to: str | None) -> SendingLink | None:
        """Return where the answer goes: the link that is named, else the newest of the session."""
        found = [
            link
            for link, handler in self._client.handlers.items()
            if type(handler) is _Replies and isinstance(link, SendingLink)
        ]
        named = [link for link in found if reply_to and link.target.address == reply_to]
        own = [link for link in found if link.session is self._session]
        return next(reversed(named or own or found), None)
