"""When a module that fell over is started again, and when it is given up (edge.md 5.3)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from muster.edge.agent.deployment import DesiredStatus, RestartPolicy, WantedModule
from muster.edge.engine.base import Module, Status

LONGEST_COOL_OFF_S: Final = 300.0


class RuntimeStatus(StrEnum):
    """`runtimeStatus` of reported properties (edge.md 5.2)."""

    UNKNOWN = "unknown"
    BACKOFF = "backoff"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    FAILED = "failed"
    DEAD = "dead"


class RestartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The constants.

    Attributes:
        most: restarts before a module is given up (`MaxRestartCount`).
        unit_s: first cool-off (`CoolOffTimeUnitInSeconds`).
        healthy_s: after so long the restarts are forgotten (`IntensiveCareTimeInMinutes`).
    """

    most: int = 20
    unit_s: float = 10.0
    healthy_s: float = 600.0


class Restarts(msgspec.Struct, frozen=True):
    """How often a module was started again, saved across restarts of the agent.

    Attributes:
        count: since it was last healthy, or deployed.
        last_at: the last time.
    """

    count: int = 0
    last_at: datetime | None = None


def runtime_status(
    module: Module, wanted: WantedModule, restarts: Restarts, limits: RestartLimits
) -> RuntimeStatus:
    """Return what a module is said to do, its restart policy considered."""
    status = RuntimeStatus(module.status.value)
    if wanted.status is not DesiredStatus.RUNNING or not is_down(module):
        return status
    policy = wanted.restart_policy
    if policy is RestartPolicy.ALWAYS or (
        policy is not RestartPolicy.NEVER and module.status is Status.FAILED
    ):
        return RuntimeStatus.FAILED if restarts.count >= limits.most else RuntimeStatus.BACKOFF
    return status


def is_down(module: Module) -> bool:
    """Tell whether a module has ended and could be started again."""
    return module.status in {Status.STOPPED, Status.FAILED}


def cool_off_s(count: int, limits: RestartLimits) -> float:
    """Return how long a module stays down after it was restarted so often."""
    # The exponent is bounded so that a count of any size stays a number.
    return min(limits.unit_s * 2.0 ** min(count, 30), LONGEST_COOL_OFF_S)


def due_at(module: Module, restarts: Restarts, limits: RestartLimits) -> datetime | None:
    """Return when a module in back-off is to be started; `None` for at once."""
    if module.exited_at is None:
        return None
    return module.exited_at + timedelta(seconds=cool_off_s(restarts.count, limits))


def is_due(module: Module, restarts: Restarts, limits: RestartLimits, now: datetime) -> bool:
    """Tell whether a module in back-off is to be started.

    An exit that lies ahead was timed by a clock that has been set back since: nothing can be
    learned from it.
    """
    due = due_at(module, restarts, limits)
    return due is None or now > due or (module.exited_at is not None and now < module.exited_at)


def is_healthy(module: Module, limits: RestartLimits, now: datetime) -> bool:
    """Tell whether a module has run for so long that its restarts are forgotten."""
    return (
        module.status is Status.RUNNING
        and module.started_at is not None
        and now - module.started_at > timedelta(seconds=limits.healthy_s)
    )
