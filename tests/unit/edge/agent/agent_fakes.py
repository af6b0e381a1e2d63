"""A runtime, a hub and a clock in memory.

They stand in for the real ones because these tests hold time still, order failures at one act, and
look at the moment between two acts: no real runtime or hub can be stopped there. The same agent
runs against real runtimes and a real hub in `tests/conformance/test_python_edge_agent.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from muster.clock import ManualClock
from muster.edge.engine.base import (
    EngineError,
    JsonObject,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    Status,
)
from muster.edge.identity import ModuleIdentity
from muster.edge.upstream.base import Link, Message, NoLinkError, Owner

PATIENCE_S = 30


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that is bound to come."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it may be anything
            await asyncio.sleep(0.005)


class MemoryEngine:
    """Modules that are entries in a dictionary.

    Attributes:
        failing: what the acts named here raise, by `act name`, for example `prepare a`.
        hanging: acts that do not come to an end before they are taken out again.
        calls: all acts, in order.
        dies_before: number of the call that never comes to anything, nor any after it.
    """

    def __init__(self, clock: ManualClock, kind: str = "docker") -> None:
        self.type = kind
        self.clock = clock
        self.present: dict[str, Module] = {}
        self.specs: dict[str, ModuleSpec] = {}
        self.failing: dict[str, Exception] = {}
        self.hanging: set[str] = set()
        self.calls: list[str] = []
        self.lines: dict[str, list[LogChunk]] = {}
        self.wanted: dict[str, LogRange] = {}
        self.away: EngineError | None = None
        self.dies_before: int | None = None

    def fingerprint(self, spec: ModuleSpec) -> str:
        if f"fingerprint {spec.name}" in self.failing:
            raise self.failing[f"fingerprint {spec.name}"]
        return msgspec.json.encode([spec.settings, spec.create_options, spec.env]).decode()

    async def start_up(self) -> None: ...

    async def close(self) -> None: ...

    async def modules(self) -> list[Module]:
        if self.away is not None:
            raise self.away
        return list(self.present.values())

    async def _act(self, act: str, name: str) -> None:
        what = f"{act} {name}"
        if self.dies_before is not None and len(self.calls) >= self.dies_before:
            await asyncio.Event().wait()
        self.calls.append(what)
        while what in self.hanging:  # noqa: ASYNC110 - tests take it out
            await asyncio.sleep(0.005)
        if what in self.failing:
            raise self.failing[what]

    async def prepare(self, spec: ModuleSpec) -> None:
        await self._act("prepare", spec.name)

    async def create(self, spec: ModuleSpec) -> None:
        await self._act("create", spec.name)
        if spec.name in self.present:
            raise EngineError(f"there is a module {spec.name}", 409)
        self.specs[spec.name] = spec
        self.present[spec.name] = Module(
            name=spec.name,
            status=Status.STOPPED,
            settings={"image": spec.settings.get("image", ""), "imageHash": "sha256:0"},
            fingerprint=self.fingerprint(spec),
        )

    async def start(self, name: str) -> None:
        await self._act("start", name)
        self.change(name, status=Status.RUNNING, started_at=self.clock.now(), exit_code=0)

    async def stop(self, name: str, patience_s: float) -> None:
        await self._act("stop", name)
        if name in self.present and self.present[name].status is Status.RUNNING:
            self.fall(name, 0)

    async def remove(self, name: str) -> None:
        await self._act("remove", name)
        self.present.pop(name, None)

    async def processes(self, name: str) -> frozenset[int]:
        return frozenset()

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        self.wanted[name] = wanted
        if f"logs {name}" in self.failing:
            raise self.failing[f"logs {name}"]
        for chunk in self.lines.get(name, ()):
            yield chunk

    async def inspect(self, name: str) -> JsonObject:
        return {}

    async def usage(self) -> list[JsonObject]:
        return []

    async def facts(self) -> JsonObject:
        return {}

    # What happens to modules without anybody asking for it.

    def change(self, name: str, **changes: Any) -> None:
        self.present[name] = msgspec.structs.replace(self.present[name], **changes)

    def fall(self, name: str, code: int) -> None:
        """Have a module end."""
        status = Status.STOPPED if code == 0 else Status.FAILED
        self.change(name, status=status, exit_code=code, exited_at=self.clock.now())

    def reboot(self) -> None:
        """Have the device lose power and come back."""
        for name, module in self.present.items():
            if module.status is Status.RUNNING:
                self.fall(name, 137)

    def running(self) -> set[str]:
        return {name for name, one in self.present.items() if one.status is Status.RUNNING}


class MemoryIdentities:
    """Identities of a hub that can be out of reach."""

    def __init__(self) -> None:
        self.there: dict[str, ModuleIdentity] = {}
        self.cached: dict[str, ModuleIdentity] = {}
        self.away = False
        self.calls: list[str] = []
        self.generations: Counter[str] = Counter()

    async def all(self) -> list[ModuleIdentity]:
        if not self.away:
            self.cached = dict(self.there)
        return list(self.cached.values())

    async def ensure(self, module_id: str) -> ModuleIdentity:
        self.calls.append(f"ensure {module_id}")
        if self.away:
            if module_id not in self.cached:
                raise NoLinkError("no link")
            return self.cached[module_id]
        if module_id not in self.there:
            self.generations[module_id] += 1
            self.add(module_id, f"g{self.generations[module_id]}")
        self.cached[module_id] = self.there[module_id]
        return self.there[module_id]

    async def remove(self, module_id: str) -> None:
        self.calls.append(f"remove {module_id}")
        if self.away:
            raise NoLinkError("no link")
        self.there.pop(module_id, None)
        self.cached.pop(module_id, None)

    def add(self, module_id: str, generation_id: str, managed_by: str = "IotEdge") -> None:
        self.there[module_id] = ModuleIdentity(
            module_id=module_id, generation_id=generation_id, key=b"k", managed_by=managed_by
        )


class MemoryWorkload:
    """Sockets that are names in a set."""

    def __init__(self) -> None:
        self.listening: set[str] = set()

    def socket(self, name: str) -> Path:
        return Path("/run/muster") / name / "workload.sock"

    async def open(self, name: str, module_id: str) -> None:
        self.listening.add(name)

    async def close(self, name: str) -> None:
        self.listening.discard(name)


class MemoryHub:
    """An edge hub that runs, or says why not."""

    def __init__(self) -> None:
        self.restarts = 0
        self.env: dict[str, str] = {}
        self.problem: str | None = None

    def module(self) -> Module:
        if self.problem is not None:
            return Module(name="edgeHub", status=Status.FAILED, description=self.problem)
        return Module(name="edgeHub", status=Status.RUNNING, description="running")

    async def use(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)

    async def restart(self) -> None:
        self.restarts += 1


class MemoryLogs:
    """What the agent has written."""

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        yield LogChunk(1, f"<6> {name} speaks\n".encode())


class MemoryBundles:
    """Support bundles of a few bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[tuple[datetime | None, datetime | None, bool]] = []

    async def make(
        self, since: datetime | None, until: datetime | None, *, runtime_only: bool
    ) -> Path:
        self.asked.append((since, until, runtime_only))
        path = self.directory / "bundle.zip"
        path.write_bytes(b"PK" + bytes(300_000))
        return path


class MemorySession:
    """A hub with one twin."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.link = Link.UNREACHABLE
        self.desired: JsonObject = {"$version": 1}
        self.reported: JsonObject = {"$version": 1}
        self.reports: list[JsonObject] = []
        self.failing: list[Exception] = []
        self.opened = False
        self.closed = False
        self.reads = 0

    def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.closed = True

    def connect(self) -> None:
        self.link = Link.CONNECTED
        self.owner.link_changed(Link.CONNECTED, "")

    def disconnect(self) -> None:
        self.link = Link.UNREACHABLE
        self.owner.link_changed(Link.UNREACHABLE, "cut")

    async def twin(self) -> JsonObject:
        self.reads += 1
        if self.link is not Link.CONNECTED:
            raise NoLinkError("no link")
        return {"desired": dict(self.desired), "reported": dict(self.reported)}

    async def report(self, patch: JsonObject) -> None:
        await asyncio.sleep(0)
        if self.link is not Link.CONNECTED:
            raise NoLinkError("no link")
        if self.failing:
            raise self.failing.pop(0)
        self.reports.append(patch)
        self.reported = merged(self.reported, patch)

    async def send(self, message: Message) -> None: ...


def merged(document: JsonObject, patch: JsonObject) -> JsonObject:
    """Apply a merge patch (RFC 7396), written down once more so that it is not our own judge."""
    result = dict(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            old = result.get(name)
            result[name] = merged(old if isinstance(old, dict) else {}, value)
        else:
            result[name] = value
    return result
