"""Who is connected to the edge hub: one connection for each identity, the newest (edge.md 6.3)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol, final

import structlog

from muster.clock import format_time

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.model.identity import IdentityRef

MAX_CLIENTS: Final = 1_000
"""Clients at a time; the official hub takes 100."""

TAKEN_OVER: Final = "taken over by a newer connection"

_log = structlog.get_logger(__name__)


class Link(Protocol):
    """The connection of a client, over whichever protocol. Nothing here blocks or raises."""

    @property
    def ref(self) -> IdentityRef:
        """Whose it is."""

    @property
    def expires_at(self) -> int:
        """When its token expires, unix seconds."""

    @property
    def over(self) -> tuple[str, ...]:
        """Edge devices below this one over which it is spoken for; none when it proved itself."""

    def close(self, reason: str) -> None:
        """End it."""

    def takes_desired(self) -> bool:
        """Tell whether the client wants to hear of changed desired properties."""

    def desired_changed(self, body: bytes, version: int) -> None:
        """Send a patch of desired properties."""

    def takes_methods(self) -> bool:
        """Tell whether the client wants direct methods, all or some."""

    def takes_method(self, name: str) -> bool:
        """Tell whether the client may be sent a direct method."""

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method."""

    def takes_messages(self) -> bool:
        """Tell whether the client wants cloud-to-device messages."""

    async def deliver(self, bag: str, body: bytes) -> bool:
        """Send a cloud-to-device message; tell whether the client has taken it."""


class Observer(Protocol):
    """Wants to know who comes and goes."""

    def came(self, ref: IdentityRef) -> None:
        """Note that a client has connected, or that it wants something else than before."""

    def left(self, ref: IdentityRef) -> None:
        """Note that a client is not connected any more."""


class Presence:
    """What is reported of one client."""

    __slots__ = ("connected", "connected_at", "disconnected_at")

    def __init__(self) -> None:
        self.connected = False
        self.connected_at: str | None = None
        self.disconnected_at: str | None = None

    def view(self) -> dict[str, str | None]:
        """Return it as the reported property has it."""
        return {
            "status": "Connected" if self.connected else "Disconnected",
            "lastConnectedTimeUtc": self.connected_at,
            "lastDisconnectedTimeUtc": self.disconnected_at,
        }


@final
class Clients:
    """The connections.

    Args:
        clock: for what is reported.
        most: clients at a time.

    Attributes:
        presence: what is reported of clients.
        connects: connections each client has made, since the start.
        disconnects: those of them that are over.
    """

    def __init__(self, clock: Clock, most: int = MAX_CLIENTS) -> None:
        self._clock = clock
        self._most = most
        self._links: dict[IdentityRef, Link] = {}
        self._observers: list[Observer] = []
        self.presence: dict[IdentityRef, Presence] = {}
        self.connects: Counter[IdentityRef] = Counter()
        self.disconnects: Counter[IdentityRef] = Counter()

    def watch(self, observer: Observer) -> None:
        """Tell somebody from now on who comes and goes."""
        self._observers.append(observer)

    def get(self, ref: IdentityRef) -> Link | None:
        """Return the connection of an identity."""
        return self._links.get(ref)

    def all(self) -> list[Link]:
        """Return all connections."""
        return list(self._links.values())

    @property
    def full(self) -> bool:
        """Whether no more can be taken."""
        return len(self._links) >= self._most

    def attach(self, link: Link) -> None:
        """Take a connection, in the place of an older one of the same identity."""
        older = self._links.pop(link.ref, None)
        self._links[link.ref] = link
        self.connects[link.ref] += 1
        if older is not None:
            _log.info("client taken over", identity=link.ref.text)
            self._left(link.ref)
            older.close(TAKEN_OVER)
        presence = self.presence.setdefault(link.ref, Presence())
        presence.connected = True
        presence.connected_at = format_time(self._clock.now())
        self.changed(link)

    def changed(self, link: Link) -> None:
        """Note that a client wants something else than before."""
        if self._links.get(link.ref) is link:
            for observer in self._observers:
                observer.came(link.ref)

    def detach(self, link: Link) -> None:
        """Let a connection go; nothing when a newer one has its place."""
        if self._links.get(link.ref) is not link:
            return
        del self._links[link.ref]
        presence = self.presence.get(link.ref)
        if presence is not None:
            presence.connected = False
            presence.disconnected_at = format_time(self._clock.now())
        self._left(link.ref)

    def close(self, ref: IdentityRef, reason: str) -> None:
        """End the connection of an identity, if it has one."""
        link = self._links.get(ref)
        if link is not None:
            link.close(reason)

    def close_expired(self, grace_s: float) -> None:
        """End connections whose token has been expired for that long."""
        limit = self._clock.time() - grace_s
        for link in self.all():
            if link.expires_at < limit:
                link.close("token expired")

    def _left(self, ref: IdentityRef) -> None:
        self.disconnects[ref] += 1
        for observer in self._observers:
            observer.left(ref)
