"""Digital twins: a twin in the words of Plug and Play, and a JSON patch in those of a twin.

Properties of a component stand in the twin under its name, in an object marked `"__t": "c"`. A
device acknowledges a writable property by reporting `{value, ac, av, ad}`. Nothing here knows a
model: what the marks do not say is told by what the twin holds. Source: hub-service.md 1.1 rows
37 and 38, and the Plug and Play convention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct, UnsetType

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from muster.model.twin import JsonObject

COMPONENT_MARK: Final = "__t"
_COMPONENT: Final = "c"
_ACKNOWLEDGEMENT: Final = {"av": "ackVersion", "ac": "ackCode", "ad": "ackDescription"}


class PatchOperation(Struct):
    """One operation of a JSON patch (RFC 6902)."""

    op: str
    path: str
    value: Any | UnsetType = UNSET


def view(device_id: str, model_id: str, properties: JsonObject) -> JsonObject:
    """Return a digital twin.

    Args:
        device_id: of the device.
        model_id: what it announced, `''` for none.
        properties: desired and reported as services see them, with `$metadata`.
    """
    shown = _component(properties["desired"], properties["reported"])
    metadata = {"$model": model_id, **shown.pop("$metadata")}
    return {"$dtId": device_id, **shown, "$metadata": metadata}


def _component(desired: JsonObject, reported: JsonObject) -> JsonObject:
    """Return the properties of the device itself or of one component.

    What is only desired is no property yet: it stands in the metadata alone.
    """
    shown: JsonObject = {}
    metadata: JsonObject = {}
    for name in {**reported, **desired}:
        if name.startswith("$") or name == COMPONENT_MARK:
            continue
        wanted, given = desired.get(name), reported.get(name)
        if _is_component(wanted) or _is_component(given):
            shown[name] = _component(
                _with_metadata(desired, name, wanted), _with_metadata(reported, name, given)
            )
            continue
        entry: JsonObject = {}
        if name in desired:
            stamp = desired["$metadata"].get(name, {})
            entry["desiredValue"] = wanted
            entry["desiredVersion"] = stamp.get("$lastUpdatedVersion")
            entry["lastUpdateTime"] = stamp.get("$lastUpdated")
        if name in reported:
            if isinstance(given, dict) and "value" in given and ("ac" in given or "av" in given):
                for short, long in _ACKNOWLEDGEMENT.items():
                    if short in given:
                        entry[long] = given[short]
                given = given["value"]
            shown[name] = given
            entry["lastUpdateTime"] = reported["$metadata"].get(name, {}).get("$lastUpdated")
        metadata[name] = entry
    return {**shown, "$metadata": metadata}


def _with_metadata(section: JsonObject, name: str, value: Any) -> JsonObject:
    inner = value if isinstance(value, dict) else {}
    return {**inner, "$metadata": section["$metadata"].get(name, {})}


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and value.get(COMPONENT_MARK) == _COMPONENT


def desired_patch(operations: list[PatchOperation], properties: JsonObject) -> JsonObject:
    """Return what a JSON patch of a digital twin merges into the desired properties.

    Args:
        operations: `add`, `replace` and `remove` of properties and components.
        properties: desired and reported as they are.

    Raises:
        InvalidArgumentError: an operation is none of that; code `invalid-json-patch`.
    """
    if not operations:
        raise _invalid("it is empty")
    patch: JsonObject = {}
    for operation in operations:
        _apply(operation, properties, patch)
    return patch


def _apply(operation: PatchOperation, properties: JsonObject, patch: JsonObject) -> None:
    segments = _pointer(operation.path)
    value = _value(operation)
    first = segments[0]
    if len(segments) == 1:
        component = isinstance(value, dict) and "$metadata" in value
    else:
        component = not any(_is_plain(properties[section].get(first)) for section in properties)
    target = patch
    old: Any = properties["desired"]
    for segment in segments[:-1]:
        inner = target.get(segment)
        if not isinstance(inner, dict):
            inner = target[segment] = {}
        target = inner
        old = old.get(segment) if isinstance(old, dict) else None
    old = old.get(segments[-1]) if isinstance(old, dict) else None
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if not name.startswith("$")}
        if component and len(segments) == 1:
            value[COMPONENT_MARK] = _COMPONENT
        value = _replacing(old, value)
    target[segments[-1]] = value
    if component and len(segments) > 1:
        patch[first][COMPONENT_MARK] = _COMPONENT


def _value(operation: PatchOperation) -> Any:
    if operation.op == "remove":
        return None
    if operation.op not in ("add", "replace"):
        raise _invalid(f"the operation '{operation.op[:32]}' is not add, replace or remove")
    if operation.value is UNSET or operation.value is None:
        raise _invalid(f"'{operation.op}' needs a value; 'remove' takes one away")
    return operation.value


def _is_plain(value: Any) -> bool:
    return value is not None and not _is_component(value)


def _replacing(old: Any, new: JsonObject) -> JsonObject:
    """Return an object that, merged into the old one, leaves nothing of it."""
    if not isinstance(old, dict):
        return new
    merged: JsonObject = {name: None for name in old if not name.startswith("$")}
    for name, value in new.items():
        merged[name] = _replacing(old.get(name), value) if isinstance(value, dict) else value
    return merged


def _pointer(path: str) -> list[str]:
    """Read a JSON pointer (RFC 6901) to a property."""
    head, *segments = path.split("/")
    names = [segment.replace("~1", "/").replace("~0", "~") for segment in segments]
    if head or not names or any(not name or name.startswith("$") for name in names):
        raise _invalid(f"'{path[:256]}' is not the path of a property or component")
    return names


def _invalid(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"The JSON patch cannot be applied: {reason}.", code="invalid-json-patch"
    )
