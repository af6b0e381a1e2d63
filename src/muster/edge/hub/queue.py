"""One queue of the edge hub, and what stands in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, final

from msgspec import Struct

if TYPE_CHECKING:
    from muster.edge.hub.outlet import Outlet

ROW_OVERHEAD: Final = 64
"""Bytes a message is counted with beside its own: its row, about."""
SEQUENCE_BITS: Final = 40
BLOCK_BITS: Final = 8
"""Messages are counted, and dropped, by blocks of 256 ids."""


class Key(NamedTuple):
    """Names a queue.

    Attributes:
        sink: who gets the messages.
        sender: whose they are, where each sender has a queue of its own; empty otherwise.
        priority: the smaller, the more urgent.
    """

    sink: str
    sender: str
    priority: int


class Entry(Struct, frozen=True):
    """A message for one queue.

    Attributes:
        key: of the queue.
        ttl_s: seconds it waits at most; 0 for what the store says.
        bag: its property bag.
        body: its content.
    """

    key: Key
    ttl_s: int
    bag: str
    body: bytes

    @property
    def size(self) -> int:
        """Bytes it is counted with."""
        return ROW_OVERHEAD + len(self.bag) + len(self.body)


class Stored(Struct, frozen=True):
    """A message that waits.

    Attributes:
        id: of its row.
        enqueued_at: when it was accepted, unix seconds.
        ttl_s: as in `Entry`.
        size: likewise.
        bag: likewise.
        body: likewise.
    """

    id: int
    enqueued_at: float
    ttl_s: int
    size: int
    bag: str
    body: bytes


@final
class Queue:
    """One queue; use `Queues` and `Outlet`."""

    __slots__ = (
        "before_recent",
        "begun_at",
        "blocks",
        "committed",
        "dropped_through",
        "key",
        "last",
        "number",
        "outlet",
        "recent",
        "recent_size",
        "stored",
    )

    def __init__(self, key: Key, number: int, outlet: Outlet) -> None:
        self.key = key
        self.number = number
        self.outlet = outlet
        self.last = number << SEQUENCE_BITS
        self.committed = self.last
        # What follows was accepted in this run.
        self.begun_at = self.last
        self.stored = False
        # Messages and bytes by block of ids, oldest first.
        self.blocks: dict[int, list[int]] = {}
        self.dropped_through = 0
        # The newest messages, complete after this id.
        self.recent: list[Stored] = []
        self.recent_size = 0
        self.before_recent = self.last

    @property
    def count(self) -> int:
        """Messages that wait."""
        return sum(count for count, _ in self.blocks.values())

    def added(self, id_: int, size: int) -> None:
        """Count a message."""
        block = self.blocks.setdefault(id_ >> BLOCK_BITS, [0, 0])
        block[0] += 1
        block[1] += size

    def removed(self, id_: int, size: int) -> bool:
        """Count a message no more; False when it was dropped before."""
        number = id_ >> BLOCK_BITS
        block = self.blocks.get(number)
        if block is None or id_ <= self.dropped_through:
            return False
        block[0] -= 1
        block[1] -= size
        if not block[0]:
            del self.blocks[number]
        return True

    def pass_recent(self, id_: int) -> int:
        """Forget the newest messages up to one; return the bytes that memory has back."""
        passed = list(itertools.takewhile(lambda each: each.id <= id_, self.recent))
        if not passed:
            return 0
        size = sum(each.size for each in passed)
        del self.recent[: len(passed)]
        self.recent_size -= size
        self.before_recent = passed[-1].id
        return size

    def forget_recent(self) -> int:
        """Leave everything to the disk; return the bytes that memory has back."""
        size, self.recent_size = self.recent_size, 0
        self.recent = []
        self.before_recent = self.last
        return size
