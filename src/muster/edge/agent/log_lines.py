"""Lines of modules' logs: taken apart, filtered, and written as they were asked for (edge.md 5.4).

A line may begin with a time (which the runtime puts there when asked), a level in angle brackets
as journald has it, and the time that official modules write. Pure.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Final, final

import msgspec

from muster.clock import format_time
from muster.edge.engine.base import LogChunk

DEFAULT_LEVEL: Final = 6
"""Of a line that names none: information."""
LONGEST_LINE: Final = 64 * 1024
"""Bytes; a longer line is cut into several, so that one without an end needs no endless memory."""

_LINE: Final = re.compile(
    r"(?P<runtime>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z)?\s*"
    r"(?:<(?P<level>[0-9])>)?\s*"
    r"(?:(?P<module>[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}[.,][0-9]{3}"
    r" [+-][0-9]{2}:[0-9]{2})\s)?\s*"
    r"(?P<text>.*)",
    re.DOTALL,
)


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are wanted, beyond what a runtime chooses itself.

    Attributes:
        tail: only so many, the last.
        level: of this level.
        pattern: regular expression, found in the text (see `patterns`).
    """

    tail: int | None = None
    level: int | None = None
    pattern: str | None = None


class LogSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where lines come from; stands beside each as JSON."""

    hub_host: str
    device_id: str
    module_id: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line taken apart.

    Attributes:
        stream: 1 for standard output, 2 for standard error.
        level: 0 to 9.
        at: its time, if it names one.
        text: the rest.
        whole: as it came, its end included.
    """

    stream: int
    level: int
    at: datetime | None
    text: str
    whole: str


@final
class Lines:
    """Puts lines together of what streams bring."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}

    def feed(self, chunk: LogChunk) -> Iterator[LogLine]:
        """Yield the lines that a chunk ends."""
        data = self._parts.pop(chunk.stream, b"") + chunk.data
        start = 0
        while True:
            end = data.find(b"\n", start) + 1
            if not end:
                if len(data) - start < LONGEST_LINE:
                    break
                end = start + LONGEST_LINE
            yield read_line(chunk.stream, data[start:end])
            start = end
        if start < len(data):
            self._parts[chunk.stream] = data[start:]

    def rest(self) -> Iterator[LogLine]:
        """Yield what is left at the end of the log."""
        for stream, data in sorted(self._parts.items()):
            yield read_line(stream, data)
        self._parts.clear()


def read_line(stream: int, data: bytes) -> LogLine:
    """Take a line apart."""
    whole = data.decode(errors="replace")
    match = _LINE.fullmatch(whole.rstrip("\r\n"))
    if match is None:  # pragma: no cover - the last part takes anything
        return LogLine(stream=stream, level=DEFAULT_LEVEL, at=None, text=whole, whole=whole)
    level = match["level"]
    return LogLine(
        stream=stream,
        level=DEFAULT_LEVEL if level is None else int(level),
        at=_moment(match["runtime"]) or _moment(match["module"]),
        text=match["text"] or whole,
        whole=whole,
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    # Nine digits of a second are more than Python reads.
    text = re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text.replace(",", "."))
    try:
        return datetime.fromisoformat(text.replace(" +", "+").replace(" -", "-"))
    except ValueError:
        return None


@final
class Rendering:
    """Writes the lines that pass a filter as text or as a JSON list, bare or compressed.

    The filter's pattern is not looked at: see `patterns`.

    With a `tail` the lines are held back until the end, for only then it is known which are last.

    Args:
        source: of the lines.
        chosen: which lines.
        as_json: a list of objects, not text.
        compressed: gzip.
    """

    __slots__ = ("_as_json", "_chosen", "_compressor", "_first", "_held", "_source")

    def __init__(
        self, source: LogSource, chosen: LogFilter, *, as_json: bool, compressed: bool
    ) -> None:
        self._source = source
        self._chosen = chosen
        self._as_json = as_json
        self._compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS) if compressed else None
        self._held: deque[LogLine] | None = None
        if chosen.tail is not None:
            self._held = deque(maxlen=chosen.tail)
        self._first = True

    def add(self, line: LogLine) -> bytes:
        """Return what a line adds to the output; may be nothing yet."""
        if self._chosen.level is not None and line.level != self._chosen.level:
            return b""
        if self._held is not None:
            self._held.append(line)
            return b""
        return self._packed(self._written(line))

    def end(self) -> bytes:
        """Return what is left."""
        rest = b"".join(self._written(line) for line in self._held or ())
        if self._as_json:
            rest += b"[]" if self._first else b"]"
        packed = self._packed(rest)
        return packed + self._compressor.flush() if self._compressor else packed

    def _written(self, line: LogLine) -> bytes:
        if not self._as_json:
            return line.whole.encode()
        start = b"[" if self._first else b","
        self._first = False
        return (
            start
            + json.dumps(
                {
                    "iothub": self._source.hub_host,
                    "device": self._source.device_id,
                    "id": self._source.module_id,
                    "stream": "stderr" if line.stream == 2 else "stdout",
                    "loglevel": line.level,
                    "text": line.text,
                    "timestamp": None if line.at is None else format_time(line.at),
                },
                ensure_ascii=False,
                separators=(",", ":"),
            ).encode()
        )

    def _packed(self, data: bytes) -> bytes:
        return self._compressor.compress(data) if self._compressor else data
