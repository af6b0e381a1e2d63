"""What the agent needs of the other parts of the runtime, besides engines and the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from muster.edge.engine.base import LogChunk, LogRange, Module


class Workload(Protocol):
    """The workload API as modules reach it: one socket for each (edge.md 3.1, 3.3)."""

    def socket(self, name: str) -> Path:
        """Return where a module's socket is on this device; runtimes say where it is to modules."""

    async def open(self, name: str, module_id: str) -> None:
        """Listen for a module; nothing if that is done already. Called before it is made."""

    async def close(self, name: str) -> None:
        """Stop listening and remove the socket. Called after the module is gone."""


class EdgeHub(Protocol):
    """The edge hub of this process, which deployments and people know as the module `edgeHub`."""

    def module(self) -> Module:
        """Return how it stands, named `edgeHub`."""

    async def use(self, env: Mapping[str, str]) -> None:
        """Work with the environment a deployment gives it; nothing where that changes nothing."""

    async def restart(self) -> None:
        """End its clients' connections and begin anew; what it has stored stays."""


class OwnLogs(Protocol):
    """What this process itself has written, which people know as `edgeAgent` and `edgeHub`."""

    def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return lines of one of the two; `<6>` and such before them say their level."""


class SupportBundles(Protocol):
    """Makes the archives that `UploadSupportBundle` sends (edge.md 5.4, 7)."""

    async def make(
        self, since: datetime | None, until: datetime | None, *, runtime_only: bool
    ) -> Path:
        """Write an archive and return its path; the caller removes it.

        Args:
            since: logs not before.
            until: logs not after.
            runtime_only: leave out modules other than `edgeAgent` and `edgeHub`.
        """
