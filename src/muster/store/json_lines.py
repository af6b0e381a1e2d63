"""JSON Lines files that others take away: one grows, the others are finished and stay as they are.

`current.jsonl` is the one that grows. When it is large or old enough it is closed under a name with
the time it was begun, and every start of the service begins a new one. What `deliver` returned
from is on the disk. A crash can leave half a line at the end of the growing file; it is cut off
before that file is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.errors import UnavailableError
from muster.store.journal_recovery import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from muster.clock import Clock

CURRENT: Final = "current.jsonl"
_CHUNK: Final = 1 << 16

_log = structlog.get_logger(__name__)


@final
class JsonLinesFiles:
    """The files of one endpoint. Their directory is made when there is something to write.

    Args:
        directory: where they lie; nothing else writes there.
        clock: for names and ages.
        max_bytes: size at which a file is closed.
        max_age_s: age at which a file is closed, in seconds.
    """

    max_events: Final = 10_000

    def __init__(self, directory: Path, clock: Clock, *, max_bytes: int, max_age_s: float) -> None:
        self._directory = directory
        self._path = directory / CURRENT
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._descriptor = -1
        self._size = 0
        self._begun_at = 0.0
        self._work: asyncio.Future[None] | None = None

    async def deliver(self, events: Sequence[bytes]) -> None:
        """Write a line each; they are on the disk when this returns.

        Raises:
            UnavailableError: the disk refuses; code `endpoint-unavailable`.
        """
        await self._do(self._write, b"".join(b"%b\n" % event for event in events))

    async def tend(self) -> None:
        """Close the growing file when it is old.

        Raises:
            UnavailableError: the disk refuses; code `endpoint-unavailable`.
        """
        if self._descriptor >= 0 and self._old():
            await self._do(self._finish)

    async def close(self) -> None:
        """Let go of the growing file; the next start closes it under its name."""
        if self._work is not None:
            # Whoever waited for it may have been cancelled; the thread was not.
            await asyncio.wait([self._work])
        if self._descriptor >= 0:
            self._release()

    async def _do(self, call: Callable[..., None], *arguments: object) -> None:
        loop = asyncio.get_running_loop()
        self._work = loop.run_in_executor(None, call, *arguments)
        try:
            await asyncio.shield(self._work)
        except OSError as error:
            raise UnavailableError(
                f"The files in {self._directory} cannot be written: {error.strerror or error}",
                code="endpoint-unavailable",
                subject=str(self._directory),
            ) from error

    # In a thread, one call at a time.

    def _write(self, lines: bytes) -> None:
        if self._descriptor >= 0 and (self._old() or self._size >= self._max_bytes):
            self._finish()
        if self._descriptor >= 0 and not self._still_there():
            self._release()
        if self._descriptor < 0:
            self._begin()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fdatasync(self._descriptor)
        except OSError:
            # All of it comes again: nothing of it may stay.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self._release()
            raise
        self._size += len(lines)

    def _begin(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._recover()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            sync_directory(self._directory)
            self._size = os.fstat(descriptor).st_size
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._begun_at = self._clock.time()

    def _recover(self) -> None:
        """Close the file that an earlier run, or a failed write, left."""
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            whole = _end_of_lines(descriptor, size)
            if whole < size:
                _log.warning("half a line cut off", file=str(self._path), bytes=size - whole)
                os.ftruncate(descriptor, whole)
                os.fsync(descriptor)
            changed_at = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
        if whole:
            self._rename(changed_at)

    def _finish(self) -> None:
        self._release()
        self._rename(self._begun_at)

    def _rename(self, moment: float) -> None:
        stamp = datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")
        number = 0
        while (path := self._directory / f"{stamp}-{number:04d}.jsonl").exists():
            number += 1
        with contextlib.suppress(FileNotFoundError):
            # Somebody may have taken it away.
            self._path.rename(path)
        sync_directory(self._directory)

    def _old(self) -> bool:
        return self._size > 0 and self._clock.time() - self._begun_at >= self._max_age_s

    def _still_there(self) -> bool:
        """Tell whether the growing file is still the one under its name."""
        try:
            named, held = self._path.stat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def _release(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def _end_of_lines(descriptor: int, size: int) -> int:
    """Return where the last whole line ends."""
    end = size
    while end > 0:
        start = max(end - _CHUNK, 0)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
