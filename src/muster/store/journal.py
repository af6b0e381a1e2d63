"""A journal: an append-only, partitioned log of records that survives power cuts.

Records of a partition are numbered from 0, densely, for ever: a number is never used for another
record, whatever was deleted or crashed in between. All partitions share one sequence of files, so a
group commit over all of them costs one sync.

Who does what: the event loop only queues appends and hands out results; one thread numbers, packs,
checksums, writes and syncs (`journal_writer`); other threads read (`journal_read`) files that only
grow, and never wait for the writer. What the files look like says `journal_format`, what happens
after a crash and to damage `journal_recovery`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from queue import Empty
from typing import TYPE_CHECKING, Final, Self, TypeVar, final

import structlog

from muster.errors import UnavailableError
from muster.ids import Randomness
from muster.store.journal_read import JournalRecord, Reading, find_offset, find_time
from muster.store.journal_recovery import MAX_PARTITIONS, recover, sync_directory
from muster.store.journal_segment import JournalDamagedError
from muster.store.journal_writer import JournalWriter
from muster.store.worker import Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster.clock import Clock
    from muster.store.journal_segment import Segment
    from muster.store.journal_writer import Append, Done

__all__ = ["Journal", "JournalDamagedError", "JournalRecord"]

DEFAULT_SEGMENT_BYTES: Final = 32 << 20
"""Small enough to look at every byte of the last file at the start after a crash."""
DEFAULT_MAX_AGE_S: Final = 7 * 86_400.0
DEFAULT_MAX_BYTES: Final = 10 << 30
DEFAULT_CHECK_S: Final = 10.0
_READERS: Final = 2
_COMMIT_PAUSE_S: Final = 0.001
"""Least time from one group commit to the next, so that under load more appends share one: a tenth
less CPU a message (measured). An append that comes after a quiet time does not wait."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@final
class Journal:
    """The log of one hub. Made by `open`; belongs to the event loop that was running then."""

    def __init__(self, directory: Path, partitions: int) -> None:
        """Use `open`."""
        self.directory = directory
        self.partitions = partitions
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-reader")
        self._writer: JournalWriter
        self._appends: Turn[Append]
        self._closed = False
        self._ended = asyncio.Event()

    @classmethod
    async def open(
        cls,
        directory: Path,
        partitions: int,
        *,
        clock: Clock,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        check_s: float = DEFAULT_CHECK_S,
        randomness: Randomness | None = None,
    ) -> Self:
        """Open a log, made if there is none; a torn end is cut, with a line in our own log.

        Args:
            directory: of its files; nothing else may lie there.
            partitions: how many; the same for the life of the data.
            clock: gives records their time.
            segment_bytes: size at which a file is sealed and the next begun.
            max_age_s: records older than this, in seconds, are deleted; whole files at a time, so
                up to an eighth later.
            max_bytes: size of the whole log above which the oldest files are deleted.
            check_s: seconds between two looks at age and size.
            randomness: gives files their markers.

        Raises:
            ConflictError: it has another number of partitions; code `partitions-changed`.
            UnavailableError: the files cannot be read or are of a newer version (codes
                `store-unavailable`, `journal-too-new`), or are so damaged that it is unknown
                which sequence numbers were given out (`journal-damaged`).
            ValueError: so many partitions are not possible.
        """
        if not 0 < partitions <= MAX_PARTITIONS:
            raise ValueError(f"1 to {MAX_PARTITIONS} partitions are possible, not {partitions}")
        journal = cls(directory, partitions)
        try:
            segments = await asyncio.to_thread(_find, directory, partitions)
        except OSError as error:
            raise _unavailable(error) from error
        journal._writer = JournalWriter(
            directory=directory,
            segments=segments,
            partitions=partitions,
            segment_bytes=segment_bytes,
            max_age_s=max_age_s,
            max_bytes=max_bytes,
            check_s=check_s,
            clock=clock,
            randomness=randomness or Randomness(),
            settle=journal._post_settle,
            ended=journal._post_ended,
        )
        journal._appends = Turn(journal._loop, journal._writer.queue.put, _COMMIT_PAUSE_S)
        journal._writer.start()
        return journal

    def append(self, partition: int, records: list[bytes]) -> asyncio.Future[list[int]]:
        """Store records; their order within a partition is the order of the calls.

        Args:
            partition: which, from 0.
            records: leave the list alone from now on: another thread reads it.

        Returns:
            Their sequence numbers, when they would survive a power cut. Fails with
            `UnavailableError` (code `store-unavailable`) when the disk refuses: none of them is
            acknowledged, and later ones are tried again; and with `TooLargeError` when they are
            over `journal_writer.MAX_APPEND` bytes.

        Raises:
            UnavailableError: the log is closed; code `store-unavailable`.
            ValueError: there is no such partition.
        """
        if self._closed or not 0 <= partition < self.partitions:
            self._refuse(partition)
        future = self._create_future()
        self._appends.put((partition, records, future))
        return future

    async def read(
        self, partition: int, from_sequence: int, max_records: int, max_bytes: int
    ) -> list[JournalRecord]:
        """Return durable records in their order.

        Args:
            partition: which.
            from_sequence: the first wanted; if retention took it, the earliest is the first.
            max_records: at most so many.
            max_bytes: at most so many bytes of data, but one record in any case.

        Raises:
            JournalDamagedError: the first record wanted is damaged; says where to go on. Damage
                further on only ends the result.
            UnavailableError: the disk fails or the log is closed; code `store-unavailable`.
            ValueError: there is no such partition.
        """
        if self._closed or not 0 <= partition < self.partitions:
            self._refuse(partition)
        if from_sequence >= self.bounds(partition)[1]:
            return []
        reading = Reading(partition, max(from_sequence, 0), max_records, max_bytes)
        return await self._loop.run_in_executor(self._readers, self._look, reading.run)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the earliest sequence number still there and the one that comes next."""
        segments = self._writer.segments
        if not segments:
            return 0, 0
        return segments[0].header.first[partition], segments[-1].next[partition]

    def find_time(self, partition: int, unix_s: float) -> int:
        """Return the first sequence number that is not older than a moment.

        When all records are older, it is the number that comes next. Reads some 100 KiB at most.

        Args:
            partition: which.
            unix_s: unix seconds.

        Raises:
            UnavailableError: the disk fails; code `store-unavailable`.
        """
        return self._look(lambda segments: find_time(segments, partition, unix_s))

    def find_offset(self, partition: int, offset: int) -> int:
        """Return the sequence number of the first record at or behind an offset.

        When all records are before it, it is the number that comes next. Reads some 100 KiB at
        most.

        Args:
            partition: which.
            offset: as in `JournalRecord.offset`, or any number.

        Raises:
            UnavailableError: the disk fails; code `store-unavailable`.
        """
        return self._look(lambda segments: find_offset(segments, partition, offset))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in the loop whenever there are new durable records.

        Returns:
            Ends the subscription; may be called more than once.
        """
        key = object()
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def retain(self, max_age_s: float, max_bytes: int) -> None:
        """Keep records of another age and amount; takes effect at the next look.

        Args:
            max_age_s: as for `open`.
            max_bytes: as for `open`.
        """
        self._writer.max_age_s = max_age_s
        self._writer.max_bytes = max_bytes

    async def close(self) -> None:
        """Store what was accepted, then let go of the files."""
        if not self._closed:
            self._closed = True
            self._appends.hand_over()
            self._writer.queue.put(None)
        await self._ended.wait()
        await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=False)

    def _refuse(self, partition: int) -> None:
        if self._closed:
            raise _closing()
        raise ValueError(f"there is no partition {partition}")

    def _look(self, look: Callable[[tuple[Segment, ...]], _T]) -> _T:
        """Look at the files, again when retention took one from under the reader."""
        while True:
            segments = self._writer.segments
            try:
                return look(segments)
            except OSError as error:
                if self._writer.segments is segments or not isinstance(error, FileNotFoundError):
                    raise _unavailable(error) from error

    # Called in the loop.

    def _settle(self, done: Done, error: Exception | None) -> None:
        for future, first, count in done:
            if future.done():
                continue
            if error is None:
                future.set_result(list(range(first, first + count)))
            else:
                # One of its own for each: a raised error collects the traces of its catchers.
                future.set_exception(copy(error))
        if error is not None:
            return
        for callback in list(self._subscribers.values()):
            try:
                callback()
            except Exception as failure:  # noqa: BLE001 - the others must hear of it all the same
                _log.error("a reader of the telemetry log failed", exc_info=failure)

    def _end(self) -> None:
        self._closed = True
        queue = self._writer.queue
        while True:
            try:
                append = queue.get_nowait()
            except Empty:
                break
            # Only when the thread gave up; else it has emptied the queue.
            if append is not None and not append[2].done():
                append[2].set_exception(_closing())
        self._ended.set()

    # Called in the writer's thread.

    def _post_settle(self, done: Done, error: Exception | None) -> None:
        self._post(self._settle, done, error)

    def _post_ended(self) -> None:
        self._post(self._end)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed; nobody waits any more.
            return


def _find(directory: Path, partitions: int) -> list[Segment]:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        sync_directory(path.parent)
    return recover(directory, partitions)


def _closing() -> UnavailableError:
    return UnavailableError("The telemetry log is closed", code="store-unavailable")


def _unavailable(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"The telemetry log cannot be read: {error}",
        code="store-unavailable",
        subject=str(error.filename or ""),
    )
