"""`muster fleet`: simulated devices."""

from __future__ import annotations

import asyncio
import signal
import ssl
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli import fleet_clean, fleet_plan
from muster.cli.failures import FailedError, UnreachableError
from muster.cli.fleet_view import view
from muster.cli.noun import NounGroup
from muster.cli.options import JSON_DOCUMENT, REGISTRATION_ID, service_command
from muster.clock import SystemClock
from muster.fleet.plan import MAX_MESSAGE, MIN_MESSAGE
from muster.fleet.simulation import Simulation, SimulationError
from muster.ids import Randomness
from muster.net.dial import Dialler, client_context
from muster.terminal.examples import examples
from muster.terminal.output import remark

if TYPE_CHECKING:
    from pathlib import Path

    from muster.cli.connection import Invocation
    from muster.cli.fleet_view import View
    from muster.fleet.plan import Plan
    from muster.fleet.tally import Snapshot

_SPARE_FILES: Final = 64


@click.group(cls=NounGroup)
@examples("muster fleet simulate --count 20 --create-group load-test --duration 60 --clean")
def fleet() -> None:
    """Simulated devices: to size a server, and to rehearse what a fleet does."""


@fleet.command()
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Devices.",
)
@click.option("--group", metavar="ID", help="They are of this enrollment group of the service.")
@click.option(
    "--create-group",
    type=REGISTRATION_ID,
    metavar="ID",
    help="Create this enrollment group for them.",
)
@click.option("--tags", type=JSON_DOCUMENT, help="Initial twin tags of the group that is created.")
@click.option(
    "--group-key-file", metavar="FILE", help="The group's key from FILE (or - for stdin)."
)
@click.option(
    "--group-key",
    metavar="KEY",
    help="The group's key. Visible to other users: see --group-key-file.",
)
@click.option("--id-scope", metavar="SCOPE", help="ID scope [default: the service's].")
@click.option(
    "--dps-host",
    metavar="HOST[:PORT]",
    help="Where devices register, MQTT over TLS [default: the service's; port 8883].",
)
@click.option(
    "--prefix",
    metavar="TEXT",
    help="Registration IDs are TEXT and a number [default: sim-, four random digits, and -].",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1_000),
    default=0.1,
    show_default=True,
    metavar="R",
    help="Messages a second of each device.",
)
@click.option(
    "--size",
    type=click.IntRange(MIN_MESSAGE, MAX_MESSAGE),
    default=256,
    show_default=True,
    metavar="BYTES",
    help="Size of a message.",
)
@click.option(
    "--report-every",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds between reported properties of a device; 0 for none.",
)
@click.option(
    "--edge",
    is_flag=True,
    help="IoT Edge devices, each as its $edgeAgent: applies and reports deployments.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    metavar="N",
    help="Devices that may register or connect at a time.",
)
@click.option(
    "--token-lifetime",
    type=click.FloatRange(30, 31_536_000),
    default=3_600.0,
    show_default=True,
    metavar="S",
    help="Seconds that a token is good for; renewed before its end.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="End after S seconds [default: at Ctrl-C].",
)
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two reports of progress.",
)
@click.option(
    "--clean",
    is_flag=True,
    help="At the end delete the devices, their registration records, and a group that was created.",
)
@service_command
@examples(
    "muster fleet simulate --count 100 --group line-7",
    "muster fleet simulate --count 2000 --create-group load --rate 1 --duration 60 --clean",
    'muster fleet simulate --count 500 --create-group gateways --edge --tags \'{"site": "a"}\'',
    "muster fleet simulate --group-key-file group.key --id-scope 0ne00000000 --dps-host "
    "global.azure-devices-provisioning.net",
)
def simulate(
    invocation: Invocation,
    /,
    *,
    duration: float | None,
    every: float,
    clean: bool,
    **given: Any,
) -> None:
    """Provision and run light devices over the real protocols, against any service.

    Each registers over MQTT, connects to the hub it was assigned to, sends telemetry, reports
    properties, answers direct methods with what they were called with, and applies desired
    properties. Ends at Ctrl-C or after --duration: the devices disconnect, and a summary is shown.
    Works with Azure, too.
    """
    if clean:
        invocation.dps()  # without a service to call, better no devices
    _need_files(given["count"] + _SPARE_FILES)
    plan = fleet_plan.gather(invocation, fleet_plan.Options(**given))
    _quiet()
    if duration is None:
        remark("Ctrl-C ends the simulation.")
    shown = view(as_json=invocation.as_json)
    try:
        summary, assigned = _run(plan, invocation.trust(plan.dps.name), shown, duration, every)
    except FailedError:
        if clean:
            fleet_clean.clean(invocation, {}, [], group=given["create_group"])
        raise
    finally:
        shown.close()
    shown.show_summary(summary)
    if clean:
        registration_ids = [plan.registration_id(number + 1) for number in range(plan.count)]
        fleet_clean.clean(invocation, assigned, registration_ids, group=given["create_group"])
    if summary.failed:
        raise FailedError(
            f"{summary.failed:,} of {summary.devices:,} devices failed",
            next_step=f"muster registration explain {plan.registration_id(1)}, or another of them",
        )


def _run(
    plan: Plan, ca_file: Path | None, shown: View, duration_s: float | None, every_s: float
) -> tuple[Snapshot, dict[str, list[str]]]:
    try:
        context = client_context(ca_file)
    except (OSError, ssl.SSLError):
        raise click.UsageError(f"{ca_file} holds no certificate.") from None

    async def simulate() -> tuple[Snapshot, dict[str, list[str]]]:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        simulation = Simulation(plan, Dialler(context), SystemClock(), Randomness())
        summary = await simulation.run(stop, shown.show, duration_s=duration_s, every_s=every_s)
        return summary, simulation.assigned

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(simulate())
    except SimulationError as error:
        raise _failed(error, plan, ca_file) from None


def _failed(error: SimulationError, plan: Plan, ca_file: Path | None) -> FailedError:
    failure = error.failure
    if failure.untrusted:
        trusted = f"the certificates in {ca_file}" if ca_file else "the system's certificates"
        return UnreachableError(
            f"{plan.dps.target}:{plan.dps.port} is not trusted: {failure.kind}",
            details=(f"Trusted are {trusted}.",),
            next_step="give the service's CA file (muster info shows it) with --ca-file, and the "
            "name it was started with as --dps-host",
        )
    if failure.unreachable:
        where = f"{plan.dps.target}:{plan.dps.port}: {failure.kind}"
        return UnreachableError(
            f"Cannot reach {failure.detail or where}",
            next_step="check --dps-host, and that the service runs there",
        )
    first = plan.registration_id(1)
    return FailedError(
        f"The first device, {first}, was refused: {failure.detail or failure.kind}",
        next_step=f"muster registration explain {first} says why; check the group's key and the "
        "ID scope",
    )


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415 - faster where it is installed (the `server` extra)
    except ImportError:
        return None
    return uvloop.new_event_loop


def _need_files(count: int) -> None:
    import resource  # noqa: PLC0415 - not on every system

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise click.UsageError(
            f"{count:,} open files are needed and {hard:,} allowed: raise the limit (ulimit -Hn), "
            "or run several fleets."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _quiet() -> None:
    from muster.observe.logs import configure  # noqa: PLC0415 - slow to import

    # What goes wrong is counted and shown; the log is for mistakes of ours.
    configure("error")
