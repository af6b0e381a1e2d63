"""The local APIs on real sockets, with runtimes that only say what they are told to say."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from muster.clock import ManualClock
from muster.edge.certificates.sealing import Sealer
from muster.edge.engine.base import (
    EngineError,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    Status,
)
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.identity import ModuleIdentity
from muster.edge.local_api.callers import Callers
from muster.edge.local_api.machine import Machine
from muster.edge.local_api.management import ManagementApi
from muster.edge.local_api.modules import Modules
from muster.edge.local_api.sockets import WorkloadSockets, application, serve
from muster.edge.local_api.workload import WorkloadApi
from muster.edge.settings import ManualProvisioning, Settings
from muster.ids import Randomness
from muster.net.listener import Listener
from unit.edge.certificates.conftest import authority, issuer

START = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
IDENTITY = ModuleIdentity(module_id="temperature", generation_id="g1", key=b"k" * 32)


class Runtime:
    """A runtime in name only: what modules do here nobody needs to run for."""

    type = "docker"

    def __init__(self) -> None:
        self.found: list[Module] = []
        self.running: dict[str, frozenset[int]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.failure: EngineError | None = None
        self.wanted: list[LogRange] = []
        self.lines: list[LogChunk] = []

    def fingerprint(self, spec: ModuleSpec) -> str:
        return spec.name

    async def start_up(self) -> None: ...

    async def close(self) -> None: ...

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def modules(self) -> list[Module]:
        self._fail()
        return self.found

    async def prepare(self, spec: ModuleSpec) -> None: ...

    async def create(self, spec: ModuleSpec) -> None: ...

    async def start(self, name: str) -> None:
        self.calls.append(("start", name))

    async def stop(self, name: str, patience_s: float) -> None:
        self.calls.append(("stop", name))

    async def remove(self, name: str) -> None: ...

    async def processes(self, name: str) -> frozenset[int]:
        self._fail()
        return self.running.get(name, frozenset())

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        self._fail()
        self.wanted.append(wanted)
        for line in self.lines:
            yield line

    async def inspect(self, name: str) -> dict[str, Any]:
        return {"Name": name}

    async def networks(self) -> dict[str, dict[str, Any]]:
        return {"plant": {"Name": "plant", "Labels": {"token": "x"}}}

    async def usage(self) -> list[dict[str, Any]]:
        return [{"name": "temperature"}]

    async def facts(self) -> dict[str, Any]:
        return {"version": "27.1"}


class BuiltIn:
    def __init__(self) -> None:
        self.restarts = 0

    def modules(self) -> Sequence[Module]:
        return [
            Module(name="edgeAgent", status=Status.RUNNING, started_at=START),
            Module(name="edgeHub", status=Status.RUNNING, started_at=START),
        ]

    async def restart_hub(self) -> None:
        self.restarts += 1

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        yield LogChunk(2, b"daemon\n")


class Identities:
    def __init__(self) -> None:
        self.found = {IDENTITY.module_id: IDENTITY}
        self.failure: Exception | None = None

    def known(self, module_id: str) -> ModuleIdentity | None:
        return self.found.get(module_id)

    async def all(self) -> list[ModuleIdentity]:
        if self.failure is not None:
            raise self.failure
        return list(self.found.values())

    async def ensure(self, module_id: str) -> ModuleIdentity:
        return self.found[module_id]

    async def remove(self, module_id: str) -> None:
        del self.found[module_id]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(path: Path, method: str, target: str, body: bytes | str | None = None) -> Answer:
    """Send one request over a socket, as plain bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    content = body.encode() if isinstance(body, str) else body or b""
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    if body is not None:
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n"
    writer.write(head.encode() + b"\r\n" + content)
    await writer.drain()
    async with asyncio.timeout(30):
        raw = await reader.read()
    writer.close()
    start, _, rest = raw.partition(b"\r\n\r\n")
    lines = start.decode().split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    if headers.get("transfer-encoding") == "chunked":
        rest = _unchunked(rest)
    return Answer(int(lines[0].split()[1]), headers, rest)


def _unchunked(raw: bytes) -> bytes:
    whole = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        if int(size, 16) == 0:
            return whole
        whole += raw[: int(size, 16)]
        raw = raw[int(size, 16) + 2 :]


@dataclass
class Apis:
    directory: Path
    clock: ManualClock
    runtime: Runtime = field(default_factory=Runtime)
    built_in: BuiltIn = field(default_factory=BuiltIn)
    identities: Identities = field(default_factory=Identities)
    locks: ModuleLocks = field(default_factory=ModuleLocks)
    reprovisions: int = 0
    bundles: list[tuple[Any, ...]] = field(default_factory=list)
    most: int = 5

    def __post_init__(self) -> None:
        self.runtime.running["temperature"] = frozenset([1, os.getpid()])
        self.settings = Settings(
            source=self.directory / "config.toml",
            hostname="gateway",
            provisioning=ManualProvisioning(hub_host="h", device_id="d1", key=b"k" * 16),
            additional_info={"site": "plant 7"},
        )
        callers = Callers([self.runtime])
        self.modules = Modules([self.runtime], self.built_in, self.locks)
        ca = authority(self.directory / "ca", self.clock)
        self.certificates = issuer(ca, self.clock)
        workload = WorkloadApi(
            callers,
            self.identities,
            self.certificates,
            Sealer(bytes(32), Randomness()),
            self.modules,
        )
        self.sockets = WorkloadSockets(
            self.directory / "mnt",
            application(workload.routes(), Randomness()),
            most=self.most,
            clock=self.clock,
        )
        self._management = ManagementApi(
            callers,
            self.modules,
            identities=self.identities,
            machine=Machine(self.settings, self.clock),
            bundles=self,
            reprovisions=self,
            clock=self.clock,
        )
        self.management = self.directory / "mgmt.sock"
        self._listener: Listener | None = None

    async def start(self) -> None:
        await self.sockets.start_up()
        await self.sockets.open("temperature", "temperature")
        self._listener = await serve(
            self.management,
            0o660,
            application(self._management.routes(), Randomness()),
            most=self.most,
            clock=self.clock,
        )

    async def stop(self) -> None:
        await self.sockets.shut_down()
        if self._listener is not None:
            await self._listener.close(0)

    async def make(self, since: Any, until: Any, *, runtime_only: bool) -> Path:
        self.bundles.append((since, until, runtime_only))
        path = self.directory / "bundle.zip"
        path.write_bytes(b"PK")
        return path

    async def reprovision(self) -> None:
        self.reprovisions += 1

    async def manage(self, method: str, target: str, body: str | None = None) -> Answer:
        return await ask(self.management, method, _versioned(target), body)

    async def workload(self, method: str, target: str, body: str | None = None) -> Answer:
        path = self.sockets.socket("temperature")
        return await ask(path, method, _versioned(target), body)


def _versioned(target: str) -> str:
    if "api-version" in target:
        return target
    return target + ("&" if "?" in target else "?") + "api-version=2022-08-03"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a directory with a short name: paths of sockets have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="edge-") as directory:
        yield Path(directory)


@pytest.fixture
async def apis(short_path: Path) -> AsyncIterator[Apis]:
    made = Apis(short_path, ManualClock(START.timestamp()))
    await made.start()
    yield made
    await made.stop()
