"""Bytes of a journal segment. All numbers are little-endian.

    segment = header frame* [zeros] | header frame* index summary

A segment that is being written ends in zeros (space reserved ahead) or in a torn frame; a sealed
one ends in its index and its summary. Every byte stands under a CRC-32:

    header   magic "MSTRJRN1", crc, version, partitions, marker (8 random bytes), base offset,
             base sequence of every partition
    frame    marker, crc, length of what follows, log offset, time, number of sections;
             sections: partition, records, first sequence, bytes of data;
             then for each section the lengths of its records and their data, end to end
    index    for each partition three columns: sequences, positions, newest times
             (`journal_segment.Index`)
    summary  marker, crc, crc of the index, length of the index, base offset, end of the frames,
             newest time, frames, then next sequence and index entries of every partition,
             base sequences

One frame is one group commit, written and synced as a whole before the next begins. So a bad frame
with a good one behind it was damaged after it had been synced; a bad frame with nothing good behind
it was torn by a crash, and nobody was told that it is safe.

The marker differs from segment to segment and is known to nobody outside, so no record's content
can be mistaken for a frame or a summary. The log offset is the base offset plus the position in
the segment's frames; a segment's base offset is where the one before it ends.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = b"MSTRJRN1"
VERSION: Final = 1
MARKER_SIZE: Final = 8

_HEADER: Final = struct.Struct("<8sIHH8sQ")
_HEADER_CHECKED_FROM: Final = 12
_FRAME: Final = struct.Struct("<8sIIQdI")
_FRAME_CHECKED: Final = struct.Struct("<IQdI")
_FRAME_CHECKED_FROM: Final = 12
_SECTION: Final = struct.Struct("<IIQI")
_SUMMARY: Final = struct.Struct("<8sIIIQQdI")
_SUMMARY_CHECKED_FROM: Final = 12

FRAME_HEAD: Final = _FRAME.size


class FormatError(ValueError):
    """The bytes are not what they should be."""


class UnknownVersionError(FormatError):
    """The bytes are whole, but of a version this program does not know."""


@final
class Header:
    """What a segment begins with.

    Args:
        marker: begins every frame of the segment.
        base_offset: log offset of its first byte.
        first: sequence number its first record has or would have, for every partition.
    """

    __slots__ = ("base_offset", "first", "marker")

    def __init__(self, marker: bytes, base_offset: int, first: tuple[int, ...]) -> None:
        self.marker = marker
        self.base_offset = base_offset
        self.first = first


def header_size(partitions: int) -> int:
    """Return the number of bytes before the first frame."""
    return _HEADER.size + 8 * partitions


def encode_header(header: Header) -> bytes:
    """Write a header."""
    partitions = len(header.first)
    rest = _HEADER.pack(b"", 0, VERSION, partitions, header.marker, header.base_offset)
    rest = rest[_HEADER_CHECKED_FROM:] + struct.pack(f"<{partitions}Q", *header.first)
    return MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest


def decode_header(data: bytes) -> Header:
    """Read a header from the beginning of a segment.

    Raises:
        FormatError: it is damaged.
        UnknownVersionError: it was written by a newer program.
    """
    if len(data) < _HEADER.size:
        raise FormatError("the header is cut off")
    magic, crc, version, partitions, marker, base_offset = _HEADER.unpack_from(data)
    end = header_size(partitions)
    if magic != MAGIC or zlib.crc32(data[_HEADER_CHECKED_FROM:end]) != crc or len(data) < end:
        raise FormatError("the header is damaged")
    if version != VERSION:
        raise UnknownVersionError(f"the format is version {version}, not {VERSION}")
    first = struct.unpack_from(f"<{partitions}Q", data, _HEADER.size)
    return Header(marker, base_offset, first)


@final
class Section:
    """The records of one partition in a frame.

    Args:
        partition: which.
        count: how many records.
        first: sequence number of the first.
        position: where their lengths and data begin, in the bytes the frame was decoded from.
        size: bytes of all records.
    """

    __slots__ = ("count", "first", "partition", "position", "size")

    def __init__(self, partition: int, count: int, first: int, position: int, size: int) -> None:
        self.partition = partition
        self.count = count
        self.first = first
        self.position = position
        self.size = size


@final
class Frame:
    """One group commit.

    Args:
        data: the bytes it stands in, with others.
        origin: position in the segment of the first of these bytes.
        size: how many bytes are the frame's own.
        enqueued_at: when its records were accepted, unix seconds.
        sections: its records, at most one section for each partition.
    """

    __slots__ = ("data", "enqueued_at", "origin", "sections", "size")

    def __init__(
        self, data: bytes, origin: int, size: int, enqueued_at: float, sections: list[Section]
    ) -> None:
        self.data = data
        self.origin = origin
        self.size = size
        self.enqueued_at = enqueued_at
        self.sections = sections


def encode_frame(
    marker: bytes,
    offset: int,
    enqueued_at: float,
    sections: Sequence[tuple[int, int, Sequence[bytes]]],
) -> bytes:
    """Write a frame.

    Args:
        marker: of the segment.
        offset: log offset at which the frame will stand.
        enqueued_at: unix seconds.
        sections: partition, sequence number of the first record, records.
    """
    table: list[bytes] = []
    body: list[bytes] = []
    for partition, first, records in sections:
        count = len(records)
        lengths = list(map(len, records))
        table.append(_SECTION.pack(partition, count, first, sum(lengths)))
        body.append(struct.pack(f"<{count}I", *lengths))
        body.extend(records)
    # Large buffers are summed without the interpreter lock, so it is worth having one.
    rest = b"".join([*table, *body])
    checked = _FRAME_CHECKED.pack(len(rest), offset, enqueued_at, len(sections))
    crc = zlib.crc32(rest, zlib.crc32(checked))
    return b"".join((marker, crc.to_bytes(4, "little"), checked, rest))


def frame_size(data: bytes, start: int, marker: bytes, offset: int) -> int:
    """Return the size of the whole frame as its head claims it, 0 when this is no head.

    Args:
        data: holds at least `FRAME_HEAD` bytes from `start` on.
        start: where the frame begins in `data`.
        marker: of the segment.
        offset: log offset of the frame.
    """
    found, _, length, claimed, _, _ = _FRAME.unpack_from(data, start)
    return FRAME_HEAD + length if found == marker and claimed == offset else 0


def decode_frame(data: bytes, start: int, size: int, origin: int) -> Frame | None:
    """Read a frame whose head `frame_size` accepted; `None` when it is damaged.

    Args:
        data: holds the whole frame.
        start: where it begins in `data`.
        size: what `frame_size` said.
        origin: position of `data` in the segment.
    """
    _, crc, _, _, enqueued_at, count = _FRAME.unpack_from(data, start)
    if zlib.crc32(memoryview(data)[start + _FRAME_CHECKED_FROM : start + size]) != crc:
        return None
    sections = []
    table = start + FRAME_HEAD
    position = table + count * _SECTION.size
    for partition, records, first, length in _SECTION.iter_unpack(data[table:position]):
        sections.append(Section(partition, records, first, position, length))
        position += 4 * records + length
    return Frame(data, origin, size, enqueued_at, sections)


def lengths_of(frame: Frame, section: Section) -> tuple[int, ...]:
    """Return the lengths of a section's records; their data follow, end to end."""
    return struct.unpack_from(f"<{section.count}I", frame.data, section.position)


@final
class Summary(msgspec.Struct, kw_only=True):
    """What a sealed segment ends with.

    Attributes:
        header: what stands at its beginning too.
        end: position at which the frames end and the index begins.
        newest: the latest time of all frames, unix seconds.
        frames: how many.
        next: sequence number after the last one, for every partition.
        entries: index entries of every partition.
        index_crc: of the bytes of the index.
        index_size: how many they are.
    """

    header: Header
    end: int
    newest: float
    frames: int
    next: tuple[int, ...]
    entries: tuple[int, ...]
    index_crc: int
    index_size: int


def summary_size(partitions: int) -> int:
    """Return the number of bytes of a summary."""
    return _SUMMARY.size + 20 * partitions


def encode_summary(summary: Summary) -> bytes:
    """Write a summary."""
    header = summary.header
    partitions = len(header.first)
    rest = _SUMMARY.pack(
        b"",
        0,
        summary.index_crc,
        summary.index_size,
        header.base_offset,
        summary.end,
        summary.newest,
        summary.frames,
    )
    rest = rest[_SUMMARY_CHECKED_FROM:] + struct.pack(
        f"<{partitions}Q{partitions}I{partitions}Q", *summary.next, *summary.entries, *header.first
    )
    return header.marker + zlib.crc32(rest).to_bytes(4, "little") + rest


def decode_summary(
    data: bytes, partitions: int, base_offset: int, file_size: int, marker: bytes | None
) -> Summary | None:
    """Read the summary at the end of a segment; `None` when there is none or it is damaged.

    Args:
        data: the last bytes of the file, `summary_size` of them.
        partitions: of the journal.
        base_offset: of the segment, as its name says.
        file_size: of the segment.
        marker: of the segment; `None` when its header is damaged.
    """
    if len(data) != summary_size(partitions):
        return None
    found, crc, index_crc, index_size, base, end, newest, frames = _SUMMARY.unpack_from(data)
    if zlib.crc32(data[_SUMMARY_CHECKED_FROM:]) != crc or base != base_offset:
        return None
    if (marker is not None and found != marker) or end + index_size + len(data) != file_size:
        return None
    rest = struct.unpack_from(f"<{partitions}Q{partitions}I{partitions}Q", data, _SUMMARY.size)
    next_, entries, first = rest[:partitions], rest[partitions:-partitions], rest[-partitions:]
    return Summary(
        header=Header(found, base, first),
        end=end,
        newest=newest,
        frames=frames,
        next=next_,
        entries=entries,
        index_crc=index_crc,
        index_size=index_size,
    )
