"""A device of which only the reconciler is real (see `agent_fakes` for why)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from muster.clock import ManualClock
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.making import DeviceFacts
from muster.edge.agent.manifest import parse
from muster.edge.agent.memory import Memory
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.reconciler import Pass, Reconciler
from muster.edge.agent.store import AgentStore
from muster.edge.engine.module_locks import ModuleLocks
from unit.edge.agent.agent_cases import JsonObject, desired
from unit.edge.agent.agent_fakes import (
    PATIENCE_S,
    MemoryEngine,
    MemoryIdentities,
    MemoryWorkload,
    until,
)


class Device:
    """A reconciler with everything around it."""

    def __init__(
        self, home: Path, agent_env: dict[str, str] | None = None, *, containers: bool = True
    ) -> None:
        self.clock = ManualClock()
        self.metrics = AgentMetrics("hub.example", "dev-1", "1", "0")
        self.docker = MemoryEngine(self.clock, "docker")
        self.process = MemoryEngine(self.clock, "process")
        self.identities = MemoryIdentities()
        self.workload = MemoryWorkload()
        self.locks = ModuleLocks()
        self.engines = [self.docker, self.process] if containers else [self.process]
        self.home = home
        self.agent_env = agent_env or {}
        self.begin()

    def begin(self) -> None:
        """Start the agent, as it is after the device started."""
        self.changes = 0
        self.known = KnownIdentities(self.identities)
        self.memory = Memory(AgentStore(self.home), self.clock)
        self.reconciler = Reconciler(
            Inventory(self.engines),
            self.known,
            self.workload,
            self.memory,
            facts=DeviceFacts(
                hub_host="hub.example",
                device_id="dev-1",
                hostname="gate",
                agent_env=self.agent_env,
            ),
            locks=self.locks,
            metrics=self.metrics,
            clock=self.clock,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def deploy(self, version: int = 1, **modules: JsonObject) -> None:
        self.reconciler.deploy(parse(desired(version, **modules), {"docker", "process"}, None))

    async def run(self) -> Pass:
        return await self.reconciler.run(may_disown=True)

    async def settle(self) -> Pass:
        """Make passes until nothing is being done."""
        while True:
            before = self.changes
            made = await self.run()
            if made.settled and not self.reconciler._doing:
                return made
            await until(lambda: self.changes > before)  # noqa: B023 - awaited in the loop

    async def go_on_until(self, condition: Callable[[], object]) -> Pass:
        """Make passes until something has come about, whatever is still being done."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                made = await self.run()
                if condition():
                    return made
                await asyncio.sleep(0.005)
