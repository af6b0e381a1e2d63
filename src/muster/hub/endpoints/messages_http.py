"""Cloud-to-device messages for back ends over REST: purge, feedback, file notifications.

Sources: hub-service.md 1.1 rows 32 to 36. Sending has no official REST call, only AMQP; ours is for
our own CLI.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response

from muster.errors import InvalidArgumentError
from muster.hub.endpoints.service_access import (
    SERVICE_CONNECT,
    identity_of,
    json_response,
    read_json,
)
from muster.model.queued_message import QueuedMessage, parse_ack

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.endpoints.service_access import Operation, ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.messaging import Messaging
    from muster.hub.service_bound import ServiceBound
    from muster.net.routing import Route

_BODY_LIMIT: Final = 256 * 1024


class MessageBody(Struct, rename="camel", forbid_unknown_fields=True):
    """A message to be sent. `body` is base64; an expiry without a time zone is UTC."""

    body: str = ""
    message_id: str | None = None
    correlation_id: str | None = None
    user_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expiry_time_utc: datetime | None = None
    ack: str | None = None
    properties: dict[str, str | None] = {}


class PurgeResult(Struct, rename="camel"):
    """`PurgeMessageQueueResult`."""

    total_messages_purged: int
    device_id: str
    module_id: str | None


@final
class MessagesHttpEndpoint:
    """The operations on messages; see `routes`."""

    def __init__(self, access: ServiceAccess, messaging: Messaging) -> None:
        self._access = access
        self._messages = messaging.cloud_to_device
        self._queues = {
            "feedback": messaging.feedback,
            "filenotifications": messaging.file_notifications,
        }

    def routes(self) -> list[Route]:
        """Return all operations."""
        table: list[tuple[str, str, Operation]] = []
        for tail in ("{id}", "{id}/modules/{module}"):
            table.append(("DELETE", f"/devices/{tail}/commands", self._purge))
            table.append(("POST", f"/admin/v1/messages/{tail}", self._send))
        for name, queue in self._queues.items():
            table += _queue_routes(f"/messages/serviceBound/{name}", queue)
        return [
            self._access.route(method, pattern, operation, SERVICE_CONNECT)
            for method, pattern, operation in table
        ]

    async def _send(self, hub: Hub, request: Request) -> Response:
        body: MessageBody = await read_json(request, MessageBody, _BODY_LIMIT)
        await self._messages.send(identity_of(hub, request), _message(body))
        return Response(status_code=204)

    async def _purge(self, hub: Hub, request: Request) -> Response:
        ref = identity_of(hub, request)
        count = await self._messages.purge(ref)
        return json_response(PurgeResult(count, ref.device_id, ref.module_id or None))


def _queue_routes(path: str, queue: ServiceBound) -> list[tuple[str, str, Operation]]:
    """Return the operations on a queue for back ends."""

    async def receive(hub: Hub, _request: Request) -> Response:
        delivery = await queue.receive(hub.id)
        if delivery is None:
            return Response(status_code=204)
        message = delivery.message
        response = Response(message.body, media_type=message.content_type)
        response.headers["etag"] = f'"{delivery.lock_token}"'
        return response

    async def complete(hub: Hub, request: Request) -> Response:
        await queue.complete(hub.id, _token(request))
        return Response(status_code=204)

    async def abandon(hub: Hub, request: Request) -> Response:
        await queue.abandon(hub.id, _token(request))
        return Response(status_code=204)

    return [
        ("GET", path, receive),
        ("DELETE", f"{path}/{{token}}", complete),
        ("POST", f"{path}/{{token}}/abandon", abandon),
    ]


def _token(request: Request) -> str:
    token: str = request.path_params["token"]
    return token.lower()


def _message(body: MessageBody) -> QueuedMessage:
    expiry = body.expiry_time_utc
    if expiry is not None and expiry.tzinfo is None:
        expiry = expiry.replace(tzinfo=UTC)
    try:
        content = base64.b64decode(body.body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError("The body is not base64.", code="invalid-message-body") from None
    return QueuedMessage(
        message_id=body.message_id,
        correlation_id=body.correlation_id,
        user_id=body.user_id,
        content_type=body.content_type,
        content_encoding=body.content_encoding,
        expires_at=None if expiry is None else expiry.timestamp(),
        ack=parse_ack(body.ack),
        properties=body.properties,
        body=content,
    )
