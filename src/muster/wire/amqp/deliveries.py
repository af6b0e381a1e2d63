"""Messages on their way: one delivery in, one delivery out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from muster.wire.amqp.performatives import Accepted, DeliveryState, Error, Rejected, Released

if TYPE_CHECKING:
    from muster.wire.amqp.link import ReceivingLink, SendingLink


@final
class Delivery:
    """A message that the client sent, whole. To be settled once, by the first of the methods.

    What comes after the first, and after the link was detached, is ignored.

    Attributes:
        link: the link it came over.
        delivery_id: its number in the session.
        tag: the client's name for it.
        message_format: 0, or `messages.BATCH_FORMAT`.
        settled: whether nobody waits for an answer: the client sent it so, or it was settled here.
        payload: the encoded message; see `messages.decode`.
    """

    __slots__ = ("delivery_id", "link", "message_format", "payload", "settled", "tag")

    def __init__(
        self,
        link: ReceivingLink,
        delivery_id: int,
        tag: bytes,
        message_format: int,
        payload: bytes,
        *,
        settled: bool,
    ) -> None:
        self.link = link
        self.delivery_id = delivery_id
        self.tag = tag
        self.message_format = message_format
        self.payload = payload
        self.settled = settled

    def accept(self) -> None:
        """Say that the message was taken. Many of them leave as one frame."""
        if not self.settled:
            self.settled = True
            self.link.settle(self.delivery_id, None)

    def reject(self, error: Error | None = None) -> None:
        """Say that the message is not valid, or was refused for another reason."""
        self.settle(Rejected(error))

    def release(self) -> None:
        """Say that the message was not taken, and may be sent again."""
        self.settle(Released())

    def settle(self, state: DeliveryState) -> None:
        """Say what became of the message."""
        if not self.settled:
            self.settled = True
            self.link.settle(self.delivery_id, None if isinstance(state, Accepted) else state)

    def __repr__(self) -> str:
        return (
            f"Delivery(delivery_id={self.delivery_id}, tag=<{len(self.tag)} bytes>, "
            f"message_format={self.message_format:#x}, settled={self.settled}, "
            f"payload=<{len(self.payload)} bytes>)"
        )


@final
class Sent:
    """A message for the client, sent or waiting for credit.

    Attributes:
        link: the link it goes over.
        tag: its name, for the client.
        settled: whether it is over: sent so, or settled by either side.
        state: what the client last said became of it.
        context: whatever the owner gave to `SendingLink.send`.
        delivery_id: its number in the session; None while it waits.
        payload: what is to be sent; empty when all is.
        message_format: as for `Delivery`.
        offset: bytes of the payload that are sent.
        held: bytes for which the connection accounts while it waits.
    """

    __slots__ = (
        "context",
        "delivery_id",
        "held",
        "link",
        "message_format",
        "offset",
        "payload",
        "settled",
        "state",
        "tag",
    )

    def __init__(
        self,
        link: SendingLink,
        tag: bytes,
        message_format: int,
        payload: bytes,
        context: Any,
        *,
        settled: bool,
    ) -> None:
        self.link = link
        self.tag = tag
        self.message_format = message_format
        self.payload = payload
        self.context = context
        self.settled = settled
        self.state: DeliveryState | None = None
        self.delivery_id: int | None = None
        self.offset = 0
        self.held = 0

    def settle(self, state: DeliveryState | None = None) -> None:
        """Settle it from this side: in answer to an outcome that is not, or to give it up.

        Ignored when it is settled or its link detached. What still waits for credit is not sent.

        Args:
            state: what to tell the client; None for what the client said.
        """
        if not self.settled:
            self.settled = True
            self.link.forget(self, state or self.state)

    def __repr__(self) -> str:
        return (
            f"Sent(delivery_id={self.delivery_id}, tag=<{len(self.tag)} bytes>, "
            f"settled={self.settled}, state={self.state!r})"
        )
