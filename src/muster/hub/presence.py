"""Who is or was connected, and when it was last heard: what the service API shows of it.

Memory is the truth about what is connected now. The database follows in batches, for the next
start: a presence row names the *run* of the service its connection belongs to, and with the run
the connection is over, so that after a crash nothing has to be repaired and everything reads
`Disconnected` since the last moment that run was known to be alive.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

from muster.hub.activity import Activity
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine, Params

ALIVE_EVERY_S: Final = 5.0
"""Seconds between two signs of life in the database while anything is connected."""
FLUSH_LIMIT: Final = 5000
"""Presence rows in one write, so that a mass reconnect does not hold up other writes."""

_SQL: Final = load("presence")


class Presence(NamedTuple):
    """The connection of an identity as the service API shows it. Times in unix seconds, 0 never."""

    connected: bool
    state_updated_at: float
    last_activity_at: float

    @property
    def state(self) -> str:
        """`Connected` or `Disconnected`."""
        return "Connected" if self.connected else "Disconnected"


@final
class PresenceRecord:
    """What is known of identities' presence and not yet in the database.

    Args:
        engine: keeps it for the next start.
        clock: for the times.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._run = 0
        self._alive_at = 0.0
        self._unwritten: dict[IdentityRef, Presence] = {}
        self._activity = Activity(engine, clock)

    async def open(self) -> None:
        """Begin a run: whatever an earlier run left connected reads `Disconnected` from here."""
        ((last,),) = cast("list[tuple[int]]", await self._engine.read(_SQL["last_run"], {}))
        self._run = last + 1
        now = self._clock.time()
        await self._engine.write(Statement(_SQL["begin_run"], {"id": self._run, "now": now}))

    def note(self, ref: IdentityRef, presence: Presence) -> None:
        """Remember to write a presence down."""
        self._unwritten[ref] = presence

    def called(self, ref: IdentityRef) -> None:
        """Note that an identity called without a connection, which does not make it connected."""
        self._activity.note(ref)

    def forget(self, ref: IdentityRef) -> None:
        """Drop what is known of an identity that is gone."""
        self._unwritten.pop(ref, None)
        self._activity.forget(ref)

    def of_absent(
        self,
        ref: IdentityRef,
        connected_run: int | None,
        state_updated_at: float | None,
        last_activity_at: float | None,
        run_alive_at: float | None,
    ) -> Presence:
        """Return the present truth about an identity that is not connected.

        Args:
            ref: whose.
            connected_run: the rest is what the database has, `None` where it has nothing.
            state_updated_at: as above.
            last_activity_at: as above.
            run_alive_at: last sign of life of `connected_run`.
        """
        called = self._activity.last(ref)
        recent = self._unwritten.get(ref)
        if recent is not None:
            return recent._replace(last_activity_at=max(recent.last_activity_at, called))
        changed, active = state_updated_at or 0.0, last_activity_at or 0.0
        if connected_run is not None:
            # It was connected when its run ended without saying goodbye.
            changed = max(changed, active, run_alive_at or 0.0)
        return Presence(False, changed, max(active, called))

    async def keep_up(self, *, live: bool) -> None:
        """Write down what is due.

        Args:
            live: whether anything is connected.
        """
        await self._write(live=live)
        await self._activity.write(self._run)

    async def write_down(self, *, live: bool) -> None:
        """Let the database know of everybody's connection what memory knows by now."""
        # What comes meanwhile is newer than the question.
        for _ in range(0, len(self._unwritten), FLUSH_LIMIT):
            await self._write(live=live)

    async def close(self) -> None:
        """Write everything down; nothing is connected any more."""
        while self._unwritten:
            await self._write(live=False)
        await self._activity.write(self._run, everything=True)

    async def _write(self, *, live: bool) -> None:
        now = self._clock.time()
        batch = dict(itertools.islice(self._unwritten.items(), FLUSH_LIMIT))
        statements: list[Statement] = []
        if batch:
            rows: list[Params] = [
                {
                    "hub": ref.hub,
                    "device_id": ref.device_id,
                    "module_id": ref.module_id,
                    "connected_run": self._run if presence.connected else None,
                    "state_updated_at": presence.state_updated_at,
                    "last_activity_at": presence.last_activity_at,
                }
                for ref, presence in batch.items()
            ]
            statements.append(Statement(_SQL["save"], rows))
        if batch or (live and now - self._alive_at >= ALIVE_EVERY_S):
            statements.append(Statement(_SQL["keep_run"], {"id": self._run, "now": now}))
        if not statements:
            return
        await self._engine.write(*statements)
        self._alive_at = now
        for ref, presence in batch.items():
            # What changed meanwhile stays for the next turn.
            if self._unwritten.get(ref) is presence:
                del self._unwritten[ref]
