"""The thread that writes a journal: group commit, rolling from file to file, retention.

Order of things, so that a crash at any moment loses nothing that was acknowledged and no sequence
number is given out twice:

- Sequence numbers are given out here, when records are written; a failed write takes none.
- A frame is synced before the next one is written, and acknowledged after that.
- A new file is written under another name, synced and renamed, so a file either has its whole
  header or is not there; its header carries the sequence numbers on. Only then are old files
  deleted.
- After a failed sync nobody knows what the disk has (the kernel forgets the failure), so that file
  is left alone: the next one begins at the log offset up to which all is durable, and that offset
  is where the old file ends, whatever else it holds.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, TypeAlias, final

import structlog

from muster.errors import TooLargeError, UnavailableError
from muster.store.journal_format import MARKER_SIZE, Header, encode_frame, encode_header
from muster.store.journal_recovery import NEW_SUFFIX, segment_path, sync_directory
from muster.store.journal_segment import Segment

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from muster.clock import Clock
    from muster.ids import Randomness

    Append: TypeAlias = tuple[int, list[bytes], asyncio.Future[list[int]]]
    Done: TypeAlias = list[tuple[asyncio.Future[list[int]], int, int]]

MAX_APPEND: Final = 64 << 20
"""Bytes of one append."""
_GROUP_BYTES: Final = 1 << 20
"""A group commit takes no more appends when it is this large: readers check it as a whole."""
_RESERVE: Final = 4 << 20
"""Space is reserved ahead in such pieces: a sync that need not grow the file is a third faster."""
_MAX_FRAMES: Final = 16_384
"""Frames of a file: bounds how long it takes to look at all of them after a crash."""
_AGE_PIECES: Final = 8
"""A file spans at most this part of the longest age, so deletion lags by no more than that."""

_log = structlog.get_logger(__name__)


@final
class JournalWriter:
    """Writes one journal. All but its attributes belongs to its thread.

    Args:
        directory: of the journal.
        segments: as they were found, oldest first.
        partitions: how many.
        segment_bytes: a file is closed when it is this large.
        max_age_s: age at which records may be deleted.
        max_bytes: size of the whole log above which the oldest are deleted.
        check_s: seconds between two looks at age and size.
        clock: gives records their time.
        randomness: gives files their markers.
        settle: called with the outcome of a group commit: futures with the first sequence number
            and the number of records, or why it failed.
        ended: called when everything is written and closed.

    Attributes:
        segments: oldest first; replaced as a whole, so a reader's copy stays as it is.
        queue: appends to do; `None` ends the thread when all before it is done. An append and its
            future are one item, so nothing can be acknowledged with another's commit.
        max_age_s: may be changed at any time.
        max_bytes: likewise.
    """

    def __init__(
        self,
        *,
        directory: Path,
        segments: list[Segment],
        partitions: int,
        segment_bytes: int,
        max_age_s: float,
        max_bytes: int,
        check_s: float,
        clock: Clock,
        randomness: Randomness,
        settle: Callable[[Done, Exception | None], None],
        ended: Callable[[], None],
    ) -> None:
        self.queue: SimpleQueue[Append | None] = SimpleQueue()
        self.segments: tuple[Segment, ...] = tuple(segments)
        self._directory = directory
        self._partitions = partitions
        self._segment_bytes = segment_bytes
        self.max_age_s = max_age_s
        self.max_bytes = max_bytes
        self._check_s = check_s
        self._clock = clock
        self._randomness = randomness
        self._settle = settle
        self._ended = ended
        self._descriptor = -1
        """Of the last segment while it is written to."""
        self._reserved = 0
        self._failing = False
        self._checked_at = clock.time()
        self._thread = threading.Thread(
            target=self._run, name=f"journal-{directory.name}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, which is a moment after `ended` was called."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._resume()
            self._expire()
            closing = False
            while not closing:
                closing = self._turn()
            self._seal()
        except OSError as error:
            # What is durable stays so; the next start looks at every frame.
            _log.error("telemetry file not closed", file=self._path(), reason=str(error))
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._ended()

    def _turn(self) -> bool:
        """Write what is queued; return whether that was all."""
        try:
            waiting = [self.queue.get(timeout=self._check_s)]
            waiting += [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        except Empty:
            waiting = []
        closing = bool(waiting) and waiting[-1] is None
        appends = deque(append for append in waiting if append is not None)
        while appends:
            self._commit(self._group(appends))
        if self._clock.time() - self._checked_at >= self._check_s:
            self._expire()
        return closing

    def _group(self, appends: deque[Append]) -> list[Append]:
        group: list[Append] = []
        size = 0
        while appends and size < _GROUP_BYTES:
            append = appends.popleft()
            try:
                length = sum(map(len, append[1]))
            except TypeError as mistake:
                self._settle([(append[2], 0, 0)], mistake)
                continue
            if length > MAX_APPEND:
                self._settle(
                    [(append[2], 0, 0)],
                    TooLargeError(f"{length} bytes at once are over the limit of {MAX_APPEND}"),
                )
                continue
            size += length
            group.append(append)
        return group

    def _commit(self, group: list[Append]) -> None:
        """Make a group of appends durable and acknowledge it."""
        if not group:
            return
        done: Done = []
        error: Exception | None = None
        try:
            segment = self._active()
            after = segment.next.copy()
            records_of: dict[int, list[bytes]] = {}
            for partition, records, future in group:
                first = after[partition]
                after[partition] = first + len(records)
                done.append((future, first, len(records)))
                if records:
                    records_of.setdefault(partition, []).extend(records)
            if records_of:
                self._append(segment, records_of, after)
        except (TypeError, ValueError, struct.error) as mistake:
            # Not bytes: the caller's fault, but no reason to stop for the others.
            _log.error("records that are no bytes were refused", exc_info=mistake)
            done = [(future, 0, 0) for _, _, future in group]
            error = mistake
        except Exception as failure:  # noqa: BLE001 - this thread must live; others wait for it
            error = self._failed(failure)
            done = [(future, 0, 0) for _, _, future in group]
        else:
            if self._failing:
                _log.info("telemetry is stored again", file=self._path())
            self._failing = False
        self._settle(done, error)

    def _failed(self, failure: Exception) -> UnavailableError:
        """Note that a group commit failed; return what its callers get to see."""
        if not isinstance(failure, OSError):
            _log.error("telemetry not stored", file=self._path(), exc_info=failure)
            return UnavailableError("Telemetry could not be stored", code="store-unavailable")
        if not self._failing:
            _log.error("telemetry cannot be stored", file=self._path(), reason=str(failure))
        self._failing = True
        return UnavailableError(
            f"Telemetry cannot be stored now: {failure.strerror or failure}",
            code="store-unavailable",
        )

    def _append(
        self, segment: Segment, records_of: dict[int, list[bytes]], after: list[int]
    ) -> None:
        now = self._clock.time()
        sections = [
            (partition, segment.next[partition], records)
            for partition, records in records_of.items()
        ]
        position = segment.end
        frame = encode_frame(segment.header.marker, segment.limit, now, sections)
        self._reserve(position + len(frame))
        try:
            _write(self._descriptor, frame, position)
        except OSError:
            # Nothing of it was synced, so the next one may take its place.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, position)
            self._reserved = position
            raise
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            self._abandon()
            raise
        if not segment.frames:
            segment.oldest = now
        segment.newest = max(segment.newest, now)
        segment.frames += 1
        if segment.index is not None:
            for partition, first, _ in sections:
                segment.index.add(partition, first, position, segment.newest)
        # Readers rely on this order (see journal_segment).
        segment.end = position + len(frame)
        segment.next[:] = after

    def _reserve(self, end: int) -> None:
        while end > self._reserved:
            # Where that is impossible or the disk is full, the write itself will tell.
            with contextlib.suppress(OSError):
                os.posix_fallocate(self._descriptor, self._reserved, _RESERVE)
            self._reserved += _RESERVE

    # Files.

    def _path(self) -> str:
        return str(self.segments[-1].path if self.segments else self._directory)

    def _resume(self) -> None:
        """Go on with the last file if a crash left it unsealed."""
        if self.segments and self.segments[-1].summary is None:
            last = self.segments[-1]
            self._descriptor = os.open(last.path, os.O_WRONLY)
            self._reserved = last.end

    def _active(self) -> Segment:
        """Return the segment to write to, a new one if the last is full."""
        if self._descriptor >= 0:
            last = self.segments[-1]
            if last.end < self._segment_bytes and last.frames < _MAX_FRAMES:
                return last
            self._seal()
        return self._create()

    def _create(self) -> Segment:
        base, first = 0, (0,) * self._partitions
        if self.segments:
            last = self.segments[-1]
            base, first = last.limit, tuple(last.next)
        header = Header(self._randomness.token_bytes(MARKER_SIZE), base, first)
        path = segment_path(self._directory, base)
        new = path.with_suffix(NEW_SUFFIX)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(descriptor, encode_header(header), 0)
            os.fsync(descriptor)
            new.rename(path)
            sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            raise
        segment = Segment(path, header)
        self._descriptor = descriptor
        self._reserved = segment.end
        self.segments = (*self.segments, segment)
        return segment

    def _seal(self) -> None:
        """Finish the file that is written to, so that it need not be looked through again."""
        if self._descriptor < 0:
            return
        segment = self.segments[-1]
        if segment.frames:
            tail = segment.tail()
            try:
                _write(self._descriptor, tail, segment.end)
                os.ftruncate(self._descriptor, segment.end + len(tail))
                os.fdatasync(self._descriptor)
            except OSError:
                segment.summary = None
                self._abandon()
                raise
        self._abandon()

    def _abandon(self) -> None:
        """Write no more to the file."""
        os.close(self._descriptor)
        self._descriptor = -1

    # Retention.

    def _expire(self) -> None:
        """Delete whole files that are too old or too much, never the last one."""
        now = self._checked_at = self._clock.time()
        try:
            self._expire_at(now)
        except OSError as error:
            _log.error("old telemetry not deleted", file=self._path(), reason=str(error))

    def _expire_at(self, now: float) -> None:
        if not self.segments:
            return
        last = self.segments[-1]
        spans = now - last.oldest if last.frames else 0.0
        if self._descriptor >= 0 and spans > self.max_age_s / _AGE_PIECES:
            self._seal()
        if self._descriptor < 0 and last.frames and last.newest < now - self.max_age_s:
            # An empty file carries the sequence numbers on, so the last one may go.
            last = self._create()
        keep = 0
        segments = self.segments
        size = last.limit - segments[0].header.base_offset
        while keep < len(segments) - 1:
            oldest, following = segments[keep], segments[keep + 1]
            if oldest.newest >= now - self.max_age_s and size <= self.max_bytes:
                break
            size -= following.header.base_offset - oldest.header.base_offset
            keep += 1
        if keep:
            self.segments = segments[keep:]
            for segment in segments[:keep]:
                segment.path.unlink(missing_ok=True)
            _log.info(
                "old telemetry deleted", directory=str(self._directory), files=keep, bytes_left=size
            )


def _write(descriptor: int, data: bytes, position: int) -> None:
    """Write all of it."""
    written = os.pwrite(descriptor, data, position)
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], position + written)
