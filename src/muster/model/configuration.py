"""Configurations and automatic deployments: what they are and what they must keep to.

A *deployment* is a configuration whose content names the modules of edge devices. Sources:
hub-service.md 1.5, 6; edge.md 9.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.ids import check_device_id
from muster.model import twin as twin_rules
from muster.model.identity import EDGE_AGENT, EDGE_HUB

if TYPE_CHECKING:
    from muster.model.twin import JsonObject

MAX_ID: Final = 128
MAX_MODULES: Final = 50
"""Modules of one deployment besides the system modules (hub-service.md 6.1)."""
MAX_METRICS: Final = 5
"""Metrics an operator may add (hub-service.md 1.5)."""
MAX_PRIORITY: Final = 2**31 - 1
MAX_LABEL: Final = 1024
"""Characters of a label's name, and of its value."""

DESIRED: Final = "properties.desired"

_ID: Final = re.compile(r"[a-z0-9\-:+%_#*?!(),=@;$'.~`]{1,128}")
_MODULE_NAME: Final = re.compile(r"[A-Za-z0-9_\-.$]{1,128}")

Path = tuple[str, ...]
"""Keys from the desired properties down; `()` stands for all of them."""
Settings = dict[Path, Any]
"""What a configuration sets in the desired properties of one twin."""


class Kind(enum.Enum):
    """Whose twins a configuration sets."""

    EDGE = "modulesContent"
    DEVICE = "deviceContent"
    MODULE = "moduleContent"


class Content(Struct, rename="camel", omit_defaults=True):
    """What a configuration sets; exactly one of the three.

    Attributes:
        device_content: twin path to value, for devices.
        module_content: twin path to value, for modules.
        modules_content: module ID to twin path to value, for edge devices.
    """

    device_content: dict[str, Any] | None = None
    module_content: dict[str, Any] | None = None
    modules_content: dict[str, dict[str, Any]] | None = None

    @property
    def kind(self) -> Kind:
        """Whose twins it sets.

        Raises:
            InvalidArgumentError: none or several of the three are there; code
                `invalid-configuration-content`.
        """
        given = [
            kind
            for kind, content in (
                (Kind.EDGE, self.modules_content),
                (Kind.DEVICE, self.device_content),
                (Kind.MODULE, self.module_content),
            )
            if content is not None
        ]
        if len(given) != 1:
            raise _invalid(
                "content must have exactly one of modulesContent, deviceContent and moduleContent"
            )
        return given[0]


class Queries(Struct, rename="camel"):
    """The metrics of a configuration as clients send them; results are ours to say."""

    queries: dict[str, str] | None = None


class ConfigurationRequest(Struct, rename="camel"):
    """What clients send in a PUT. Read-only members they send back are ignored."""

    id: str | None = None
    schema_version: str | None = None
    labels: dict[str, str] | None = None
    content: Content | None = None
    target_condition: str | None = None
    priority: int | None = None
    metrics: Queries | None = None


class Configuration(Struct, frozen=True, kw_only=True):
    """A configuration as it is kept.

    Attributes:
        id: unique in its hub, lower case.
        schema_version: as given; `2.0` unless told.
        labels: for people.
        content: what it sets; never changes.
        target_condition: whom; `''` for nobody.
        priority: the higher one wins.
        metrics: name to query, the operator's own.
        created_at: unix seconds; of two equal priorities the newer one wins.
        updated_at: unix seconds.
        counter: counts its writes; the etag.
    """

    id: str
    schema_version: str
    labels: dict[str, str] | None
    content: Content
    target_condition: str
    priority: int
    metrics: dict[str, str]
    created_at: float
    updated_at: float
    counter: int = 1

    @property
    def kind(self) -> Kind:
        """Whose twins it sets."""
        return self.content.kind

    @property
    def rank(self) -> tuple[int, float, str]:
        """Grows with the right to win (hub-service.md 6.5)."""
        return self.priority, self.created_at, self.id

    @property
    def layered(self) -> bool:
        """Whether it is a deployment that only adds to another.

        It sets parts of the agent's desired properties, or nothing there; a base deployment sets
        them whole (edge.md 9.2).
        """
        modules = self.content.modules_content
        return modules is not None and DESIRED not in modules.get(EDGE_AGENT, {})


def check_id(configuration_id: str) -> str:
    """Return the ID when it keeps the rule of hub-service.md 1.5.

    Raises:
        InvalidArgumentError: code `invalid-configuration-id`.
    """
    if not _ID.fullmatch(configuration_id):
        raise InvalidArgumentError(
            f"A configuration's id has 1 to {MAX_ID} lower-case letters, digits and "
            "- : + % _ # * ? ! ( ) , = @ ; $ ' . ~ `",
            code="invalid-configuration-id",
            subject=configuration_id[:MAX_ID],
        )
    return configuration_id


def check_priority(priority: int) -> int:
    """Return the priority when it is one.

    Raises:
        InvalidArgumentError: code `invalid-argument`.
    """
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidArgumentError(f"priority must be 0 to {MAX_PRIORITY}")
    return priority


def check_labels(labels: dict[str, str] | None) -> dict[str, str] | None:
    """Return the labels when they are short enough.

    Raises:
        InvalidArgumentError: code `invalid-argument`.
    """
    for name, value in (labels or {}).items():
        if not name or len(name) > MAX_LABEL or len(value) > MAX_LABEL:
            raise InvalidArgumentError(
                f"labels have names and values of at most {MAX_LABEL} characters"
            )
    return labels


def check_content(content: Content) -> Kind:
    """Check what a configuration is to set, and return whose twins that are.

    Raises:
        InvalidArgumentError: code `invalid-configuration-content`; the message says where.
    """
    kind = content.kind
    if kind is Kind.EDGE:
        _check_deployment(content.modules_content or {})
        return kind
    paths = content.device_content if kind is Kind.DEVICE else content.module_content
    if not paths:
        raise _invalid(f"{kind.value} sets nothing")
    check_desired(settings(paths, kind.value), kind.value)
    return kind


def settings(paths: dict[str, Any], where: str) -> Settings:
    """Return twin paths (`properties.desired.a.b`) as keys below the desired properties.

    Raises:
        InvalidArgumentError: a path leads elsewhere; code `invalid-configuration-content`.
    """
    found: Settings = {}
    for text, value in paths.items():
        head, dot, tail = text[: len(DESIRED)], text[len(DESIRED) :][:1], text[len(DESIRED) + 1 :]
        keys = tuple(tail.split(".")) if dot else ()
        if head != DESIRED or dot not in ("", ".") or "" in keys:
            raise _invalid(
                f"{where} has the path '{text[:128]}': paths begin with {DESIRED}, and no part of "
                "them is empty"
            )
        if not keys and not isinstance(value, dict):
            raise _invalid(f"{where}: {DESIRED} must be an object")
        found[keys] = value
    return found


def check_desired(wanted: Settings, where: str) -> None:
    """Check settings against the limits of desired properties (hub-service.md 1.4).

    Raises:
        InvalidArgumentError: code `invalid-configuration-content`.
    """
    for keys, value in wanted.items():
        document: Any = value
        for key in reversed(keys):
            document = {key: document}
        try:
            twin_rules.check_limits(document, "desired")
        except InvalidArgumentError as error:
            raise _invalid(f"{where}: {error.message}") from None
    try:
        twin_rules.check_size(_whole(wanted), "desired")
    except InvalidArgumentError as error:
        raise _invalid(f"{where}: {error.message}") from None


def _whole(wanted: Settings) -> JsonObject:
    """Return what settings make of an empty twin."""
    whole: JsonObject = {}
    for keys in sorted(wanted, key=len):
        if not keys:
            whole = dict(wanted[keys])
            continue
        holder = whole
        for key in keys[:-1]:
            inner = holder.get(key)
            holder[key] = holder = dict(inner) if isinstance(inner, dict) else {}
        holder[keys[-1]] = wanted[keys]
    return whole


def module_settings(content: Content) -> dict[str, Settings]:
    """Return what a deployment sets, by module ID."""
    return {
        module_id: settings(paths, module_id)
        for module_id, paths in (content.modules_content or {}).items()
    }


def deployed_modules(agent: JsonObject) -> list[str]:
    """Return the modules that an agent's desired properties ask for, system modules aside."""
    modules = agent.get("modules")
    return [name for name, value in modules.items() if value] if isinstance(modules, dict) else []


def same_content(one: Content, other: Content) -> bool:
    """Tell whether two contents set the same."""
    return bool(msgspec.to_builtins(one) == msgspec.to_builtins(other))


def _check_deployment(modules: dict[str, dict[str, Any]]) -> None:
    if EDGE_AGENT not in modules:
        raise _invalid(f"modulesContent must have {EDGE_AGENT}, at least {{}}")
    for module_id, paths in modules.items():
        try:
            check_device_id(module_id, "module ID")
        except InvalidArgumentError as error:
            raise _invalid(error.message) from None
        check_desired(settings(paths, module_id), module_id)
    agent = modules[EDGE_AGENT]
    if DESIRED in agent:
        _check_agent(agent[DESIRED])
        hub = modules.get(EDGE_HUB, {}).get(DESIRED)
        if hub is not None:
            _check_hub(hub)
    names = {
        name
        for keys, value in settings(agent, EDGE_AGENT).items()
        for name in _named_modules(keys, value)
    }
    for name in names:
        if not _MODULE_NAME.fullmatch(name):
            raise _invalid(f"'{name[:64]}' is no module name: letters, digits, _ - . and $")
    if len(names) > MAX_MODULES:
        raise _invalid(f"a deployment has at most {MAX_MODULES} modules, not {len(names)}")


def _named_modules(keys: Path, value: Any) -> list[str]:
    if not keys:
        return deployed_modules(value)
    if keys[0] != "modules":
        return []
    if len(keys) > 1:
        return [keys[1]]
    return list(value) if isinstance(value, dict) else []


def _check_agent(desired: JsonObject) -> None:
    """Check what an agent could not begin to work with (edge.md 5; hub-service.md 6.1)."""
    version = desired.get("schemaVersion")
    if not isinstance(version, str) or not re.fullmatch(r"1\.\d+(\.\d+)?", version):
        raise _invalid(f"{EDGE_AGENT}: schemaVersion must be a version 1.x, as text")
    for name in ("runtime", "systemModules"):
        if not isinstance(desired.get(name), dict):
            raise _invalid(f"{EDGE_AGENT}: {name} must be an object")
    modules = desired.get("modules", {})
    if not isinstance(modules, dict):
        raise _invalid(f"{EDGE_AGENT}: modules must be an object")
    for name, module in modules.items():
        if not isinstance(module, dict) or not isinstance(module.get("settings"), dict):
            raise _invalid(f"{EDGE_AGENT}: modules.{name[:64]} must have settings")


def _check_hub(desired: JsonObject) -> None:
    routes = desired.get("routes", {})
    if not isinstance(routes, dict):
        raise _invalid(f"{EDGE_HUB}: routes must be an object")
    for name, route in routes.items():
        text = route.get("route") if isinstance(route, dict) else route
        if not isinstance(text, str):
            raise _invalid(f"{EDGE_HUB}: routes.{name[:64]} must be text or have a route")


def _invalid(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid-configuration-content")
