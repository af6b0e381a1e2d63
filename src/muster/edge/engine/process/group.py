"""A control group of its own for each process module, where systemd runs the machine.

A supervisor is begun in a transient scope, as container engines begin containers: the group is not
part of the daemon's, so systemd can end and begin the daemon while modules go on, and it is gone
with its last process. Below it the supervisor keeps the module apart from itself, to end it whole
(see `supervisor`). What the group cannot limit on this machine stays with limits of processes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSTEMD: Final = Path("/run/systemd/system")
_CONTROLLERS: Final = Path("/sys/fs/cgroup/cgroup.controllers")
"""There where all controllers are in the one hierarchy (cgroups(7), version 2)."""
_KEPT_BY: Final = {"memory": "memory", "processes": "pids"}


class Group(NamedTuple):
    """How the supervisor of a run is begun.

    Attributes:
        command: what it is begun by; nothing where it has no group.
        limits: that the group keeps, so that processes need not.
    """

    command: tuple[str, ...] = ()
    limits: frozenset[str] = frozenset()


def group_of(name: str, run: str, limits: Mapping[str, int]) -> Group:
    """Return the group of a run.

    Args:
        name: of the module.
        run: ID of the run.
        limits: of the module, as the supervisor takes them.
    """
    program = shutil.which("systemd-run")
    if _why_none() is not None or program is None:
        return Group()
    kept = frozenset(limits.keys() & _KEPT_BY.keys() - _lacking())
    properties = [
        "Delegate=yes",
        # So it is ended after the daemon when the machine goes down: the daemon asks first.
        "Before=iotedged.service",
    ]
    if "memory" in kept:
        properties += [f"MemoryMax={limits['memory']}", "MemorySwapMax=0"]
    if "processes" in kept:
        properties.append(f"TasksMax={limits['processes'] + 1}")  # and the supervisor
    return Group(
        (
            *(program, "--scope", "--quiet", "--collect", "--slice=iotedge.slice"),
            *(f"--unit=iotedge-{name}-{run[:8]}", f"--description=Module {name} of iotedged"),
            *(f"--property={each}" for each in properties),
            "--",
        ),
        kept,
    )


def shortfall() -> str:
    """Return why a limit of a module holds for each of its processes only; "" where none does."""
    if (reason := _why_none()) is not None:
        return reason
    if missing := sorted(_KEPT_BY[limit] for limit in _lacking()):
        return f"its control groups do not know {' and '.join(missing)}"
    return ""


def _why_none() -> str | None:
    if os.geteuid() != 0:
        return "the daemon is not root"
    if not _SYSTEMD.is_dir():
        return "systemd does not run this machine"
    if shutil.which("systemd-run") is None:
        return "systemd-run is missing"
    if not _CONTROLLERS.exists():
        return "this machine has control groups of version 1"
    return None


def _lacking() -> frozenset[str]:
    """Return the limits that groups cannot keep on this machine, as the supervisor calls them."""
    controllers = _CONTROLLERS.read_text().split() if _CONTROLLERS.exists() else []
    return frozenset(limit for limit, needed in _KEPT_BY.items() if needed not in controllers)


def kill(path: str) -> None:
    """Kill whoever is in a group that a supervisor recorded; one that is gone has nobody."""
    try:
        Path(path, "cgroup.kill").write_text("1")
    except OSError:  # gone, or the kernel is older than 5.14: the mark of the run is looked for
        return
