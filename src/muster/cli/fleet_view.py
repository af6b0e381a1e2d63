"""How a simulation is shown: live on a terminal, a line at a time elsewhere, or JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

import click
import msgspec

from muster.terminal.output import decorated, printable, show_record, to_json

if TYPE_CHECKING:
    from muster.fleet.tally import Snapshot


class View(Protocol):
    """Shows snapshots."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Show no more of them. Harmless when repeated."""

    def show_summary(self, summary: Snapshot) -> None:
        """Show the whole run."""


def view(*, as_json: bool) -> View:
    """Return the view for where stdout goes."""
    if as_json:
        return JsonLines()
    return Live() if decorated() else Lines()


@final
class JsonLines:
    """An object a line: `progress` each time, `summary` at the end."""

    def show(self, snapshot: Snapshot) -> None:
        """Print a line."""
        self._print("progress", snapshot)

    def close(self) -> None:
        """Do nothing."""

    def show_summary(self, summary: Snapshot) -> None:
        """Print a line."""
        self._print("summary", summary)

    def _print(self, kind: str, snapshot: Snapshot) -> None:
        click.echo(to_json({"type": kind, **msgspec.to_builtins(snapshot)}, indent=None))


@final
class Lines:
    """A line of text each time, a record at the end."""

    def show(self, snapshot: Snapshot) -> None:
        """Print a line."""
        parts = [
            f"{snapshot.elapsed_s:7.1f} s",
            f"provisioned {snapshot.provisioned:,}",
            f"connected {snapshot.connected:,} of {snapshot.devices:,}",
            f"registrations/s {snapshot.registrations_per_s:,.1f}",
            f"messages/s {snapshot.messages_per_s:,.1f}",
            f"ack ms {_times(snapshot)}",
        ]
        if snapshot.failed:
            parts.append(f"failed {snapshot.failed:,}")
        if snapshot.errors:
            parts.append(f"errors {sum(snapshot.errors.values()):,}")
        click.echo("  ".join(parts))

    def close(self) -> None:
        """Do nothing."""

    def show_summary(self, summary: Snapshot) -> None:
        """Print a record."""
        click.echo()
        show_record(fields(summary))


@final
class Live:
    """A record that is drawn anew each time."""

    def __init__(self) -> None:
        self._live: Any = None

    def show(self, snapshot: Snapshot) -> None:
        """Draw it."""
        from rich.live import Live as RichLive  # noqa: PLC0415 - slow to import
        from rich.table import Table  # noqa: PLC0415 - slow to import
        from rich.text import Text  # noqa: PLC0415 - slow to import

        table = Table.grid(padding=(0, 2))
        for label, value in fields(snapshot):
            if value is not None:
                table.add_row(Text(label, style="bold"), Text(printable(value)))
        if self._live is None:
            self._live = RichLive(table, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table, refresh=True)

    def close(self) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()

    def show_summary(self, summary: Snapshot) -> None:
        """Print a record."""
        show_record(fields(summary))


def fields(snapshot: Snapshot) -> list[tuple[str, str | None]]:
    """Return what is shown of a snapshot; `None` for what is not worth a line."""
    return [
        ("Time", f"{snapshot.elapsed_s:,.1f} s"),
        ("Devices", f"{snapshot.devices:,}"),
        ("Provisioned", f"{snapshot.provisioned:,}"),
        ("States", _counts(snapshot.states)),
        ("Registrations", f"{snapshot.registrations:,} ({snapshot.registrations_per_s:,.1f}/s)"),
        ("Messages", f"{snapshot.messages:,} ({snapshot.messages_per_s:,.1f}/s)"),
        ("Held back", f"{snapshot.held_back:,}" if snapshot.held_back else None),
        ("Acknowledged in", f"{_times(snapshot)} ms (p50/p99)"),
        ("Twin reports", f"{snapshot.twin_reports:,}"),
        ("Desired versions", _counts(snapshot.desired_versions) or None),
        ("Methods answered", f"{snapshot.methods:,}"),
        ("Cloud-to-device", f"{snapshot.cloud_to_device:,}" if snapshot.cloud_to_device else None),
        ("Reconnects", f"{snapshot.reconnects:,}"),
        ("Tokens renewed", f"{snapshot.renewals:,}" if snapshot.renewals else None),
        ("Errors", _counts(snapshot.errors) or "none"),
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _times(snapshot: Snapshot) -> str:
    p50, p99 = snapshot.ack_ms.p50, snapshot.ack_ms.p99
    return "-" if p50 is None or p99 is None else f"{p50:.1f}/{p99:.1f}"
