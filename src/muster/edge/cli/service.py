"""The daemon as systemd runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from muster.edge.cli.failures import CommandError

UNIT: Final = "iotedged"
_PATIENCE_S: Final = 120


def installed() -> bool:
    """Tell whether systemd knows the unit."""
    if shutil.which("systemctl") is None:
        return False
    return _run("systemctl", "cat", UNIT).returncode == 0


def must_be_root(what: str) -> None:
    """Refuse everybody else.

    Raises:
        CommandError: the caller is not root.
    """
    if os.geteuid() != 0:
        raise CommandError(f"{what} must be run as root", "try again with sudo")


def restart() -> None:
    """Restart the daemon and wait until it is ready.

    Raises:
        CommandError: systemd could not.
    """
    control("restart")


def control(verb: str) -> None:
    """Tell systemd to start, stop or restart the daemon.

    Raises:
        CommandError: systemd could not.
    """
    done = _run("systemctl", verb, UNIT)
    if done.returncode != 0:
        raise CommandError(
            f"Could not {verb} {UNIT}",
            *(line.strip() for line in done.stderr.splitlines() if line.strip()),
            f"its log: journalctl -u {UNIT} -n 30",
        )


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - fixed words
        command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
    )
