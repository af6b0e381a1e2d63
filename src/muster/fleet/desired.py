"""What a device knows of its desired properties, and what it reports of them.

A plain device reports which version it has applied. The `$edgeAgent` of an IoT Edge device reports
as the real one does, so that the counts of deployments move (edge.md 5.2, 9).
"""

from __future__ import annotations

from typing import Any, Final, final

_VERSION: Final = "$version"
_SIMULATION: Final = "simulation"
_APPLIED: Final = 200
_EMPTY: Final = 417


@final
class Desired:
    """The desired properties of one device or module: their version and the names in them.

    Attributes:
        version: of the last that came; 0 before any did.
    """

    __slots__ = ("_edge", "_names", "version")

    def __init__(self, *, edge: bool) -> None:
        self._edge = edge
        self._names: frozenset[str] = frozenset()
        self.version = 0

    def whole(self, twin: dict[str, Any]) -> dict[str, Any] | None:
        """Take in a whole twin (hub-device.md 2.5).

        Returns:
            What is to be reported, or `None` when that stands in the twin already.
        """
        desired = twin.get("desired") or {}
        self.version = desired.get(_VERSION, 0)
        self._names = frozenset(desired) - {_VERSION}
        report = self.report()
        reported = twin.get("reported") or {}
        if all(reported.get(name) == value for name, value in report.items()):
            return None
        return report

    def patch(self, change: dict[str, Any]) -> dict[str, Any] | None:
        """Take in a change; names that are null go.

        Returns:
            What is to be reported, or `None` for a change that is older than what is known.
        """
        version = change.get(_VERSION, 0)
        if version <= self.version:
            return None
        self.version = version
        gone = {name for name, value in change.items() if value is None}
        self._names = (self._names | frozenset(change)) - gone - {_VERSION}
        return self.report()

    def report(self) -> dict[str, Any]:
        """Return the reported properties that say what has been applied."""
        if not self._edge:
            return {_SIMULATION: {"appliedVersion": self.version}}
        code, description = (_APPLIED, "") if self._names else (_EMPTY, "Nothing is deployed")
        return {
            "schemaVersion": "1.0",
            "lastDesiredVersion": self.version,
            "lastDesiredStatus": {"code": code, "description": description},
        }
