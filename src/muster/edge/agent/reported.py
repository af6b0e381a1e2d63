"""What the agent reports (edge.md 5.2), as a document; only its differences are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from muster.clock import format_time
from muster.edge.agent import create_options
from muster.edge.agent.deployment import (
    LAST_IN_ORDER,
    Code,
    Deployment,
    DeploymentStatus,
    Judgement,
    RuntimeSettings,
    WantedModule,
)
from muster.edge.agent.restarts import Restarts, RuntimeStatus
from muster.edge.engine.base import Module
from muster.edge.identity import AGENT, HUB, container_name

JsonObject: TypeAlias = dict[str, Any]

SHUT_DOWN: Final = DeploymentStatus(Code.UNKNOWN, "Agent is not running")

_LONGEST: Final = 1000
"""Characters; a twin takes strings of 4096 bytes."""
_NEVER: Final = "0001-01-01T00:00:00"
_CODE: Final = "lastDesiredStatus"
_SYSTEM: Final = "systemModules"
_MODULES: Final = "modules"
_STATUS: Final = "runtimeStatus"
# What the agent, which is always there, does not say of itself, and what the hub does not.
_NOT_OF_AGENT: Final = frozenset(
    {"version", "status", "restartPolicy", "restartCount", "lastRestartTimeUtc"}
)
_NOT_OF_HUB: Final = frozenset({"version"})


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What the device is.

    Attributes:
        os: `linux`, `windows`.
        architecture: as the machine says it: `x86_64`, `aarch64`.
        version: of this runtime.
    """

    os: str
    architecture: str
    version: str


class ReportedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module of the deployment that is there.

    Attributes:
        wanted: what the deployment says of it.
        module: as it is found.
        status: what it is said to do.
        restarts: so far.
    """

    wanted: WantedModule
    module: Module
    status: RuntimeStatus
    restarts: Restarts = Restarts()


def document(
    judgement: Judgement,
    deployment: Deployment | None,
    modules: Iterable[ReportedModule],
    system: Mapping[str, Module],
    platform: Platform,
) -> JsonObject:
    """Return all reported properties.

    Args:
        judgement: what came of the desired properties.
        deployment: in force; `None` while none is known.
        modules: those of the deployment that are there.
        system: `edgeAgent` and `edgeHub` by name.
        platform: see there.
    """
    return {
        "schemaVersion": "1.0",
        "version": {"version": platform.version, "build": "", "commit": ""},
        "lastDesiredVersion": judgement.version,
        _CODE: _code(judgement.status),
        "runtime": _runtime(deployment.runtime if deployment else None, platform),
        _SYSTEM: {
            name: _system_module(name, deployment, module) for name, module in system.items()
        },
        _MODULES: {one.wanted.name: _module(one) for one in modules},
    }


def farewell(last: JsonObject) -> JsonObject:
    """Return what is reported when the agent ends, given what it would report now."""
    parting = {**last, _CODE: _code(SHUT_DOWN)}
    for section in (_SYSTEM, _MODULES):
        parting[section] = {
            name: {**fields, _STATUS: RuntimeStatus.UNKNOWN.value}
            for name, fields in last[section].items()
        }
    return parting


def only_status(last: JsonObject) -> JsonObject:
    """Return the least there is to say, for a hub that takes no more."""
    return {name: last[name] for name in ("schemaVersion", "lastDesiredVersion", _CODE)}


def _code(status: DeploymentStatus) -> JsonObject:
    return {"code": status.code.value, "description": _text(status.description)}


def _runtime(settings: RuntimeSettings | None, platform: Platform) -> JsonObject:
    described = {
        "os": platform.os,
        "architecture": platform.architecture,
        "version": platform.version,
    }
    if settings is None:
        return {"type": "unknown", "platform": described}
    return {
        "type": settings.type,
        "settings": {
            "minDockerVersion": settings.min_docker_version,
            "loggingOptions": settings.logging_options,
            # The official agent reports them as they were deployed, and so it is expected.
            "registryCredentials": {
                name: {
                    "username": login.username,
                    "password": login.password,
                    "address": login.address,
                }
                for name, login in settings.registries.items()
            },
        },
        "platform": described,
    }


def _system_module(name: str, deployment: Deployment | None, module: Module) -> JsonObject:
    wanted = None
    if deployment is not None:
        wanted = deployment.agent if name == container_name(AGENT) else deployment.hub
    if wanted is None:
        wanted = WantedModule(name=name, runtime="docker", settings={"image": ""})
    fields = _module(
        ReportedModule(wanted=wanted, module=module, status=RuntimeStatus(module.status.value))
    )
    # No image is behind it; what the deployment names is taken note of.
    fields["settings"] = {
        "image": wanted.settings.get("image", ""),
        "imageHash": "",
        **create_options.split(wanted.create_options),
    }
    if name == container_name(AGENT):
        fields.pop("startupOrder", None)
        return {field: value for field, value in fields.items() if field not in _NOT_OF_AGENT}
    assert name == container_name(HUB)  # noqa: S101 - there is no third one
    return {field: value for field, value in fields.items() if field not in _NOT_OF_HUB}


def _module(one: ReportedModule) -> JsonObject:
    wanted, module = one.wanted, one.module
    fields: JsonObject = {
        "type": wanted.runtime,
        "version": wanted.version,
        "status": wanted.status.value,
        "restartPolicy": wanted.restart_policy.value,
        "imagePullPolicy": wanted.pull_policy.value,
        "env": {name: {"value": value} for name, value in wanted.env.items()},
        "settings": {**module.settings, **create_options.split(wanted.create_options)},
        "exitCode": module.exit_code,
        "statusDescription": _text(module.description),
        "lastStartTimeUtc": _time(module.started_at),
        "lastExitTimeUtc": _time(module.exited_at),
        "restartCount": one.restarts.count,
        "lastRestartTimeUtc": _time(one.restarts.last_at),
        _STATUS: one.status.value,
    }
    if wanted.order != LAST_IN_ORDER:
        fields["startupOrder"] = wanted.order
    return fields


def _text(words: str) -> str:
    """Return words as a twin takes them: not too long, and nothing that is no Unicode."""
    return words[:_LONGEST].encode(errors="replace").decode()


def _time(moment: datetime | None) -> str:
    return _NEVER if moment is None else format_time(moment)
