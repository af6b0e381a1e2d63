"""The daemon's own log: to stderr as any service's, and the last of it for `iotedge logs`."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, final

from muster.edge.engine.base import LogChunk
from muster.observe.logs import SEVERITIES

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator

    from muster.clock import Clock
    from muster.edge.engine.base import LogRange

KEPT: Final = 256 * 1024
"""Characters that are kept; the oldest lines go first."""
_LEVEL: Final = re.compile(
    r'(?:"level": ?"|\[(?:\x1b\[\d+m)*)(debug|info|warning|error|critical)\b'
)
"""Where a line says its level: JSON, or text for people. A line without one goes on another."""
_STDERR: Final = 2
_LOOK_S: Final = 0.5


class _Line(NamedTuple):
    number: int
    at: dt.datetime
    text: str


@final
class OwnLog(io.StringIO):
    """What the daemon logs, as a file that can be written to.

    Args:
        clock: tells when a line was written.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._lines: deque[_Line] = deque()
        self._size = 0
        self._number = 0
        self._part = ""
        self._severity = SEVERITIES["info"]

    def write(self, text: str, /) -> int:
        """Pass a text on to stderr, and keep its whole lines."""
        sys.stderr.write(text)
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            self._number += 1
            found = _LEVEL.search(line)
            if found is not None:
                self._severity = SEVERITIES[found[1]]
            # In the journal a line has it already.
            line = line.removeprefix(f"<{self._severity}>")  # noqa: PLW2901 - it is the same line
            kept = _Line(self._number, self._clock.now(), f"<{self._severity}> {line}")
            self._lines.append(kept)
            self._size += len(kept.text)
            while self._size > KEPT:
                self._size -= len(self._lines.popleft().text)
        return len(text)

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return lines that are kept, and with `follow` those to come.

        Args:
            name: `edgeAgent` or `edgeHub`; they are one process and have one log.
            wanted: which lines. Each begins with its level, as `<6>` (edge.md 5.4).
        """
        found = [line for line in self._lines if _within(line, wanted)]
        if wanted.tail is not None:
            found = found[max(len(found) - wanted.tail, 0) :]
        last = self._number
        for line in found:
            yield _chunk(line, wanted)
        while wanted.follow and (wanted.until is None or self._clock.now() < wanted.until):
            await asyncio.sleep(_LOOK_S)
            for line in [line for line in self._lines if line.number > last]:
                last = line.number
                yield _chunk(line, wanted)


def _within(line: _Line, wanted: LogRange) -> bool:
    return (wanted.since is None or line.at >= wanted.since) and (
        wanted.until is None or line.at <= wanted.until
    )


def _chunk(line: _Line, wanted: LogRange) -> LogChunk:
    text = f"{line.at.isoformat()} {line.text}" if wanted.timestamps else line.text
    return LogChunk(_STDERR, f"{text}\n".encode(errors="replace"))
