"""What can go wrong on an AMQP connection, whose fault it is, and what the peer is told.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from muster.wire.amqp.events import Event

# Error conditions (2.8.15 to 2.8.18) that this package itself closes, ends or detaches with.
# Those that rules of the services lead to stand with the endpoints.
DECODE_ERROR: Final = "amqp:decode-error"
INVALID_FIELD: Final = "amqp:invalid-field"
NOT_ALLOWED: Final = "amqp:not-allowed"
RESOURCE_LIMIT_EXCEEDED: Final = "amqp:resource-limit-exceeded"
CONNECTION_FORCED: Final = "amqp:connection:forced"
FRAMING_ERROR: Final = "amqp:connection:framing-error"
WINDOW_VIOLATION: Final = "amqp:session:window-violation"
HANDLE_IN_USE: Final = "amqp:session:handle-in-use"
UNATTACHED_HANDLE: Final = "amqp:session:unattached-handle"
TRANSFER_LIMIT_EXCEEDED: Final = "amqp:link:transfer-limit-exceeded"
MESSAGE_SIZE_EXCEEDED: Final = "amqp:link:message-size-exceeded"


class ProtocolError(Exception):
    """Bytes or values that AMQP 1.0 does not allow.

    Raised as one of its two kinds, so that nobody blames the peer for our own mistake.

    Args:
        description: plain text for logs and for the peer. Holds nothing the peer wrote.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description


@final
class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; the connection cannot go on.

    `events` are those that came whole and well in the same chunk before the fault, in order.
    Serving or dropping them are both sound: nothing of them has been acknowledged.

    Args:
        description: as for `ProtocolError`.
        condition: the error condition that the connection is closed with.
    """

    def __init__(self, description: str, condition: str = DECODE_ERROR) -> None:
        super().__init__(description)
        self.condition = condition
        self.events: list[Event] = []


@final
class LocalProtocolError(ProtocolError):
    """We asked for something that cannot be written. Nothing was sent."""
