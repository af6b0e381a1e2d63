"""One live session of one identity, and the transport's end of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from muster.hub.method_calls import PendingCalls

if TYPE_CHECKING:
    from muster.hub.connections import Connections
    from muster.model.auth_chain import AuthChain
    from muster.model.fault import Fault
    from muster.model.identity import IdentityRef

ACTIVITY_FLUSH_S: Final = 60.0
"""Seconds after which activity of a connection is worth a write. Reads see memory, not this."""


class Link(Protocol):
    """What a transport gives to a live connection. No call blocks or fails."""

    @property
    def alive(self) -> bool:
        """Whether the connection is neither closed nor closing."""

    def close(self, reason: str) -> None:
        """Close the connection; `Connection.detach` follows, now or later."""

    def desired_changed(self, body: bytes, version: int) -> None:
        """Tell the client, if it subscribed."""

    def takes_method(self, name: str) -> bool:
        """Tell whether the client has subscribed to a direct method, so that it may be sent.

        Whenever this may have become true, the transport calls `Connection.takes_methods`.
        """

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method; what the client answers goes to `Connection.method_answered`.

        Args:
            request_id: positive, below 2^63, and of this call alone; comes back with the answer.
            name: of the method, printable ASCII without separators.
            payload: JSON.
        """

    def fault_began(self, fault: Fault) -> bool:
        """Do to this connection what an injected fault says that has begun.

        Returns:
            Whether it concerned this connection.
        """


@final
class Connection:
    """One live session of one identity.

    Attributes:
        chain: over which an edge hub speaks for the identity; `None` when it proved itself.
    """

    __slots__ = (
        "_connections",
        "calls",
        "chain",
        "connected_at",
        "expires_at",
        "expiry_slot",
        "last_activity_at",
        "link",
        "ref",
        "write_after",
    )

    def __init__(
        self,
        connections: Connections,
        ref: IdentityRef,
        link: Link,
        expires_at: int,
        now: float,
        *,
        chain: AuthChain | None = None,
    ) -> None:
        self._connections = connections
        self.chain = chain
        self.calls = PendingCalls()
        self.ref = ref
        self.link = link
        self.expires_at = expires_at
        self.expiry_slot = 0
        self.connected_at = now
        self.last_activity_at = now
        self.write_after = now

    def touch(self, now: float) -> None:
        """Note that the client did something. Called for every batch of messages."""
        self.last_activity_at = now
        if now >= self.write_after:
            self.write_after = now + ACTIVITY_FLUSH_S
            self._connections.note(self)

    def takes_methods(self) -> None:
        """Tell whoever waits for it that the client may have begun to take direct methods.

        Called by the transport when the client may be written to, and after it has subscribed.
        """
        self._connections.method_waits.wake(self.ref)

    def method_answered(self, request_id: int, status: int, payload: bytes) -> None:
        """Take the client's answer to a direct method.

        An answer that nobody waits for is dropped in silence (hub-device.md 8).

        Args:
            request_id: as it was given to `Link.invoke_method`.
            status: the client's own result, a signed 32-bit number.
            payload: as the client sent it, meant to be JSON; empty for none.
        """
        self.calls.answer(request_id, status, payload)

    def renew(self, expires_at: int) -> None:
        """The client has a newer token, which expires at another time (unix seconds)."""
        self._connections.renew(self, expires_at)

    def detach(self) -> None:
        """The connection is over; harmless when that is known already."""
        self._connections.detach(self)


@final
class Attempt:
    """A connect whose credentials are still being checked.

    Attributes:
        ref: who.
        chain: over which an edge hub may speak for it; `None` for none.
        barred: the identity was disabled or deleted meanwhile, or the chain does not hold any more.
        stale: its MQTT session was changed meanwhile, by the connection it will take over.
    """

    __slots__ = ("barred", "chain", "ref", "stale")

    def __init__(self, ref: IdentityRef, chain: AuthChain | None = None) -> None:
        self.ref = ref
        self.chain = chain
        self.barred = False
        self.stale = False
