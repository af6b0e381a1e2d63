"""`iotedge list`, `logs` and `restart` (edge.md 7)."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import click

from muster.clock import SystemClock
from muster.edge.cli.failures import CommandError
from muster.edge.cli.management import Management
from muster.edge.cli.spans import span
from muster.terminal.examples import examples
from muster.terminal.output import printable

_LEAST_WIDTH: Final = 15
_GAP: Final = 2
_COLUMNS: Final = ("NAME", "STATUS", "DESCRIPTION", "Config")


@click.command("list")
@click.pass_obj
@examples("iotedge list")
def list_(host: str) -> None:
    """List the modules of this device."""
    try:
        found = Management(host).get("/modules")["modules"]
    except CommandError as error:
        raise CommandError("Could not list modules", *error.lines) from None
    now = SystemClock().now()
    rows = [_row(module, now) for module in sorted(found, key=lambda each: str(each["name"]))]
    table = [_COLUMNS, *rows]
    widths = [max(_LEAST_WIDTH, *(len(row[column]) for row in table)) + _GAP for column in range(3)]
    for row in table:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=False))
        click.echo("".join(padded) + row[3])


def _row(module: dict[str, Any], now: datetime) -> tuple[str, ...]:
    settings = module["config"]["settings"]
    command = settings.get("command", "")
    config = settings.get("image") or (
        command if isinstance(command, str) else " ".join(map(str, command))
    )
    status = module["status"]
    cells = (module["name"], status["runtimeStatus"]["status"], _description(status, now), config)
    return tuple(printable(str(each)) for each in cells)


def _description(status: dict[str, Any], now: datetime) -> str:
    """Say since when, as the official command does."""
    ended = status.get("exitStatus")
    match status["runtimeStatus"]["status"]:
        case "running":
            since = _age(status.get("startTime"), now)
            return f"Up {since}" if since else "Up"
        case "stopped" | "dead":
            return _ago("Stopped", ended, now)
        case "failed":
            return _ago(f"Failed ({ended['statusCode']})" if ended else "Failed", ended, now)
        case _:
            return "Unknown"


def _ago(text: str, ended: dict[str, Any] | None, now: datetime) -> str:
    age = _age(ended.get("exitTime") if ended else None, now)
    return f"{text} {age} ago" if age else text


def _age(moment: str | None, now: datetime) -> str:
    return "" if moment is None else span(now - datetime.fromisoformat(moment).astimezone(UTC))


@click.command()
@click.argument("module")
@click.option("--tail", metavar="NUM", default="all", show_default=True, help="Only the last NUM.")
@click.option(
    "--since",
    metavar="TIME",
    default="1 day",
    show_default=True,
    help="Not before: 1 day, 90m, RFC 3339, unix seconds.",
)
@click.option("--until", metavar="TIME", help="Not after; as --since.")
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come.")
@click.pass_obj
@examples("iotedge logs edgeAgent", "iotedge logs temperature --since '10 minutes' --follow")
def logs(host: str, module: str, tail: str, since: str, until: str | None, *, follow: bool) -> None:
    """Show what a module has written, to standard output and error alike.

    Agent and edge hub are parts of the daemon: theirs is the daemon's log.
    """
    query = {"tail": tail, "since": since, "follow": "true" if follow else "false"}
    if until:
        query["until"] = until
    daemon = Management(host, None if follow else 60.0)
    try:
        for data in daemon.log(f"/modules/{quote(module, safe='')}/logs", **query):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise SystemExit(0) from None  # whoever reads has enough
    except CommandError as error:
        raise CommandError(f"Could not retrieve logs of {module}", *error.lines) from None


@click.command()
@click.argument("module")
@click.pass_obj
@examples("iotedge restart temperature")
def restart(host: str, module: str) -> None:
    """Stop a module and start it again."""
    try:
        Management(host).post(f"/modules/{quote(module, safe='')}/restart")
    except CommandError as error:
        raise CommandError(f"Could not restart {module}", *error.lines) from None
    click.echo(f"Restarted {module}")
