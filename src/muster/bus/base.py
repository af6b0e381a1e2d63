"""The bus port: what must reach a connection on some node, now, and need not survive.

Delivery is at most once and in order per publisher and subject. Whatever must survive goes through
the store first; the bus only says that it is there. Subjects are fixed words of the code
(`hub.desired-changed`), never built from identifiers, so that an identifier needs no escaping and
a node needs one subscription for all its connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

Callback: TypeAlias = Callable[[bytes], None]
"""Receives a message. Runs on the event loop, must not block; a failure of it is logged."""

Unsubscribe: TypeAlias = Callable[[], None]
"""Ends a subscription; calling it twice is harmless."""


class Bus(Protocol):
    """Carries small messages between the parts of a service, on one node or on many."""

    def publish(self, subject: str, message: bytes) -> None:
        """Hand a message to every subscriber of the subject. Never blocks, never fails."""

    def subscribe(self, subject: str, callback: Callback) -> Unsubscribe:
        """Call back for every later message of the subject until the result is called."""
