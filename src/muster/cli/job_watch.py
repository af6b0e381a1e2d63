"""`muster job watch`: how far a job is, live, until it is over."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.failures import FailedError
from muster.cli.options import hub_option, service_command
from muster.terminal.examples import examples
from muster.terminal.output import decorated, remark, to_json, to_the_second

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_INTERVAL_S: Final = 1.0
_WIDTH: Final = 30
_OVER: Final = ("completed", "failed", "cancelled")
_NAMES: Final = (
    ("devices", "deviceCount"),
    ("succeeded", "succeededCount"),
    ("failed", "failedCount"),
    ("running", "runningCount"),
    ("pending", "pendingCount"),
)


@click.command()
@click.argument("job_id")
@hub_option
@service_command
@examples("muster job watch rollout-7", "muster job watch rollout-7 --json")
def watch(invocation: Invocation, *, job_id: str, hub_host: str | None) -> None:
    """Show how far a job is until it is over. Exit code 1 when it did not complete."""
    watch_job(invocation, invocation.hub(hub_host), job_id)


def watch_job(invocation: Invocation, client: RestClient, job_id: str) -> None:
    """Show how far a job is until it is over.

    Raises:
        FailedError: it did not complete.
    """
    live = decorated() and not invocation.as_json
    last: dict[str, Any] | None = None
    while True:
        found: dict[str, Any] = client.get("/jobs/v2", job_id)
        counts = found["deviceJobStatistics"]
        look = {"status": found["status"]} | {word: counts[name] for word, name in _NAMES}
        if last is None and look["status"] == "scheduled" and not invocation.as_json:
            remark(f"It starts at {to_the_second(found['startTime'])}.")
        if look != last:
            last = look
            _tell(look, live=live, as_json=invocation.as_json)
        if look["status"] in _OVER:
            break
        time.sleep(_INTERVAL_S)
    if live:
        click.echo()
    if counts["failedCount"]:
        remark(f"{counts['failedCount']:,} failed: muster job devices {job_id} --failed")
    if look["status"] != "completed":
        reason = f": {found['failureReason']}" if found.get("failureReason") else "."
        raise FailedError(f"The job is {look['status']}{reason}")


def _tell(look: dict[str, Any], *, live: bool, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(look, indent=None))
        return
    text = "  ".join(
        str(value) if word == "status" else f"{word} {value:,}" for word, value in look.items()
    )
    if not live:
        click.echo(text)
        sys.stdout.flush()
        return
    total = max(look["devices"], 1)
    good = look["succeeded"] * _WIDTH // total
    bad = min(-(-look["failed"] * _WIDTH // total), _WIDTH - good)
    bar = click.style("━" * good, fg="green") + click.style("━" * bad, fg="red")
    rest = click.style("━" * (_WIDTH - good - bad), dim=True)
    click.echo(f"\r\x1b[2K{bar}{rest}  {text}", nl=False)
