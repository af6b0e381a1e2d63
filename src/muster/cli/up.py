"""`muster up` runs the service; `muster info` tells how to reach it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from muster.cli.failures import FailedError
from muster.config import (
    DEFAULT_AMQP_PORT,
    DEFAULT_DATA_DIR,
    DEFAULT_HTTPS_PORT,
    DEFAULT_MQTT_PORT,
    FALLBACK_HTTPS_PORT,
    HubInfo,
    InstanceInfo,
    Ports,
    Settings,
)
from muster.errors import MusterError
from muster.terminal.examples import examples
from muster.terminal.output import wrapped

if TYPE_CHECKING:
    from muster.app import Instance


_BAD_NAMES: Final = ("invalid-host", "invalid-host-name")


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MUSTER_DATA_DIR",
    default=DEFAULT_DATA_DIR,
    show_default=True,
    help="Where everything that must survive is kept.",
)
@click.option("--listen", default="", metavar="ADDR", help="Address to bind [default: all].")
@click.option(
    "--hostname",
    default="localhost",
    show_default=True,
    metavar="NAME",
    help="Name by which devices and operators reach the provisioning service.",
)
@click.option(
    "--hub",
    "hubs",
    multiple=True,
    metavar="HOST",
    help="Host name of a hub; repeat for several [default: one, named as --hostname].",
)
@click.option(
    "--https-port",
    type=click.IntRange(0, 65535),
    help=f"HTTPS and WebSockets [default: {DEFAULT_HTTPS_PORT}, or {FALLBACK_HTTPS_PORT} where "
    "that is not allowed].",
)
@click.option(
    "--mqtt-port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_MQTT_PORT,
    show_default=True,
    help="MQTT over TLS. The official SDKs know no other port.",
)
@click.option(
    "--amqp-port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_AMQP_PORT,
    show_default=True,
    help="AMQP over TLS. Most of the official SDKs know no other port.",
)
@click.option(
    "--amqp-plain-port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="AMQP without TLS, for clients with UseDevelopmentEmulator=true; they use 5672 [default: "
    "off].",
)
@click.option(
    "--retention-days",
    type=click.FloatRange(min=0, min_open=True),
    default=7.0,
    show_default=True,
    help="How long telemetry is kept, where a hub has no retention of its own.",
)
@click.option(
    "--files-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where file endpoints of message routing write [default: files in the data directory].",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least severity logged, on stderr.",
)
@examples(
    "muster up",
    "muster up --hostname dps.example.org --hub plant-a.example.org --hub plant-b.example.org",
)
def up(  # noqa: PLR0917 - click passes options by name
    data_dir: Path,
    listen: str,
    hostname: str,
    hubs: tuple[str, ...],
    https_port: int | None,
    mqtt_port: int,
    amqp_port: int,
    amqp_plain_port: int,
    retention_days: float,
    files_dir: Path | None,
    log_level: str,
) -> None:
    """Run the whole service in this process, until Ctrl-C or SIGTERM.

    Works without any option: data in ./muster-data, its own certificate authority, one hub.
    """
    from muster.observe.logs import configure  # noqa: PLC0415 - only this command needs it

    configure(log_level)
    settings = Settings(
        data_dir=data_dir,
        listen=listen,
        hostname=hostname,
        hubs=hubs,
        https_port=https_port,
        mqtt_port=mqtt_port,
        amqp_port=amqp_port,
        amqp_plain_port=amqp_plain_port,
        retention_s=retention_days * 86_400.0,
        files_dir=files_dir,
    )
    try:
        import uvloop  # noqa: PLC0415 - part of the `server` extra

        from muster.app import Instance  # noqa: PLC0415 - the server's dependencies are an extra
    except ImportError as error:
        raise click.ClickException(
            f"The service needs more than the command line does ({error.name} is missing). "
            "Install it: pip install 'muster-iot[server]'"
        ) from None
    try:
        uvloop.run(_serve(Instance.start, settings))
    except MusterError as error:
        if error.code in _BAD_NAMES:
            raise click.UsageError(f"{error.message}.") from None
        port_is_missing = error.code == "port-unavailable"
        raise FailedError(
            error.message,
            next_step="free it, or bind another address or port: --listen, --https-port, "
            "--mqtt-port, --amqp-port"
            if port_is_missing
            else "",
        ) from None


async def _serve(start: Callable[[Settings], Awaitable[Instance]], settings: Settings) -> None:
    from muster.observe.notify import notify  # noqa: PLC0415 - only this command needs it

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    instance = await start(settings)
    # What is there now stays. Connections come and go by the thousand and are freed without the
    # collector, so it need not look at them as often as it would.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        click.echo(_summary(instance.info, settings, instance.notes))
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
    finally:
        await instance.stop()


def _summary(info: InstanceInfo, settings: Settings, notes: list[str]) -> str:
    dps = _noted(info.dps_host, info.dps_fault_injection)
    lines = [
        "Muster is ready.",
        "",
        f"  ID scope       {info.id_scope}",
        f"  Provisioning   {dps}  ({_ports(info.ports)})",
        *(f"  Hub            {_hub(hub)}" for hub in info.hubs),
        f"  CA file        {info.ca_file}",
        "",
        *(
            line
            for note in notes
            for line in ("  Note: " + "\n        ".join(wrapped(note, 72)), "")
        ),
        "  Next:  muster enrollment create my-first-device --edge"
        + _data_dir_option(settings.data_dir),
        "         muster info" + _data_dir_option(settings.data_dir),
    ]
    return "\n".join(lines)


def _hub(hub: HubInfo) -> str:
    return _noted(hub.host, hub.fault_injection)


def _noted(host: str, fault_injection: bool) -> str:  # noqa: FBT001 - what is noted of the host
    return f"{host}  (fault injection is on)" if fault_injection else host


def _ports(ports: Ports) -> str:
    plain = "" if ports.amqp_plain is None else f", AMQP without TLS {ports.amqp_plain}"
    return f"HTTPS {ports.https}, MQTT {ports.mqtt}, AMQP {ports.amqp}{plain}"


def _data_dir_option(data_dir: Path) -> str:
    if data_dir == Path(os.environ.get("MUSTER_DATA_DIR", DEFAULT_DATA_DIR)):
        return ""
    return f" --data-dir {data_dir}"


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MUSTER_DATA_DIR",
    default=DEFAULT_DATA_DIR,
    show_default=True,
    help="Data directory of the running instance.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with connection strings.")
@examples("muster info", "muster info --json | jq -r .dpsConnectionString")
def info(data_dir: Path, *, as_json: bool) -> None:
    """Tell how to connect to the instance that runs on a data directory.

    The readable form leaves the keys out; --json has the connection strings.
    """
    from muster.store.data_directory import DataDirectory  # noqa: PLC0415 - after click has spoken

    path = DataDirectory.instance_file(data_dir)
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=InstanceInfo)
    except FileNotFoundError:
        raise _NotRunningError(
            f"No instance runs on {data_dir} (there is no {path.name}). Start one with: muster up"
            + _data_dir_option(data_dir)
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from None
    if not DataDirectory.in_use(data_dir):
        raise _NotRunningError(
            f"The instance on {data_dir} (process {found.pid}) is gone. Start it again with: "
            "muster up" + _data_dir_option(data_dir)
        )
    if as_json:
        click.echo(msgspec.json.format(content, indent=2).decode())
        return
    rows = [
        ("ID scope", found.id_scope),
        ("Provisioning", _noted(found.dps_host, found.dps_fault_injection)),
        *(("Hub", _hub(hub)) for hub in found.hubs),
        ("Ports", _ports(found.ports)),
        ("CA file", found.ca_file),
        ("Version", found.version),
    ]
    for label, value in rows:
        click.echo(f"{label:13} {value}")
    click.echo("Connection strings: muster info --json")


class _NotRunningError(click.ClickException):
    exit_code = 3
