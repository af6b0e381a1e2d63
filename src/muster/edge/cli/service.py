"""The daemon as systemd runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final, NamedTuple

from muster.edge.cli.failures import CommandError

UNIT: Final = "iotedged"
ENGINE: Final = "docker"
_PATIENCE_S: Final = 300
"""For systemd: modules have 90 s to stop, and the daemon as much to start again."""


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


def reload() -> None:
    """Let systemd read its units anew.

    Raises:
        CommandError: it could not.
    """
    done = _run("systemctl", "daemon-reload")
    if done.returncode != 0:
        raise CommandError("systemd did not read its units anew", done.stderr.strip())


class State(NamedTuple):
    """How the service stands.

    Attributes:
        good: whether that is as it should be.
        text: for people.
    """

    good: bool
    text: str


def state() -> State:
    """Return how the service stands."""
    done = _run(
        *("systemctl", "show", UNIT, "--property=ActiveState,SubState,Result,ExecMainStatus")
    )
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
    active = found.get("ActiveState", "unknown")
    if active == "active":
        return State(good=True, text="Running")
    reason = found.get("Result", "success")
    if active in ("failed", "activating") and reason != "success":
        code = found.get("ExecMainStatus", "0")
        return State(good=False, text=f"Down - {active}: {reason}, exit code {code}")
    return State(good=False, text=f"Down - {active}")


def last_lines(count: int, unit: str = UNIT) -> list[str]:
    """Return the last lines of a service's log; none where there is no journal."""
    if shutil.which("journalctl") is None:
        return []
    done = _run("journalctl", "-u", unit, "-n", str(count), "--no-pager", "-o", "short-iso")
    return done.stdout.splitlines()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - fixed words
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            command, 1, "", f"{command[0]} has not come to an end in {_PATIENCE_S} s"
        )
