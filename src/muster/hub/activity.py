"""When identities last called that are not connected: over HTTPS (hub-device.md 4, 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine, Params

FLUSH_S: Final = 60.0
"""Seconds activity is only in memory. Reads see memory, so this is what a crash can lose."""

_SQL: Final = load("presence")


@final
class Activity:
    """The last call of each identity, until it is written down.

    Args:
        engine: keeps it.
        clock: for the time of calls.
    """

    __slots__ = ("_calls", "_clock", "_engine")

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        # First and last call that is not written.
        self._calls: dict[IdentityRef, tuple[float, float]] = {}

    def note(self, ref: IdentityRef) -> None:
        """Remember that an identity calls now."""
        now = self._clock.time()
        first, _ = self._calls.get(ref, (now, now))
        self._calls[ref] = (first, now)

    def last(self, ref: IdentityRef) -> float:
        """Return when an identity last called, 0 when nothing is known here."""
        return self._calls.get(ref, (0.0, 0.0))[1]

    def forget(self, ref: IdentityRef) -> None:
        """Drop what is known of an identity that is gone."""
        self._calls.pop(ref, None)

    async def write(self, run: int, *, everything: bool = False) -> None:
        """Write down what has waited long enough.

        Args:
            run: the present run; see `muster.hub.presence`.
            everything: also what has not.
        """
        due_at = self._clock.time() - FLUSH_S
        batch = {
            ref: calls for ref, calls in self._calls.items() if everything or calls[0] <= due_at
        }
        if not batch:
            return
        rows: list[Params] = [
            {
                "hub": ref.hub,
                "device_id": ref.device_id,
                "module_id": ref.module_id,
                "last_activity_at": last,
                "run": run,
            }
            for ref, (_, last) in batch.items()
        ]
        await self._engine.write(Statement(_SQL["save_activity"], rows))
        for ref, calls in batch.items():
            # What came meanwhile stays for the next time.
            if self._calls.get(ref) is calls:
                del self._calls[ref]
