"""Which configurations decide about a twin, and what they make of its desired properties.

Pure functions. Sources: hub-service.md 6.4, 6.5; edge.md 9.2.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from muster.model import twin as twin_rules
from muster.model.configuration import Kind, Path, Settings, module_settings, settings
from muster.model.identity import EDGE_AGENT
from muster.model.merge_patches import merge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from muster.model.configuration import Configuration
    from muster.model.twin import JsonObject


class Status(enum.StrEnum):
    """What a configuration is to a twin whose target condition it meets."""

    TARGETED = "Targeted"
    """Outranked: nothing of it is in effect."""
    APPLIED = "Applied"
    """At least part of it is in effect."""


class Plan(Struct, frozen=True):
    """What the configurations that target something amount to.

    Attributes:
        statuses: by configuration ID, all that target it.
        settings: what is to be set, by module ID; for a plan of one twin under `''`.
    """

    statuses: dict[str, Status]
    settings: dict[str, Settings]

    @property
    def applied(self) -> bool:
        """Whether anything is in effect."""
        return Status.APPLIED in self.statuses.values()


def deployment_plan(targeting: Iterable[Configuration]) -> Plan:
    """Return what the deployments that target an edge device amount to.

    One base deployment, the highest of them, and over it the layered ones of higher priority, the
    higher over the lower. Without a base nothing is applied.
    """
    ranked = sorted(targeting, key=lambda each: each.rank)
    statuses = {each.id: Status.TARGETED for each in ranked}
    base = next((each for each in reversed(ranked) if not each.layered), None)
    if base is None:
        return Plan(statuses, {})
    statuses[base.id] = Status.APPLIED
    modules = module_settings(base.content)
    for layer in ranked:
        if not layer.layered or layer.priority <= base.priority:
            continue
        for module_id, above in module_settings(layer.content).items():
            modules[module_id] = overlay(modules.get(module_id, {}), above)
        if layer.content.modules_content and layer.content.modules_content.get(EDGE_AGENT):
            statuses[layer.id] = Status.APPLIED
    return Plan(statuses, modules)


def twin_plan(targeting: Iterable[Configuration]) -> Plan:
    """Return what the configurations that target one device's or module's own twin amount to.

    All of them are merged, path by path; where two set the same, the higher one wins.
    """
    ranked = sorted(targeting, key=lambda each: each.rank)
    statuses = {each.id: Status.TARGETED for each in ranked}
    merged: Settings = {}
    seen: list[Path] = []
    for each in reversed(ranked):
        own = _own_settings(each)
        if not all(_below_any(path, seen) for path in own):
            statuses[each.id] = Status.APPLIED
        merged = overlay(own, merged)
        seen.extend(own)
    return Plan(statuses, {"": merged} if merged else {})


def overlay(below: Settings, above: Settings) -> Settings:
    """Return both settings in one, `above` winning; no path of the result leads to another."""
    merged = dict(below)
    for path, value in above.items():
        for covered in [each for each in merged if each[: len(path)] == path]:
            del merged[covered]
        holder = next((each for each in merged if path[: len(each)] == each), None)
        if holder is None:
            merged[path] = value
        else:
            # What was to be a plain value becomes an object with this inside.
            inside = merged[holder] if isinstance(merged[holder], dict) else {}
            merged[holder] = _with(inside, path[len(holder) :], value)
    return merged


def wanted(current: JsonObject, goal: Settings, left: Collection[Path]) -> JsonObject:
    """Return the desired properties a twin should have.

    Args:
        current: what it has.
        goal: what is to be set. At `()` stands the whole document.
        left: paths that were set before and are not any more; they go.
    """
    whole = goal.get(())
    if whole is not None:
        return merge({}, twin_rules.without_service_members(whole))
    document = current
    for path in left:
        document = _with(document, path, None)
    for path, value in goal.items():
        document = _with(document, path, value)
    return document


def _own_settings(configuration: Configuration) -> Settings:
    content = configuration.content
    paths = content.device_content if content.kind is Kind.DEVICE else content.module_content
    found = settings(paths or {}, content.kind.value)
    whole = found.pop((), None)
    # Configurations of twins share them: the whole means each of its members.
    return {**{(key,): value for key, value in (whole or {}).items()}, **found}


def _below_any(path: Path, others: Iterable[Path]) -> bool:
    return any(path[: len(other)] == other for other in others)


def _with(document: JsonObject, path: Path, value: Any) -> JsonObject:
    """Return the document with a value at a path, sharing the rest; `None` takes it away."""
    key, rest = path[0], path[1:]
    changed = dict(document)
    if rest:
        inner = document.get(key)
        if not isinstance(inner, dict):
            if value is None:
                return document
            inner = {}
        changed[key] = _with(inner, rest, value)
        return changed
    if value is None:
        changed.pop(key, None)
    else:
        changed[key] = merge({}, value) if isinstance(value, dict) else value
    return changed
