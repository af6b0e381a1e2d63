"""Reading a hub's telemetry: from a place in the log, to its end or for ever.

A reader that does not take what it asked for holds one batch and no more: the next one is read
when it comes back.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from heapq import merge
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import structlog

from muster.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from muster.hub.telemetry import LogReader, StoredRecord

BATCH_RECORDS: Final = 500
BATCH_BYTES: Final = 1 << 20
"""Bounds of one batch of one partition."""

_log = structlog.get_logger(__name__)

EARLIEST: Final = "earliest"
LATEST: Final = "latest"


@runtime_checkable
class DamagedLog(Protocol):
    """An error of a log that says from where on it can be read again."""

    resume_sequence: int


def start(log: LogReader, partitions: Iterable[int], text: str) -> dict[int, int]:
    """Return where to begin in each partition.

    Args:
        log: of the hub.
        partitions: which.
        text: `earliest`, `latest`, a sequence number, or a time as in ISO 8601 (UTC unless it
            says otherwise).

    Raises:
        InvalidArgumentError: it is nothing of that; code `invalid-position`.
    """
    if text == EARLIEST:
        return {partition: log.bounds(partition)[0] for partition in partitions}
    if text == LATEST:
        return {partition: log.bounds(partition)[1] for partition in partitions}
    if text.isascii() and text.isdigit() and len(text) < 19:
        return dict.fromkeys(partitions, int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            "A position is earliest, latest, a sequence number, or a time like "
            "2026-01-31T12:00:00Z",
            code="invalid-position",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    unix_s = moment.timestamp()
    return {partition: log.find_time(partition, unix_s) for partition in partitions}


def count(log: LogReader, positions: dict[int, int], until: dict[int, int] | None = None) -> int:
    """Return how many records `read` finds when it does not follow.

    Args:
        log: of the hub.
        positions: where to begin in each partition.
        until: where to end, if not at the end of the log.
    """
    ends = _ends(log, positions, until)
    return sum(
        max(ends[partition] - max(position, log.bounds(partition)[0]), 0)
        for partition, position in positions.items()
    )


async def read(
    log: LogReader,
    positions: dict[int, int],
    *,
    follow: bool,
    until: dict[int, int] | None = None,
    keep_alive_s: float = 15.0,
) -> AsyncIterator[list[StoredRecord]]:
    """Yield batches of records, within a batch in the order of their arrival.

    Args:
        log: of the hub.
        positions: where to begin in each partition; kept up to date.
        follow: go on at the end and wait for more, for ever.
        until: where to end in each partition when not following; the end of the log otherwise.
        keep_alive_s: seconds of waiting after which an empty batch is yielded.
    """
    ends = {} if follow else _ends(log, positions, until)
    news = asyncio.Event()
    unsubscribe = log.subscribe(news.set)
    try:
        while True:
            news.clear()
            before = dict(positions)
            batches = [await _next(log, positions, partition, ends) for partition in before]
            if any(batches):
                yield list(merge(*batches, key=_arrival))
            elif positions != before:
                # Something was skipped; there may be more behind it.
                continue
            elif not follow:
                return
            else:
                try:
                    async with asyncio.timeout(keep_alive_s):
                        await news.wait()
                except TimeoutError:
                    yield []
    finally:
        unsubscribe()


def _ends(
    log: LogReader, partitions: Iterable[int], until: dict[int, int] | None
) -> dict[int, int]:
    ends = {partition: log.bounds(partition)[1] for partition in partitions}
    if until is None:
        return ends
    return {partition: min(end, until[partition]) for partition, end in ends.items()}


async def _next(
    log: LogReader, positions: dict[int, int], partition: int, ends: dict[int, int]
) -> list[StoredRecord]:
    """Return the next records of a partition, and move its position behind them.

    Args:
        log: of the hub.
        positions: of each partition.
        partition: which.
        ends: where to stop in each partition; not at all where none is given.
    """
    position = positions[partition]
    end = ends.get(partition)
    if end is not None and position >= end:
        return []
    found, positions[partition] = await batch(log, partition, position)
    if end is not None:
        return [record for record in found if record.sequence < end]
    return found


async def batch(
    log: LogReader, partition: int, position: int, max_records: int = BATCH_RECORDS
) -> tuple[list[StoredRecord], int]:
    """Return the next records of a partition and the position behind them.

    Where records are lost, there are none, and the position is the one behind the damage.

    Raises:
        UnavailableError: the log cannot be read; code `store-unavailable`.
    """
    try:
        found = list(await log.read(partition, position, max_records, BATCH_BYTES))
    except UnavailableError as error:
        if not isinstance(error, DamagedLog):
            raise
        # What is behind the damage is as good as ever; the gap shows in the numbers.
        _log.error("telemetry lost", reason=error.message)
        return [], error.resume_sequence
    return found, found[-1].sequence + 1 if found else position


def _arrival(record: StoredRecord) -> float:
    return record.enqueued_at
