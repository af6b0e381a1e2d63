"""`muster registration`: what became of registrations, and why."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.failures import FailedError, canonical_tracking_id
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, etag_option, service_command, top_option, yes_option
from muster.terminal.examples import examples
from muster.terminal.output import (
    decorated,
    printable,
    remark,
    show_json,
    show_record,
    show_table,
    to_the_second,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

COLLECTION: Final = "/registrations"

_ALL: Final = {"query": "SELECT *"}
_PATIENCE_S: Final = 1.0
"""How long an explanation is waited for: decisions are written within 0.2 s after the answer."""
_PAUSE_S: Final = 0.1
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.group(cls=NounGroup)
@examples("muster registration list --group line-7", "muster registration explain gateway-01")
def registration() -> None:
    """Registration records, and why the service decided as it did."""


@registration.command()
@click.argument("registration_id")
@service_command
@examples("muster registration show gateway-01")
def show(invocation: Invocation, *, registration_id: str) -> None:
    """Show the registration record of a device."""
    show_state(invocation, invocation.dps().get(COLLECTION, registration_id))


@registration.command("list")
@click.option("--group", metavar="ID", help="Only those of this enrollment group.")
@top_option
@service_command
@examples("muster registration list --group line-7", "muster registration list --json")
def list_registrations(invocation: Invocation, *, group: str | None, top: int | None) -> None:
    """List registration records, of a group or of every enrollment."""
    show_registrations(invocation, group, top)


@registration.command()
@click.argument("registration_id")
@etag_option
@yes_option
@service_command
@examples("muster registration delete gateway-01")
def delete(invocation: Invocation, *, registration_id: str, etag: str | None, yes: bool) -> None:
    """Delete a registration record. The enrollment stays, and so does the device in its hub."""
    confirm(f"Delete the registration record {registration_id}?", yes=yes)
    invocation.dps().delete(COLLECTION, registration_id, if_match=etag)
    if not invocation.as_json:
        remark(f"The registration record {registration_id} is deleted.")


@registration.command()
@click.argument("identifier", metavar="TRACKING_ID|REGISTRATION_ID")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="How many, at most."
)
@service_command
@examples(
    "muster registration explain gateway-01",
    "muster registration explain 3f2b8c1e-5f0e-4a57-9a40-0d2d6f3a9b11",
)
def explain(invocation: Invocation, *, identifier: str, limit: int) -> None:
    """Say why a device was assigned, refused or disconnected, and what to do about it.

    Takes the tracking ID that the device or tool was told, or a registration or device ID for
    the latest decisions about it, newest first.
    """
    wanted = canonical_tracking_id(identifier)
    found = _explanations(invocation.dps(), wanted, limit)
    if not found:
        raise FailedError(
            f"Nothing is recorded about {identifier}",
            details=(
                "The service recorded no decision under this tracking ID."
                if _GUID.fullmatch(wanted)
                else "No device has registered, or was refused, under this ID.",
            ),
            next_step="check the spelling, and that the device uses this service's host and port "
            "(muster info)",
        )
    if invocation.as_json:
        show_json(found)
        return
    for number, each in enumerate(found):
        if number:
            click.echo()
        _show_explanation(each)


def show_registrations(invocation: Invocation, group: str | None, top: int | None) -> None:
    """Print the registration records of a group, or with no group those of every enrollment."""
    client = invocation.dps()
    found: Iterator[tuple[str | None, dict[str, Any]]]
    if group is not None:
        records = client.pages("POST", COLLECTION, group, "query", body=_ALL, top=top)
        found = ((group, record) for record in records)
    else:
        found = _everyones(client, top)
    if invocation.as_json:
        show_json([record for _, record in found])
        return
    show_table(
        (
            *("REGISTRATION ID", "STATUS", "HUB", "DEVICE ID"),
            *(() if group else ("GROUP",)),
            *("LAST UPDATED", "ERROR"),
        ),
        [
            (
                state.get("registrationId"),
                state.get("status"),
                state.get("assignedHub"),
                state.get("deviceId"),
                *(() if group else (of_group,)),
                to_the_second(state.get("lastUpdatedDateTimeUtc")),
                _error(state),
            )
            for of_group, state in found
        ],
        empty="No device has registered"
        + (f" with the enrollment group {group}." if group else " yet."),
    )


def _everyones(client: RestClient, top: int | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield all records with their groups. The service lists them by group only (dps.md 3.1)."""
    left = top
    for entry in client.pages("POST", "/enrollments/query", body=_ALL):
        state = entry.get("registrationState") or {}
        if state.get("status", "unassigned") == "unassigned":
            continue
        if left == 0:
            return
        left = None if left is None else left - 1
        yield None, state
    for entry in client.pages("POST", "/enrollmentGroups/query", body=_ALL):
        group = str(entry["enrollmentGroupId"])
        for state in client.pages("POST", COLLECTION, group, "query", body=_ALL, top=left):
            left = None if left is None else left - 1
            yield group, state
        if left == 0:
            return


def _explanations(client: RestClient, identifier: str, limit: int) -> list[dict[str, Any]]:
    waited_s = 0.0
    while True:
        found: list[dict[str, Any]] = client.get(
            "/admin/v1/explanations", identifier, params={"limit": str(limit)}
        )
        if found or waited_s >= _PATIENCE_S:
            return found
        time.sleep(_PAUSE_S)
        waited_s += _PAUSE_S


def _show_explanation(each: dict[str, Any]) -> None:
    title = f"{each.get('subject')}: {each.get('title')}"
    click.echo(click.style(printable(title), bold=True) if decorated() else printable(title))
    show_record(
        [
            (
                "  Outcome",
                f"{each.get('outcome')} ({each.get('operation')} at {each.get('service')})",
            ),
            ("  Check", each.get("check")),
            ("  Cause", each.get("cause")),
            ("  Remedy", each.get("remedy")),
            ("  Time", each.get("time")),
            ("  Tracking ID", each.get("trackingId")),
            *((f"  {name}", value) for name, value in (each.get("facts") or {}).items()),
        ]
    )


def show_state(invocation: Invocation, state: dict[str, Any]) -> None:
    """Print the state of one registration."""
    if invocation.as_json:
        show_json(without_secrets(state))
        return
    show_record(
        [
            ("Registration ID", state.get("registrationId")),
            ("Status", state.get("status")),
            ("Substatus", state.get("substatus")),
            ("Assigned hub", state.get("assignedHub")),
            ("Device ID", state.get("deviceId")),
            ("Enrollment group", _group(state)),
            ("Error", _error(state)),
            ("Payload", state.get("payload")),
            ("Created", state.get("createdDateTimeUtc")),
            ("Last updated", state.get("lastUpdatedDateTimeUtc")),
            ("ETag", state.get("etag")),
        ]
    )


def _group(state: dict[str, Any]) -> str | None:
    group = (state.get("symmetricKey") or {}).get("enrollmentGroupId")
    return str(group) if group else None


def _error(state: dict[str, Any]) -> str | None:
    text = state.get("errorMessage")
    if not text:
        return None
    code = state.get("errorCode")
    return f"{code}: {text}" if code else str(text)
