"""`muster device revoke` and its undo, `muster device restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.failures import RefusedError
from muster.cli.options import confirm, service_command, yes_option
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.connection import Invocation


@click.command()
@click.argument("registration_id")
@click.option("--reason", default="", metavar="TEXT", help="Kept with the revocation.")
@yes_option
@service_command
@examples("muster device revoke gateway-01 --reason stolen", "muster device revoke sensor-03 --yes")
def revoke(invocation: Invocation, *, registration_id: str, reason: str, yes: bool) -> None:
    """Shut a device out at once: it cannot register, and its connection ends.

    Takes the registration ID, which is the device ID unless the enrollment says otherwise. One
    device of a group is revoked without touching the others. Undo it with `muster device restore`.
    """
    confirm(
        f"Shut {registration_id} out: block its enrollment, disable its identity and end its "
        "connection?",
        yes=yes,
        grave=True,
    )
    done = _call(
        invocation,
        registration_id,
        "revoke",
        {"reason": reason},
        "an identity that was made by hand is shut out with muster device update DEVICE_ID "
        "--status disabled",
    )
    if invocation.as_json:
        show_json(done)
        return
    show_record(
        [
            *_identity(done),
            ("Device disabled", done.get("deviceDisabled", False)),
            ("Connections ended", done.get("sessionsDropped", 0)),
        ]
    )
    remark(f"{registration_id} is shut out. To undo it: muster device restore {registration_id}")


@click.command()
@click.argument("registration_id")
@yes_option
@service_command
@examples("muster device restore gateway-01 --yes")
def restore(invocation: Invocation, *, registration_id: str, yes: bool) -> None:
    """Undo `muster device revoke`: the device may register and connect again."""
    confirm(f"Let {registration_id} in again?", yes=yes)
    done = _call(
        invocation, registration_id, "restore", {}, "muster device revocations lists who is revoked"
    )
    if invocation.as_json:
        show_json(done)
        return
    show_record(_identity(done))
    remark(f"{registration_id} may register and connect again.")


@click.command()
@service_command
@examples("muster device revocations")
def revocations(invocation: Invocation) -> None:
    """List the devices that are shut out by `muster device revoke`."""
    found = invocation.dps().get("/admin/v1/revocations")
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("REGISTRATION ID", "SINCE", "HUB", "DEVICE ID", "REASON"),
        [
            (
                each.get("registrationId"),
                to_the_second(each.get("revokedAt")),
                each.get("hub"),
                each.get("deviceId"),
                each.get("reason"),
            )
            for each in found
        ],
        empty="No device is revoked.",
    )


def _call(
    invocation: Invocation, registration_id: str, verb: str, body: dict[str, str], if_unknown: str
) -> dict[str, Any]:
    client = invocation.dps()
    try:
        done: dict[str, Any] = client.post(
            "/admin/v1/registrations", registration_id, verb, body=body
        )
    except RefusedError as error:
        raise (error.with_next(if_unknown) if error.status == 404 else error) from None
    return done


def _identity(done: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("Registration ID", done.get("registrationId")),
        ("Enrollment", done.get("entry")),
        ("Hub", done.get("hub")),
        ("Device ID", done.get("deviceId")),
    ]
