"""`muster fault`: faults that are injected on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.failures import RefusedError
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, yes_option
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_HUBS: Final = "/admin/v1/hubs"
_KINDS: Final = ("refuse", "delay", "throttle", "drop", "reset")
_ERRORS: Final = ("unavailable", "unauthorized", "throttled", "quota-exceeded")
_CREATE: Final = """Let a fault begin for some devices and their modules.

\b
refuse    connections end and are not taken; calls are answered with an error
delay     acknowledgements and answers come later
throttle  answers say that there was too much of it
drop      messages are taken, and the connection ends before they are acknowledged
reset     connections break with a TCP reset
"""


@click.group(cls=NounGroup)
@examples("muster fault enable", "muster fault create refuse --prefix plant-a- --duration 60")
def fault() -> None:
    """Injected faults: rehearse how devices recover before something breaks.

    Off until it is switched on for a hub: muster fault enable. No fault loses a message that was
    acknowledged. Faults end by themselves, and with the service.
    """


@fault.command()
@hub_option
@service_command
@examples("muster fault enable --hub plant-a.example.org")
def enable(invocation: Invocation, *, hub_host: str | None) -> None:
    """Let faults be injected into a hub's traffic.

    Devices may then also order faults for themselves by AzIoTHub_FaultOperationType and related
    properties of a message, as the SDKs' own tests do.
    """
    _switch(invocation, hub_host, on=True)


@fault.command()
@hub_option
@service_command
@examples("muster fault disable --hub plant-a.example.org")
def disable(invocation: Invocation, *, hub_host: str | None) -> None:
    """End all faults of a hub and let no new ones begin."""
    _switch(invocation, hub_host, on=False)


@fault.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.option("--device-id", "device_ids", multiple=True, metavar="ID", help="Whom; repeatable.")
@click.option("--prefix", default="", metavar="TEXT", help="All whose device ID begins with TEXT.")
@click.option(
    "--target-condition",
    default="",
    metavar="CONDITION",
    help="All whose twin meets it, as of a deployment; '*' for everybody.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, max=86_400, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long.",
)
@click.option(
    "--probability",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    metavar="P",
    help="Of every connect, call or batch of messages to meet it.",
)
@click.option(
    "--delay",
    type=click.FloatRange(min=0, max=300, min_open=True),
    metavar="SECONDS",
    help="How much later answers come; for delay only.",
)
@click.option(
    "--error",
    type=click.Choice(_ERRORS),
    help="What is answered: refuse with unavailable [default] or unauthorized, throttle with "
    "throttled [default] or quota-exceeded.",
)
@hub_option
@service_command
@examples(
    "muster fault create refuse --prefix plant-a- --duration 300",
    "muster fault create delay --device-id gateway-01 --delay 5",
    "muster fault create drop --target-condition \"tags.ring = 'canary'\" --probability 0.1",
    "muster fault create reset --target-condition '*' --duration 10",
    about=_CREATE,
)
def create(
    invocation: Invocation,
    *,
    kind: str,
    device_ids: tuple[str, ...],
    prefix: str,
    target_condition: str,
    duration: float,
    probability: float,
    delay: float | None,
    error: str | None,
    hub_host: str | None,
) -> None:
    """Let a fault begin."""
    if sum((bool(device_ids), bool(prefix), bool(target_condition.strip()))) != 1:
        raise click.UsageError("Say whom: --device-id, --prefix or --target-condition.")
    if (kind == "delay") is (delay is None):
        raise click.UsageError("--delay goes with the kind delay, and only with that.")
    client = invocation.dps()
    host = invocation.own_hub(hub_host)
    body = {
        "kind": kind,
        "duration": duration,
        "deviceIds": list(device_ids),
        "prefix": prefix,
        "targetCondition": target_condition,
        "probability": probability,
        "delay": delay or 0.0,
        "error": error,
    }
    try:
        created: dict[str, Any] = client.post(_HUBS, host, "faults", body=body)
    except RefusedError as refused:
        if refused.status == 409 and not _is_on(client, host):
            raise refused.with_next(f"muster fault enable --hub {host}") from None
        raise
    _show(invocation, created)
    if not invocation.as_json:
        remark(f"To end it earlier: muster fault delete {created['id']}")


@fault.command("list")
@hub_option
@service_command
@examples("muster fault list")
def list_faults(invocation: Invocation, *, hub_host: str | None) -> None:
    """List the faults that last, those that devices have ordered for themselves included."""
    client = invocation.dps()
    host = invocation.own_hub(hub_host)
    found = client.get(_HUBS, host, "faults")
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("ID", "KIND", "WHOM", "UNTIL", "MET"),
        [
            (
                each["id"],
                each["kind"],
                _whom(each),
                to_the_second(each["expiryTime"]),
                each["injected"],
            )
            for each in found
        ],
        empty=f"There are no faults in {host}."
        if found or _is_on(client, host)
        else f"Fault injection is off for {host}. To switch it on: muster fault enable",
    )


@fault.command()
@click.argument("fault_id")
@hub_option
@service_command
@examples("muster fault show 8f14e45f-ceea-467f-a83c-d5e9a1b2c3d4")
def show(invocation: Invocation, *, fault_id: str, hub_host: str | None) -> None:
    """Show a fault, and how often it was met."""
    client = invocation.dps()
    host = invocation.own_hub(hub_host)
    _show(invocation, client.get(_HUBS, host, "faults", fault_id))


@fault.command()
@click.argument("fault_id")
@yes_option
@hub_option
@service_command
@examples("muster fault delete 8f14e45f-ceea-467f-a83c-d5e9a1b2c3d4")
def delete(invocation: Invocation, *, fault_id: str, yes: bool, hub_host: str | None) -> None:
    """End a fault."""
    confirm("End the fault now?", yes=yes)
    client = invocation.dps()
    host = invocation.own_hub(hub_host)
    client.delete(_HUBS, host, "faults", fault_id)
    if not invocation.as_json:
        remark("The fault has ended.")


def _switch(invocation: Invocation, hub_host: str | None, *, on: bool) -> None:
    client = invocation.dps()
    host = invocation.own_hub(hub_host)
    done = client.put(_HUBS, host, "fault-injection", body={"enabled": on})
    if invocation.as_json:
        show_json(done)
        return
    remark(f"Fault injection is {'on' if on else 'off'} for {host}.")


def _is_on(client: RestClient, host: str) -> bool:
    return bool(client.get(_HUBS, host, "fault-injection")["enabled"])


def _whom(found: dict[str, Any]) -> str:
    if found["deviceIds"]:
        return ", ".join(found["deviceIds"])
    return f"{found['prefix']}…" if found["prefix"] else str(found["targetCondition"])


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(found)
        return
    show_record(
        [
            ("ID", found["id"]),
            ("Kind", found["kind"]),
            ("Error", found["error"]),
            ("Whom", _whom(found)),
            ("Devices chosen", found["devicesChosen"]),
            ("Ordered by", found["operation"] or found["orderedBy"]),
            ("Probability", found["probability"]),
            ("Delay", found["delay"] or None),
            ("Until", found["expiryTime"]),
            ("Met", found["injected"]),
        ]
    )
