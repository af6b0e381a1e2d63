"""`muster enrollment import`: many enrollments from a file, and what became of each row."""

from __future__ import annotations

import contextlib
import csv
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from muster.cli.failures import FailedError, UnreachableError
from muster.cli.import_rows import Row, RowError, UnreadableFileError, read_rows
from muster.cli.import_run import MODES, ImportRun
from muster.cli.options import service_command, stdin
from muster.cli.progress import Progress
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.connection import Invocation

_JSON_LINES: Final = (".jsonl", ".ndjson")


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
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
    state = ImportRun(*_read(file, file_format), mode)
    started = time.monotonic()
    failure: FailedError | None = None
    blocked = bool(state.errors) and not skip_invalid
    with _opened_errors(errors_file) as errors:
        if not dry_run and not blocked and state.rows:
            failure = _send(invocation, state, skip_existing=skip_existing)
        _tell(invocation, state, errors)
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
        if not invocation.as_json and state.mode == "create" and state.met_existing:
            remark(
                "Next: --skip-existing leaves enrollments that are there as they are, "
                "--mode createOrUpdate changes them"
            )
        raise click.exceptions.Exit(1)


def _send(invocation: Invocation, state: ImportRun, *, skip_existing: bool) -> FailedError | None:
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
        yield stdin()
        return
    with Path(file).open(encoding="utf-8-sig", newline="") as stream:
        yield stream


def _opened_errors(path: Path | None) -> contextlib.AbstractContextManager[IO[str] | None]:
    """Open the file of bad rows: before anything is sent, so that none is lost."""
    if path is None:
        return contextlib.nullcontext()
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise click.UsageError(f"Cannot write {path}: {error.strerror}.") from None


def _tell(invocation: Invocation, state: ImportRun, errors: IO[str] | None) -> None:
    state.errors.sort(key=lambda error: error.line)
    if errors is not None:
        _write_errors(errors, state.errors)
    if invocation.as_json:
        show_json(state.report())
        return
    for error in state.errors:
        subject = f" ({error.registration_id})" if error.registration_id else ""
        code = f" [{error.error_code}]" if error.error_code else ""
        remark(f"line {error.line}{subject}: {error.error}{code}")


def _end_dry_run(invocation: Invocation, state: ImportRun) -> None:
    if not invocation.as_json:
        remark(f"{len(state.rows):,} good rows, {state.invalid:,} bad ones. Nothing was sent.")
    if state.errors:
        raise click.exceptions.Exit(1)


def _write_errors(file: IO[str], errors: list[RowError]) -> None:
    writer = csv.writer(file)
    try:
        writer.writerow(("line", "registrationId", "errorCode", "error"))
        writer.writerows(
            (error.line, error.registration_id, error.error_code or "", error.error)
            for error in errors
        )
        file.flush()
    except OSError as error:
        remark(f"Cannot write {file.name}: {error.strerror}")
