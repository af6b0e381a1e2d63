"""Claims-based security: tokens over the links of `$cbs` (hub-device.md 3.2, hub-service.md 3.2).

Clients of every kind use the same request with small differences; what is read of it is the
operation, the body with the token, and the message-id for the answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.errors import MusterError
from muster.hub.authentication import RefusedError
from muster.hub.endpoints import errors
from muster.hub.endpoints.amqp_grants import spoken_for
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.net.tasks import spawn
from muster.wire.amqp import cbs, messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import SendingLink

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.messages import MessageId
    from muster.wire.amqp.session import Session

_CREDIT: Final = 100


@final
class CbsLinks:
    """A `LinkService` for `$cbs`, both ways. Open to everybody."""

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is `$cbs`."""
        return address.match("$cbs") is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it."""
        if isinstance(link, SendingLink):
            link.accept()
            return _Replies()
        link.accept(_CREDIT, max_message_size=cbs.MAX_REQUEST)
        return _Requests(client, link.session)


@final
class _Replies(LinkHandler):
    """The way answers go. They are sent settled, so nothing comes back."""

    auxiliary = True


@final
class _Requests(LinkHandler):
    """The way requests come."""

    auxiliary = True

    def __init__(self, client: AmqpClient, session: Session) -> None:
        self._client = client
        self._session = session

    def received(self, deliveries: list[Delivery]) -> None:
        """Take requests, in order."""
        for delivery in deliveries:
            self._client.request_began()
            spawn(self._serve(delivery), "amqp put-token")

    async def _serve(self, delivery: Delivery) -> None:
        try:
            await self._put(delivery)
        finally:
            self._client.request_ended()

    async def _put(self, delivery: Delivery) -> None:
        client = self._client
        status, text, delay_s, message_id, sas = 200, "OK", 0.0, None, ""
        try:
            async with client.turn:
                request = messages.decode(delivery.payload)
                message_id = request.properties.message_id
                sas = cbs.token_of(request)
                await client.put_token(sas)
        except RemoteProtocolError as error:
            status, text = 400, error.description
        except MusterError as error:
            status, text = errors.official(error).status, errors.public_text(error)
            if isinstance(error, RefusedError):
                _, delay_s = client.refused(*spoken_for(sas), error)
        if delay_s:
            await asyncio.sleep(delay_s)
        delivery.accept()
        self._reply(message_id, status, text)

    def _reply(self, message_id: MessageId | None, status: int, text: str) -> None:
        link = self._reply_link()
        if link is None:
            return
        self._client.answer(link, cbs.answer(message_id, status, text))

    def _reply_link(self) -> SendingLink | None:
        """Return where the answer goes: the client's newest receiver on `$cbs`.

        One of this session if there is any.
        """
        found = [
            link
            for link, handler in self._client.handlers.items()
            if type(handler) is _Replies and isinstance(link, SendingLink)
        ]
        own = [link for link in found if link.session is self._session]
        return next(reversed(own or found), None)
