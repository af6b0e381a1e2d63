"""A deployment as the agent understands it, and what it says of one (edge.md 5.1, 5.2)."""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import msgspec

from muster.edge.engine.base import PullPolicy, RegistryLogin

JsonObject: TypeAlias = dict[str, Any]

LAST_IN_ORDER: Final = 2**32 - 1
"""Startup order of a module that names none."""


class RestartPolicy(enum.StrEnum):
    """When a module that does not run is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ON_UNHEALTHY = "on-unhealthy"
    ALWAYS = "always"


class DesiredStatus(enum.StrEnum):
    """What a module should do."""

    RUNNING = "running"
    STOPPED = "stopped"


class Code(enum.IntEnum):
    """`code` of `lastDesiredStatus`."""

    OK = 200
    FORMAT = 400
    UNKNOWN = 406
    SCHEMA_VERSION = 412
    EMPTY = 417
    FAILED = 500


class DeploymentStatus(msgspec.Struct, frozen=True):
    """What came of a deployment.

    Attributes:
        code: for programs.
        description: for people; empty where nothing is wrong.
    """

    code: Code
    description: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What came of desired properties.

    Attributes:
        version: their `$version`.
        status: see there.
    """

    version: int
    status: DeploymentStatus


class DeploymentError(Exception):
    """Desired properties that are no deployment.

    Attributes:
        status: what is reported of them.
    """

    def __init__(self, code: Code, description: str) -> None:
        super().__init__(description)
        self.status = DeploymentStatus(code, description)


class WantedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module of a deployment.

    Attributes:
        name: what it is called on the device; its identity has the same ID, system modules aside.
        runtime: `type`: which engine runs it.
        status: whether it should run.
        restart_policy: see `RestartPolicy`.
        order: `startupOrder`; smaller ones start before it.
        pull_policy: of its image.
        version: as the deployment says it, for people; may be empty.
        env: as the deployment says it, in text.
        settings: without `createOptions`; an `image` has a tag.
        create_options: put together and decoded.
    """

    name: str
    runtime: str
    status: DesiredStatus = DesiredStatus.RUNNING
    restart_policy: RestartPolicy = RestartPolicy.ON_UNHEALTHY
    order: int = LAST_IN_ORDER
    pull_policy: PullPolicy = PullPolicy.ON_CREATE
    version: str = ""
    env: dict[str, str] = {}
    settings: JsonObject = {}
    create_options: JsonObject = {}

    def __repr__(self) -> str:
        return f"WantedModule(name={self.name!r}, runtime={self.runtime!r}, status={self.status!r})"


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`runtime` of a deployment.

    Attributes:
        type: of it.
        min_docker_version: accepted for deployments of the official runtime; not checked.
        logging_options: likewise, JSON in text.
        registries: credentials by the ID they have in the deployment.
    """

    type: str = "docker"
    min_docker_version: str = ""
    logging_options: str = ""
    registries: dict[str, RegistryLogin] = {}


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What should run on the device.

    Attributes:
        version: `$version` of the desired properties it came from.
        runtime: see `RuntimeSettings`.
        agent: what it says of `edgeAgent`, which is this process; `None` for nothing.
        hub: likewise of `edgeHub`.
        modules: all others by name.
    """

    version: int
    runtime: RuntimeSettings
    agent: WantedModule | None
    hub: WantedModule | None
    modules: dict[str, WantedModule]
