"""Reads the desired properties of `$edgeAgent`, schema 1.0 and 1.1 (edge.md 5.1, 9.1).

Descriptions begin with the official agent's words, which tools show, and go on with what is wrong
and where.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final, TypeAlias, TypeVar

from muster.edge.agent import create_options, images
from muster.edge.agent.deployment import (
    LAST_IN_ORDER,
    Code,
    Deployment,
    DeploymentError,
    DesiredStatus,
    RestartPolicy,
    RuntimeSettings,
    WantedModule,
)
from muster.edge.agent.twin_copy import DesiredCopy
from muster.edge.engine.base import PullPolicy, RegistryLogin
from muster.edge.identity import AGENT, HUB, container_name
from muster.model.twin import JsonObject, without_service_members

_Choice = TypeVar("_Choice", RestartPolicy, DesiredStatus, PullPolicy)
_Path: TypeAlias = str

_EXPECTED: Final = (1, 1, 0)
_EMPTY: Final = (
    "This device has an empty configuration for the edge agent. Please set a deployment manifest."
)
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){1,3}").fullmatch
_MODULE_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}").fullmatch
_ENV_NAME: Final = re.compile(r"[^+#$\s.]+").fullmatch
_SYSTEM: Final = frozenset({container_name(AGENT), container_name(HUB)})
_DOCKER: Final = "docker"


def parse(
    desired: JsonObject, runtimes: Collection[str], parent_hostname: str | None
) -> Deployment:
    """Read desired properties.

    Args:
        desired: all of them, `$version` included.
        runtimes: the `type`s that there are, though a device may lack the engine of one.
        parent_hostname: see `images.normalized`.

    Raises:
        DeploymentError: 417 for none at all, 412 for another schema, 400 for anything else.
    """
    document = without_service_members(desired)
    if not document:
        raise DeploymentError(Code.EMPTY, _EMPTY)
    _check_schema_version(document)
    reader = _Reader(runtimes, parent_hostname)
    system = reader.object(document, "systemModules", "")
    return Deployment(
        version=DesiredCopy(desired).version,
        runtime=reader.runtime(document),
        agent=reader.system_module(system, container_name(AGENT)),
        hub=reader.system_module(system, container_name(HUB)),
        modules=reader.modules(document),
    )


def _check_schema_version(document: JsonObject) -> None:
    found = document.get("schemaVersion")
    if type(found) in {int, float}:
        found = str(found)
    if not isinstance(found, str):
        raise _bad("schemaVersion", "is missing" if found is None else "is not a string")
    if _VERSION(found) is None:
        raise DeploymentError(
            Code.SCHEMA_VERSION, f"Invalid desired properties schema version {found[:64]}"
        )
    # 1.1 is less than 1.1.0 where official software compares, and 1.1.1 more.
    version = tuple(int(part) for part in found.split("."))
    if version[0] != _EXPECTED[0] or version > _EXPECTED:
        raise DeploymentError(
            Code.SCHEMA_VERSION,
            f"The desired properties schema version {found} is not compatible with the expected "
            "version 1.1.0",
        )


def _bad(path: _Path, what: str) -> DeploymentError:
    return DeploymentError(Code.FORMAT, f"Agent configuration format is invalid. {path} {what}")


class _Reader:
    """Reads the parts of a deployment; each function names its place when something is wrong."""

    def __init__(self, runtimes: Collection[str], parent_hostname: str | None) -> None:
        self._runtimes = runtimes
        self._parent = parent_hostname

    def runtime(self, document: JsonObject) -> RuntimeSettings:
        found = self.object(document, "runtime", "")
        kind = self.text(found, "type", "runtime.")
        if kind != _DOCKER and kind not in self._runtimes:
            raise _bad("runtime.type", f"is {kind!r}; this device knows {self._known()}")
        settings = self.object(found, "settings", "runtime.", default={})
        path = "runtime.settings."
        registries = self.object(settings, "registryCredentials", path, default={})
        return RuntimeSettings(
            type=kind,
            min_docker_version=self.text(settings, "minDockerVersion", path, default=""),
            logging_options=self.text(settings, "loggingOptions", path, default=""),
            registries={
                name: self._login(registries, name, f"{path}registryCredentials.")
                for name in registries
            },
        )

    def _login(self, registries: JsonObject, name: str, path: _Path) -> RegistryLogin:
        found = self.object(registries, name, path)
        path = f"{path}{name}."
        values = {field: self.text(found, field, path) for field in ("address", "username")}
        password = self.text(found, "password", path)
        for field, value in (*values.items(), ("password", password)):
            if not value.strip():
                raise _bad(f"{path}{field}", "is empty")
        address = self._upstream(values["address"], f"{path}address")
        return RegistryLogin(address=address, username=values["username"], password=password)

    def _upstream(self, text: str, path: _Path) -> str:
        try:
            return images.with_upstream(text, self._parent)
        except ValueError as error:
            raise _bad(path, f"is not usable: {error}") from None

    def system_module(self, system: JsonObject, name: str) -> WantedModule | None:
        if name not in system:
            return None
        path = f"systemModules.{name}"
        found = self.object(system, name, "systemModules.")
        if name == container_name(AGENT):
            # The agent runs whatever a deployment says, and before everything else.
            return self._module(
                name,
                {**found, "status": DesiredStatus.RUNNING.value, "startupOrder": 0},
                path,
                RestartPolicy.ALWAYS,
            )
        return self._module(name, found, path, RestartPolicy.ALWAYS)

    def modules(self, document: JsonObject) -> dict[str, WantedModule]:
        found = self.object(document, "modules", "", default={})
        modules = {}
        for name in found:
            if _MODULE_NAME(name) is None:
                raise _bad(
                    f"modules.{name[:40]}",
                    "is not a name of a module: up to 128 letters, digits, '_' and '-'",
                )
            if name in _SYSTEM:
                raise _bad(f"modules.{name}", "is a system module; it belongs to systemModules")
            path = f"modules.{name}"
            fields = self.object(found, name, "modules.")
            modules[name] = self._module(name, fields, path, RestartPolicy.ON_UNHEALTHY)
        return modules

    def _module(
        self, name: str, found: JsonObject, path: _Path, default_policy: RestartPolicy
    ) -> WantedModule:
        inner = f"{path}."
        runtime = self.text(found, "type", inner)
        if runtime not in ({_DOCKER} if name in _SYSTEM else self._runtimes):
            raise _bad(f"{inner}type", f"is {runtime!r}; this device knows {self._known()}")
        settings, options = self._settings(found, runtime, inner)
        return WantedModule(
            name=name,
            runtime=runtime,
            status=self.choice(found, "status", inner, DesiredStatus),
            restart_policy=self.choice(
                found, "restartPolicy", inner, RestartPolicy, default_policy
            ),
            order=self._order(found, inner),
            pull_policy=self.choice(
                found, "imagePullPolicy", inner, PullPolicy, PullPolicy.ON_CREATE
            ),
            version=self.text(found, "version", inner, default=""),
            env=self._env(found, inner),
            settings=settings,
            create_options=options,
        )

    def _settings(
        self, found: JsonObject, runtime: str, path: _Path
    ) -> tuple[JsonObject, JsonObject]:
        given = self.object(found, "settings", path)
        settings = {
            "image" if name.lower() == "image" else name: value
            for name, value in given.items()
            if not create_options.is_chunk(name)
        }
        path = f"{path}settings."
        try:
            options = create_options.join(given)
        except ValueError as error:
            raise _bad(f"{path}createOptions", f"is not usable: {error}") from None
        if runtime == _DOCKER or "image" in settings:
            image = self.text(settings, "image", path)
            try:
                settings["image"] = images.normalized(image, self._parent)
            except ValueError as error:
                raise _bad(f"{path}image", f"is not usable: {error}") from None
        return settings, options

    def _env(self, found: JsonObject, path: _Path) -> dict[str, str]:
        given = self.object(found, "env", path, default={})
        path = f"{path}env."
        env = {}
        for name in given:
            if _ENV_NAME(name) is None:
                raise _bad(f"{path}{name[:40]}", "is not a name: no blanks, '+', '#', '$' or '.'")
            value = self.object(given, name, path).get("value")
            if isinstance(value, bool):
                env[name] = str(value).lower()
            elif value is None or isinstance(value, str | int | float):
                env[name] = "" if value is None else str(value)
            else:
                raise _bad(f"{path}{name}.value", "is not a string, number or boolean")
        return env

    def _order(self, found: JsonObject, path: _Path) -> int:
        order = found.get("startupOrder")
        if order is None:
            return LAST_IN_ORDER
        if type(order) is not int or not 0 <= order <= LAST_IN_ORDER:
            raise _bad(f"{path}startupOrder", f"is not a whole number from 0 to {LAST_IN_ORDER}")
        return order

    def _known(self) -> str:
        return ", ".join(sorted(self._runtimes)) or "none"

    # Fields of one kind.

    def object(
        self, parent: JsonObject, name: str, path: _Path, default: JsonObject | None = None
    ) -> JsonObject:
        found: Any = parent.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, dict):
            raise _bad(f"{path}{name}", "is missing" if found is None else "is not an object")
        return found

    def text(self, parent: JsonObject, name: str, path: _Path, default: str | None = None) -> str:
        found: Any = parent.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, str):
            raise _bad(f"{path}{name}", "is missing" if found is None else "is not a string")
        return found

    def choice(
        self,
        parent: JsonObject,
        name: str,
        path: _Path,
        kind: type[_Choice],
        default: _Choice | None = None,
    ) -> _Choice:
        if default is not None and parent.get(name) is None:
            return default
        found = self.text(parent, name, path)
        try:
            return kind(found.lower())
        except ValueError:
            known = ", ".join(choice.value for choice in kind)
            raise _bad(f"{path}{name}", f"is {found!r}; it may be {known}") from None
