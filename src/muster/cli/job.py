"""`muster job`: something done to many devices, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.job_create import create
from muster.cli.job_transfer import export, import_
from muster.cli.job_view import COLLECTION, show_job
from muster.cli.job_watch import watch
from muster.cli.noun import NounGroup
from muster.cli.options import hub_option, service_command, top_option
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

STATUSES: Final = ("scheduled", "queued", "running", "completed", "failed", "cancelled")


@click.group(cls=NounGroup)
@examples(
    "muster job create twin-update -q \"tags.site = 'a'\" --desired '{\"interval\": 5}' --wait",
    "muster job list",
)
def job() -> None:
    """Jobs: update the twins of many devices, or call a method; export and import identities."""


job.add_command(create)
job.add_command(watch)
job.add_command(export)
job.add_command(import_)


@job.command()
@click.argument("job_id")
@hub_option
@service_command
@examples("muster job show rollout-7")
def show(invocation: Invocation, *, job_id: str, hub_host: str | None) -> None:
    """Show a job and its counts."""
    show_job(invocation, invocation.hub(hub_host).get(COLLECTION, job_id))


@job.command()
@click.argument("job_id")
@click.option("--failed", is_flag=True, help="Only those that failed.")
@top_option
@hub_option
@service_command
@examples("muster job devices rollout-7 --failed", "muster job devices rollout-7 --json")
def devices(
    invocation: Invocation, *, job_id: str, failed: bool, top: int | None, hub_host: str | None
) -> None:
    """Show what became of each device of a job."""
    query = f"SELECT * FROM devices.jobs WHERE jobId = {_literal(job_id)}"  # noqa: S608 - escaped
    if failed:
        query += " AND status = 'failed'"
    client = invocation.hub(hub_host)
    client.get(COLLECTION, job_id)
    found = list(client.pages("POST", "/devices/query", body={"query": query}, top=top))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("DEVICE ID", "MODULE ID", "STATUS", "ENDED", "OUTCOME"),
        [
            (
                each["deviceId"],
                each.get("moduleId"),
                each["status"],
                to_the_second(each.get("endTimeUtc")),
                _outcome(each),
            )
            for each in found
        ],
        empty="The job has no such devices.",
    )


@job.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that are so far.")
@top_option
@hub_option
@service_command
@examples("muster job list", "muster job list --status running")
def list_jobs(
    invocation: Invocation, *, status: str | None, top: int | None, hub_host: str | None
) -> None:
    """List jobs, the newest first. They are kept for 30 days after their end."""
    params = {"jobStatus": status} if status else None
    found = list(
        invocation.hub(hub_host).pages("GET", f"{COLLECTION}/query", params=params, top=top)
    )
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("JOB ID", "TYPE", "STATUS", "STARTED", "DEVICES", "DONE", "FAILED"),
        [
            (
                each["jobId"],
                each["type"],
                each["status"],
                to_the_second(each["startTime"]),
                each["deviceJobStatistics"]["deviceCount"],
                each["deviceJobStatistics"]["succeededCount"],
                each["deviceJobStatistics"]["failedCount"],
            )
            for each in found
        ],
        empty="There are no such jobs.",
    )


@job.command()
@click.argument("job_id")
@hub_option
@service_command
@examples("muster job cancel rollout-7")
def cancel(invocation: Invocation, *, job_id: str, hub_host: str | None) -> None:
    """Have a job begin nothing more; what is done stays done."""
    reply = invocation.hub(hub_host).post(COLLECTION, job_id, "cancel")
    show_job(invocation, reply)


def _outcome(row: dict[str, Any]) -> Any:
    if "error" in row:
        return f"{row['error']['code']}: {row['error']['description']}"
    return row.get("outcome", {}).get("deviceMethodResponse")


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
