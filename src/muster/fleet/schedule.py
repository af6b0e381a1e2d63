"""When a device does what, and how long one that failed waits. Pure arithmetic on seconds."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from muster.fleet.plan import Plan

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0


class Act(enum.IntEnum):
    """What a connected device does again and again."""

    SEND = 0
    REPORT = 1
    PING = 2
    RENEW = 3


def intervals(plan: Plan) -> tuple[float, ...]:
    """Return the seconds between two of each act, in the order of `Act`; infinite for never."""
    return (
        1.0 / plan.rate if plan.rate else math.inf,
        plan.report_every_s or math.inf,
        plan.keep_alive_s * 0.75,
        plan.token_lifetime_s * 0.875,
    )


@final
class Schedule:
    """The acts of one connection.

    Args:
        every: `intervals`.
        now: when the connection was made.
        chance: 0 to 1: how far into its interval a device sends and reports first, so that a fleet
            that connects together does not send together.
    """

    __slots__ = ("_due", "_every")

    def __init__(self, every: tuple[float, ...], now: float, chance: float) -> None:
        self._every = every
        send, report, ping, renew = every
        self._due = [
            now + send * chance if send < math.inf else math.inf,
            now + report * chance if report < math.inf else math.inf,
            now + ping,
            # Tokens of one age must not all be renewed at one moment.
            now + renew * (1.0 - chance / 8.0),
        ]

    @property
    def next(self) -> float:
        """When something is due."""
        return min(self._due)

    def take(self, now: float) -> list[tuple[Act, int]]:
        """Return what is due and how many times, because it was asked for late; and note it done.

        The intervals count from when something was due, so a late caller loses nothing.
        """
        found: list[tuple[Act, int]] = []
        for act, due in enumerate(self._due):
            if due <= now:
                every = self._every[act]
                times = int((now - due) / every) + 1
                self._due[act] = due + times * every
                found.append((Act(act), times))
        return found


def wait_s(attempt: int, chance: float) -> float:
    """Return how long to wait before trying again.

    Args:
        attempt: failures in a row, from 1.
        chance: 0 to 1; half of the wait is left to it, so that a fleet does not come back at once.
    """
    longest = min(FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16), LONGEST_WAIT_S)
    return longest * (0.5 + chance / 2.0)
