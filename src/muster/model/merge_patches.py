"""Merge patches (RFC 7396): applied, put together, and made of what differs."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def merge(document: JsonObject, patch: JsonObject) -> JsonObject:
    """Return the document with a merge patch applied (RFC 7396).

    Objects merge, `null` deletes, everything else, arrays too, replaces. Safe at any depth.
    """
    merged = dict(document)
    pending = [(merged, patch)]
    while pending:
        target, changes = pending.pop()
        for key, value in changes.items():
            if value is None:
                target.pop(key, None)
            elif isinstance(value, dict):
                old = target.get(key)
                inner = dict(old) if isinstance(old, dict) else {}
                target[key] = inner
                pending.append((inner, value))
            else:
                target[key] = value
    return merged


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


def difference(before: JsonObject, after: JsonObject) -> JsonObject:
    """Return the smallest merge patch that makes `after` of `before`; `{}` when they are equal.

    Both are without nulls.
    """
    patch: JsonObject = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            inner = difference(old, value)
            if inner:
                patch[key] = inner
        elif key not in before or not _same(old, value):
            patch[key] = value
    return patch


def _same(one: Any, other: Any) -> bool:
    # To Python, but not to JSON, 1, 1.0 and true are the same, also inside of arrays.
    if isinstance(other, list | dict):
        return bool(_encode(one) == _encode(other))
    return type(one) is type(other) and bool(one == other)
