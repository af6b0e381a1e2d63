"""`muster enrollment import`: many enrollments from a file, and what became of each row."""

from __future__ import annotations

import contextlib
import csv
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
import msgspec

from muster.cli.examples import examples
from muster.cli.failures import FailedError, RefusedError, UnreachableError
from muster.cli.import_rows import Row, RowError, UnreadableFileError, read_rows
from muster.cli.options import service_command
from muster.cli.output import remark, show_json
from muster.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

CHUNK_ROWS: Final = 500
"""Rows of one call; the service takes up to 1000."""
CHUNK_BYTES: Final = 1 << 20
"""And bytes of one call: rows with large twins go in smaller calls."""

_JSON_LINES: Final = (".jsonl", ".ndjson")
_SPLIT: Final = (400, 413)
"""Statuses by which the service refuses a whole call for the sake of a row."""
_DONE: Final = {"create": "created", "update": "updated", "createOrUpdate": "saved"}


class _Import:
    """The state of one run: what became of which row."""

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
        return len(self.rows) + self.invalid

    @property
    def left(self) -> list[Row]:
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
            except RefusedError as refused:
                if refused.status < 500:
                    self.doubtful = []  # the service took none of them
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
        if skip_existing and code // 1000 == 409:
            self.skipped += 1
            return
        reason = str(result.get("error") or "the service gave no reason")
        self.errors.append(RowError(row.line, row.registration_id, reason, code))

    def report(self) -> dict[str, Any]:
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
        parts = [f"{_DONE[self.mode]} {self.done:,}"]
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


def _call(client: RestClient, mode: str, chunk: list[Row]) -> list[dict[str, Any]]:
    body = b'{"mode":"%s","enrollments":[%s]}' % (
        mode.encode(),
        b",".join(row.body for row in chunk),
    )
    answer = client.post("/admin/v1/enrollments/import", body=body)
    results: list[dict[str, Any]] = answer["results"]
    return results


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option(
    "--mode",
    type=click.Choice(list(_DONE)),
    default="create",
    show_default=True,
    help="What to do with each row; create fails for one that is there already.",
)
@click.option("--skip-existing", is_flag=True, help="Do not mind those that are there already.")
@click.option("--skip-invalid", is_flag=True, help="Send the good rows of a file with bad ones.")
@click.option("--dry-run", is_flag=True, help="Check the file only; send nothing.")
@click.option(
    "--errors-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file with a line for each bad row.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl"]),
    help="Of FILE [default: by its name; csv for stdin].",
)
@service_command
@examples(
    "muster enrollment import devices.csv --dry-run",
    "muster enrollment import devices.csv --errors-file bad-rows.csv",
    "muster enrollment import devices.jsonl --mode createOrUpdate",
)
def import_enrollments(
    invocation: Invocation,
    *,
    file: str,
    mode: str,
    skip_existing: bool,
    skip_invalid: bool,
    dry_run: bool,
    errors_file: Path | None,
    file_format: str | None,
) -> None:
    """Create or update enrollments from a CSV or JSON Lines file (- for stdin).

    The first line of a CSV file names its columns: registrationId, deviceId, primaryKey,
    secondaryKey, iotEdge, provisioningStatus, allocationPolicy, iotHubs (separated by
    semicolons), reprovisionPolicy, tags and desired (both JSON). Only the first is needed. Without
    keys the service makes them. JSON Lines have the same names, or what `export` wrote.

    All rows are checked before the first is sent.
    """
    if skip_existing and mode != "create":
        raise click.UsageError("--skip-existing goes with --mode create only.")
    state = _Import(*_read(file, file_format), mode)
    started = time.monotonic()
    failure: FailedError | None = None
    blocked = bool(state.errors) and not skip_invalid
    if not dry_run and not blocked and state.rows:
        failure = _send(invocation, state, skip_existing=skip_existing)
    _tell(invocation, state, errors_file)
    if dry_run:
        _end_dry_run(invocation, state)
        return
    if not invocation.as_json:
        remark(state.summary(time.monotonic() - started))
    if failure is not None:
        raise failure
    if blocked:
        raise FailedError(
            f"Nothing was sent: {state.invalid:,} of {state.total:,} rows are bad",
            next_step="correct them, or send the good rows with --skip-invalid",
        )
    if state.errors:
        raise click.exceptions.Exit(1)


def _send(invocation: Invocation, state: _Import, *, skip_existing: bool) -> FailedError | None:
    """Send the rows; return what broke the run off, having completed it with what to do."""
    client = invocation.dps()
    try:
        with Progress("Importing", len(state.rows)) as progress:
            state.send(client, skip_existing=skip_existing, progress=progress)
    except KeyboardInterrupt:
        cause = FailedError("The import was interrupted")
    except FailedError as failure:
        cause = failure
    else:
        return None
    if not state.sent and not state.doubtful:
        return cause
    again = "--skip-existing" if state.mode == "create" else f"--mode {state.mode}"
    kind = UnreachableError if isinstance(cause, UnreachableError) else FailedError
    return kind(
        cause.headline,
        details=(*cause.details, *state.whereabouts()),
        next_step=f"run it again with {again}; rows that are in are left as they are",
    )


def _read(file: str, file_format: str | None) -> tuple[list[Row], list[RowError]]:
    suffix = Path(file).suffix.lower()
    if file_format is None and file != "-" and suffix not in (".csv", *_JSON_LINES):
        raise click.UsageError(f"{file} is neither .csv nor .jsonl; say which with --format.")
    json_lines = file_format == "jsonl" or (file_format is None and suffix in _JSON_LINES)
    try:
        with _opened(file) as stream:
            return read_rows(stream, json_lines=json_lines)
    except UnreadableFileError as error:
        raise click.UsageError(f"{file}: {error}.") from None
    except OSError as error:
        raise click.UsageError(f"Cannot read {file}: {error.strerror}.") from None


@contextlib.contextmanager
def _opened(file: str) -> Iterator[IO[str]]:
    if file == "-":
        yield sys.stdin
        return
    with Path(file).open(encoding="utf-8-sig", newline="") as stream:
        yield stream


def _tell(invocation: Invocation, state: _Import, errors_file: Path | None) -> None:
    state.errors.sort(key=lambda error: error.line)
    if errors_file is not None:
        _write_errors(errors_file, state.errors)
    if invocation.as_json:
        show_json(state.report())
        return
    for error in state.errors:
        subject = f" ({error.registration_id})" if error.registration_id else ""
        code = f" [{error.error_code}]" if error.error_code else ""
        remark(f"line {error.line}{subject}: {error.error}{code}")


def _end_dry_run(invocation: Invocation, state: _Import) -> None:
    if not invocation.as_json:
        remark(f"{len(state.rows):,} good rows, {state.invalid:,} bad ones. Nothing was sent.")
    if state.errors:
        raise click.exceptions.Exit(1)


def _write_errors(path: Path, errors: list[RowError]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("line", "registrationId", "errorCode", "error"))
            writer.writerows(
                (error.line, error.registration_id, error.error_code or "", error.error)
                for error in errors
            )
    except OSError as error:
        remark(f"Cannot write {path}: {error.strerror}")


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
