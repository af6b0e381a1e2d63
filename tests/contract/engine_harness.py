"""What the contract of module runtimes needs of each of them: one harness a runtime."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from muster.edge.engine.base import (
    Engine,
    LogRange,
    Module,
    ModuleSpec,
    PullPolicy,
    Status,
)
from muster.edge.engine.docker import DockerEngine
from muster.edge.engine.process.engine import ProcessEngine
from muster.edge.settings import ContainerEngine
from support.run import Run
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.docker import DockerHost

PATIENCE_S = 60.0


class Harness(Protocol):
    """A runtime under test."""

    engine: Engine

    def spec(self, name: str, script: str, **fields: Any) -> ModuleSpec:
        """Return a module that runs a Python script."""

    def missing(self, name: str) -> ModuleSpec:
        """Return a module of something that is not on this device."""

    async def begin_anew(self) -> None:
        """Have a new port, as after a kill -9 of the daemon: the old one ends unasked."""

    async def end(self) -> None:
        """Remove what the test made."""


class DockerHarness:
    """Containers of the base image."""

    def __init__(self, host: DockerHost, image: str) -> None:
        self._host = host
        self._image = image
        self._engines: list[DockerEngine] = []
        self.engine: Engine = self._new()

    def _new(self) -> DockerEngine:
        engine = DockerEngine(ContainerEngine(uri=self._host.uri))
        self._engines.append(engine)
        return engine

    def spec(self, name: str, script: str, **fields: Any) -> ModuleSpec:
        options = {"Cmd": ["python3", "-u", "-c", script], **fields.pop("create_options", {})}
        return ModuleSpec(
            name=name,
            module_id=name,
            settings={"image": self._image},
            create_options=options,
            pull_policy=PullPolicy.IF_NOT_PRESENT,
            **fields,
        )

    def missing(self, name: str) -> ModuleSpec:
        spec = self.spec(name, "")
        return msgspec.structs.replace(spec, settings={"image": "not-on-this-device:1"})

    async def begin_anew(self) -> None:
        self.engine = self._new()
        await self.engine.start_up()

    async def end(self) -> None:
        for engine in self._engines:
            await engine.close()


class ProcessHarness:
    """Programs of this machine, run by the Python of the tests."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._engines: list[ProcessEngine] = []
        self.engine: Engine = self._new()

    def _new(self) -> ProcessEngine:
        engine = ProcessEngine(self._home)
        self._engines.append(engine)
        return engine

    def spec(self, name: str, script: str, **fields: Any) -> ModuleSpec:
        settings = {"command": [sys.executable, "-u", "-c", script], **fields.pop("settings", {})}
        return ModuleSpec(name=name, module_id=name, settings=settings, **fields)

    def missing(self, name: str) -> ModuleSpec:
        settings = {"command": "not-on-this-device --at-all"}
        return ModuleSpec(name=name, module_id=name, settings=settings)

    async def begin_anew(self) -> None:
        self.engine = self._new()
        await self.engine.start_up()

    async def end(self) -> None:
        for module in await self.engine.modules():
            await self.engine.remove(module.name)
        for engine in self._engines:
            await engine.close()


# What the tests do with any runtime.


async def find(engine: Engine, name: str) -> Module | None:
    """Return a module by its name."""
    return next((module for module in await engine.modules() if module.name == name), None)


async def wait_for(engine: Engine, name: str, wanted: Callable[[Module], bool] | Status) -> Module:
    """Wait until a module is as it should be, and return it."""
    end = CLOCK.monotonic() + PATIENCE_S
    while True:
        module = await find(engine, name)
        if module is not None and (
            module.status is wanted if isinstance(wanted, Status) else wanted(module)
        ):
            return module
        assert CLOCK.monotonic() < end, f"{name} is {module}"
        await asyncio.sleep(0.05)


async def run_module(harness: Harness, spec: ModuleSpec) -> None:
    """Make and start a module."""
    await harness.engine.prepare(spec)
    await harness.engine.create(spec)
    await harness.engine.start(spec.name)


async def read_log(engine: Engine, name: str, stream: int | None = None, **wanted: Any) -> bytes:
    """Return what a module has written, to one stream or both."""
    data = b""
    async with aclosing(engine.logs(name, LogRange(**wanted))) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            if stream in (None, chunk.stream):
                data += chunk.data
    return data


async def wait_for_log(engine: Engine, name: str, wanted: bytes) -> bytes:
    """Wait until a module has written something, and return all that it has written."""
    end = CLOCK.monotonic() + PATIENCE_S
    while wanted not in (log := await read_log(engine, name)):
        assert CLOCK.monotonic() < end, f"{name} wrote {log!r}"
        await asyncio.sleep(0.05)
    return log


class WorkloadListener:
    """A socket as the workload API has one for each module. It tells who called and what was said.

    Use it as a context manager.
    """

    def __init__(self, name: str) -> None:
        self.path = Run.current().directory / f"w{Run.current().next_number()}" / f"{name}.sock"
        self.path.parent.mkdir(mode=0o755)
        self._server: asyncio.Server | None = None
        self._calls: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        self.path.chmod(0o666)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self._calls.put_nowait((struct.unpack("3i", credentials)[0], await reader.readline()))
        writer.close()

    async def called(self) -> tuple[int, bytes]:
        """Wait for a call; return the caller's process ID and what it said."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._calls.get()
