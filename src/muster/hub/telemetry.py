"""Device-to-cloud messages: a durable, partitioned log for each hub.

A device's messages stay in order, because a device has one partition. The log answers for
durability and sequence numbers; `muster.model.message` says what a record looks like.
Source: hub-device.md 9.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, Protocol, final

from muster.errors import ThrottledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from muster.hub.hubs import Hub

DEFAULT_PARTITIONS: Final = 4

MAX_PENDING: Final = 1 << 20
"""Bytes of one connection that may wait for the disk; then it is not read from any more."""
MAX_PENDING_ALL: Final = 256 << 20
"""Bytes of all connections together."""


class StoredRecord(Protocol):
    """One record as the log gives it back."""

    @property
    def partition(self) -> int:
        """Which partition."""

    @property
    def sequence(self) -> int:
        """Counts the partition's records."""

    @property
    def offset(self) -> int:
        """Where it stands; opaque, growing."""

    @property
    def enqueued_at(self) -> float:
        """When it was accepted, unix seconds."""

    @property
    def data(self) -> bytes:
        """The record itself."""


class EventLog(Protocol):
    """The log of one hub; `muster.store.journal.Journal` is one."""

    def append(self, partition: int, records: list[bytes]) -> asyncio.Future[list[int]]:
        """Store records; the result, their sequence numbers, is there when they are durable."""

    async def read(
        self, partition: int, from_sequence: int, max_records: int, max_bytes: int
    ) -> Sequence[StoredRecord]:
        """Return records from a sequence number on, or from the earliest one still there."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the earliest sequence number still there and the one that comes next."""

    def find_time(self, partition: int, unix_s: float) -> int:
        """Return the first sequence number that is not older than a moment."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever there are new durable records, until the result is called."""

    async def close(self) -> None:
        """Finish what was accepted."""


@final
class Telemetry:
    """The logs of all hubs.

    Args:
        open_log: opens the log of a hub, by its host name.
        partitions: of each log; must stay the same for the life of the data.
    """

    __slots__ = ("_logs", "_open_log", "partitions", "pending")

    def __init__(
        self,
        open_log: Callable[[str], Awaitable[EventLog]],
        partitions: int = DEFAULT_PARTITIONS,
    ) -> None:
        self._open_log = open_log
        self._logs: dict[int, EventLog] = {}
        self.partitions = partitions
        self.pending = 0
        """Bytes of all connections that wait for the disk; connections keep the count."""

    async def open(self, hub: Hub) -> EventLog:
        """Open the log of a hub; call for every hub at start and for every new one."""
        log = self._logs.get(hub.id)
        if log is None:
            log = self._logs[hub.id] = await self._open_log(hub.host)
        return log

    def log(self, hub: Hub) -> EventLog:
        """Return the log of a hub that was opened."""
        return self._logs[hub.id]

    async def send(self, hub: Hub, device_id: str, records: list[bytes]) -> None:
        """Store messages of a device; they are durable when this returns.

        For senders that wait for each call. Connections, which pipeline, append to `log`.

        Args:
            hub: whose log.
            device_id: the sender.
            records: see `muster.model.message`.

        Raises:
            ThrottledError: too much waits for the disk already; code `telemetry-backlog`.
            UnavailableError: the log cannot be written; code `store-unavailable`.
        """
        if self.pending > MAX_PENDING_ALL:
            raise ThrottledError(
                "Too many messages wait to be stored.", code="telemetry-backlog", retry_after_s=1
            )
        size = sum(map(len, records))
        self.pending += size
        try:
            future = self.log(hub).append(partition_of(device_id, self.partitions), records)
            # Whoever stops waiting must not take the log's future along.
            await asyncio.shield(future)
        finally:
            self.pending -= size

    async def close(self) -> None:
        """Finish what was accepted, everywhere."""
        for log in self._logs.values():
            await log.close()


def partition_of(device_id: str, partitions: int) -> int:
    """Return the partition of a device: the same in every run and on every machine."""
    digest = hashlib.blake2b(device_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
