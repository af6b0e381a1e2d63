"""Device-to-cloud messages: a durable, partitioned log for each hub.

A device's messages stay in order, because a device has one partition. The log answers for
durability and sequence numbers; `muster.model.message` says what a record looks like. A hub with
endpoints of its own has a second log, of what goes to any of those; what is written where decides
`hub.intake`. Source: hub-device.md 9.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from muster.errors import ThrottledError
from muster.hub.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from muster.clock import Clock
    from muster.hub.hubs import Hub
    from muster.hub.sender_twins import SenderTwins

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


class LogReader(Protocol):
    """What readers do with a log."""

    async def read(
        self, partition: int, from_sequence: int, max_records: int, max_bytes: int
    ) -> Sequence[StoredRecord]:
        """Return records from a sequence number on, or from the earliest one still there."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the earliest sequence number still there and the one that comes next."""

    def find_time(self, partition: int, unix_s: float) -> int:
        """Return the first sequence number that is not older than a moment."""

    def find_offset(self, partition: int, offset: int) -> int:
        """Return the sequence number of the first record at or behind an offset."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever there are new durable records, until the result is called."""


class EventLog(LogReader, Protocol):
    """A log of one hub; `muster.store.journal.Journal` is one."""

    def append(self, partition: int, records: list[bytes]) -> asyncio.Future[list[int]]:
        """Store records; the result, their sequence numbers, is there when they are durable."""

    def retain(self, max_age_s: float, max_bytes: int) -> None:
        """Keep records of another age and amount from now on."""

    async def close(self) -> None:
        """Finish what was accepted."""


class LogKind(enum.StrEnum):
    """The two logs of a hub; the text names their directories."""

    EVENTS = "telemetry"
    """What the built-in endpoint gives out."""
    ROUTED = "routed"
    """What goes to the hub's own endpoints."""


OpenLog: TypeAlias = "Callable[[Hub, LogKind], Awaitable[EventLog]]"


@final
class Telemetry:
    """The logs of all hubs.

    Args:
        open_log: opens a log of a hub, with the hub's retention.
        twins: of senders, for routes that ask for them.
        clock: for the time of arrival that routes may ask for.
        partitions: of each log; must stay the same for the life of the data.
    """

    __slots__ = ("_clock", "_intakes", "_logs", "_open_log", "_twins", "partitions", "pending")

    def __init__(
        self,
        open_log: OpenLog,
        twins: SenderTwins,
        clock: Clock,
        partitions: int = DEFAULT_PARTITIONS,
    ) -> None:
        self._clock = clock
        self._open_log = open_log
        self._twins = twins
        self._logs: dict[tuple[int, LogKind], EventLog] = {}
        self._intakes: dict[int, Intake] = {}
        self.partitions = partitions
        self.pending = 0
        """Bytes of all connections that wait for the disk; connections keep the count."""

    async def open(self, hub: Hub) -> EventLog:
        """Open the log of a hub; call for every hub at start and for every new one."""
        log = await self._open(hub, LogKind.EVENTS)
        if hub.id not in self._intakes:
            self._intakes[hub.id] = Intake(hub.id, log, self._twins, self.partitions, self._clock)
        return log

    async def open_routed(self, hub: Hub) -> EventLog:
        """Open the log of what goes to the hub's own endpoints; made when first asked for."""
        return await self._open(hub, LogKind.ROUTED)

    def log(self, hub: Hub) -> LogReader:
        """Return the log of a hub that was opened: what its built-in endpoint gives out.

        For readers; whoever has messages gives them to the `intake`.
        """
        return self._logs[hub.id, LogKind.EVENTS]

    def intake(self, hub: Hub) -> Intake:
        """Return where messages of a hub are written; the hub was opened."""
        return self._intakes[hub.id]

    def retain(self, hub: Hub, max_age_s: float, max_bytes: int) -> None:
        """Keep the messages of a hub longer or shorter from now on."""
        for kind in LogKind:
            log = self._logs.get((hub.id, kind))
            if log is not None:
                log.retain(max_age_s, max_bytes)

    async def send(self, hub: Hub, device_id: str, records: list[bytes]) -> None:
        """Store messages of a device; they are durable when this returns.

        For senders that wait for each call. Connections, which pipeline, append to the `intake`.

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
            future = self.intake(hub).append(partition_of(device_id, self.partitions), records)
            # Whoever stops waiting must not take the log's future along.
            await asyncio.shield(future)
        finally:
            self.pending -= size

    async def close(self) -> None:
        """Finish what was accepted, everywhere."""
        for intake in self._intakes.values():
            await intake.close()
        for log in self._logs.values():
            await log.close()

    async def _open(self, hub: Hub, kind: LogKind) -> EventLog:
        log = self._logs.get((hub.id, kind))
        if log is None:
            log = self._logs[hub.id, kind] = await self._open_log(hub, kind)
        return log


def partition_of(device_id: str, partitions: int) -> int:
    """Return the partition of a device: the same in every run and on every machine."""
    digest = hashlib.blake2b(device_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
