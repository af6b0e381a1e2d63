"""Changes of desired properties on their way to one session that is to miss none of them.

Neither protocol acknowledges such a notification. It counts as delivered when the client was heard
a moment later: who is sent what into a dead connection is not heard any more. So a notification may
come twice, never not at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, final

from muster.errors import MusterError
from muster.hub.twin_catch_up import Delivery
from muster.model.twin_catch_up import NOTHING
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.hub.hubs import Hub
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.model.identity import IdentityRef

HEARD_AFTER_S: Final = 1.0
"""Seconds after a notification from which a client that is heard has had it: what is heard before
may have been under way."""


class _Sent(NamedTuple):
    version: int
    at: float


_NOTHING_SENT: Final = _Sent(NOTHING, 0.0)


@final
class DesiredFeed:
    """The notifications of one session. Belongs to one event loop.

    Args:
        catch_up: knows what the client has.
        hub: of the identity.
        ref: whose twin.
        generation_id: of the identity.
        send: sends a notification: body and version.
        heard_at: returns when the client was last heard, in the loop's seconds.
    """

    __slots__ = (
        "_catch_up",
        "_caught_up",
        "_generation_id",
        "_heard_at",
        "_held",
        "_hub",
        "_over",
        "_ref",
        "_send",
        "_sent",
        "_switched",
        "_unsure",
    )

    def __init__(
        self,
        catch_up: TwinCatchUp,
        hub: Hub,
        ref: IdentityRef,
        generation_id: str,
        *,
        send: Callable[[bytes, int], None],
        heard_at: Callable[[], float],
    ) -> None:
        self._catch_up = catch_up
        self._hub = hub
        self._ref = ref
        self._generation_id = generation_id
        self._send = send
        self._heard_at = heard_at
        self._switched = hub.twin_catch_up
        self._sent = _NOTHING_SENT
        # What was sent first of what is not known to have arrived.
        self._unsure: _Sent | None = None
        self._caught_up = False
        # What comes while it is being found out what was missed.
        self._held: list[tuple[bytes, int]] | None = None
        self._over = False

    def changed(self, body: bytes, version: int) -> None:
        """Send a change to the client, which has subscribed."""
        if not self._on:
            self._send(body, version)
            return
        if not self._caught_up:
            self.subscribed()
        if self._held is not None:
            self._held.append((body, version))
        else:
            self._send(body, version)
            self.has(version)

    def subscribed(self) -> None:
        """Send the client what it missed."""
        if self._on and self._held is None:
            self._held = []
            spawn(self._send_missed(), "twin catch-up")

    def has(self, version: int) -> None:
        """Note that the client was sent this version, as a change or with the whole twin."""
        if not self._on or version <= self._sent.version:
            return
        self.look()
        self._sent = _Sent(version, asyncio.get_running_loop().time())
        if self._unsure is None:
            self._unsure = self._sent
            self._catch_up.watch(self)

    def look(self) -> None:
        """Note what was sent as delivered if the client was heard since."""
        unsure = self._unsure
        if unsure is None or self._heard_at() < unsure.at + HEARD_AFTER_S:
            return
        arrived = unsure
        self._unsure = None
        if self._sent is not unsure:
            if self._heard_at() >= self._sent.at + HEARD_AFTER_S:
                arrived = self._sent
            else:
                self._unsure = self._sent
        if self._on:
            self._catch_up.delivered(self._ref, Delivery(self._generation_id, arrived.version))
        if self._unsure is None:
            self._catch_up.forget(self)

    def close(self) -> None:
        """The session is over; what it was sent and is not known to have is sent again."""
        self.look()
        self._over = True
        self._catch_up.forget(self)

    @property
    def _on(self) -> bool:
        """Whether it has been switched on all the time."""
        return self._hub.twin_catch_up == self._switched and not self._over

    async def _send_missed(self) -> None:
        known = Delivery(self._generation_id, self._sent.version)
        try:
            missed = await self._catch_up.missed(self._ref, known)
        except MusterError:
            # The store has said why. It is tried again with the next change.
            missed = None
        held, self._held = self._held or [], None
        self._caught_up = missed is not None
        version = NOTHING
        if missed is not None:
            version = missed.version
            if missed.body is not None:
                self._send(missed.body, version)
            self.has(version)
        for body, changed_to in held:
            if changed_to > version:
                self._send(body, changed_to)
                if missed is not None:
                    self.has(changed_to)
