"""What the device knows of its twin: the desired properties."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, final

from muster.model.merge_patches import merge

JsonObject: TypeAlias = dict[str, Any]

_VERSION: Final = "$version"
_OF_EVERY_DEPLOYMENT: Final = frozenset({"schemaVersion", "runtime", "systemModules"})


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
            follow ours (edge.md 5.3, trap 12), nor when the patch may be a whole document that was
            put in place of another: what that one had besides is not named in it. The copy then
            stays, and a whole twin is needed. A patch that is older than the copy has been heard
            of already.
        """
        version = patch.get(_VERSION)
        if self.document is None or not isinstance(version, int):
            return False
        if version <= self.version:
            return True
        if version != self.version + 1:
            return False
        merged = {**merge(self.document, patch), _VERSION: version}
        if patch.keys() >= _OF_EVERY_DEPLOYMENT and merged != patch:
            return False
        self.document = merged
        return True
