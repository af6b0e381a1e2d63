"""Claims-based security: requests and answers over the links of `$cbs` (hub-device.md 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from muster.errors import InvalidArgumentError
from muster.wire.amqp.messages import AmqpValue, Message, Properties
from muster.wire.amqp.types import Int

if TYPE_CHECKING:
    from muster.wire.amqp.messages import MessageId

MAX_REQUEST: Final = 16_384
"""Bytes of a request; a token has at most 4096."""

_PUT_TOKEN: Final = "put-token"  # noqa: S105 - an operation, no secret
_TOKEN_TYPES: Final = frozenset(
    {"servicebus.windows.net:sastoken", "azure-devices.net:sastoken", "sastoken"}
)


def token_of(request: Message) -> str:
    """Return the token in a request.

    Raises:
        InvalidArgumentError: code `invalid-cbs-request`.
    """
    properties = request.application_properties
    kind = properties.get("type")
    body = request.body
    value = body.value if isinstance(body, AmqpValue) else None
    if properties.get("operation") != _PUT_TOKEN:
        reason = "The operation must be put-token."
    elif not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
        reason = "The token must be a SAS token."
    elif not isinstance(value, str):
        reason = "The body must be the token as a string."
    else:
        return str(value)
    raise InvalidArgumentError(reason, code="invalid-cbs-request")


def answer(message_id: MessageId | None, status: int, text: str) -> Message:
    """Return the answer to a request.

    Args:
        message_id: of the request; goes back in its own type.
        status: HTTP status.
        text: for people.
    """
    return Message(
        AmqpValue(None),
        Properties(correlation_id=message_id),
        {"status-code": Int(status), "status-description": text},
    )
