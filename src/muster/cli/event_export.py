"""`muster events export`: events of a time to a file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from muster.cli.event_positions import POSITIONS, device_option, read_position, source_option
from muster.cli.failures import FailedError
from muster.cli.options import hub_option, service_command
from muster.cli.output_file import replacing
from muster.cli.progress import Progress
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muster.cli.connection import Invocation
    from muster.cli.event_files import EventWriter
    from muster.cli.event_stream import Event, EventStream

_STEP: Final = 500
_SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@click.command("export")
@click.option(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    metavar=POSITIONS,
    callback=read_position,
    help="Where to begin.",
)
@click.option(
    "--to",
    "end",
    metavar=POSITIONS,
    callback=read_position,
    help="Where to end; the event there is not written [default: what there is now].",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "parquet"]),
    help="Of the file [default: by its name].",
)
@click.option("--out", "file", required=True, metavar="FILE", help="What to write.")
@device_option
@source_option
@hub_option
@service_command
@examples(
    "muster events export --out all.jsonl",
    "muster events export --from 2026-01-30 --to 2026-01-31 --out january-30.parquet",
    "muster events export --device-id gateway-01 --format jsonl --out /dev/stdout",
)
def export_events(
    invocation: Invocation,
    *,
    start: str,
    end: str | None,
    file_format: str | None,
    file: str,
    device_id: str | None,
    source: str | None,
    hub_host: str | None,
) -> None:
    """Write events to a JSON Lines or Parquet file.

    An existing file is replaced when the export is complete, not before.
    """
    # `requests` is slow to import.
    from muster.cli.event_files import JsonLinesWriter, ParquetWriter  # noqa: PLC0415 - slow to import
    from muster.cli.event_stream import EventStream  # noqa: PLC0415 - slow to import

    chosen = file_format or _SUFFIXES.get(Path(file).suffix.lower())
    if chosen is None:
        raise click.UsageError(f"{file} is neither .jsonl nor .parquet; say which with --format.")
    stream = EventStream(
        invocation.hub(hub_host),
        partition=None,
        device_id=device_id,
        start=start,
        follow=False,
        source=source,
        end=end or "",
    )
    count = 0
    try:
        with replacing(Path(file), 0o644) as out:
            make: Callable[[IO[bytes]], EventWriter] = (
                JsonLinesWriter if chosen == "jsonl" else ParquetWriter
            )
            with contextlib.closing(make(out)) as writer:
                for event in _counted(stream):
                    writer.write(event)
                    count += 1
    except OSError as error:
        raise FailedError(f"Cannot write {file}: {error.strerror}") from None
    if invocation.as_json:
        show_json({"file": file, "format": chosen, "events": count})
        return
    remark(f"{count:,} events are in {file}.")


def _counted(stream: EventStream) -> Iterator[Event]:
    """Yield the events and show how far they are."""
    events = stream.events(None)
    first = next(events, None)
    if first is None:
        return
    # The service tells how many there are when it begins to send them.
    with Progress("Events", max(stream.total or 0, 1)) as progress:
        yield first
        for count, event in enumerate(events, 1):
            yield event
            if count % _STEP == 0:
                progress.advance(_STEP)
