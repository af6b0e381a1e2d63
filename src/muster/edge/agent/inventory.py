"""What the engines of a device have, all of them asked at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from muster.edge.agent.constants import FIND_TIMEOUT_S
from muster.edge.agent.plan import Found
from muster.edge.engine.base import Engine, EngineError, LogChunk, LogRange, Module


class Inventory:
    """The modules of all engines.

    Attributes:
        engines: by the `type` that deployments name.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        self.engines: Final = {engine.type: engine for engine in engines}

    async def find(self) -> tuple[list[Found], dict[str, str]]:
        """Return all modules, and for each engine that does not tell, why, by its `type`."""

        async def ask(engine: Engine) -> list[Module]:
            async with asyncio.timeout(FIND_TIMEOUT_S):
                return await engine.modules()

        answers = await asyncio.gather(
            *(ask(engine) for engine in self.engines.values()), return_exceptions=True
        )
        found: list[Found] = []
        problems: dict[str, str] = {}
        for runtime, answer in zip(self.engines, answers, strict=True):
            if isinstance(answer, list):
                found += [Found(runtime=runtime, module=module) for module in answer]
            elif isinstance(answer, EngineError | OSError | TimeoutError):
                problems[runtime] = f"runtime {runtime}: {str(answer) or 'does not answer'}"
            else:
                raise answer
        return found, problems

    async def names(self) -> list[str]:
        """Return what modules the engines have."""
        found, _ = await self.find()
        return [one.module.name for one in found]

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what a module has written.

        Raises:
            LookupError: there is no such module.
        """
        return self.engines[(await self.the(name)).runtime].logs(name, wanted)

    async def the(self, name: str) -> Found:
        """Return a module.

        Raises:
            LookupError: there is no such module.
        """
        found, _ = await self.find()
        for one in found:
            if one.module.name == name:
                return one
        raise LookupError(f"there is no module {name}")
