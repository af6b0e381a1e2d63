"""Which steps have failed, and when they are tried again (edge.md 5.3)."""

from __future__ import annotations

from typing import Final

import msgspec

from muster.edge.agent.restarts import RestartLimits


class _Failure(msgspec.Struct):
    message: str
    count: int
    due: float


class Failures:
    """Failures by module: each pause is twice as long, and after so many there is no other try.

    Two things make a fresh start: another deployment, which clears all; and the hub in reach
    again, which makes all due, for what was missing (a registry, the hub itself) may be back.

    Attributes:
        limits: how long the pauses are, and how many.
    """

    def __init__(self, limits: RestartLimits) -> None:
        self.limits = limits
        self._failures: Final[dict[str, _Failure]] = {}

    def note(self, name: str, message: str, now: float) -> None:
        """Note a failure.

        Args:
            name: of the module, or of whatever else is tried.
            message: why, for people.
            now: monotonic seconds.
        """
        count = self._failures[name].count + 1 if name in self._failures else 1
        self._failures[name] = _Failure(message, count, now + self.limits.unit_s * 2.0**count)

    def forget(self, name: str) -> None:
        """Note a success."""
        self._failures.pop(name, None)

    def keep(self, names: set[str], down: set[str]) -> None:
        """Forget all others.

        Args:
            names: of all that is still to be tried.
            down: of modules that should run and do not. When one is started again their restart
                policy says, without a pause of ours; why it could not be started is told on.
        """
        for name in self._failures.keys() - names:
            if name in down:
                self._failures[name] = _Failure(self._failures[name].message, 0, 0.0)
            else:
                del self._failures[name]

    def clear(self) -> None:
        """Begin anew."""
        self._failures.clear()

    def hasten(self, now: float) -> None:
        """Make all due, those that were given up too."""
        for failure in self._failures.values():
            failure.due = now
            failure.count = min(failure.count, self.limits.most - 1)

    def may_try(self, name: str, now: float) -> bool:
        """Tell whether something is tried now."""
        failure = self._failures.get(name)
        if failure is None:
            return True
        return failure.count < self.limits.most and now >= failure.due

    def messages(self) -> dict[str, str]:
        """Return why, by name, of what has failed and not succeeded since."""
        return {name: failure.message for name, failure in self._failures.items()}
