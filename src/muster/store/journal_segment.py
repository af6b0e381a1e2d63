"""One file of a journal: its sparse index, and reading frames from it.

A segment is written by one thread and read by others without locks. That works because what
readers look at only grows, and grows in this order: the bytes on the disk, then `end`, then `next`.
A reader takes `next` first, so everything below it lies before `end`.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from typing import TYPE_CHECKING, Final, Self, final

from muster.errors import UnavailableError
from muster.store.journal_format import (
    FRAME_HEAD,
    MARKER_SIZE,
    Frame,
    Header,
    Summary,
    decode_frame,
    encode_summary,
    frame_size,
    header_size,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

INDEX_EVERY: Final = 64 * 1024
"""Bytes of log between two index entries of a partition."""
_STRETCH: Final = 256 * 1024
NEVER: Final = float("-inf")


class JournalDamagedError(UnavailableError):
    """Bytes of the log are not what was written, so some records cannot be returned.

    Args:
        path: the damaged file.
        position: where in it the damage begins, in bytes.
        partition: whose records are lost.
        lost: the first sequence number that cannot be read.
        resume_sequence: from here on the partition can be read again.
    """

    default_code = "journal-damaged"

    def __init__(
        self, path: Path, position: int, *, partition: int, lost: int, resume_sequence: int
    ) -> None:
        super().__init__(
            f"The telemetry log {path} is damaged at byte {position}: records {lost} to "
            f"{resume_sequence - 1} of partition {partition} cannot be read. Read on from sequence "
            f"number {resume_sequence}; to get the lost ones back, check the disk, stop the "
            "service and restore this file from a backup.",
            subject=str(path),
        )
        self.path = path
        self.position = position
        self.partition = partition
        self.lost = lost
        self.resume_sequence = resume_sequence


@final
class Index:
    """Where in a segment to look for a sequence number or a time.

    An entry stands for a frame: for each partition, a frame that holds records of it gets an entry
    when the partition's last one is `INDEX_EVERY` bytes back. So between an entry and the next,
    all of the partition's frames lie within `INDEX_EVERY` bytes of the first.

    Attributes:
        sequences: for each partition, the first sequence number of the partition in the frame.
        positions: of the frames.
        newest: the latest time of all frames of the segment up to and with this one.
    """

    __slots__ = ("newest", "positions", "sequences")

    def __init__(self, partitions: int) -> None:
        self.sequences = [array("Q") for _ in range(partitions)]
        self.positions = [array("Q") for _ in range(partitions)]
        self.newest = [array("d") for _ in range(partitions)]

    def add(self, partition: int, sequence: int, position: int, newest: float) -> None:
        """Take note of a frame if it is far enough from the last one noted."""
        positions = self.positions[partition]
        if not positions or position - positions[-1] >= INDEX_EVERY:
            # `sequences` last: readers go by its length.
            self.newest[partition].append(newest)
            positions.append(position)
            self.sequences[partition].append(sequence)

    def encode(self) -> bytes:
        """Write the columns, partition by partition."""
        return b"".join(
            struct.pack(f"<{len(s)}Q{len(s)}Q{len(s)}d", *s, *p, *n)
            for s, p, n in zip(self.sequences, self.positions, self.newest, strict=True)
        )

    @classmethod
    def decode(cls, data: bytes, entries: tuple[int, ...]) -> Self:
        """Read what `encode` wrote.

        Args:
            data: the index.
            entries: of each partition.
        """
        index = cls(0)
        start = 0
        for count in entries:
            values = struct.unpack_from(f"<{count}Q{count}Q{count}d", data, start)
            start += 24 * count
            index.sequences.append(array("Q", values[:count]))
            index.positions.append(array("Q", values[count : 2 * count]))
            index.newest.append(array("d", values[2 * count :]))
        return index


@final
class Segment:
    """One file.

    Args:
        path: of the file.
        header: its beginning.

    Attributes:
        next: for every partition, the sequence number after the last durable record.
        end: position behind the last durable frame.
        newest: latest time of a frame, unix seconds; minus infinity without frames.
        oldest: time of the first frame, as far as it is known (only needed while written).
        frames: how many.
        index: `None` when it is still on the disk.
        summary: of a sealed segment.
        readable: false when not even its frames can be found.
    """

    __slots__ = (
        "end",
        "frames",
        "header",
        "index",
        "newest",
        "next",
        "oldest",
        "path",
        "readable",
        "summary",
    )

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self.next = list(header.first)
        self.end = header_size(len(header.first))
        self.newest = NEVER
        self.oldest = NEVER
        self.frames = 0
        self.index: Index | None = Index(len(header.first))
        self.summary: Summary | None = None
        self.readable = True

    @classmethod
    def sealed(cls, path: Path, summary: Summary) -> Self:
        """Return a segment by its summary; the index is read when somebody needs it."""
        segment = cls(path, summary.header)
        segment.next = list(summary.next)
        segment.end = summary.end
        segment.newest = summary.newest
        segment.frames = summary.frames
        segment.index = None
        segment.summary = summary
        return segment

    @property
    def limit(self) -> int:
        """Log offset of its end; the next segment begins there."""
        return self.header.base_offset + self.end

    def load_index(self) -> tuple[Index, bool]:
        """Return the index, from the disk if need be, and whether it was whole there.

        Raises:
            OSError: the file cannot be read.
        """
        index, summary = self.index, self.summary
        if index is not None or summary is None:
            return index or Index(len(self.header.first)), True
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, summary.index_size, summary.end)
        finally:
            os.close(descriptor)
        whole = len(data) == summary.index_size and zlib.crc32(data) == summary.index_crc
        if whole:
            index = Index.decode(data, summary.entries)
        else:
            with FrameReader(self.path, self.header, self.end) as reader:
                index = scan(reader, self.header).index
        self.index = index
        return index, whole

    def tail(self) -> bytes:
        """Return what seals the segment: index and summary."""
        index = self.index or Index(len(self.header.first))
        data = index.encode()
        self.summary = Summary(
            header=self.header,
            end=self.end,
            newest=self.newest,
            frames=self.frames,
            next=tuple(self.next),
            entries=tuple(map(len, index.sequences)),
            index_crc=zlib.crc32(data),
            index_size=len(data),
        )
        return data + encode_summary(self.summary)


@final
class FrameReader:
    """Reads frames from a segment file, a stretch of it at a time.

    Args:
        path: of the file.
        header: of the segment.
        end: position behind the last byte to look at.

    Raises:
        OSError: the file cannot be opened.
    """

    __slots__ = ("_data", "_descriptor", "_header", "_start", "end")

    def __init__(self, path: Path, header: Header, end: int) -> None:
        self._header = header
        self._data = b""
        self._start = 0
        self.end = end
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def frame(self, position: int) -> Frame | None:
        """Return the frame that begins here; `None` when there is none or it is damaged.

        Raises:
            OSError: the file cannot be read.
        """
        start = self._have(position, FRAME_HEAD)
        if start < 0:
            return None
        offset = self._header.base_offset + position
        size = frame_size(self._data, start, self._header.marker, offset)
        if not size or position + size > self.end:
            return None
        start = self._have(position, size)
        return decode_frame(self._data, start, size, self._start) if start >= 0 else None

    def next_good(self, position: int) -> int:
        """Return where the first whole frame from here on begins, or `end`.

        Raises:
            OSError: the file cannot be read.
        """
        while (start := self._have(position, MARKER_SIZE)) >= 0:
            found = self._data.find(self._header.marker, start)
            if found < 0:
                position = self._start + len(self._data) - MARKER_SIZE + 1
                continue
            position = self._start + found
            if self.frame(position) is not None:
                return position
            position += 1
        return self.end

    def only_zeros(self, position: int) -> bool:
        """Return whether from here on there is nothing but zeros.

        Raises:
            OSError: the file cannot be read.
        """
        while (start := self._have(position, 1)) >= 0:
            rest = self._data[start:]
            if rest.count(0) != len(rest):
                return False
            position += len(rest)
        return True

    def _have(self, position: int, size: int) -> int:
        """Make sure of some bytes; return where they begin in `_data`, -1 when it ends before."""
        start = position - self._start
        if start < 0 or start + size > len(self._data):
            if position + size > self.end:
                return -1
            want = min(max(size, _STRETCH), self.end - position)
            self._data = os.pread(self._descriptor, want, position)
            self._start = position
            start = 0
        return start if start + size <= len(self._data) else -1


@final
class Scan:
    """What looking at every frame of a segment found.

    Attributes:
        end: position behind the last whole frame.
        next: for every partition, the sequence number after the last one seen.
        unseen: for every partition, at most so many records stood in damaged frames behind the
            last one seen.
        gaps: damaged ranges with whole frames behind them: first position and the one after.
        newest: latest time of a frame.
        oldest: time of the first frame.
        frames: how many are whole.
        index: of them.
    """

    __slots__ = ("end", "frames", "gaps", "index", "newest", "next", "oldest", "unseen")

    def __init__(self, header: Header) -> None:
        partitions = len(header.first)
        self.end = header_size(partitions)
        self.next = list(header.first)
        self.unseen = [0] * partitions
        self.gaps: list[tuple[int, int]] = []
        self.newest = NEVER
        self.oldest = NEVER
        self.frames = 0
        self.index = Index(partitions)

    def onto(self, segment: Segment) -> None:
        """Make a segment what the scan found."""
        segment.end = self.end
        segment.next = [seen + lost for seen, lost in zip(self.next, self.unseen, strict=True)]
        segment.newest = self.newest
        segment.oldest = self.oldest
        segment.frames = self.frames
        segment.index = self.index


def scan(reader: FrameReader, header: Header) -> Scan:
    """Look at every frame of a segment.

    Raises:
        OSError: the file cannot be read.
    """
    found = Scan(header)
    while True:
        frame = reader.frame(found.end)
        if frame is None:
            good = reader.next_good(found.end + 1)
            if good >= reader.end:
                return found
            found.gaps.append((found.end, good))
            # A record takes four bytes at least, those of its length.
            most = (good - found.end) // 4
            found.unseen = [lost + most for lost in found.unseen]
            found.end = good
            continue
        if not found.frames:
            found.oldest = frame.enqueued_at
        found.newest = max(found.newest, frame.enqueued_at)
        found.frames += 1
        for section in frame.sections:
            found.next[section.partition] = section.first + section.count
            found.unseen[section.partition] = 0
            found.index.add(section.partition, section.first, found.end, found.newest)
        found.end += frame.size
