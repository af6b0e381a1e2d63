"""`muster events`: telemetry and other events, as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from muster.cli.event_export import export_events
from muster.cli.event_positions import POSITIONS, device_option, read_position, source_option
from muster.cli.failures import FailedError
from muster.cli.noun import NounGroup
from muster.cli.options import hub_option, service_command
from muster.model.message import TELEMETRY
from muster.terminal.examples import examples
from muster.terminal.output import decorated, printable, printable_json

if TYPE_CHECKING:
    from muster.cli.connection import Invocation
    from muster.cli.event_stream import Event


@click.group(cls=NounGroup)
@examples("muster events tail", "muster events export --from earliest --out events.jsonl")
def events() -> None:
    """Telemetry of the devices of a hub, as it arrives, and to files."""


events.add_command(export_events)


@events.command()
@device_option
@click.option(
    "--partition", type=click.IntRange(min=0), metavar="N", help="Only of this partition."
)
@click.option(
    "--from",
    "start",
    default="latest",
    show_default=True,
    metavar=POSITIONS,
    callback=read_position,
    help="Where to begin: a sequence number counts in each partition, a time is UTC unless it "
    "says otherwise.",
)
@source_option
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="End after S seconds; with --count it fails when fewer events came.",
)
@click.option("--follow/--no-follow", default=True, help="Wait for more at the end [default: yes].")
@hub_option
@service_command
@examples(
    "muster events tail",
    "muster events tail --from earliest --device-id gateway-01 --count 10",
    "muster events tail --from 2026-01-31T12:00:00Z --no-follow --json",
    "muster events tail --source deviceLifecycleEvents",
)
def tail(
    invocation: Invocation,
    *,
    device_id: str | None,
    partition: int | None,
    start: str,
    source: str | None,
    count: int | None,
    timeout_s: float | None,
    follow: bool,
    hub_host: str | None,
) -> None:
    """Show events as they arrive, until Ctrl-C. With --json an object a line.

    Events that are no telemetry show their source; they come when a route sends them to the
    endpoint events. Goes on by itself after a short break of the connection or a restart of the
    service.
    """
    from muster.cli.event_stream import EventStream  # noqa: PLC0415 - `requests` is slow to import

    shown = 0
    try:
        stream = EventStream(
            invocation.hub(hub_host),
            partition=partition,
            device_id=device_id,
            start=start,
            follow=follow,
            source=source,
        )
        for event in stream.events(timeout_s):
            click.echo(printable_json(event.line) if invocation.as_json else _line(event))
            shown += 1
            if shown == count:
                return
    except KeyboardInterrupt:
        return
    if count is not None:
        raise FailedError(
            f"{shown:,} of {count:,} events came"
            + (f" in {timeout_s:g} s" if timeout_s is not None else ""),
            next_step="see what there is: muster events tail --from earliest --no-follow",
        )


def _line(event: Event) -> str:
    from muster.cli.event_stream import body_text  # noqa: PLC0415 - imported by now

    source = event.device_id + (f"/{event.module_id}" if event.module_id else "")
    place = f"{event.partition}:{event.sequence_number}"
    kind = "" if event.source == TELEMETRY else f"  {event.source}"
    head = printable(f"{event.enqueued_time}  {source}  {place}{kind}")
    properties = [
        name if value is None else f"{name}={value}" for name, value in event.properties.items()
    ]
    text = printable("  ".join((str(body_text(event)), *properties)))
    return f"{click.style(head, fg='cyan') if decorated() else head}  {text}"
