"""What the device knows of its twin: the desired properties, and how reported ones differ."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, final

from muster.model.twin import merge, without_service_members

JsonObject: TypeAlias = dict[str, Any]

_VERSION: Final = "$version"


@final
class DesiredCopy:
    """The desired properties as they last came.

    Attributes:
        document: all of them with `$version`; `None` before any came.
    """

    __slots__ = ("document",)

    def __init__(self, document: JsonObject | None = None) -> None:
        self.document = document

    @property
    def version(self) -> int:
        """Their `$version`; 0 before any came, or where it is none."""
        found = self.document.get(_VERSION) if self.document is not None else 0
        return found if type(found) is int else 0

    def replace(self, desired: JsonObject) -> bool:
        """Take the section of a whole twin; return whether anything differs."""
        changed = desired != self.document
        self.document = desired
        return changed

    def apply(self, patch: JsonObject) -> bool:
        """Take a patch.

        Returns:
            Whether the copy is whole. It is not when a patch was missed: a version that does not
            follow ours (edge.md 5.3, trap 12). The copy then stays, and a whole twin is needed. A
            patch that is older than the copy has been heard of already.
        """
        version = patch.get(_VERSION)
        if self.document is None or not isinstance(version, int):
            return False
        if version <= self.version:
            return True
        if version != self.version + 1:
            return False
        self.document = {**merge(self.document, patch), _VERSION: version}
        return True


def difference(before: JsonObject, after: JsonObject) -> JsonObject:
    """Return the merge patch that makes one document of the other; `{}` for equal ones.

    What is gone is `null` in it (edge.md 5.2). Members of the service are no part of it.
    """
    before = without_service_members(before)
    patch: JsonObject = {name: None for name in before if name not in after}
    for name, value in after.items():
        if name not in before:
            patch[name] = value
            continue
        old = before[name]
        if isinstance(value, dict) and isinstance(old, dict):
            # A merge patch cannot make an object empty member by member and keep it, and need not.
            if inner := difference(old, value):
                patch[name] = inner
        elif value != old or type(value) is not type(old):
            patch[name] = value
    return patch
