"""A thread that takes all that is queued for it together."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_IDLE_S: Final = 1.0
_Item = TypeVar("_Item")
_log = structlog.get_logger(__name__)


@final
class Worker(Generic[_Item]):
    """Runs in a thread of its own what others queue; starts at once.

    Args:
        name: of the thread.
        at_once: at most so many items are taken together.
        work: does them. It should not raise: who waits for these items waits in vain then, though
            later ones are done.
        idle: called when nothing has come for a second since the last work.
        end: called in the thread when everything is done.

    Attributes:
        put: queues an item; from any thread, before `close`.
    """

    def __init__(
        self,
        name: str,
        at_once: int,
        work: Callable[[list[_Item]], None],
        *,
        idle: Callable[[], None] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        # All C: queueing costs the event loop a fraction of what a Condition does.
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self.put: Callable[[_Item], None] = self._queue.put
        self._at_once = at_once
        self._work = work
        self._idle = idle
        self._end = end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread when all that was queued is done; does not wait for it."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        going = True
        worked = False
        while going:
            batch, going = self._take(wait_s=_IDLE_S if worked and self._idle else None)
            try:
                if batch:
                    self._work(batch)
                elif going and self._idle is not None:
                    self._idle()
            except Exception as error:  # noqa: BLE001 - the thread must live; others wait for it
                _log.error("a thread failed", thread=self._thread.name, exc_info=error)
            worked = bool(batch)
        if self._end is not None:
            self._end()

    def _take(self, wait_s: float | None) -> tuple[list[_Item], bool]:
        """Return what is queued and whether more may come; nothing when the wait was in vain."""
        queue = self._queue
        batch: list[_Item] = []
        try:
            item = queue.get(timeout=wait_s)
        except Empty:
            return batch, True
        while item is not None:
            batch.append(item)
            # Only this thread takes items away, so what `qsize` counts is there.
            if len(batch) >= self._at_once or not queue.qsize():
                return batch, True
            item = queue.get()
        return batch, False


@final
class Turn(Generic[_Item]):
    """Hands over together what one turn of the event loop asks of another thread.

    On one processor this halved the context switches of registrations (measured). Belongs to the
    loop.

    Args:
        loop: whose turns they are.
        put: takes the items at the end of the turn, one by one, in order.
        pause_s: least time from one handing over to the next. What comes after a quiet time never
            waits.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, put: Callable[[_Item], None], pause_s: float = 0.0
    ) -> None:
        self._loop = loop
        self._put = put
        self._pause_s = pause_s
        self._next_at = 0.0
        self._items: list[_Item] = []

    def put(self, item: _Item) -> None:
        """Add an item."""
        self._items.append(item)
        if len(self._items) == 1:
            if self._loop.time() < self._next_at:
                self._loop.call_at(self._next_at, self.hand_over)
            else:
                self._loop.call_soon(self.hand_over)

    def hand_over(self) -> None:
        """Hand over what is there now."""
        self._next_at = self._loop.time() + self._pause_s
        items, self._items = self._items, []
        for item in items:
            self._put(item)
