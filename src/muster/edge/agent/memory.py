"""What the agent remembers of modules from one pass to the next (see `plan.History`)."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from muster.clock import Clock
from muster.edge.agent.plan import History
from muster.edge.agent.restarts import Restarts
from muster.edge.agent.store import AgentStore

_log = structlog.get_logger(__name__)


class Memory:
    """Mutable `History`. Restarts are saved as they happen; the rest is of this run only."""

    def __init__(self, store: AgentStore, clock: Clock) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._saving: Final = asyncio.Lock()
        self._restarts: dict[str, Restarts] = {}
        self._seen: set[str] = set()
        self._held: set[str] = set()
        self._pulled: set[str] = set()

    async def load(self) -> None:
        """Remember restarts of earlier runs."""
        self._restarts = await asyncio.to_thread(self._store.load_restarts)

    def history(self) -> History:
        """Return what the plan asks for."""
        return History(
            restarts=dict(self._restarts),
            seen=frozenset(self._seen),
            held=frozenset(self._held),
            pulled=frozenset(self._pulled),
        )

    def restarts(self, name: str) -> Restarts:
        """Return those of one module."""
        return self._restarts.get(name, Restarts())

    def saw_running(self, name: str) -> None:
        """Note that a module runs."""
        self._seen.add(name)

    def holds(self, name: str) -> None:
        """Note that a deployment wants a module stopped."""
        self._held.add(name)

    def began_deployment(self) -> None:
        """Note that another deployment is in force."""
        self._pulled.clear()

    # `performer.Witness`

    def started(self, name: str) -> None:
        """Note that a module was started."""
        self._seen.add(name)
        self._held.discard(name)

    def pulled(self, fingerprint: str) -> None:
        """Note that what a module is made of was fetched ahead."""
        self._pulled.add(fingerprint)

    async def forget(self, name: str) -> None:
        """Forget its restarts."""
        if self._restarts.pop(name, None) is not None:
            await self._save()

    async def count(self, name: str) -> None:
        """Count a restart."""
        self._restarts[name] = Restarts(self.restarts(name).count + 1, self._clock.now())
        await self._save()

    async def _save(self) -> None:
        async with self._saving:
            restarts = dict(self._restarts)
            try:
                await asyncio.to_thread(self._store.save_restarts, restarts)
            except OSError as error:
                # A full disk: modules are worth more than the count of their restarts.
                _log.warning("restarts are not saved", error=str(error))
