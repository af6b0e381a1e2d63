"""`simulate-register`: register as the device would, with the key that the service knows.

What a device without a keyboard does, seen from the operator's desk: it proves that enrollment,
keys, allocation and hub fit together before the device is shipped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from muster.auth import symmetric_keys
from muster.cli.failures import FailedError
from muster.cli.options import REGISTRATION_ID, service_command
from muster.cli.registration import show_state
from muster.terminal.examples import examples
from muster.terminal.output import remark

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.connection import Invocation

_POLLS: Final = 60
_PAUSE_S: Final = 1.0

_secondary_option: Final[Callable[..., Any]] = click.option(
    "--secondary", is_flag=True, help="Use the secondary key."
)


@click.command("simulate-register")
@click.argument("registration_id", type=REGISTRATION_ID)
@_secondary_option
@service_command
@examples("muster enrollment simulate-register gateway-01")
def simulate_enrollment(invocation: Invocation, *, registration_id: str, secondary: bool) -> None:
    """Register as the device would, over HTTPS, with the key of its enrollment.

    The device is assigned and its identity is made, as if it had come itself.
    """
    key = _key(invocation, "/enrollments", registration_id, secondary=secondary)
    _register(invocation, registration_id, key)


@click.command("simulate-register")
@click.argument("group")
@click.argument("registration_id", type=REGISTRATION_ID)
@_secondary_option
@service_command
@examples("muster enrollment-group simulate-register line-7 sensor-01")
def simulate_member(
    invocation: Invocation, *, group: str, registration_id: str, secondary: bool
) -> None:
    """Register as a device of a group would, over HTTPS, with the key derived for it.

    The device is assigned and its identity is made, as if it had come itself.
    """
    key = _key(invocation, "/enrollmentGroups", group, secondary=secondary)
    derived = symmetric_keys.derive(symmetric_keys.decode(key), registration_id)
    _register(invocation, registration_id, symmetric_keys.encode(derived))


def _key(invocation: Invocation, collection: str, entry_id: str, *, secondary: bool) -> str:
    mechanism = invocation.dps().post(collection, entry_id, "attestationmechanism")
    keys = mechanism.get("symmetricKey") or {}
    found = keys.get("secondaryKey" if secondary else "primaryKey")
    if not found:
        raise FailedError(
            f"{entry_id} has no symmetric key (its attestation is {mechanism.get('type')})",
            next_step="only devices with a symmetric key can be simulated",
        )
    return str(found)


def _register(invocation: Invocation, registration_id: str, key: str) -> None:
    id_scope = str(invocation.dps().get("/admin/v1/dps")["idScope"])
    base = f"/{id_scope}/registrations"
    device = invocation.device(f"{id_scope}/registrations/{registration_id}", key)
    body = {"registrationId": registration_id}
    operation = device.put(base, registration_id, "register", body=body)
    polled = (base, registration_id, "operations", str(operation["operationId"]))
    for _ in range(_POLLS):
        operation = device.get(*polled)
        if operation["status"] != "assigning":
            break
        time.sleep(_PAUSE_S)
    show_state(invocation, operation.get("registrationState") or {})
    if operation["status"] != "assigned":
        raise FailedError(
            f"The registration is {operation['status']}",
            next_step=f"muster registration explain {registration_id}",
        )
    if not invocation.as_json:
        remark(f"Its identity: muster device show {registration_id}")
