"""The links of one AMQP connection, each with whoever handles what comes over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.events import CreditChanged, LinkDetached, OutcomeReceived

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.net.peer import Peer
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link

_AUTH_CHAIN: Final = "com.microsoft:auth-chain"


class LinkHandler:
    """One attached link. Calls must not block; what a handler does not care about does nothing."""

    def received(self, deliveries: list[Delivery]) -> None:
        """The client sent these, in order. Each is to be settled, now or later."""

    def outcome(self, event: OutcomeReceived) -> None:
        """The client said what became of a message."""

    def credit_changed(self) -> None:
        """The client said how much it takes."""

    def detached(self) -> None:
        """The link is gone, whoever ended it, or all of the connection. Called exactly once."""


_Handler = TypeVar("_Handler", bound=LinkHandler)


@final
class Links(Generic[_Handler]):
    """Gives the events of a connection to the handlers of its links.

    Args:
        other: called with each event that is no attached link's.

    Attributes:
        handlers: of all links that are attached; whoever attaches one adds its handler.
    """

    __slots__ = ("_other", "handlers")

    def __init__(self, other: Callable[[Event], None]) -> None:
        self._other = other
        self.handlers: dict[Link, _Handler] = {}

    def received(self, events: list[Event]) -> None:
        """Hand events on, in order; deliveries of one link that follow each other together."""
        run: list[Delivery] = []
        for event in events:
            if type(event) is Delivery:
                if run and run[0].link is not event.link:
                    self._deliver(run)
                    run = []
                run.append(event)
                continue
            if run:
                self._deliver(run)
                run = []
            self._take(event)
        if run:
            self._deliver(run)

    def forget(self, link: Link) -> None:
        """Note that a link is gone, and tell its handler, if there is one still."""
        handler = self.handlers.pop(link, None)
        if handler is not None:
            handler.detached()

    def forget_all(self) -> None:
        """Note that all links are gone."""
        for link in list(self.handlers):
            self.forget(link)

    def _deliver(self, run: list[Delivery]) -> None:
        handler = self.handlers.get(run[0].link)
        if handler is not None:
            handler.received(run)

    def _take(self, event: Event) -> None:
        match event:
            case OutcomeReceived():
                handler = self.handlers.get(event.sent.link)
                if handler is not None:
                    handler.outcome(event)
            case CreditChanged():
                handler = self.handlers.get(event.link)
                if handler is not None:
                    handler.credit_changed()
            case LinkDetached():
                self.forget(event.link)
            case _:
                self._other(event)


@final
class Reading:
    """Reading from a client, which several may be against; nobody reads before all agree.

    Args:
        peer: which is read from.
    """

    __slots__ = ("_count", "_peer")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._count = 0

    def pause(self) -> None:
        """Stop reading until `resume` was called as often."""
        self._count += 1
        if self._count == 1:
            self._peer.pause_reading()

    def resume(self) -> None:
        """Read again, unless somebody else is against it."""
        self._count -= 1
        if not self._count:
            self._peer.resume_reading()


def auth_chain_of(link: Link) -> str:
    """Return the chain over which an edge hub speaks for the identity of a link, `''` for none.

    A property of the attach (hub-device.md 3.3).
    """
    return str(link.properties.get(_AUTH_CHAIN) or "")
