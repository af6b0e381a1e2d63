"""The bus port: what must reach a connection on some node, now, and need not survive.

Delivery is at most once and in order per publisher and subject. Whatever must survive goes through
the store first; the bus only says that it is there. A publish tells everybody; a request asks
everybody and brings back the answer of the one who has what it is about (a device's connection).

Subjects are fixed words of the code (`hub.desired-changed`), never built from identifiers, so that
an identifier needs no escaping and a node needs one subscription for all its connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

Callback: TypeAlias = Callable[[bytes], None]
"""Receives a message. Runs on the event loop, must not block; a failure of it is logged."""

Responder: TypeAlias = Callable[[bytes], Awaitable[bytes | None]]
"""Takes a request and returns the answer, or `None` to decline: it is for another to answer.

Runs on the event loop and may take its time; it is cancelled when nobody waits any more. A failure
of it is logged and counts as declined.
"""

Unsubscribe: TypeAlias = Callable[[], None]
"""Ends a subscription; calling it twice is harmless."""


class Bus(Protocol):
    """Carries small messages between the parts of a service, on one node or on many."""

    def publish(self, subject: str, message: bytes) -> None:
        """Hand a message to every subscriber of the subject. Never blocks, never fails."""

    def subscribe(self, subject: str, callback: Callback) -> Unsubscribe:
        """Call back for every later message of the subject until the result is called."""

    async def request(self, subject: str, message: bytes, timeout_s: float) -> bytes | None:
        """Ask every responder of the subject and return the first answer.

        Args:
            subject: what it is about.
            message: the request.
            timeout_s: seconds to wait for an answer.

        Returns:
            `None` when all have declined, nobody responds to the subject, or the time is over.
        """

    def respond(self, subject: str, responder: Responder) -> Unsubscribe:
        """Have every later request of the subject asked of a responder, until the result is called.

        A responder that can answer only later (a device that is still expected) does not decline
        but waits; the requester gets the first answer of all.
        """
