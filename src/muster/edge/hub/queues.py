"""Store and forward: what has been accepted waits on disk until its sink has it (edge.md 6.3).

Invariants, where they bind:

- A message is accepted when it is committed; `put` returns after that and not before.
- Ids of a queue grow in the order of acceptance, and one writer commits in the order of ids, so
  whoever has read up to an id has missed nothing before it.
- What a sink has taken is deleted with the next message that is accepted, or within a second.
  What was not deleted yet when the power went is delivered again: at least once.
- All queues together hold `max_bytes`, and what was delivered in the second before a power cut,
  which is there again. When a message does not fit, whole blocks of the oldest messages of the
  least urgent queue are dropped, and counted. A message less urgent than everything that is
  stored is dropped itself.
- Time to live is wall time from acceptance, so also while the power is off. Messages over it are
  dropped when their turn comes or when `expire` finds them at the head of a queue.
- A device without a clock of its own begins somewhere in the past. Messages of this run are dated
  by the steady clock from where the wall clock stood at its beginning, and when that turns out to
  have been set they are dated anew: nothing expires because a clock was set.
- Nothing is written when nothing happens.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, cast, final

import msgspec
from msgspec import Struct

from muster.edge.hub.database import SQL
from muster.edge.hub.outlet import Outlet
from muster.edge.hub.queue import BLOCK_BITS, SEQUENCE_BITS, Key, Queue, Stored
from muster.errors import MusterError
from muster.net.tasks import spawn
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.clock import Clock
    from muster.edge.hub.queue import Entry
    from muster.store.engine import Engine

TAKEN_AT_ONCE: Final = 256
"""Messages read together at most ..."""
TAKEN_BYTES: Final = 512 * 1024
"""... of so many bytes at most, but one."""
RECENT_BYTES: Final = 4 * 1024 * 1024
"""What all queues keep in memory beside the disk, for sinks that keep up."""

STEP_S: Final = 60.0
"""A wall clock that differs by more than this from the steady one was set."""
_REMOVE_S: Final = 1.0
_REMOVE_AT: Final = 512
_EXPIRE_AT_ONCE: Final = 512


class Dropped(Struct):
    """Messages that no sink will get, since the start."""

    expired: int = 0
    full: int = 0
    refused: int = 0


@final
class Queues:
    """All queues. Make one with `open`.

    Attributes:
        max_bytes: what they hold together.
        ttl_s: seconds a message waits at most where nothing else is said; `None` for ever.
        size: bytes they hold.
        dropped: see `Dropped`.
    """

    def __init__(self, engine: Engine, clock: Clock, max_bytes: int, ttl_s: int | None) -> None:
        """Use `open`."""
        self._engine = engine
        self._clock = clock
        # Wall time less steady time, as this run's messages are dated.
        self._mark = clock.time() - clock.monotonic()
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self.size = 0
        self.dropped = Dropped()
        self._queues: dict[Key, Queue] = {}
        self._by_number: dict[int, Queue] = {}
        self._outlets: dict[tuple[str, str], Outlet] = {}
        self._recent_size = 0
        # Done and not deleted yet: in a list for the next write, and in a set until it was.
        self._done: list[int] = []
        self._gone: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, engine: Engine, clock: Clock, *, max_bytes: int, ttl_s: int | None
    ) -> Queues:
        """Find what waits.

        Raises:
            UnavailableError: the disk does not answer.
        """
        made = cls(engine, clock, max_bytes, ttl_s)
        for number, sink, sender, priority in await engine.read(SQL["queues"], {}):
            key = Key(str(sink), str(sender), cast("int", priority))
            made._add(key, cast("int", number)).stored = True
        for row in await engine.read(SQL["blocks"], {}):
            block, count, size, last = cast("tuple[int, int, int, int]", row)
            queue = made._by_number[last >> SEQUENCE_BITS]
            queue.blocks[block] = [count, size]
            queue.last = queue.committed = queue.before_recent = queue.begun_at = last
            made.size += size
        return made

    def outlet(self, sink: str, sender: str = "") -> Outlet:
        """Return what a sink gets of a sender; it stays the same object."""
        found = self._outlets.get((sink, sender))
        if found is None:
            found = self._outlets[sink, sender] = Outlet(self)
        return found

    def waiting(self) -> list[tuple[Key, int]]:
        """Return the queues that are not empty and how many messages they hold."""
        return [(queue.key, queue.count) for queue in self._queues.values() if queue.blocks]

    def outlets(self) -> list[tuple[str, str, Outlet]]:
        """Return the outlet of each sink and sender."""
        return [(*names, outlet) for names, outlet in self._outlets.items()]

    async def put(self, entries: list[Entry]) -> None:
        """Accept messages; returns when they would survive a power cut.

        Calls that begin one after the other are kept in that order.

        Raises:
            UnavailableError: the disk refuses; nothing was accepted.
        """
        # No await between here and the write: ids are committed in their order.
        statements, kept = self._admit(entries)
        if not statements:
            return
        # What is done goes with it, so that a power cut repeats less.
        done, self._done = self._done, []
        if done:
            statements.append(Statement(SQL["remove"], _ranges(done)))
        try:
            await self._engine.write(*statements)
        except MusterError:
            self._done = done + self._done
            self._flush_soon()
            for queue, stored in kept:
                queue.committed = max(queue.committed, stored.id)
                if queue.removed(stored.id, stored.size):
                    self.size -= stored.size
            raise
        self._gone.difference_update(done)
        for queue, stored in kept:
            queue.stored = True
            queue.committed = max(queue.committed, stored.id)
            self._remember(queue, stored)
            queue.outlet.accepted += 1
            queue.outlet.ready.set()

    async def expire(self) -> None:
        """Drop what is over its time to live at the head of each queue.

        Raises:
            UnavailableError: the disk does not answer.
        """
        await self._follow_clock()
        for queue in list(self._queues.values()):
            after, going = queue.number << SEQUENCE_BITS, bool(queue.blocks)
            while going:
                rows = await self._engine.read(
                    SQL["oldest"],
                    {"after": after, "last": queue.committed, "most": _EXPIRE_AT_ONCE},
                )
                found = [Stored(*cast("tuple[int, float, int, int]", row), "", b"") for row in rows]
                old = list(itertools.takewhile(self._expired, found))
                gone = [each for each in old if not queue.outlet.holds(each.id)]
                if gone:
                    # Memory may still have them.
                    self._recent_size -= queue.forget_recent()
                    self.dropped.expired += self.remove(gone)
                going = len(old) == _EXPIRE_AT_ONCE
                after = old[-1].id if old else after
        await self.flush()

    async def flush(self) -> None:
        """Delete what is done; returns when it is.

        A disk that refuses leaves it for the next time.
        """
        if self._flushing is None:
            if not self._done:
                return
            self._flushing = spawn(self._flush(), "edge hub queue removal")
        await asyncio.shield(self._flushing)

    # For outlets.

    def now(self) -> float:
        """Return steady seconds."""
        return self._clock.monotonic()

    def age_s(self, message: Stored) -> float:
        """Return how long ago a message was accepted, seconds."""
        return max(0.0, self._mark + self._clock.monotonic() - message.enqueued_at)

    def priority(self, message: Stored) -> int:
        """Return the priority that a message has."""
        return self._by_number[message.id >> SEQUENCE_BITS].key.priority

    async def read(self, queue: Queue, after: int, last: int) -> list[Stored]:
        """Return messages of a queue behind an id up to another, as many as are taken at once."""
        if after >= queue.before_recent:
            # They may have been read from the disk since.
            self._recent_size -= queue.pass_recent(after)
            if queue.recent:
                return self._read_recent(queue)
        bounds: dict[str, int] = {"after": after, "last": last}
        rows = await self._engine.read(SQL["sizes"], {**bounds, "most": TAKEN_AT_ONCE})
        if not rows:
            return []
        total, last = 0, cast("int", rows[0][0])
        for id_, size in cast("list[tuple[int, int]]", rows):
            total += size
            if total > TAKEN_BYTES and id_ != rows[0][0]:
                break
            last = id_
        found = await self._engine.read(SQL["read"], {"after": after, "last": last})
        return [Stored(*cast("tuple[int, float, int, int, str, bytes]", row)) for row in found]

    def without_expired(self, messages: list[Stored]) -> list[Stored]:
        """Return messages without those over their time to live, which are dropped."""
        old = [each for each in messages if self._expired(each)]
        if not old:
            return messages
        self.dropped.expired += self.remove(old)
        return [each for each in messages if not self._expired(each)]

    def remove(self, messages: Iterable[Stored]) -> int:
        """Delete messages soon; return how many of them had not been deleted or dropped before."""
        count = 0
        for each in messages:
            if each.id in self._gone:
                continue
            self._gone.add(each.id)
            self._done.append(each.id)
            if self._by_number[each.id >> SEQUENCE_BITS].removed(each.id, each.size):
                self.size -= each.size
                count += 1
        self._flush_soon()
        return count

    # Within.

    def _flush_soon(self) -> None:
        if not self._done or self._flushing is not None:
            return
        if len(self._done) >= _REMOVE_AT:
            self._start_flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_REMOVE_S, self._start_flush)

    def _add(self, key: Key, number: int) -> Queue:
        outlet = self.outlet(key.sink, key.sender)
        queue = Queue(key, number, outlet)
        self._queues[key] = self._by_number[number] = queue
        outlet.join(queue)
        return queue

    def _admit(self, entries: list[Entry]) -> tuple[list[Statement], list[tuple[Queue, Stored]]]:
        """Give messages their places; return what is to be written and what is kept by it."""
        now = self._mark + self._clock.monotonic()
        statements: list[Statement] = []
        kept: list[tuple[Queue, Stored]] = []
        rows: list[dict[str, str | bytes | int | float]] = []
        for entry in entries:
            size = entry.size
            if self.size + size > self.max_bytes:
                if rows:
                    # What is dropped may be among them.
                    statements.append(Statement(SQL["add"], rows))
                    rows = []
                room, removed = self._make_room(size, entry.key.priority)
                statements += removed
                if not room:
                    self.dropped.full += 1
                    continue
            queue = self._queues.get(entry.key)
            if queue is None:
                queue = self._add(entry.key, max(self._by_number, default=0) + 1)
            if not queue.stored:
                statements.append(
                    Statement(SQL["add_queue"], {"number": queue.number, **entry.key._asdict()})
                )
            queue.last += 1
            queue.added(queue.last, size)
            self.size += size
            stored = Stored(queue.last, now, entry.ttl_s, size, entry.bag, entry.body)
            kept.append((queue, stored))
            rows.append(msgspec.structs.asdict(stored))
        if rows:
            statements.append(Statement(SQL["add"], rows))
        return statements, kept

    def _make_room(self, size: int, priority: int) -> tuple[bool, list[Statement]]:
        """Drop blocks until a message fits; tell whether it does."""
        statements: list[Statement] = []
        while self.size + size > self.max_bytes:
            filled = [queue for queue in self._queues.values() if queue.blocks]
            victim = max(filled, key=lambda queue: queue.key.priority, default=None)
            if victim is None or victim.key.priority < priority:
                return False, statements
            number = next(iter(victim.blocks))
            count, freed = victim.blocks.pop(number)
            first, last = number << BLOCK_BITS, ((number + 1) << BLOCK_BITS) - 1
            victim.dropped_through = min(last, victim.last)
            self._recent_size -= victim.forget_recent()
            self.size -= freed
            self.dropped.full += count
            statements.append(
                Statement(SQL["remove"], {"first": first, "last": victim.dropped_through})
            )
        return True, statements

    def _expired(self, message: Stored) -> bool:
        ttl_s = message.ttl_s or self.ttl_s
        if ttl_s is None:
            return False
        if message.id > self._by_number[message.id >> SEQUENCE_BITS].begun_at:
            now = self._mark + self._clock.monotonic()
        else:
            now = self._clock.time()
        return message.enqueued_at + ttl_s <= now

    async def _follow_clock(self) -> None:
        """Date the messages of this run anew when the clock was set."""
        step_s = self._clock.time() - self._clock.monotonic() - self._mark
        if abs(step_s) < STEP_S:
            return
        self._mark += step_s
        statements: list[Statement] = []
        for queue in self._queues.values():
            self._recent_size -= queue.forget_recent()
            if queue.blocks:
                row = {"after": queue.begun_at, "last": queue.last, "step_s": step_s}
                statements.append(Statement(SQL["redate"], row))
        if statements:
            await self._engine.write(*statements)

    def _remember(self, queue: Queue, stored: Stored) -> None:
        """Keep a message in memory, too, while its sink keeps up."""
        if stored.id <= queue.dropped_through:
            return
        newest = queue.recent[-1].id if queue.recent else queue.before_recent
        if stored.id != newest + 1 or self._recent_size + stored.size > RECENT_BYTES:
            self._recent_size -= queue.forget_recent()
            return
        queue.recent.append(stored)
        queue.recent_size += stored.size
        self._recent_size += stored.size

    def _read_recent(self, queue: Queue) -> list[Stored]:
        found: list[Stored] = []
        total = 0
        for each in queue.recent:
            if found and (len(found) == TAKEN_AT_ONCE or total + each.size > TAKEN_BYTES):
                break
            found.append(each)
            total += each.size
        self._recent_size -= queue.pass_recent(found[-1].id)
        return found

    def _start_flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is None and self._done:
            self._flushing = spawn(self._flush(), "edge hub queue removal")

    async def _flush(self) -> None:
        try:
            while self._done:
                ids, self._done = self._done, []
                try:
                    await self._engine.write(Statement(SQL["remove"], _ranges(ids)))
                except MusterError:
                    # The disk is full or gone; they are delivered again if it stays so.
                    self._done = ids + self._done
                    return
                self._gone.difference_update(ids)
        finally:
            self._flushing = None


def _ranges(ids: list[int]) -> list[dict[str, int]]:
    """Return ids as ranges of neighbours."""
    ranges: list[dict[str, int]] = []
    for id_ in sorted(ids):
        if ranges and ranges[-1]["last"] + 1 == id_:
            ranges[-1]["last"] = id_
        else:
            ranges.append({"first": id_, "last": id_})
    return ranges
