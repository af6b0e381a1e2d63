"""What a client that was away has missed of its desired properties. Pure functions.

Every desired property carries the version that wrote it last (`$lastUpdatedVersion`), so what is
newer than a version can be read off the twin. What was removed cannot: that is taken down when it
happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from muster.model.twin import JsonObject, TwinSection

NOTHING: Final = -1
"""Version of a client that is not known to have anything."""

_WRITTEN_BY: Final = "$lastUpdatedVersion"


def removed(before: JsonObject, after: JsonObject) -> list[list[str]]:
    """Return the paths to all properties that one document has and another has not.

    Those inside a removed object are among them, because something may come in its place.
    """
    return [list(path) for path in _gone(before, after, ())]


def missed(section: TwinSection, since: int, gone: Iterable[list[str]]) -> JsonObject:
    """Return the merge patch that brings a client up to date.

    Args:
        section: the desired properties as they are.
        since: the version the client has, or `NOTHING`.
        gone: paths that were removed later than that; those that are there again do not matter.
    """
    patch = _newer(section.properties, section.metadata, since)
    for path in gone:
        _remove(patch, section.properties, path)
    return patch


def _gone(before: JsonObject, after: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    present = after if isinstance(after, dict) else {}
    for key, value in before.items():
        here = (*path, key)
        if key not in present:
            yield here
        if isinstance(value, dict):
            yield from _gone(value, present.get(key), here)


def _newer(properties: JsonObject, metadata: JsonObject, since: int) -> JsonObject:
    patch: JsonObject = {}
    for key, value in properties.items():
        marks = metadata.get(key, {})
        if marks.get(_WRITTEN_BY, 0) <= since:
            # An object is at least as new as what is in it.
            continue
        patch[key] = _newer(value, marks, since) if isinstance(value, dict) else value
    return patch


def _remove(patch: JsonObject, properties: JsonObject, path: list[str]) -> None:
    """Put a null where a path leads to nothing any more."""
    for depth, key in enumerate(path):
        if key not in properties:
            for above in path[:depth]:
                patch = patch.setdefault(above, {})
            patch[key] = None
            return
        properties = properties[key]
        if not isinstance(properties, dict):
            # It was written over as a whole, which the patch says.
            return
