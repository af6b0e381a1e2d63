"""`muster device renew-key`, `muster module renew-key`: new keys made by the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.failures import FailedError
from muster.cli.options import hub_option, service_command
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

_POLICY_KEYS: Final = {"primary": "primaryKey", "secondary": "secondaryKey", "both": "both"}
_which = click.option(
    "--key",
    "which",
    type=click.Choice(list(_POLICY_KEYS)),
    required=True,
    help="Which of the two.",
)


@click.command("renew-key")
@click.argument("device_id")
@_which
@hub_option
@service_command
@examples(
    "muster device renew-key press-1 --key secondary", "muster device renew-key press-1 --key both"
)
def renew_device_key(
    invocation: Invocation, *, device_id: str, which: str, hub_host: str | None
) -> None:
    """Let the hub make new keys for a device. It cannot connect with the old ones any more."""
    _renew(invocation, {"id": device_id}, ("/devices", device_id), which, hub_host)


@click.command("renew-key")
@click.argument("device_id")
@click.argument("module_id")
@_which
@hub_option
@service_command
@examples("muster module renew-key gateway-01 filter --key secondary")
def renew_module_key(
    invocation: Invocation, *, device_id: str, module_id: str, which: str, hub_host: str | None
) -> None:
    """Let the hub make new keys for a module. It cannot connect with the old ones any more."""
    entry = {"id": device_id, "moduleId": module_id}
    _renew(invocation, entry, ("/devices", device_id, "modules", module_id), which, hub_host)


def _renew(
    invocation: Invocation,
    entry: dict[str, str],
    place: tuple[str, ...],
    which: str,
    hub_host: str | None,
) -> None:
    client = invocation.hub(hub_host)
    name = "/".join(entry.values())
    identity: dict[str, Any] = client.get(*place)
    if identity["authentication"]["type"] != "sas":
        raise FailedError(f"{name} has no keys: it proves itself with a certificate")
    body = {"policyKey": _POLICY_KEYS[which], "devices": [entry]}
    done = client.post("/devices/keys/regenerate", body=body)
    if invocation.as_json:
        show_json(done)
        return
    noun = "module" if "moduleId" in entry else "device"
    words = " ".join(entry.values())
    keys = "Both keys are" if which == "both" else f"The {which} key is"
    remark(f"{keys} new. For the {noun}: muster {noun} connection-string {words}")
