"""What stands between an AMQP connection and what comes over one of its links."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.events import OutcomeReceived


class LinkHandler:
    """One attached link. Calls must not block; what a handler does not care about does nothing."""

    def begin(self) -> None:
        """The link is accepted."""

    def received(self, deliveries: list[Delivery]) -> None:
        """The client sent these, in order. Each is to be settled, now or later."""

    def outcome(self, event: OutcomeReceived) -> None:
        """The client said what became of a message."""

    def credit_changed(self) -> None:
        """The client said how much it takes, or has read what was on its way."""

    def detached(self) -> None:
        """The link is gone, whoever ended it. Called exactly once."""
