"""One run of an enrollment import: rows sent in calls of many, and what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from muster.cli.failures import RefusedError, UnreachableError
from muster.cli.import_rows import Row, RowError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.client import RestClient
    from muster.cli.progress import Progress

CHUNK_ROWS: Final = 500
"""Rows of one call; the service takes up to 1000."""
CHUNK_BYTES: Final = 1 << 20
"""And bytes of one call: rows with large twins go in smaller calls."""

_SPLIT: Final = (400, 413)
"""Statuses by which the service refuses a whole call for the sake of a row."""
MODES: Final = {"create": "created", "update": "updated", "createOrUpdate": "saved"}
"""What a row is after each mode, for people to read."""


class ImportRun:
    """The state of one run: what became of which row.

    Args:
        rows: the good rows of the file.
        errors: those of its bad ones; errors of the service are added.
        mode: what the service is to do with each row; one of `MODES`.

    Attributes:
        sent: how many of `rows`, from the first, were answered.
        doubtful: rows of a call that broke off: sent, perhaps, and not answered.
    """

    def __init__(self, rows: list[Row], errors: list[RowError], mode: str) -> None:
        self.rows = rows
        self.errors = errors
        self.mode = mode
        self.invalid = len(errors)
        self.done = 0
        self.skipped = 0
        self.sent = 0
        self.doubtful: list[Row] = []

    @property
    def total(self) -> int:
        """All rows of the file."""
        return len(self.rows) + self.invalid

    @property
    def met_existing(self) -> bool:
        """Whether a row failed because its enrollment is there already."""
        return any(_is_conflict(error.error_code or 0) for error in self.errors)

    @property
    def left(self) -> list[Row]:
        """Rows that were not sent."""
        return self.rows[self.sent + len(self.doubtful) :]

    def send(self, client: RestClient, *, skip_existing: bool, progress: Progress) -> None:
        """Send all rows. When a call breaks off, `doubtful` has the rows of that call."""
        waiting = list(_chunks(self.rows))
        waiting.reverse()
        while waiting:
            chunk = waiting.pop()
            self.doubtful = chunk
            try:
                results = _call(client, self.mode, chunk)
            except UnreachableError as failure:
                self.doubtful = chunk if failure.arrived else []
                raise
            except RefusedError as refused:
                self.doubtful = chunk if refused.status >= 500 else []
                if refused.status not in _SPLIT:
                    raise
                if len(chunk) > 1:
                    # One row spoils the call: find it by halving.
                    middle = len(chunk) // 2
                    waiting += [chunk[middle:], chunk[:middle]]
                    continue
                results = [{"errorCode": refused.code, "error": refused.text}]
            self.doubtful = []
            self.sent += len(chunk)
            for row, result in zip(chunk, results, strict=True):
                self._take(row, result, skip_existing=skip_existing)
            progress.advance(len(chunk))

    def _take(self, row: Row, result: dict[str, Any], *, skip_existing: bool) -> None:
        if result.get("ok"):
            self.done += 1
            return
        code = int(result.get("errorCode") or 0)
        if skip_existing and _is_conflict(code):
            self.skipped += 1
            return
        reason = str(result.get("error") or "the service gave no reason")
        self.errors.append(RowError(row.line, row.registration_id, reason, code))

    def report(self) -> dict[str, Any]:
        """Return it all as JSON."""
        return {
            "mode": self.mode,
            "rows": self.total,
            "succeeded": self.done,
            "skipped": self.skipped,
            "failed": len(self.errors),
            "notAttempted": len(self.left),
            "unknown": len(self.doubtful),
            "errors": [msgspec.to_builtins(error) for error in self.errors],
        }

    def summary(self, took_s: float) -> str:
        """Return one line for people."""
        parts = [f"{MODES[self.mode]} {self.done:,}"]
        if self.skipped:
            parts.append(f"already there {self.skipped:,}")
        parts += [f"failed {len(self.errors):,}", f"not attempted {len(self.left):,}"]
        if self.doubtful:
            parts.append(f"unknown {len(self.doubtful):,}")
        text = ", ".join(parts)
        return f"{text[0].upper()}{text[1:]} (of {self.total:,} rows) in {took_s:.1f} s."

    def whereabouts(self) -> tuple[str, ...]:
        """Say which rows are in after a run that broke off."""
        lines = []
        if self.sent:
            lines.append(f"{_span(self.rows[: self.sent])}: done, but for the failed ones above.")
        if self.doubtful:
            lines.append(
                f"{_span(self.doubtful)}: sent, but the answer did not come; they may be in."
            )
        if self.left:
            lines.append(f"{_span(self.left)}: not sent.")
        return tuple(lines)


def _is_conflict(code: int) -> bool:
    return code // 1000 == 409


def _call(client: RestClient, mode: str, chunk: list[Row]) -> list[dict[str, Any]]:
    body = b'{"mode":"%s","enrollments":[%s]}' % (
        mode.encode(),
        b",".join(row.body for row in chunk),
    )
    answer = client.post("/admin/v1/enrollments/import", body=body)
    results: list[dict[str, Any]] = answer["results"]
    return results


def _chunks(rows: list[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == CHUNK_ROWS or size + len(row.body) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.body)
    if chunk:
        yield chunk


def _span(rows: list[Row]) -> str:
    first, last = rows[0].line, rows[-1].line
    return f"Line {first}" if first == last else f"Lines {first} to {last}"
