"""Readers of a hub's built-in endpoint: where they begin, and who may read beside whom.

A reader belongs to one partition and one consumer group and moves through the log by itself; where
it stands is its client's business, nothing of it is kept. Readers with an epoch are alone: a newer
one with the same or a higher epoch takes over. Sources: hub-service.md 4.2, 4.3.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, NamedTuple, final

from msgspec import Struct

from muster.errors import ConflictError, ForbiddenError, InvalidArgumentError, NotFoundError
from muster.hub import event_feed

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.hub.consumer_groups import ConsumerGroups
    from muster.hub.hubs import Hub
    from muster.hub.telemetry import LogReader, StoredRecord, Telemetry

MAX_READERS: Final = 5
"""Readers without an epoch of one partition and consumer group (hub-service.md 4.3)."""
NO_OFFSET: Final = "-1"
"""What stands for an offset in an empty partition; as a position, before everything."""

_BATCH: Final = 128
"""Records that are read at once: encoding them takes the event loop some milliseconds."""
_FILTER: Final = re.compile(
    r"\s*amqp\.annotation\.(x-opt-[a-z-]+)\s*(>=?)\s*(?:'([^']*)'|(\S+))\s*", re.IGNORECASE
)
_LATEST: Final = "@latest"
_NUMBER: Final = re.compile(r"-?\d{1,18}")


class Mark(enum.Enum):
    """What a position counts in, by the annotations that name it in a filter."""

    OFFSET = "x-opt-offset"
    SEQUENCE_NUMBER = "x-opt-sequence-number"
    ENQUEUED_TIME = "x-opt-enqueued-time"


class Position(NamedTuple):
    """Where a reader begins.

    Attributes:
        mark: what `value` is.
        value: an offset, a sequence number, or milliseconds since 1970; `None` for the end.
        inclusive: whether what stands there is read as well.
    """

    mark: Mark
    value: int | None
    inclusive: bool = False


EARLIEST: Final = Position(Mark.OFFSET, int(NO_OFFSET))


def parse_filter(text: str) -> Position:
    """Read the selector of a receiver link.

    `amqp.annotation.{x-opt-…} > '{value}'`, or `>=` to begin with the event itself. The Azure CLI
    has another name for the time of arrival and writes no quotes.

    Raises:
        InvalidArgumentError: it is something else; code `invalid-filter`.
    """
    match = _FILTER.fullmatch(text)
    if match is not None:
        name, comparison, quoted, bare = match.groups()
        name = name.lower()
        value = bare if quoted is None else quoted
        mark = Mark.ENQUEUED_TIME if name == "x-opt-enqueuedtimeutc" else None
        mark = mark or next((each for each in Mark if each.value == name), None)
        if mark is Mark.OFFSET and value.lower() == _LATEST:
            return Position(mark, None)
        if mark is not None and _NUMBER.fullmatch(value):
            return Position(mark, int(value), comparison == ">=")
    raise InvalidArgumentError(
        "The filter must compare x-opt-offset, x-opt-sequence-number or x-opt-enqueued-time with "
        "a number.",
        code="invalid-filter",
    )


def first_sequence(log: LogReader, partition: int, position: Position) -> int:
    """Return the sequence number that a reader begins with.

    Raises:
        InvalidArgumentError: there is no such sequence number yet; code `position-out-of-range`.
        UnavailableError: the log cannot be read; code `store-unavailable`.
    """
    earliest, following = log.bounds(partition)
    value = position.value
    if value is None:
        return following
    if not position.inclusive:
        value += 1
    if position.mark is Mark.ENQUEUED_TIME:
        return log.find_time(partition, value / 1000)
    if position.mark is Mark.OFFSET:
        return log.find_offset(partition, value)
    if value > following:
        # It would wait for a number that others' positions passed long ago: of another log.
        raise InvalidArgumentError(
            f"The last sequence number of partition {partition} is {following - 1}; there is no "
            f"{position.value}.",
            code="position-out-of-range",
        )
    return max(value, earliest)


class PartitionState(Struct, frozen=True):
    """What a partition holds.

    Attributes:
        first_sequence: of the earliest event still there.
        last_sequence: of the last one that came; -1 before the first.
        last_offset: of the same; `NO_OFFSET` when it is not there any more.
        last_enqueued_at: likewise, unix seconds; 0 when it is not there.
        empty: whether nothing is there.
    """

    first_sequence: int
    last_sequence: int
    last_offset: str
    last_enqueued_at: float
    empty: bool


async def partition_state(log: LogReader, partition: int) -> PartitionState:
    """Return what a partition holds at this moment.

    Raises:
        UnavailableError: the log cannot be read; code `store-unavailable`.
    """
    first, following = log.bounds(partition)
    last: StoredRecord | None = None
    if following > first:
        found, _ = await event_feed.batch(log, partition, following - 1, 1)
        last = found[0] if found else None
    return PartitionState(
        first,
        following - 1,
        NO_OFFSET if last is None else str(last.offset),
        0.0 if last is None else last.enqueued_at,
        following == first,
    )


class _Place(NamedTuple):
    """What readers share or fight for."""

    hub: int
    group: str
    partition: int


@final
class EventReader:
    """One reader. Made by `EventReaders.open`, to be closed.

    Attributes:
        partition: which it reads.
        log: of the hub.
        epoch: `None` for a reader that does not mind others.
        position: sequence number of what it reads next.
    """

    __slots__ = (
        "_close",
        "_unsubscribe",
        "epoch",
        "log",
        "on_displaced",
        "partition",
        "position",
    )

    def __init__(
        self,
        log: LogReader,
        partition: int,
        position: int,
        *,
        epoch: int | None,
        on_displaced: Callable[[str], None],
        on_waiting: Callable[[], None],
        close: Callable[[EventReader], None],
    ) -> None:
        self._close = close
        self._unsubscribe = log.subscribe(on_waiting)
        self.log = log
        self.partition = partition
        self.position = position
        self.epoch = epoch
        self.on_displaced = on_displaced

    @property
    def behind(self) -> bool:
        """Whether there is anything to read."""
        return self.position < self.log.bounds(self.partition)[1]

    async def take(self, limit: int) -> list[StoredRecord]:
        """Read on, `limit` records at most. May return none although there are more.

        Raises:
            UnavailableError: the log cannot be read; code `store-unavailable`.
        """
        found, self.position = await event_feed.batch(
            self.log, self.partition, self.position, min(limit, _BATCH)
        )
        return found

    async def state(self) -> PartitionState:
        """Return what its partition holds; see `partition_state`."""
        return await partition_state(self.log, self.partition)

    def close(self) -> None:
        """Read no more."""
        self._unsubscribe()
        self._close(self)


@final
class EventReaders:
    """All readers of all hubs.

    Args:
        telemetry: has the logs.
        groups: the consumer groups there are.
    """

    __slots__ = ("_groups", "_readers", "_telemetry")

    def __init__(self, telemetry: Telemetry, groups: ConsumerGroups) -> None:
        self._telemetry = telemetry
        self._groups = groups
        self._readers: dict[_Place, list[EventReader]] = {}

    def partitions(self) -> list[str]:
        """Return the names of a hub's partitions."""
        return [str(number) for number in range(self._telemetry.partitions)]

    def partition(self, name: str) -> int:
        """Return the number of a partition.

        Raises:
            NotFoundError: code `partition-not-found`.
        """
        partitions = self.partitions()
        if name not in partitions:
            raise NotFoundError(
                f"There is no partition '{name[:64]}'; there are 0 to {len(partitions) - 1}.",
                code="partition-not-found",
            )
        return int(name)

    async def state(self, hub: Hub, name: str) -> PartitionState:
        """Return what a partition holds.

        Raises:
            NotFoundError: code `partition-not-found`.
            UnavailableError: code `store-unavailable`.
        """
        return await partition_state(self._telemetry.log(hub), self.partition(name))

    def open(
        self,
        hub: Hub,
        group: str,
        partition: str,
        *,
        position: Position,
        epoch: int | None,
        on_displaced: Callable[[str], None],
        on_waiting: Callable[[], None],
    ) -> EventReader:
        """Begin to read; whoever has to go for that is told.

        Args:
            hub: whose events.
            group: consumer group.
            partition: its name.
            position: where.
            epoch: to be alone, `None` otherwise.
            on_displaced: called when another reader takes over, with a text for people; the reader
                is closed by whoever opened it, as ever.
            on_waiting: called when there is more to read. Neither call may block or fail.

        Raises:
            NotFoundError: codes `consumer-group-not-found`, `partition-not-found`.
            InvalidArgumentError: code `position-out-of-range`.
            ConflictError: a reader with a higher epoch, or with any, is there; code
                `reader-displaced`.
            ForbiddenError: there are as many readers as there may be; code `too-many-readers`.
            UnavailableError: code `store-unavailable`.
        """
        number = self.partition(partition)
        if self._groups.find(hub, group) is None:
            raise NotFoundError(
                f"There is no consumer group '{group[:64]}'.", code="consumer-group-not-found"
            )
        log = self._telemetry.log(hub)
        start = first_sequence(log, number, position)
        place = _Place(hub.id, group.lower(), number)
        self._make_way(place, epoch)
        # Those that make way have closed themselves by now.
        readers = self._readers.setdefault(place, [])

        def close(reader: EventReader) -> None:
            if reader in readers:
                readers.remove(reader)
            if not readers and self._readers.get(place) is readers:
                del self._readers[place]

        reader = EventReader(
            log,
            number,
            start,
            epoch=epoch,
            on_displaced=on_displaced,
            on_waiting=on_waiting,
            close=close,
        )
        readers.append(reader)
        return reader

    def _make_way(self, place: _Place, epoch: int | None) -> None:
        readers = list(self._readers.get(place, ()))
        highest = max((each.epoch for each in readers if each.epoch is not None), default=None)
        if highest is not None and (epoch is None or epoch < highest):
            said = "no epoch" if epoch is None else f"epoch {epoch}"
            raise ConflictError(
                f"A reader with epoch {highest} reads partition {place.partition} of this consumer "
                f"group; one with {said} may not.",
                code="reader-displaced",
            )
        if epoch is None:
            if len(readers) >= MAX_READERS:
                raise ForbiddenError(
                    f"{MAX_READERS} readers without an epoch read partition {place.partition} of "
                    "this consumer group already.",
                    code="too-many-readers",
                )
            return
        for reader in readers:
            said = "no epoch" if reader.epoch is None else f"epoch {reader.epoch}"
            reader.on_displaced(
                f"A reader with epoch {epoch} took partition {place.partition} of this consumer "
                f"group over from this one with {said}."
            )
