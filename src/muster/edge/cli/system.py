"""`iotedge system …`: the daemon as a service of this machine (edge.md 7)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from muster.auth import private_file
from muster.edge.cli import service
from muster.edge.cli.failures import CommandError
from muster.edge.cli.management import Management
from muster.terminal.examples import examples
from muster.terminal.output import printable

DROP_IN: Final = Path("/etc/systemd/system/iotedged.service.d/log-level.conf")
"""What `set-log-level` writes, so that the level stays over restarts."""
_LEVELS: Final = ("trace", "debug", "info", "warn", "error")
_REPROVISION_S: Final = 300.0


@click.group()
@examples("iotedge system status", "iotedge system logs -- -f")
def system() -> None:
    """See and control the daemon as a service of this machine."""


@system.command()
@examples("iotedge system status")
def status() -> None:
    """Tell how the service stands.

    Where it is down, its last log lines are shown, too.
    """
    _must_be_installed("Could not ask for the status")
    found = service.state()
    click.echo("System services:")
    click.echo(f"    {service.UNIT:<24}{found.text}")
    if not found.good:
        for line in service.last_lines(10):
            click.echo(f"        {printable(line)}")
    click.echo("\nUse 'iotedge system logs' to check for non-fatal errors.")
    click.echo("Use 'iotedge check' to diagnose connectivity and configuration issues.")


@system.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@examples("iotedge system logs", "iotedge system logs -- -f --since '1 hour ago'")
def logs(arguments: tuple[str, ...]) -> None:
    """Show the log of the service.

    What stands behind -- is for journalctl.
    """
    sys.stdout.flush()
    try:
        wanted = arguments or ("-e", "--no-pager")  # as the official command
        os.execvp("journalctl", ["journalctl", "-u", service.UNIT, *wanted])  # noqa: S606, S607
    except OSError as error:
        raise CommandError("Could not run journalctl", error.strerror or str(error)) from None


@system.command()
@examples("sudo iotedge system restart")
def restart() -> None:
    """Restart the daemon.

    Its modules are stopped and started again.
    """
    service.must_be_root("iotedge system restart")
    _must_be_installed("Could not restart")
    service.restart()
    click.echo(f"Restarted {service.UNIT}.")


@system.command()
@examples("sudo iotedge system stop")
def stop() -> None:
    """Stop the daemon and its modules."""
    service.must_be_root("iotedge system stop")
    _must_be_installed("Could not stop")
    service.control("stop")
    click.echo(f"Stopped {service.UNIT}.")


@system.command()
@click.pass_obj
@examples("sudo iotedge system reprovision")
def reprovision(host: str) -> None:
    """Ask the provisioning service anew.

    Modules are replaced if the identity is another one.
    """
    try:
        Management(host, _REPROVISION_S).post("/device/reprovision")
    except CommandError as error:
        raise CommandError("Could not reprovision", *error.lines) from None
    click.echo("Successfully reprovisioned with IoT Hub.")


@system.command("set-log-level")
@click.argument("level", type=click.Choice(_LEVELS, case_sensitive=False))
@examples("sudo iotedge system set-log-level debug")
def set_log_level(level: str) -> None:
    """Set how much the daemon logs, and restart it."""
    service.must_be_root("iotedge system set-log-level")
    _must_be_installed("Could not set the log level")
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    private_file.replace(DROP_IN, f"[Service]\nEnvironment=IOTEDGE_LOG={level}\n".encode(), 0o644)
    service.reload()
    service.restart()
    click.echo(f"{service.UNIT} logs from level {level} on.")


def _must_be_installed(failure: str) -> None:
    if not service.installed():
        raise CommandError(
            failure,
            f"systemd knows no {service.UNIT} on this machine",
            "where it was started by hand, end and start it by hand: iotedged",
        )
