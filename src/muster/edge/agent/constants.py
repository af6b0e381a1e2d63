"""The agent's time constants, and the environment variables that change them (edge.md 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from muster.edge.agent.restarts import RestartLimits

RECONCILE_EVERY_S: Final = 5.0
"""A pass at least so often; at once when something is known to have changed."""
ORDER_PATIENCE_S: Final = 60.0
"""How long a module waits for those before it in startup order: order is a wish and no dependency.
One that hangs in a download must not keep down the rest."""
PULL_TIMEOUT_S: Final = 3600.0
"""Layers that came are kept; one over a thin line needs its time."""
ACT_TIMEOUT_S: Final = 120.0
FIND_TIMEOUT_S: Final = 20.0
"""An engine that does not answer so long is out of reach, and the others are not kept waiting."""
STOP_PATIENCE_S: Final = 10.0
PULLS_AT_ONCE: Final = 8
TWIN_THROTTLE_S: Final = 30.0
TWIN_READS: Final = 3
"""So often whole twins are read in that time, where links come and go. The official agent reads
one, and hears of a deployment half a minute late when a link was away for a moment."""
HUB_TIMEOUT_S: Final = 60.0
FAREWELL_S: Final = 5.0
"""How long the last report may take while the device shuts down."""

_log = structlog.get_logger(__name__)


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """What a file can change.

    Attributes:
        restarts: see there.
        refresh_s: the whole twin is read at least so often (`ConfigRefreshFrequencySecs`).
        request_s: longest a direct method takes (`RequestTimeoutSecs`).
        all_pulls_first: `ModuleUpdateMode` is `WaitForAllPulls`.
    """

    restarts: RestartLimits = RestartLimits()
    refresh_s: float = 3600.0
    request_s: float = 600.0
    all_pulls_first: bool = False


def from_environment(env: Mapping[str, str]) -> Constants:
    """Return the constants as an agent's environment has them.

    A value that is no positive number is named in the log and changes nothing.
    """
    limits = RestartLimits()
    return Constants(
        restarts=RestartLimits(
            most=int(_number(env, "MaxRestartCount", limits.most)),
            unit_s=_number(env, "CoolOffTimeUnitInSeconds", limits.unit_s),
            healthy_s=60 * _number(env, "IntensiveCareTimeInMinutes", limits.healthy_s / 60),
        ),
        refresh_s=_number(env, "ConfigRefreshFrequencySecs", Constants().refresh_s),
        request_s=_number(env, "RequestTimeoutSecs", Constants().request_s),
        all_pulls_first=env.get("ModuleUpdateMode", "").lower() == "waitforallpulls",
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    # Not a comparison with zero alone: what is no number compares with nothing.
    if not 0 < number < float("inf"):
        _log.warning("not a positive number", variable=name, used=default)
        return default
    return number
