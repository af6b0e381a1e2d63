"""All modules of the device, whichever runtime they are of, the built-in ones too."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

import structlog

from muster.clock import format_time
from muster.edge.engine.base import EngineError, HasNetworks, Status
from muster.edge.identity import AGENT, HUB, container_name
from muster.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from muster.edge.engine.base import Engine, LogChunk, LogRange, Module
    from muster.edge.engine.module_locks import ModuleLocks

JsonObject: TypeAlias = dict[str, Any]
STOP_S: Final = 10.0
"""A module's time to end by itself, as `docker stop` has it."""
BUILT_IN: Final = (container_name(AGENT), container_name(HUB))
_log = structlog.get_logger(__name__)


class BuiltInModules(Protocol):
    """Agent and edge hub, which are parts of the daemon."""

    def modules(self) -> Sequence[Module]:
        """Return how they stand."""

    async def restart_hub(self) -> None:
        """Restart the edge hub."""

    def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what the daemon has logged."""


@final
class Modules:
    """The modules.

    Args:
        engines: the runtimes.
        built_in: what has no runtime.
        locks: of modules, which the agent holds, too.
    """

    def __init__(
        self, engines: Sequence[Engine], built_in: BuiltInModules, locks: ModuleLocks
    ) -> None:
        self._engines = engines
        self._built_in = built_in
        self._locks = locks

    async def usage(self) -> list[JsonObject]:
        """Return what running modules use, as `Engine.usage` has it, of runtimes that answer."""
        found: list[JsonObject] = []
        for engine in self._engines:
            with contextlib.suppress(EngineError):
                found += await engine.usage()
        return found

    async def details(self) -> list[JsonObject]:
        """Return all of them as `ModuleDetails` (edge.md 3.2), by name.

        A runtime that is out of reach hides no modules of others.

        Raises:
            EngineError: no runtime answers.
        """
        found = [_details("docker", module) for module in self._built_in.modules()]
        failure: EngineError | None = None
        for engine in self._engines:
            try:
                found += [_details(engine.type, module) for module in await engine.modules()]
            except EngineError as error:
                failure = error
                _log.warning("modules cannot be listed", runtime=engine.type, reason=str(error))
        if failure is not None and len(self._engines) == 1:
            raise failure
        return sorted(found, key=lambda each: str(each["name"]))

    async def detail(self, name: str) -> JsonObject:
        """Return one of them.

        Raises:
            NotFoundError: there is none of that name.
            EngineError: its runtime is out of reach.
        """
        for module in await self.details():
            if module["name"] == name:
                return module
        raise _unknown(name)

    async def start(self, name: str) -> None:
        """Start a module.

        Raises:
            NotFoundError, ConflictError, EngineError: as `restart`.
        """
        async with self._locks.hold(name):
            await (await self._engine(name)).start(name)

    async def stop(self, name: str) -> None:
        """Stop a module. The agent starts it again where its deployment says so.

        Raises:
            NotFoundError, ConflictError, EngineError: as `restart`.
        """
        async with self._locks.hold(name):
            await (await self._engine(name)).stop(name, STOP_S)

    async def restart(self, name: str) -> None:
        """Stop and start a module.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is the agent, which is the daemon itself.
            EngineError: its runtime could not.
        """
        if name == container_name(HUB):
            await self._built_in.restart_hub()
            return
        async with self._locks.hold(name):
            engine = await self._engine(name)
            await engine.stop(name, STOP_S)
            await engine.start(name)

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what a module has written; those that are built in write the daemon's log.

        Raises:
            NotFoundError: there is none of that name.
            EngineError: its runtime could not.
        """
        if name in BUILT_IN:
            return self._built_in.logs(name, wanted)
        return (await self._engine(name)).logs(name, wanted)

    async def runtimes(self) -> JsonObject:
        """Return what each runtime says of itself, by its `type`; what keeps it from that, else."""
        found: JsonObject = {}
        for engine in self._engines:
            try:
                found[engine.type] = await engine.facts()
            except EngineError as error:
                found[engine.type] = {"error": str(error)}
        return found

    async def networks(self) -> JsonObject:
        """Return what runtimes that answer know of networks, by their names."""
        found: JsonObject = {}
        for engine in self._engines:
            if isinstance(engine, HasNetworks):
                with contextlib.suppress(EngineError):
                    found.update(await engine.networks())
        return found

    async def engine_of(self, name: str) -> Engine | None:
        """Return the runtime of a module, `None` for one that is built in.

        Raises:
            NotFoundError: there is none of that name.
            EngineError: its runtime is out of reach.
        """
        return None if name in BUILT_IN else await self._engine(name)

    async def _engine(self, name: str) -> Engine:
        if name in BUILT_IN:
            raise ConflictError(f"{name} is part of the daemon: use `iotedge system restart`")
        failure: EngineError | None = None
        for engine in self._engines:
            try:
                if any(module.name == name for module in await engine.modules()):
                    return engine
            except EngineError as error:
                failure = error
        raise failure or _unknown(name)


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"there is no module {name[:128]!a}")


def _details(runtime: str, module: Module) -> JsonObject:
    status: JsonObject = {
        "runtimeStatus": {"status": module.status.value, "description": module.description}
    }
    if module.started_at is not None:
        status["startTime"] = format_time(module.started_at)
    if module.exited_at is not None and module.status is not Status.RUNNING:
        status["exitStatus"] = {
            "exitTime": format_time(module.exited_at),
            "statusCode": str(module.exit_code),
        }
    settings = {
        key: module.settings[key]
        for key in ("image", "imageHash", "command", "ports")
        if key in module.settings
    }
    return {
        "id": "id",
        "name": module.name,
        "type": runtime,
        "config": {"settings": settings, "env": []},
        "status": status,
    }
