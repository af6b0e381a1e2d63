"""Sends what the agent reports: only differences, only the latest (edge.md 5.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import structlog

from muster.edge.agent import reported
from muster.edge.agent.constants import HUB_TIMEOUT_S
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.upstream.base import HubError, NoLinkError, Session
from muster.model.merge_patches import difference, merge
from muster.model.twin import without_service_members

JsonObject: TypeAlias = dict[str, Any]

_PAUSE_S: Final = 10.0
"""After a hub that says it is busy."""

_log = structlog.get_logger(__name__)


class Reporter:
    """Knows what the hub has, and brings it to what the agent has.

    Nothing is sent before the hub has said what it has, and nothing after it is uncertain what it
    has, until it says so again: what a lost answer leaves behind would otherwise stay forever.
    """

    def __init__(
        self, session: Session, uncertain: Callable[[], None], metrics: AgentMetrics
    ) -> None:
        """Take what is needed.

        Args:
            session: of `$edgeAgent`.
            uncertain: called when a whole twin is needed to go on.
            metrics: of the agent.
        """
        self._metrics: Final = metrics
        self._session: Final = session
        self._uncertain: Final = uncertain
        self._there: JsonObject | None = None
        self._wanted: JsonObject | None = None
        self._refused: JsonObject | None = None
        self._work: Final = asyncio.Event()
        # A twin that is read while a report is under way may show it or not.
        self.turn: Final = asyncio.Lock()

    @property
    def wanted(self) -> JsonObject | None:
        """What should be reported; `None` before there is anything."""
        return self._wanted

    def hub_has(self, there: JsonObject) -> None:
        """Note what a whole twin says is reported."""
        self._there = there
        self._work.set()

    def want(self, document: JsonObject) -> None:
        """Have a document reported, sooner or later; a newer one takes its place."""
        if document != self._wanted:
            self._wanted = document
            self._work.set()

    async def run(self) -> None:
        """Report whatever is wanted, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            async with self.turn:
                pause = await self._send()
            if pause:
                await asyncio.sleep(_PAUSE_S)
                self._work.set()

    async def _send(self) -> bool:
        """Send one patch; return whether to try again after a pause."""
        wanted, there = self._wanted, self._there
        if wanted is None or there is None:
            return False
        if wanted == self._refused:
            wanted = {**_known(there), **reported.only_status(wanted)}
        patch = difference(without_service_members(there), wanted)
        if not patch:
            return False
        try:
            async with asyncio.timeout(HUB_TIMEOUT_S):
                await self._session.report(patch)
        except (NoLinkError, TimeoutError):
            self._metrics.synced(well=False)
            self._there = None
            self._uncertain()
        except HubError as error:
            self._metrics.synced(well=False)
            return self._hub_said(error, wanted)
        else:
            self._metrics.synced(well=True)
            self._there = merge(there, patch)
        return False

    def _hub_said(self, error: HubError, wanted: JsonObject) -> bool:
        _log.warning("a report is refused", status=error.status, error=str(error))
        busy = error.status == 429 or error.status >= 500
        if not busy and wanted is self._wanted:
            # Too much of it: what came of the deployment is said in any case.
            self._refused = wanted
            self._work.set()
        return busy

    async def say_farewell(self, patience_s: float) -> None:
        """Report that the agent ends, if that can be done in time."""
        if self._wanted is None or self._there is None:
            return
        patch = difference(self._there, reported.farewell(self._wanted))
        try:
            async with asyncio.timeout(patience_s), self.turn:
                await self._session.report(patch)
        except (NoLinkError, HubError, TimeoutError) as error:
            _log.info("the last report is not sent", error=str(error) or type(error).__name__)


def _known(there: JsonObject) -> JsonObject:
    return {name: value for name, value in there.items() if not name.startswith("$")}
