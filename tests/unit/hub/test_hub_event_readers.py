"""Readers of the built-in endpoint: positions, epochs, what a partition holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import (
    ConflictError,
    ForbiddenError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
)
from muster.hub import event_readers
from muster.hub.consumer_groups import ConsumerGroups
from muster.hub.event_readers import (
    EARLIEST,
    MAX_READERS,
    EventReader,
    EventReaders,
    Mark,
    PartitionState,
    Position,
    first_sequence,
    parse_filter,
)

if TYPE_CHECKING:
    from hub_parts import Parts

LATEST = Position(Mark.OFFSET, None)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("x-opt-offset > '-1'", EARLIEST),
        ("x-opt-offset > '@latest'", LATEST),
        ("x-opt-offset >= '@latest'", LATEST),
        ("x-opt-offset >= '1234'", Position(Mark.OFFSET, 1234, True)),
        ("x-opt-offset>'1234'", Position(Mark.OFFSET, 1234)),
        ("x-opt-sequence-number > '5'", Position(Mark.SEQUENCE_NUMBER, 5)),
        ("x-opt-sequence-number >= 5", Position(Mark.SEQUENCE_NUMBER, 5, True)),
        ("x-opt-enqueued-time > '1700000000000'", Position(Mark.ENQUEUED_TIME, 1700000000000)),
        ("x-opt-enqueuedtimeutc > 1700000000000", Position(Mark.ENQUEUED_TIME, 1700000000000)),
    ],
)
def test_filters_of_all_clients(text: str, position: Position) -> None:
    assert parse_filter(f"amqp.annotation.{text}") == position
    assert parse_filter(f"AMQP.Annotation.{text.upper()}") == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x-opt-offset > '1'",
        "amqp.annotation.x-opt-offset < '1'",
        "amqp.annotation.x-opt-offset > ''",
        "amqp.annotation.x-opt-offset > 'x'",
        "amqp.annotation.x-opt-other > '1'",
        "amqp.annotation.x-opt-sequence-number > '@latest'",
        "amqp.annotation.x-opt-enqueuedtimeutc > None",
        "amqp.annotation.x-opt-offset > '1' AND 1",
        f"amqp.annotation.x-opt-sequence-number > '{'9' * 40}'",
    ],
)
def test_other_filters(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_filter(text)
    assert caught.value.code == "invalid-filter"


async def test_where_a_reader_begins(parts: Parts) -> None:
    log = parts.telemetry.log(parts.hub)
    times = []
    for data in (b"0", b"1", b"2"):
        times.append(int(parts.clock.time() * 1000))
        await log.append(0, [data])
        parts.clock.advance(1.0)
    offsets = [record.offset for record in await log.read(0, 0, 10, 1000)]
    table = [
        (EARLIEST, 0),
        (LATEST, 3),
        (Position(Mark.OFFSET, offsets[1]), 2),
        (Position(Mark.OFFSET, offsets[1], True), 1),
        (Position(Mark.OFFSET, offsets[2]), 3),
        (Position(Mark.SEQUENCE_NUMBER, -1), 0),
        (Position(Mark.SEQUENCE_NUMBER, 1), 2),
        (Position(Mark.SEQUENCE_NUMBER, 1, True), 1),
        (Position(Mark.SEQUENCE_NUMBER, 2), 3),
        (Position(Mark.SEQUENCE_NUMBER, 3, True), 3),
        (Position(Mark.ENQUEUED_TIME, times[1]), 2),
        (Position(Mark.ENQUEUED_TIME, times[1], True), 1),
        (Position(Mark.ENQUEUED_TIME, times[1] - 1), 1),
        (Position(Mark.ENQUEUED_TIME, 0), 0),
        (Position(Mark.ENQUEUED_TIME, times[2] + 10_000), 3),
    ]
    for position, sequence in table:
        assert first_sequence(log, 0, position) == sequence, position
    with pytest.raises(InvalidArgumentError, match="last sequence number of partition 0 is 2"):
        first_sequence(log, 0, Position(Mark.SEQUENCE_NUMBER, 3))


async def test_what_a_partition_holds(parts: Parts) -> None:
    readers = EventReaders(parts.telemetry, ConsumerGroups(parts.engine, parts.clock))
    log = parts.telemetry.log(parts.hub)
    assert readers.partitions() == ["0", "1", "2", "3"]
    assert await readers.state(parts.hub, "1") == PartitionState(0, -1, "-1", 0.0, True)
    await log.append(1, [b"a", b"b"])
    (last,) = await log.read(1, 1, 1, 100)
    assert await readers.state(parts.hub, "1") == PartitionState(
        0, 1, str(last.offset), parts.clock.time(), False
    )
    for name in ("4", "-1", "01", "", "a"):
        with pytest.raises(NotFoundError) as caught:
            await readers.state(parts.hub, name)
        assert caught.value.code == "partition-not-found"


class Place:
    """Opens readers of one partition and keeps the account."""

    def __init__(self, parts: Parts, partition: str = "0") -> None:
        self.groups = ConsumerGroups(parts.engine, parts.clock)
        self.readers = EventReaders(parts.telemetry, self.groups)
        self.hub = parts.hub
        self.partition = partition
        self.displaced: list[int | None] = []
        self.news = 0

    def open(self, epoch: int | None = None, **options: Any) -> EventReader:
        def displaced(text: str) -> None:
            assert text
            self.displaced.append(epoch)
            reader.close()

        reader = self.readers.open(
            self.hub,
            options.get("group", "$Default"),
            options.get("partition", self.partition),
            position=options.get("position", EARLIEST),
            epoch=epoch,
            on_displaced=displaced,
            on_waiting=self._more,
        )
        return reader

    def _more(self) -> None:
        self.news += 1

    def refused(self, error: type[MusterError], epoch: int | None = None, **options: Any) -> str:
        with pytest.raises(error) as caught:
            self.open(epoch, **options)
        return caught.value.code


async def test_readers_follow_the_log(parts: Parts) -> None:
    log = parts.telemetry.log(parts.hub)
    place = Place(parts)
    await log.append(0, [b"a", b"b", b"c"])
    first, second = place.open(), place.open(group="$DEFAULT", position=LATEST)
    assert (first.behind, second.behind) == (True, False)
    assert [each.data for each in await first.take(2)] == [b"a", b"b"]
    assert [each.data for each in await first.take(2)] == [b"c"]
    assert not first.behind
    await log.append(0, [b"d"])
    assert place.news == 2
    assert [each.data for each in await second.take(500)] == [b"d"]
    assert (await second.state()).last_sequence == 3
    second.close()
    await log.append(1, [b"elsewhere"])
    assert place.news == 3
    assert [each.data for each in await first.take(500)] == [b"d"]


async def test_a_batch_is_bounded(parts: Parts) -> None:
    await parts.telemetry.log(parts.hub).append(0, [b"x"] * 1000)
    reader = Place(parts).open()
    assert len(await reader.take(1000)) == event_readers._BATCH


async def test_epochs(parts: Parts) -> None:
    place = Place(parts)
    place.open()
    place.open()
    place.open(3)
    assert place.displaced == [None, None]
    assert place.refused(ConflictError) == "reader-displaced"
    assert place.refused(ConflictError, 2) == "reader-displaced"
    # Elsewhere it means nothing.
    place.open(1, partition="1").close()
    await place.groups.create(place.hub, "Other")
    place.open(1, group="other").close()
    place.open(3)
    last = place.open(4)
    assert place.displaced == [None, None, 3, 3]
    last.close()
    last.close()
    place.open()
    assert place.displaced == [None, None, 3, 3]
    place.open(0)
    assert place.displaced == [None, None, 3, 3, None]


async def test_there_is_room_for_five(parts: Parts) -> None:
    place = Place(parts)
    readers = [place.open() for _ in range(MAX_READERS)]
    assert place.refused(ForbiddenError) == "too-many-readers"
    readers[0].close()
    place.open()
    place.open(1)
    assert place.displaced == [None] * MAX_READERS


async def test_nothing_to_read(parts: Parts) -> None:
    place = Place(parts)
    assert place.refused(NotFoundError, group="nobody") == "consumer-group-not-found"
    assert place.refused(NotFoundError, partition="4") == "partition-not-found"
    ahead = Position(Mark.SEQUENCE_NUMBER, 100)
    place.open(1)
    assert place.refused(InvalidArgumentError, 2, position=ahead) == "position-out-of-range"
    # Whoever is refused has displaced nobody.
    assert place.displaced == []
