"""The module runtimes of this device: those that are there, and those that come later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.edge.engine import BUILT_IN
from muster.edge.engine.base import EngineError, Status
from muster.edge.local_api.sockets import path_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.edge.engine.base import Engine
    from muster.edge.settings import Settings

DOCKER: Final = "docker"
STOP_S: Final = 30.0
"""All modules' time to end by themselves when the daemon stops (edge.md 2.6)."""
_LOOK_S: Final = 10.0
_log = structlog.get_logger(__name__)


@final
class Runtimes:
    """Module runtimes.

    A container engine is made where there is one, also when it is installed later.

    Args:
        settings: of the device.
        appeared: called when another one can be had.
    """

    def __init__(self, settings: Settings, appeared: Callable[[], None]) -> None:
        self._settings = settings
        self._appeared = appeared
        self._waiting: list[Engine] = []
        self.engines: list[Engine] = []

    async def start_up(self) -> None:
        """Make those that can be had. One that does not answer yet is waited for by `watch`."""
        made = {engine.type for engine in self.engines}
        for kind, make in BUILT_IN.items():
            if kind not in made and (kind != DOCKER or await self._has_containers()):
                engine = make(self._settings)
                self.engines.append(engine)
                self._waiting.append(engine)
        await self._start_waiting()

    async def watch(self) -> None:
        """Look for runtimes that come later, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._start_waiting()
            if DOCKER not in {each.type for each in self.engines} and await self._has_containers():
                _log.info("a container engine has appeared")
                self._appeared()

    async def _start_waiting(self) -> None:
        # Each is started once: a start clears away what an earlier process left half-made.
        self._waiting = [engine for engine in self._waiting if not await _started(engine)]

    async def stop_modules(self) -> None:
        """Stop all modules."""
        await asyncio.gather(*(self._stop_all(engine) for engine in self.engines))

    async def remove_modules(self) -> bool:
        """Remove all modules; tell whether none is left."""
        gone = True
        for engine in self.engines:
            try:
                for module in await engine.modules():
                    await engine.remove(module.name)
            except EngineError as error:
                gone = False
                _log.error("modules of before remain", runtime=engine.type, reason=str(error))
        return gone

    async def close(self) -> None:
        """Let go of them; modules go on."""
        for engine in self.engines:
            await engine.close()

    async def _has_containers(self) -> bool:
        uri = self._settings.engine.uri
        return not uri.startswith("unix:") or await asyncio.to_thread(path_of(uri).exists)

    @staticmethod
    async def _stop_all(engine: Engine) -> None:
        async def stop(name: str) -> None:
            try:
                await engine.stop(name, STOP_S)
            except EngineError as error:
                _log.warning("a module was not stopped", module=name, reason=str(error))

        try:
            found = await engine.modules()
        except EngineError as error:
            _log.warning("modules were not stopped", runtime=engine.type, reason=str(error))
            return
        running = [module.name for module in found if module.status is Status.RUNNING]
        await asyncio.gather(*(stop(name) for name in running))


async def _started(engine: Engine) -> bool:
    try:
        await engine.start_up()
    except EngineError as error:
        _log.warning("runtime is not ready", runtime=engine.type, reason=str(error))
        return False
    return True
