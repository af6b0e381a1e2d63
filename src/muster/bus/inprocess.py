"""The bus of a single process: a publish calls the subscribers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import structlog

if TYPE_CHECKING:
    from muster.bus.base import Callback, Unsubscribe

_log = structlog.get_logger(__name__)


@final
class InProcessBus:
    """Implements `muster.bus.base.Bus` without any queue.

    A publish returns after every subscriber has run, so what a caller does next happens after its
    effect (a revoked device has no live session any more). Belongs to one event loop.
    """

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[str, tuple[Callback, ...]] = {}

    def publish(self, subject: str, message: bytes) -> None:
        """Hand a message to every subscriber of the subject. Never blocks, never fails."""
        for callback in self._subscribers.get(subject, ()):
            try:
                callback(message)
            except Exception:  # noqa: BLE001 - logged, and the publisher must not suffer
                # One subscriber's fault must reach neither the publisher nor the next subscriber.
                _log.exception("bus subscriber failed", subject=subject)

    def subscribe(self, subject: str, callback: Callback) -> Unsubscribe:
        """Call back for every later message of the subject until the result is called."""
        # Tuples are replaced, never changed: a subscriber may come or go while a publish runs.
        self._subscribers[subject] = (*self._subscribers.get(subject, ()), callback)
        active = True

        def unsubscribe() -> None:
            nonlocal active
            if not active:
                return
            active = False
            rest = list(self._subscribers.get(subject, ()))
            rest.remove(callback)
            if rest:
                self._subscribers[subject] = tuple(rest)
            else:
                del self._subscribers[subject]

        return unsubscribe
