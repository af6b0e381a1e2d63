"""Reading the log that a supervisor keeps, also while it is written."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from muster.edge.engine.base import LogChunk, LogRange

_CHUNK: Final = 65536


class _Entry(NamedTuple):
    """A line of the log, or a part of one that goes on in the next of its stream."""

    stamp: bytes
    stream: int
    whole: bool
    text: bytes


class LogReader:
    """Reads a log from its beginning, and on from there as often as it is called.

    Args:
        directory: of the log's files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._offset = 0
        self._kept = b""

    def read(self) -> Iterator[_Entry]:
        """Yield what is there since the last call."""
        for file in sorted(self._directory.glob("[0-9]*")):
            number = int(file.name)
            if number < self._number:
                continue
            if number > self._number:
                self._number, self._offset, self._kept = number, 0, b""
            try:
                with file.open("rb") as opened:
                    opened.seek(self._offset)
                    yield from self._lines(opened.read)
            except FileNotFoundError:  # the oldest makes way for a new one
                continue

    def _lines(self, read: Callable[[int], bytes]) -> Iterator[_Entry]:
        while data := read(_CHUNK):
            self._offset += len(data)
            *lines, self._kept = (self._kept + data).split(b"\n")
            for line in lines:
                # A line that was torn, by a full disk or a power cut, is none.
                if (entry := _parse(line)) is not None:
                    yield entry


def _parse(line: bytes) -> _Entry | None:
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"1", b"2") or parts[2] not in (b"F", b"P"):
        return None
    if len(parts[0]) != len("2026-01-01T00:00:00.000000000Z"):
        return None
    return _Entry(parts[0], int(parts[1]), parts[2] == b"F", parts[3])


def choose(entries: Iterable[_Entry], wanted: LogRange) -> Iterator[_Entry]:
    """Yield those of a range, but for its `follow`."""
    if wanted.since is not None:
        since = _stamp(wanted.since)
        entries = (entry for entry in entries if entry.stamp >= since)
    if wanted.until is not None:
        until = _stamp(wanted.until)
        # Moments of ours end at microseconds, those of the log do not.
        entries = (entry for entry in entries if entry.stamp[: len(until)] <= until)
    if wanted.tail is None:
        return iter(entries)
    return _last(entries, wanted.tail)


def _stamp(moment: datetime) -> bytes:
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return text.encode()


def _last(entries: Iterable[_Entry], count: int) -> Iterator[_Entry]:
    """Yield the last so many lines; a line in parts is one."""
    lines: deque[list[_Entry]] = deque(maxlen=count)
    open_lines: dict[int, list[_Entry]] = {}
    for entry in entries:
        line = open_lines.pop(entry.stream, None)
        if line is None:
            line = []
            lines.append(line)
        line.append(entry)
        if not entry.whole:
            open_lines[entry.stream] = line
    return itertools.chain.from_iterable(lines)


def chunks(entries: Iterable[_Entry], *, timestamps: bool) -> Iterator[LogChunk]:
    """Yield what was written, in pieces of some size."""
    stream, data = 0, bytearray()
    begun = {1: False, 2: False}
    for entry in entries:
        if data and (entry.stream != stream or len(data) >= _CHUNK):
            yield LogChunk(stream, bytes(data))
            data.clear()
        stream = entry.stream
        if timestamps and not begun[stream]:
            data += entry.stamp + b" "
        data += entry.text
        if entry.whole:
            data += b"\n"
        begun[stream] = not entry.whole
    if data:
        yield LogChunk(stream, bytes(data))
