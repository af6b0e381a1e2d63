"""The bus of a single process: a publish calls the subscribers at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, final

import structlog

if TYPE_CHECKING:
    from muster.bus.base import Callback, Responder, Unsubscribe

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@final
class InProcessBus:
    """Implements `muster.bus.base.Bus` without any queue.

    A publish returns after every subscriber has run, so what a caller does next happens after its
    effect (a revoked device has no live session any more). Belongs to one event loop.
    """

    __slots__ = ("_responders", "_subscribers")

    def __init__(self) -> None:
        self._subscribers: dict[str, tuple[Callback, ...]] = {}
        self._responders: dict[str, tuple[Responder, ...]] = {}

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
        return _add(self._subscribers, subject, callback)

    async def request(self, subject: str, message: bytes, timeout_s: float) -> bytes | None:
        """Ask every responder of the subject and return the first answer, `None` for none."""
        waiting = {
            asyncio.ensure_future(_ask(responder, subject, message))
            for responder in self._responders.get(subject, ())
        }
        try:
            async with asyncio.timeout(timeout_s):
                while waiting:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for answer in done:
                        if (found := answer.result()) is not None:
                            return found
        except TimeoutError:
            return None
        finally:
            for task in waiting:
                task.cancel()
        return None

    def respond(self, subject: str, responder: Responder) -> Unsubscribe:
        """Have every later request of the subject asked of a responder."""
        return _add(self._responders, subject, responder)


async def _ask(responder: Responder, subject: str, message: bytes) -> bytes | None:
    try:
        return await responder(message)
    except Exception:  # noqa: BLE001 - logged, and the requester must not suffer
        _log.exception("bus responder failed", subject=subject)
        return None


def _add(table: dict[str, tuple[_T, ...]], subject: str, entry: _T) -> Unsubscribe:
    # Tuples are replaced, never changed: an entry may come or go while a publish runs.
    table[subject] = (*table.get(subject, ()), entry)
    active = True

    def remove() -> None:
        nonlocal active
        if not active:
            return
        active = False
        rest = list(table.get(subject, ()))
        rest.remove(entry)
        if rest:
            table[subject] = tuple(rest)
        else:
            del table[subject]

    return remove
