"""The telemetry journal: an append-only, partitioned log of one hub.

`append` only queues. A thread of the journal's own packs, writes and syncs what is queued as one
frame, for all partitions together (`journal_writer`), and tells the loop once per commit. Reads run
in other threads on files that only grow (`journal_read`); they never wait for the writer.
"""

from __future__ import annotations

import asyncio
from queue import Empty
from typing import TYPE_CHECKING, Final, Self, TypeVar, final

import structlog

from muster.errors import UnavailableError
from muster.ids import Randomness
from muster.store.journal_read import JournalRecord, Reading, find_time
from muster.store.journal_recovery import MAX_PARTITIONS, recover, sync_directory
from muster.store.journal_segment import JournalDamagedError
from muster.store.journal_writer import JournalWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster.clock import Clock
    from muster.store.journal_segment import Segment
    from muster.store.journal_writer import Done

__all__ = ["Journal", "JournalDamagedError", "JournalRecord"]

DEFAULT_SEGMENT_BYTES: Final = 64 << 20
DEFAULT_MAX_AGE_S: Final = 7 * 86_400.0
"""The longest the real service keeps telemetry (hub-device.md 9)."""
DEFAULT_MAX_BYTES: Final = 16 << 30
DEFAULT_CHECK_S: Final = 30.0

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@final
class Journal:
    """The log of one hub. Made by `open`; belongs to the event loop that was running then."""

    __slots__ = (
        "_closed",
        "_create_future",
        "_ended",
        "_loop",
        "_partitions",
        "_put",
        "_subscribers",
        "_writer",
    )

    def __init__(self, partitions: int) -> None:
        """Use `open`."""
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._partitions = partitions
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._ended = asyncio.Event()
        self._closed = False

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
        """Open a journal, made as needed; a torn end is cut, with a line in the log.

        Args:
            directory: of its files; nothing else may lie there.
            partitions: how many; the same for the life of the data.
            clock: gives records their time.
            segment_bytes: size at which a file is sealed; retention removes whole files.
            max_age_s: how long records are kept at least, in seconds, if `max_bytes` allows.
            max_bytes: how many bytes are kept.
            check_s: seconds between two looks at age and size.
            randomness: gives files their markers.

        Raises:
            ConflictError: it has another number of partitions; code `partitions-changed`.
            UnavailableError: it cannot be used; codes `store-unavailable`, `journal-too-new`,
                `journal-damaged`.
            ValueError: so many partitions are not possible.
        """
        if not 0 < partitions <= MAX_PARTITIONS:
            raise ValueError(f"1 to {MAX_PARTITIONS} partitions are possible, not {partitions}")
        try:
            segments = await asyncio.to_thread(_find, directory, partitions)
        except OSError as error:
            raise _unavailable(error) from error
        journal = cls(partitions)
        writer = journal._writer = JournalWriter(
            directory=directory,
            segments=segments,
            partitions=partitions,
            segment_bytes=segment_bytes,
            max_age_s=max_age_s,
            max_bytes=max_bytes,
            check_s=check_s,
            clock=clock,
            randomness=randomness or Randomness(),
            settle=journal._settle,
            ended=journal._end,
        )
        journal._put = writer.queue.put
        writer.start()
        return journal

    def append(self, partition: int, records: list[bytes]) -> asyncio.Future[list[int]]:
        """Store records; their order within a partition is the order of the calls.

        Args:
            partition: which, from 0.
            records: leave the list alone until the future is done.

        Returns:
            Their sequence numbers, when they would survive a power cut. Fails with
            `UnavailableError` (code `store-unavailable`) when none of them is stored: the disk is
            full or fails (later ones are tried again) or the journal is closed; and with
            `TooLargeError` when they are over `journal_writer.MAX_APPEND` bytes.

        Raises:
            ValueError: there is no such partition.
        """
        if not 0 <= partition < self._partitions:
            raise ValueError(f"there is no partition {partition}")
        future = self._create_future()
        if self._closed:
            future.set_exception(_closing())
        else:
            self._put((partition, records, future))
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
            JournalDamagedError: the first record wanted is damaged; says where to go on.
            UnavailableError: the disk fails; code `store-unavailable`.
            ValueError: there is no such partition.
        """
        if not 0 <= partition < self._partitions:
            raise ValueError(f"there is no partition {partition}")
        if from_sequence >= self.bounds(partition)[1]:
            return []
        return await self._loop.run_in_executor(
            None, self._read, partition, max(from_sequence, 0), max_records, max_bytes
        )

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the earliest sequence number still there and the one that comes next."""
        segments = self._writer.segments
        if not segments:
            return 0, 0
        return segments[0].header.first[partition], segments[-1].next[partition]

    def find_time(self, partition: int, unix_s: float) -> int:
        """Return the first sequence number that is not older than a moment.

        Reads a few pages of the disk. When all records are older, it is the number that comes
        next.

        Raises:
            UnavailableError: the disk fails; code `store-unavailable`.
        """
        return self._retry(lambda segments: find_time(segments, partition, unix_s))

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

    async def close(self) -> None:
        """Store what was accepted, then let go of the files."""
        if not self._closed:
            self._closed = True
            self._put(None)
        await self._ended.wait()

    # In the loop.

    def _settled(self, done: Done, error: Exception | None) -> None:
        for future, first, count in done:
            if future.done():
                continue
            if error is None:
                future.set_result(list(range(first, first + count)))
            else:
                future.set_exception(error)
        if error is not None:
            return
        for callback in list(self._subscribers.values()):
            try:
                callback()
            except Exception as failure:  # noqa: BLE001 - the others must hear of it all the same
                _log.error("a reader of the telemetry log failed", exc_info=failure)

    def _gone(self) -> None:
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

    # In the writer's thread.

    def _settle(self, done: Done, error: Exception | None) -> None:
        self._post(self._settled, done, error)

    def _end(self) -> None:
        self._post(self._gone)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed; nobody waits any more.
            return

    # In a reader's thread.

    def _read(
        self, partition: int, sequence: int, max_records: int, max_bytes: int
    ) -> list[JournalRecord]:
        return self._retry(Reading(partition, sequence, max_records, max_bytes).run)

    def _retry(self, look: Callable[[tuple[Segment, ...]], _T]) -> _T:
        """Look again when retention took a file from under the reader."""
        while True:
            segments = self._writer.segments
            try:
                return look(segments)
            except OSError as error:
                if self._writer.segments is segments:
                    raise _unavailable(error) from error


def _find(directory: Path, partitions: int) -> list[Segment]:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(directory.parent)
    return recover(directory, partitions)


def _closing() -> UnavailableError:
    return UnavailableError("The telemetry log is closed", code="store-unavailable")


def _unavailable(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"The telemetry log does not answer: {error.strerror or error}", code="store-unavailable"
    )
