"""Opening the files of a journal: what a crash tore is cut off, what is damaged is told from it.

Only the last segment can have a torn end, and only if it was not sealed. Everything else that is
wrong is damage: it is logged here and refused when somebody reads it, and nothing is written to
that file. If damage leaves unknown which sequence numbers were given out, opening fails.
"""

from __future__ import annotations

import contextlib
import os
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.errors import ConflictError, UnavailableError
from muster.store.journal_format import (
    MARKER_SIZE,
    FormatError,
    Header,
    UnknownVersionError,
    decode_header,
    decode_summary,
    header_size,
    summary_size,
)
from muster.store.journal_segment import FrameReader, Segment, scan

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX: Final = ".journal"
NEW_SUFFIX: Final = ".new"
MAX_PARTITIONS: Final = 1_024
_NAME_DIGITS: Final = 20
_log = structlog.get_logger(__name__)


def segment_path(directory: Path, base_offset: int) -> Path:
    """Return where the segment that begins at a log offset is kept."""
    return directory / f"{base_offset:0{_NAME_DIGITS}}{SUFFIX}"


def sync_directory(directory: Path) -> None:
    """Make created and renamed files of a directory survive a power cut.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(directory: Path, partitions: int) -> list[Segment]:
    """Return the segments of a journal, oldest first; only the last may be unsealed.

    Raises:
        ConflictError: the journal has another number of partitions; code `partitions-changed`.
        UnavailableError: it was written by a newer version (`journal-too-new`), or is so damaged
            that it cannot be continued (`journal-damaged`).
        OSError: the files cannot be read.
    """
    for leftover in directory.glob(f"*{NEW_SUFFIX}"):
        leftover.unlink()
    bases = sorted(
        int(path.stem)
        for path in directory.glob(f"*{SUFFIX}")
        if path.stem.isdigit() and len(path.stem) == _NAME_DIGITS
    )
    segments: list[Segment] = []
    for base, following in zip_longest(bases, bases[1:]):
        path = segment_path(directory, base)
        before = segments[-1] if segments else None
        segment = _Opening(path, base, following, before, partitions).run()
        if before is not None and before.limit != base:
            _log.error(
                "telemetry is missing between two files",
                directory=str(directory),
                file=path.name,
                missing_bytes=base - before.limit,
            )
        segments.append(segment)
    _complete(segments)
    return segments


def _complete(segments: list[Segment]) -> None:
    """Give segments that cannot be read the bounds their neighbours tell."""
    for number in range(len(segments) - 2, -1, -1):
        segment, after = segments[number], segments[number + 1]
        if not segment.readable or segment.summary is None:
            segment.next = list(after.header.first)
        if not segment.readable:
            before = segments[number - 1].next if number else segment.next
            segment.header.first = tuple(before)


@final
class _Opening:
    """Opens one segment file."""

    __slots__ = ("_base", "_before", "_following", "_partitions", "_path", "_size")

    def __init__(
        self,
        path: Path,
        base: int,
        following: int | None,
        before: Segment | None,
        partitions: int,
    ) -> None:
        self._path = path
        self._base = base
        self._following = following
        self._before = before
        self._partitions = partitions
        self._size = 0

    def run(self) -> Segment:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            self._size = os.fstat(descriptor).st_size
            head = os.pread(descriptor, header_size(MAX_PARTITIONS), 0)
            length = summary_size(self._partitions)
            tail = os.pread(descriptor, length, max(self._size - length, 0))
        finally:
            os.close(descriptor)
        header = self._header(head)
        summary = decode_summary(
            tail, self._partitions, self._base, self._size, header.marker if header else None
        )
        if header is None:
            self._complain("its beginning is damaged", position=0)
        if summary is not None:
            return Segment.sealed(self._path, summary)
        if header is None:
            header = self._guess(head)
        if header is None:
            return self._unreadable()
        return self._scan(header)

    def _header(self, head: bytes) -> Header | None:
        try:
            header = decode_header(head)
        except UnknownVersionError as error:
            raise UnavailableError(
                f"The telemetry log {self._path} was written by a newer version: {error}. Start "
                "that version of Muster again, or restore a backup made before the upgrade.",
                code="journal-too-new",
                subject=str(self._path),
            ) from None
        except FormatError:
            return None
        if len(header.first) != self._partitions:
            raise ConflictError(
                f"The telemetry log {self._path.parent} was made with {len(header.first)} "
                f"partitions and keeps that number; {self._partitions} were asked for.",
                code="partitions-changed",
                subject=str(self._path.parent),
            )
        return header if header.base_offset == self._base else None

    def _guess(self, head: bytes) -> Header | None:
        """Make up for a damaged header if the first frame and the file before allow it."""
        start = header_size(self._partitions)
        marker = head[start : start + MARKER_SIZE]
        if len(marker) < MARKER_SIZE:
            return None
        if self._before is not None:
            first = tuple(self._before.next)
        elif self._base == 0:
            first = (0,) * self._partitions
        else:
            return None
        header = Header(marker, self._base, first)
        with FrameReader(self._path, header, self._size) as reader:
            return header if reader.frame(start) is not None else None

    def _unreadable(self) -> Segment:
        if self._following is None:
            raise UnavailableError(
                f"The telemetry log {self._path} is damaged: its beginning cannot be read, so it "
                "is unknown which sequence numbers were given out. Restore the file from a backup, "
                f"or move the directory {self._path.parent} away to begin a new log.",
                code="journal-damaged",
                subject=str(self._path),
            )
        segment = Segment(self._path, Header(b"", self._base, (0,) * self._partitions))
        segment.readable = False
        segment.end = self._following - self._base
        # Its records' times are unknown; none is younger than the file.
        segment.newest = self._path.stat().st_mtime
        return segment

    def _scan(self, header: Header) -> Segment:
        """Open a segment without a summary by looking at all its frames."""
        is_last = self._following is None
        limit = self._size
        if self._following is not None:
            # A disk error may have left bytes behind what was durable; the next file tells where.
            limit = min(limit, self._following - self._base)
        with FrameReader(self._path, header, limit) as reader:
            found = scan(reader, header)
            torn = found.end < limit and not (is_last and reader.only_zeros(found.end))
        for start, end in found.gaps:
            self._complain("records in it are lost", position=start, bytes=end - start)
        segment = Segment(self._path, header)
        found.onto(segment)
        whole = not found.gaps and (is_last or self._base + found.end == self._following)
        if is_last:
            if torn:
                _log.warning(
                    "cut what a crash left half-written at the end of the telemetry log",
                    file=str(self._path),
                    position=found.end,
                    bytes=self._size - found.end,
                )
            if self._size > found.end:
                _rewrite_end(self._path, found.end, b"")
        elif whole:
            _log.warning("index of a telemetry file was missing, rebuilt", file=str(self._path))
            # On a full disk it stays as it is; the index in memory does for now.
            with contextlib.suppress(OSError):
                _rewrite_end(self._path, found.end, segment.tail())
        else:
            if torn or self._base + limit != self._following:
                self._complain("records at its end are lost", position=found.end)
            segment.end = self._following - self._base if self._following else found.end
        return segment

    def _complain(self, what: str, **facts: int) -> None:
        _log.error(
            "a telemetry file is damaged: check the disk, restore it from a backup",
            what=what,
            file=str(self._path),
            **facts,
        )


def _rewrite_end(path: Path, position: int, tail: bytes) -> None:
    """Replace what follows a position."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, position)
        if tail:
            os.pwrite(descriptor, tail, position)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
