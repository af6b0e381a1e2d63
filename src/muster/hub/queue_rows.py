"""Queued messages as rows of the table `queued_messages` and back."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from muster.model import queued_message
from muster.model.queued_message import Delivery
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.model.queued_message import QueuedMessage
    from muster.store.engine import Query, Row, Value

SQL: Final = load("queues")

_Columns: TypeAlias = tuple[int, str, bytes, float, float, int]


class Kind(enum.IntEnum):
    """What a queue is for."""

    CLOUD_TO_DEVICE = 0
    FEEDBACK = 1
    FILE_NOTIFICATIONS = 2


class Address(NamedTuple):
    """Names one queue.

    Attributes:
        hub: the hub's number.
        kind: what it is for, a `Kind`.
        device_id: whose, `''` for a queue of the hub's back ends.
        module_id: `''` for the device itself.
    """

    hub: int
    kind: int
    device_id: str = ""
    module_id: str = ""

    @property
    def params(self) -> dict[str, Value]:
        """The parameters that name it in SQL."""
        return self._asdict()


def insertion(
    query: Query,
    address: Address,
    message: QueuedMessage,
    *,
    now: float,
    expires_at: float,
    otherwise: Exception | None = None,
    **more: Value,
) -> Statement:
    """Return the step that stores a message; `Queues.added` is to follow its commit.

    Args:
        query: one of `SQL`'s insertions.
        address: the queue.
        message: what to store.
        now: unix seconds.
        expires_at: unix seconds.
        otherwise: raised when the query stores nothing.
        more: what else the query wants.
    """
    return Statement(
        query,
        {
            **address.params,
            "message_id": message.message_id or "",
            "ack": message.ack.value,
            "head": queued_message.encode_head(message),
            "body": message.body,
            "enqueued_at": now,
            "expires_at": expires_at,
            **more,
        },
        expect=1,
        otherwise=otherwise,
    )


def to_delivery(row: Row, lock_token: str) -> Delivery:
    """Return a row of `next` as what a receiver is given."""
    number, head, body, enqueued_at, expires_at, delivery_count = cast("_Columns", row)
    return Delivery(
        number,
        lock_token,
        queued_message.decode(head, body),
        enqueued_at,
        expires_at,
        delivery_count,
    )
