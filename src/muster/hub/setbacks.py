"""Devices for which deployments could not be applied, until it is tried again.

They wait alone, each longer every time it fails, so that one of them never keeps the others from
their turn. The pass over everything tries all of them again, whoever waits for what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import structlog

from muster.errors import MusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Device: TypeAlias = tuple[int, str]
"""Number of the hub, device ID."""

FIRST_S: Final = 1.0
LONGEST_S: Final = 300.0
"""How long a device waits after it failed once, and at most; twice as long each time."""
MOST: Final = 10_000
"""Devices that are remembered; more are left to the pass over everything."""

_NAMED: Final = 5
_log = structlog.get_logger(__name__)


class _Setback(NamedTuple):
    failures: int
    due_at: float


@final
class Setbacks:
    """Who failed, and who is due again. Times in the loop's seconds."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Device, _Setback] = {}

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._waiting)

    @property
    def next_at(self) -> float | None:
        """When the first of them is due; `None` when nobody waits."""
        return min((each.due_at for each in self._waiting.values()), default=None)

    def add(self, devices: Sequence[Device], error: Exception, now: float) -> None:
        """Let devices wait that failed, and say so when it is news or has lasted."""
        told: list[str] = []
        for device in devices:
            failures = self._waiting.get(device, _Setback(0, 0.0)).failures + 1
            wait_s = min(FIRST_S * 2.0 ** (failures - 1), LONGEST_S)
            if failures == 1 or wait_s == LONGEST_S:
                told.append(device[1])
            if device in self._waiting or len(self._waiting) < MOST:
                self._waiting[device] = _Setback(failures, now + wait_s)
        if told:
            _log.warning(
                "deployments could not be applied to devices; others go on, these are tried again",
                devices=told[:_NAMED],
                count=len(told),
                reason=error.message if isinstance(error, MusterError) else repr(error),
                next="muster deployment explain NAME --device ID, muster twin show ID",
            )

    def done(self, devices: Iterable[Device]) -> None:
        """Forget devices to which everything has been applied."""
        if self._waiting:
            for device in devices:
                self._waiting.pop(device, None)

    def due(self, now: float) -> list[Device]:
        """Return who is to be tried again; they stay known until they are `done`."""
        return [device for device, each in self._waiting.items() if each.due_at <= now]
