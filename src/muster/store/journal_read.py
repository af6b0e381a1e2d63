"""Finding records in the segments of a journal. Runs in any thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, final

import msgspec
import structlog

from muster.store.journal_format import lengths_of
from muster.store.journal_segment import INDEX_EVERY, FrameReader, JournalDamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from muster.store.journal_format import Frame, Section
    from muster.store.journal_segment import Index, Segment

_log = structlog.get_logger(__name__)


@final
class JournalRecord(msgspec.Struct, frozen=True, gc=False):
    """One record.

    Attributes:
        partition: which.
        sequence: counts the partition's records from 0, without gaps.
        offset: where it stands in the log; grows along a partition, otherwise opaque.
        enqueued_at: when it was accepted, unix seconds.
        data: the record.
    """

    partition: int
    sequence: int
    offset: int
    enqueued_at: float
    data: bytes


@final
class Reading:
    """One read: what is asked for, and what was found so far."""

    __slots__ = ("bytes_left", "found", "full", "partition", "records_left", "sequence")

    def __init__(self, partition: int, sequence: int, max_records: int, max_bytes: int) -> None:
        self.partition = partition
        self.sequence = sequence
        self.records_left = max_records
        self.bytes_left = max_bytes
        self.found: list[JournalRecord] = []
        self.full = max_records <= 0

    def run(self, segments: Sequence[Segment]) -> list[JournalRecord]:
        """Return records in their order, at least one if there is any.

        Raises:
            JournalDamagedError: the first one asked for cannot be read.
            OSError: a file cannot be read.
        """
        partition = self.partition
        start = bisect_right(segments, self.sequence, key=lambda each: each.next[partition])
        for number, segment in enumerate(islice(segments, start, None), start):
            if self.full:
                break
            stop = segment.next[partition]
            first = segment.header.first[partition]
            if self.sequence < first:
                if number == 0:
                    # Retention took what came before.
                    self.sequence = first
                elif not self._gap(segments[number - 1], segments[number - 1].end, first):
                    break
            if self.sequence < stop and not self._run(segment, stop):
                break
        return self.found

    def _run(self, segment: Segment, stop: int) -> bool:
        """Read from one segment; return whether to go on with the next."""
        if not segment.readable:
            return self._gap(segment, 0, stop)
        partition = self.partition
        index = index_of(segment)
        sequences, positions = index.sequences[partition], index.positions[partition]
        position = damaged = 0
        # The entry that the next jump goes to.
        entry = max(bisect_right(sequences, self.sequence) - 1, 0)
        with FrameReader(segment.path, segment.header, segment.end) as reader:
            while self.sequence < stop and not self.full:
                while entry < len(sequences) and sequences[entry] <= self.sequence:
                    position = max(position, positions[entry])
                    entry += 1
                if not position:
                    # The frame of the first entry is the first of the partition.
                    return self._gap(segment, 0, sequences[0] if sequences else stop)
                if position >= reader.end:
                    return self._gap(segment, damaged or position, stop)
                frame = reader.frame(position)
                if frame is None:
                    damaged = damaged or position
                    position = reader.next_good(position + 1)
                    continue
                position += frame.size
                section = _section(frame, partition)
                if section is not None:
                    if section.first > self.sequence:
                        return self._gap(segment, damaged or position, section.first)
                    self._take(segment, frame, section)
        return not self.full

    def _take(self, segment: Segment, frame: Frame, section: Section) -> None:
        skip = self.sequence - section.first
        if skip >= section.count:
            return
        lengths = lengths_of(frame, section)
        start = section.position + 4 * section.count + sum(lengths[:skip])
        offset = segment.header.base_offset + frame.origin
        data, enqueued_at, found = frame.data, frame.enqueued_at, self.found
        for length in lengths[skip:]:
            if not self.records_left or (length > self.bytes_left and found):
                self.full = True
                return
            found.append(
                JournalRecord(
                    self.partition,
                    self.sequence,
                    offset + start,
                    enqueued_at,
                    data[start : start + length],
                )
            )
            self.sequence += 1
            self.records_left -= 1
            self.bytes_left -= length
            start += length
        self.full = not self.records_left or self.bytes_left <= 0

    def _gap(self, segment: Segment, position: int, resume: int) -> bool:
        """Meet records that are lost: an error if nothing stands before them, else an end."""
        if self.found:
            return False
        raise JournalDamagedError(
            segment.path,
            position,
            partition=self.partition,
            lost=self.sequence,
            resume_sequence=resume,
        )


def find_time(segments: Sequence[Segment], partition: int, unix_s: float) -> int:
    """Return the first sequence number of a partition that is not older than a moment.

    The moment may lie behind the last record: then it is the number that comes next.

    Raises:
        OSError: a file cannot be read.
    """
    following = _following(segments, partition)
    for segment in segments:
        if segment.newest >= unix_s and segment.readable:
            found = _find_time(segment, partition, unix_s)
            if found is not None:
                return found
    return following


def _find_time(segment: Segment, partition: int, unix_s: float) -> int | None:
    index = index_of(segment)
    # All frames up to and with this entry's are older.
    whole = len(index.sequences[partition])
    entry = bisect_left(index.newest[partition], unix_s, hi=whole) - 1
    for frame, section in _sections(segment, partition, entry):
        if frame.enqueued_at >= unix_s:
            return section.first
    return None


def find_offset(segments: Sequence[Segment], partition: int, offset: int) -> int:
    """Return the sequence number of a partition's first record at or behind an offset.

    The offset may lie behind the last record: then it is the number that comes next.

    Raises:
        OSError: a file cannot be read.
    """
    following = _following(segments, partition)
    for segment in segments:
        if segment.header.base_offset + segment.end >= offset and segment.readable:
            found = _find_offset(segment, partition, offset)
            if found is not None:
                return found
    return following


def _following(segments: Sequence[Segment], partition: int) -> int:
    """Return the number that comes next, from before a search.

    What is written during a search, perhaps to where it has looked already, is then behind it.
    """
    return segments[-1].next[partition] if segments else 0


def _find_offset(segment: Segment, partition: int, offset: int) -> int | None:
    base = segment.header.base_offset
    entry = bisect_right(index_of(segment).positions[partition], max(offset - base, 0)) - 1
    for frame, section in _sections(segment, partition, entry):
        start = base + frame.origin + section.position + 4 * section.count
        for sequence, length in enumerate(lengths_of(frame, section), section.first):
            if start >= offset:
                return sequence
            start += length
    return None


def _sections(segment: Segment, partition: int, entry: int) -> Iterator[tuple[Frame, Section]]:
    """Yield a partition's records, frame by frame, from an entry of the index on.

    What is damaged is left out.
    """
    positions = index_of(segment).positions[partition]
    if not positions:
        return
    entry = max(entry, 0)
    position = positions[entry]
    with FrameReader(segment.path, segment.header, segment.end) as reader:
        while position < reader.end:
            if position - positions[entry] >= INDEX_EVERY:
                if entry + 1 >= len(positions):
                    return
                entry += 1
                position = max(position, positions[entry])
            frame = reader.frame(position)
            if frame is None:
                position = reader.next_good(position + 1)
                continue
            section = _section(frame, partition)
            if section is not None:
                yield frame, section
            position += frame.size


def _section(frame: Frame, partition: int) -> Section | None:
    for section in frame.sections:
        if section.partition == partition:
            return section
    return None


def index_of(segment: Segment) -> Index:
    """Return the index of a segment.

    Raises:
        OSError: the file cannot be read.
    """
    index, whole = segment.load_index()
    if not whole:
        _log.error("index of a telemetry file was damaged, rebuilt", file=str(segment.path))
    return index
