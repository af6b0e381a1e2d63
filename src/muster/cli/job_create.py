"""`muster job create`: what to do, to which devices, when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.job_view import COLLECTION, show_job
from muster.cli.job_watch import watch_job
from muster.cli.method_options import method_call, method_options
from muster.cli.noun import NounGroup
from muster.cli.options import JSON_DOCUMENT, hub_option, service_command
from muster.cli.quantities import MOMENT
from muster.ids import Randomness
from muster.terminal.examples import examples
from muster.terminal.output import remark

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from muster.cli.connection import Invocation


@click.group(cls=NounGroup)
@examples(
    "muster job create twin-update -q \"tags.site = 'a'\" --desired '{\"interval\": 5}' --wait",
    "muster job create method reboot -q '*'",
)
def create() -> None:
    """Create a job; it starts at once, or at its time."""


def _schedule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--wait", is_flag=True, help="Watch it until it is over."),
        click.option(
            "--duration",
            "max_execution_s",
            type=click.IntRange(1, 30 * 86_400),
            default=3_600,
            show_default=True,
            metavar="SECONDS",
            help="Give up what is not done after so long.",
        ),
        click.option(
            "--start-time",
            type=MOMENT,
            help="When it starts: 2026-12-24T18:00, UTC where it says nothing else [default: now].",
        ),
        click.option(
            "--query-condition",
            "-q",
            "condition",
            required=True,
            metavar="CONDITION",
            help="Which devices, as behind WHERE; '*' for all.",
        ),
        click.option("--job-id", metavar="ID", help="[default: a new one]"),
    ):
        command = option(command)
    return command


@create.command("twin-update")
@_schedule_options
@click.option("--tags", type=JSON_DOCUMENT, help="Tags to merge, as JSON or @FILE.")
@click.option("--desired", type=JSON_DOCUMENT, help="Desired properties to merge.")
@hub_option
@service_command
@examples(
    "muster job create twin-update -q \"tags.site='berlin'\" --desired '{\"interval\": 5}' --wait",
    "muster job create twin-update -q '*' --tags '{\"wave\": null}' --start-time 2026-12-24T18:00",
)
def twin_update(
    invocation: Invocation,
    /,
    *,
    tags: dict[str, Any] | None,
    desired: dict[str, Any] | None,
    **schedule: Any,
) -> None:
    """Merge tags and desired properties into the twins of all devices that match."""
    if tags is None and desired is None:
        raise click.UsageError("Give --tags, --desired or both.")
    patch: dict[str, Any] = {"etag": "*"}
    if tags is not None:
        patch["tags"] = tags
    if desired is not None:
        patch["properties"] = {"desired": desired}
    _create(invocation, {"type": "scheduleUpdateTwin", "updateTwin": patch}, **schedule)


@create.command()
@click.argument("name")
@_schedule_options
@method_options
@hub_option
@service_command
@examples(
    "muster job create method reboot -q \"tags.site='berlin'\" --wait",
    "muster job create method setRate -q '*' --payload '{\"seconds\": 5}'",
)
def method(
    invocation: Invocation,
    /,
    *,
    name: str,
    payload: Any,
    timeout_s: int,
    connect_timeout_s: int,
    **schedule: Any,
) -> None:
    """Call a method of all devices that match."""
    call = method_call(
        name, payload=payload, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
    )
    _create(invocation, {"type": "scheduleDeviceMethod", "cloudToDeviceMethod": call}, **schedule)


def _create(
    invocation: Invocation,
    body: dict[str, Any],
    *,
    job_id: str | None,
    condition: str,
    start_time: datetime | None,
    max_execution_s: int,
    wait: bool,
    hub_host: str | None,
) -> None:
    job_id = job_id or f"job-{Randomness().uuid()}"
    client = invocation.hub(hub_host)
    body |= {
        "jobId": job_id,
        "queryCondition": condition,
        "startTime": start_time.isoformat() if start_time else None,
        "maxExecutionTimeInSeconds": max_execution_s,
    }
    created = client.put(COLLECTION, job_id, body=body)
    if wait:
        watch_job(invocation, client, job_id)
        return
    show_job(invocation, created)
    if not invocation.as_json:
        remark(f"To see how it goes on: muster job watch {job_id}")
