"""`iotedged`: the command that systemd runs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import structlog

from muster import __version__
from muster.clock import SystemClock
from muster.edge.configuration.load import DEFAULT_FILE, OLD_FILE, load, usual_file
from muster.edge.daemon.own_log import OwnLog
from muster.errors import InvalidArgumentError
from muster.ids import Randomness
from muster.observe.logs import configure

if TYPE_CHECKING:
    from muster.edge.configuration.load import Configuration

BAD_SETTINGS: Final = 153
"""Exit code of settings that cannot be used: trying again does not help (edge.md 2.6)."""
_LEVELS: Final = ("debug", "info", "warning", "error")
_OFFICIAL_LEVELS: Final = {"trace": "debug", "warn": "warning", "notice": "info"}
_HELP: Final = """Run the edge runtime of this device.

It ends with SIGTERM, which stops its modules, or Ctrl-C, with which they go on.

\b
Examples:
  iotedged
  iotedged -c gateway.toml --log-level debug
"""
_log = structlog.get_logger(__name__)


def _level(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    level = _OFFICIAL_LEVELS.get(value.lower(), value.lower())
    if level not in _LEVELS:
        raise click.BadParameter(f"must be one of {', '.join(_LEVELS)}")
    return level


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="iotedged", message="%(prog)s %(version)s (muster)")
@click.option(
    "-c",
    "--config-file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The configuration [default: {DEFAULT_FILE}, or {OLD_FILE} where only that is there].",
)
@click.option(
    "--log-level",
    envvar="IOTEDGE_LOG",
    default="info",
    show_default=True,
    callback=_level,
    metavar="LEVEL",
    help="Least severity logged: debug, info, warning or error.",
)
@click.option(
    "--reprovision", is_flag=True, help="Ask the provisioning service before anything else."
)
def iotedged(path: Path | None, log_level: str, *, reprovision: bool) -> None:
    """Read the configuration and run the device it describes; see its help."""
    clock = SystemClock()
    own_log = OwnLog(clock)
    configure(log_level, file=own_log)
    if path is None:
        path = usual_file()
    try:
        found = load(path)
        for notice in found.notices:
            _log.warning("configuration", note=notice)
        code = asyncio.run(_serve(found, own_log, clock, reprovision=reprovision))
    except InvalidArgumentError as error:
        click.echo(f"iotedged: {error.message}", err=True)
        raise SystemExit(BAD_SETTINGS) from None
    except OSError as error:
        click.echo(f"iotedged: {error}", err=True)
        raise SystemExit(1) from None
    raise SystemExit(code)


async def _serve(
    found: Configuration, own_log: OwnLog, clock: SystemClock, *, reprovision: bool
) -> int:
    # After click has spoken.
    from muster.edge.configuration import applied  # noqa: PLC0415
    from muster.edge.daemon.daemon import Daemon, InUseError  # noqa: PLC0415
    from muster.edge.local_api.machine import uptime_s  # noqa: PLC0415
    from muster.edge.state import StateDirectory  # noqa: PLC0415
    from muster.edge.upstream.arrival import Arrival  # noqa: PLC0415
    from muster.net.tasks import spawn  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    asked: asyncio.Future[signal.Signals] = loop.create_future()

    def ask(number: signal.Signals) -> None:
        if not asked.done():
            asked.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    settings = found.settings
    randomness = Randomness()
    arrival = Arrival.of_start(uptime_s(), randomness)
    daemon = Daemon(settings, own_log, arrival, clock=clock, randomness=randomness)
    _log.info("starting", version=__version__, configuration=str(settings.source), pid=os.getpid())
    try:
        await daemon.start(reprovision=reprovision)
    except InUseError as error:
        _log.critical("cannot start", reason=str(error))
        return 1
    except BaseException:  # cancelled, too: what was begun is ended in good order
        await daemon.close(stop_modules=False)
        raise
    try:
        applied.note(StateDirectory(settings.home), settings.source, found.fingerprint)
    except OSError as error:  # a full disk keeps nobody from running
        _log.warning("which configuration is used is not noted", reason=str(error))
    failing = spawn(daemon.failed(), "watch over the daemon")
    ends: list[asyncio.Future[Any]] = [asked, failing]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not asked.done():
        _log.critical("the daemon has failed and ends, so that another one can begin")
        await daemon.close(stop_modules=False)
        return 1
    failing.cancel()
    number = asked.result()
    _log.info("ending", signal=number.name)
    await daemon.close(stop_modules=number is signal.SIGTERM)
    return 0
