"""What the client said, as the owner of the connection is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from muster.wire.amqp.deliveries import Delivery, Sent
from muster.wire.amqp.performatives import (
    Close,
    DeliveryState,
    Error,
    Open,
    SaslInit,
    SaslResponse,
)

if TYPE_CHECKING:
    from muster.wire.amqp.link import Link, SendingLink


@final
@dataclass(slots=True, eq=False)
class LinkAttached:
    """The client attached a link. To be answered with the link's `accept` or `detach`."""

    link: Link


@final
@dataclass(slots=True, eq=False)
class LinkDetached:
    """A link is gone, not by the owner's doing: each link attached has at most one of these.

    The client detached it, ended its session, or broke a rule, which it has been told already.
    What was sent over it and is not settled stays so: no `OutcomeReceived` follows.

    Attributes:
        closed: False when the client means to come back to it. It is gone here all the same.
        error: why, if there is a reason.
    """

    link: Link
    closed: bool
    error: Error | None


@final
@dataclass(slots=True, eq=False)
class CreditChanged:
    """The client said how much it takes: see `link.credit` and `link.drain`.

    Also when what waited for the session's window has left.
    """

    link: SendingLink


@final
@dataclass(slots=True, eq=False)
class OutcomeReceived:
    """The client said what became of a message.

    Attributes:
        state: the outcome; None if it settles without one.
        settled: if False, the client waits for `sent.settle`.
    """

    sent: Sent
    state: DeliveryState | None
    settled: bool


Event: TypeAlias = (
    SaslInit
    | SaslResponse
    | Open
    | LinkAttached
    | Delivery
    | CreditChanged
    | OutcomeReceived
    | LinkDetached
    | Close
)
"""In the order in which a connection first sees them.

| Event | The owner answers with |
|---|---|
| `SaslInit`, `SaslResponse` | `connection.sasl_accept`, `sasl_refuse` or `sasl_challenge` |
| `Open` | `connection.open`, or `connection.close` |
| `LinkAttached` | `link.accept` or `link.detach` |
| `Delivery` | `delivery.accept`, `reject`, `release` or `settle` |
| `CreditChanged` | `link.send`, and `link.drained` if `link.drain` |
| `OutcomeReceived` | `sent.settle`, unless it is settled |
| `LinkDetached`, `Close` | nothing; they have been answered |
"""
