"""Merge patches (RFC 7396) of patches and of documents, as the copies of twins need them."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]


def compose(first: JsonObject, second: JsonObject) -> JsonObject | None:
    """Return one patch that does what two do, one after the other; `None` where none can.

    An object behind a deletion or another value of the same name is such a case: as one patch it
    would be merged into what was there before.
    """
    composed = dict(first)
    for name, value in second.items():
        if name not in first or not isinstance(value, dict):
            composed[name] = value
            continue
        before = first[name]
        inner = compose(before, value) if isinstance(before, dict) else None
        if inner is None:
            return None
        composed[name] = inner
    return composed


def difference(old: JsonObject, new: JsonObject) -> JsonObject:
    """Return the patch that turns one document into another; both are without nulls."""
    patch: JsonObject = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = difference(before, value)
            if inner:
                patch[name] = inner
        elif name not in old or not _same(before, value):
            patch[name] = value
    return patch


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: `true` is not 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
