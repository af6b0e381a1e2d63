"""The port of a module runtime: the agent decides, a runtime does (edge.md 3.2, 3.5).

A runtime knows nothing of deployments, restarts or the hub. It keeps no state that it could not
read back from what runs: after a kill -9 of the daemon `modules` tells the truth.
"""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import msgspec

JsonObject: TypeAlias = dict[str, Any]

WORKLOAD_URI: Final = "IOTEDGE_WORKLOADURI"
"""The variable that tells a module where its workload API is (edge.md 3.4)."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


class Status(enum.StrEnum):
    """What a runtime says of a module (edge.md 3.2)."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    DEAD = "dead"


class PullPolicy(enum.StrEnum):
    """When an image is fetched.

    `on-create` asks the registry whenever a module is made, and makes do with the image that is
    here where the registry gives none. `if-not-present` asks nobody if an image is here, and
    `never` nobody at all.
    """

    ON_CREATE = "on-create"
    IF_NOT_PRESENT = "if-not-present"
    NEVER = "never"


class RegistryLogin(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials of a registry."""

    address: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"RegistryLogin(address={self.address!r}, username={self.username!r}, password=***)"


class ModuleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A module as it is to be made.

    Attributes:
        name: what it is called on the device: `edgeHub`, `temperature`.
        module_id: the ID of its identity: `$edgeHub`, `temperature`.
        settings: the deployment's `settings`, with `createOptions` put together and decoded as
            `create_options`, so without them; a runtime checks what it needs (`image`, `command`).
        create_options: decoded; `{}` where there are none.
        env: all of the environment, injected and deployed, last word spoken, but for
            `IOTEDGE_WORKLOADURI`, which the runtime adds where it is not there.
        workload_socket: path of its workload socket on this device, which the runtime lets it
            reach; `None` where it has none of its own.
        device_names: host names that lead to this device itself, wherever the module runs.
        pull_policy: of its image.
        login: for its registry; `None` for none.
    """

    name: str
    module_id: str
    settings: JsonObject
    create_options: JsonObject = {}
    env: dict[str, str] = {}
    workload_socket: Path | None = None
    device_names: tuple[str, ...] = ()
    pull_policy: PullPolicy = PullPolicy.ON_CREATE
    login: RegistryLogin | None = None

    def __repr__(self) -> str:
        return f"ModuleSpec(name={self.name!r}, module_id={self.module_id!r})"


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """A module as it is found.

    Attributes:
        name: see `ModuleSpec`.
        status: what it does.
        description: in the runtime's words, for people.
        exit_code: of its last run; 0 before it ended.
        started_at: of its last run.
        exited_at: of its last run.
        settings: what it was made with, for reported properties: `image`, `imageHash`, or
            `command`. For people's tools the edge hub has its `ports`, by protocol; null is closed.
        fingerprint: tells whether a spec is what it was made with, as `Engine.fingerprint` does.
    """

    name: str
    status: Status
    description: str = ""
    exit_code: int = 0
    started_at: datetime | None = None
    exited_at: datetime | None = None
    settings: JsonObject = {}
    fingerprint: str = ""


class LogRange(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines of a log.

    Attributes:
        follow: go on with lines as they come.
        tail: the last so many; `None` for all.
        since: not before.
        until: not after.
        timestamps: each line begins with its time, RFC 3339, and a space.
    """

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    timestamps: bool = False


class LogChunk(msgspec.Struct, frozen=True):
    """Some bytes of a log.

    Attributes:
        stream: 1 for standard output, 2 for standard error.
        data: whole lines or parts of them.
    """

    stream: int
    data: bytes


class ImageUse(msgspec.Struct, frozen=True, kw_only=True):
    """Images of a runtime, by their IDs.

    Attributes:
        ours: that modules are made of, are about to be, or were since this process began.
        busy: that anything at all is made of, or is about to be.
    """

    ours: frozenset[str]
    busy: frozenset[str]


class EngineError(Exception):
    """A runtime could not do what it was asked for.

    Attributes:
        status: as an HTTP status: 404 no such module or image, 409 in the way, 400 a specification
            that it cannot take, 500 anything else, 503 the runtime itself is out of reach.
    """

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


def check_name(name: str) -> None:
    """Refuse a module name that is none, so that it leads nowhere as a path (edge.md 5.1).

    Raises:
        EngineError: 400.
    """
    if not _NAME.fullmatch(name):
        raise EngineError(
            f"{name!r} is no module name: letters, digits, '_' and '-', at most 128", 400
        )


class Engine(Protocol):
    """Runs modules of one `type`.

    Every method raises `EngineError`. Calls for different modules may overlap; for one module the
    agent makes one at a time.
    """

    @property
    def type(self) -> str:
        """The `type` of modules in deployments: `docker`, `process`."""

    def fingerprint(self, spec: ModuleSpec) -> str:
        """Return a text that differs when a module made of the spec would differ."""

    async def start_up(self) -> None:
        """Get ready: see that the runtime answers and its network exists."""

    async def close(self) -> None:
        """Let go of what the port holds; modules go on as they are."""

    async def modules(self) -> list[Module]:
        """Return all modules of this runtime that are ours, in no order."""

    async def prepare(self, spec: ModuleSpec) -> None:
        """Fetch what `create` needs, so that a module stands still for a short time only."""

    async def create(self, spec: ModuleSpec) -> None:
        """Make a module that does not run yet."""

    async def start(self, name: str) -> None:
        """Start it; nothing if it runs."""

    async def stop(self, name: str, patience_s: float) -> None:
        """Ask it to end, and end it after the patience; nothing if it does not run."""

    async def remove(self, name: str) -> None:
        """Remove it, running or not; nothing if there is none."""

    async def processes(self, name: str) -> frozenset[int]:
        """Return the process IDs of a running module, as this process sees them."""

    def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what it has written."""

    async def inspect(self, name: str) -> JsonObject:
        """Return all that the runtime knows of a module, in its own words; may hold secrets."""

    async def usage(self) -> list[JsonObject]:
        """Return what running modules use, in the form of the Docker Engine's statistics.

        Each has at least `name`, `memory_stats.usage` (bytes), `cpu_stats.cpu_usage.total_usage`
        (nanoseconds) and `pids_stats.current` (edge.md 3.2, SystemResources).
        """

    async def facts(self) -> JsonObject:
        """Return what reported properties and support bundles say of the runtime: `version`, …."""


@runtime_checkable
class HasNetworks(Protocol):
    """A runtime whose modules have networks of their own."""

    async def networks(self) -> dict[str, JsonObject]:
        """Return all it knows of them, by name, in its own words.

        Raises:
            EngineError: it does not answer.
        """


@runtime_checkable
class KeepsImages(Protocol):
    """A runtime that keeps what it has fetched, until it is told to remove it (edge.md 3.5).

    Both methods raise `EngineError`.
    """

    async def image_use(self) -> ImageUse:
        """Return which images are in use."""

    async def remove_image(self, image: str) -> bool:
        """Remove an image, by its ID, unless something uses it or it has other owners.

        Returns:
            whether it is gone.
        """
