"""What can be queried, and how paths into it are written.

Names the service gives are found in any case and read in their own; names of users' data are
case-sensitive. A path may begin with the collection's name: `devices.tags.a` is `tags.a`
(hub-service.md 5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from muster.language.tree import Path
from muster.language.values import UNDEFINED, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Names: TypeAlias = dict[str, "Names"]
"""Names the service gives, with those inside each; what is not here is users' data."""

_SECTION: Final[Names] = {"$version": {}, "$metadata": {}}
_TWIN: Final[Names] = {
    "deviceId": {},
    "etag": {},
    "deviceEtag": {},
    "status": {},
    "statusReason": {},
    "statusUpdateTime": {},
    "connectionState": {},
    "lastActivityTime": {},
    "cloudToDeviceMessageCount": {},
    "authenticationType": {},
    "x509Thumbprint": {"primaryThumbprint": {}, "secondaryThumbprint": {}},
    "modelId": {},
    "version": {},
    "tags": {},
    "properties": {"desired": _SECTION, "reported": _SECTION},
    "configurations": {},
}


_Folded: TypeAlias = "dict[str, tuple[str, _Folded]]"


def _fold(names: Names) -> _Folded:
    return {name.lower(): (name, _fold(inner)) for name, inner in names.items()}


@final
class Collection:
    """One of the three collections; compared by identity.

    Attributes:
        name: as it stands behind FROM.
        names: of the members of its documents.
    """

    __slots__ = ("_folded", "_prefix", "name", "names")

    def __init__(self, name: str, names: Names) -> None:
        self.name = name
        self.names = names
        self._prefix = tuple(name.split("."))
        self._folded = _fold(names)

    def __repr__(self) -> str:
        return f"Collection({self.name})"

    def path(self, names: tuple[str | int, ...]) -> Path:
        """Return the path that was written with these names."""
        for prefix in (self._prefix, self._prefix[:1]):
            start, rest = names[: len(prefix)], names[len(prefix) :]
            if rest and tuple(str(name).lower() for name in start) == prefix:
                names = rest
                break
        found: list[str | int] = []
        known = self._folded
        for name in names:
            own, known = known.get(str(name).lower(), (name, {}))
            found.append(own)
        return Path(tuple(found))

    def knows(self, path: Path) -> bool:
        """Tell whether documents of this collection can have such a path at all."""
        return path.names[0] in self.names


DEVICES: Final = Collection(
    "devices",
    {**_TWIN, "capabilities": {"iotEdge": {}}, "deviceScope": {}, "parentScopes": {}},
)
MODULES: Final = Collection("devices.modules", {**_TWIN, "moduleId": {}})
JOBS: Final = Collection(
    "devices.jobs",
    {
        "deviceId": {},
        "moduleId": {},
        "jobId": {},
        "jobType": {},
        "status": {},
        "startTimeUtc": {},
        "endTimeUtc": {},
        "createdDateTimeUtc": {},
        "lastUpdatedDateTimeUtc": {},
        "outcome": {"deviceMethodResponse": {"status": {}, "payload": {}}},
        "error": {"code": {}, "description": {}},
    },
)

ALL: Final = (DEVICES, MODULES, JOBS)


def bind(path: Path) -> Callable[[Mapping[str, Any]], Value]:
    """Return a function that looks a path up in a document."""
    names = path.names
    if len(names) == 1 and isinstance(names[0], str):
        only = names[0]
        return lambda document: document.get(only, UNDEFINED)
    return lambda document: find(document, names)


def find(value: Value, names: tuple[str | int, ...]) -> Value:
    """Return what is at the end of a path, `UNDEFINED` when it leads nowhere."""
    for name in names:
        if isinstance(name, str):
            if not isinstance(value, dict) or name not in value:
                return UNDEFINED
        elif not isinstance(value, list) or name >= len(value):
            return UNDEFINED
        value = value[name]
    return value
