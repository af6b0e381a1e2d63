"""`muster fault`: faults that are injected on purpose."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import click

from muster.cli.failures import RefusedError
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, yes_option
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, to_the_second

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_SERVICES: Final = ("hub", "dps")
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


class _Place(NamedTuple):
    """Where faults are injected: a hub, or provisioning.

    Attributes:
        client: talks to the service.
        name: for people.
        path: of its administrative routes.
        options: by which commands find it.
    """

    client: RestClient
    name: str
    path: tuple[str, ...]
    options: str

    @classmethod
    def of(cls, invocation: Invocation, service: str, hub_host: str | None) -> Self:
        """Return the place that the options of a command name."""
        client = invocation.dps()
        if service == "dps":
            if hub_host is not None:
                raise click.UsageError("--hub goes with --service hub.")
            return cls(client, "provisioning", ("/admin/v1/dps",), "--service dps")
        host = invocation.own_hub(hub_host)
        return cls(client, host, ("/admin/v1/hubs", host), f"--hub {host}")

    @property
    def on(self) -> bool:
        """Whether faults may be injected."""
        return bool(self.client.get(*self.path, "fault-injection")["enabled"])

    def show(self, invocation: Invocation, found: dict[str, Any]) -> None:
        """Show one fault."""
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


def _at_place(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what all have: the options that name the place, which it is handed."""

    def run(
        invocation: Invocation, /, *, service: str, hub_host: str | None, **options: Any
    ) -> None:
        command(invocation, _Place.of(invocation, service, hub_host), **options)

    functools.update_wrapper(run, command)
    named = click.option(
        "--service",
        type=click.Choice(_SERVICES),
        default="hub",
        show_default=True,
        help="A hub, or the registrations of dps.",
    )
    return named(hub_option(service_command(run)))


@click.group(cls=NounGroup)
@examples("muster fault enable", "muster fault create refuse --prefix plant-a- --duration 60")
def fault() -> None:
    """Injected faults: rehearse how devices recover before something breaks.

    Off until it is switched on for a hub: muster fault enable; for registrations: muster fault
    enable --service dps. No fault loses a message that was acknowledged. Faults end by themselves,
    and with the service.
    """


@fault.command()
@_at_place
@examples("muster fault enable --hub plant-a.example.org", "muster fault enable --service dps")
def enable(invocation: Invocation, place: _Place) -> None:
    """Let faults be injected into the traffic of a hub, or into registrations.

    Devices of a hub may then also order faults for themselves by AzIoTHub_FaultOperationType and
    related properties of a message, as the SDKs' own tests do.
    """
    _switch(invocation, place, on=True)


@fault.command()
@_at_place
@examples("muster fault disable --hub plant-a.example.org")
def disable(invocation: Invocation, place: _Place) -> None:
    """End all faults of a place and let no new ones begin."""
    _switch(invocation, place, on=False)


@fault.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.option(
    "--device-id",
    "device_ids",
    multiple=True,
    metavar="ID",
    help="Whom, for dps the registration ID; repeatable.",
)
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
@_at_place
@examples(
    "muster fault create refuse --prefix plant-a- --duration 300",
    "muster fault create throttle --service dps --prefix plant-a-",
    "muster fault create delay --device-id gateway-01 --delay 5",
    "muster fault create drop --target-condition \"tags.ring = 'canary'\" --probability 0.1",
    "muster fault create reset --target-condition '*' --duration 10",
    about=_CREATE,
)
def create(
    invocation: Invocation,
    place: _Place,
    *,
    kind: str,
    device_ids: tuple[str, ...],
    prefix: str,
    target_condition: str,
    duration: float,
    probability: float,
    delay: float | None,
    error: str | None,
) -> None:
    """Let a fault begin."""
    if sum((bool(device_ids), bool(prefix), bool(target_condition.strip()))) != 1:
        raise click.UsageError("Say whom: --device-id, --prefix or --target-condition.")
    if (kind == "delay") is (delay is None):
        raise click.UsageError("The kind delay needs --delay SECONDS; no other kind takes it.")
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
        created: dict[str, Any] = place.client.post(*place.path, "faults", body=body)
    except RefusedError as refused:
        if refused.status == 409 and not place.on:
            raise refused.with_next(f"muster fault enable {place.options}") from None
        raise
    place.show(invocation, created)
    if not invocation.as_json:
        remark(f"To end it earlier: muster fault delete {created['id']} {place.options}")


@fault.command("list")
@_at_place
@examples("muster fault list", "muster fault list --service dps")
def list_faults(invocation: Invocation, place: _Place) -> None:
    """List the faults that last, those that devices have ordered for themselves included."""
    found = place.client.get(*place.path, "faults")
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
        empty=f"There are no faults in {place.name}."
        if found or place.on
        else f"Fault injection is off for {place.name}. To switch it on: muster fault enable "
        f"{place.options}",
    )


@fault.command()
@click.argument("fault_id")
@_at_place
@examples("muster fault show 8f14e45f-ceea-467f-a83c-d5e9a1b2c3d4")
def show(invocation: Invocation, place: _Place, *, fault_id: str) -> None:
    """Show a fault, and how often it was met."""
    place.show(invocation, place.client.get(*place.path, "faults", fault_id))


@fault.command()
@click.argument("fault_id")
@yes_option
@_at_place
@examples("muster fault delete 8f14e45f-ceea-467f-a83c-d5e9a1b2c3d4")
def delete(invocation: Invocation, place: _Place, *, fault_id: str, yes: bool) -> None:
    """End a fault."""
    confirm("End the fault now?", yes=yes)
    place.client.delete(*place.path, "faults", fault_id)
    if not invocation.as_json:
        remark("The fault has ended.")


def _switch(invocation: Invocation, place: _Place, *, on: bool) -> None:
    done = place.client.put(*place.path, "fault-injection", body={"enabled": on})
    if invocation.as_json:
        show_json(done)
        return
    remark(f"Fault injection is {'on' if on else 'off'} for {place.name}.")


def _whom(found: dict[str, Any]) -> str:
    if found["deviceIds"]:
        return ", ".join(found["deviceIds"])
    return f"{found['prefix']}…" if found["prefix"] else str(found["targetCondition"])
