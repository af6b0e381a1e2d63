"""Reads the whole twin whenever patches are not enough (edge.md 5.3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import structlog

from muster.clock import Clock
from muster.edge.agent.constants import HUB_TIMEOUT_S, TWIN_READS, TWIN_THROTTLE_S
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.upstream.base import HubError, Link, NoLinkError, Session

JsonObject: TypeAlias = dict[str, Any]

_SHORTEST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0

_log = structlog.get_logger(__name__)


class TwinReader:
    """Reads the twin: when the link comes up, when a patch was missed, and once in a while.

    A link that goes up and down is no reason to read it every time; a patch that was missed is.
    """

    def __init__(
        self,
        session: Session,
        turn: asyncio.Lock,
        take: Callable[[JsonObject], None],
        *,
        refresh_s: Callable[[], float],
        metrics: AgentMetrics,
        clock: Clock,
    ) -> None:
        """Take what is needed.

        Args:
            session: of `$edgeAgent`.
            turn: held while the twin is read, so that no report is under way.
            take: called with each twin.
            refresh_s: tells how often it is read at least.
            metrics: of the agent.
            clock: tells the time.
        """
        self._metrics: Final = metrics
        self._session: Final = session
        self._turn: Final = turn
        self._take: Final = take
        self._refresh_s: Final = refresh_s
        self._clock: Final = clock
        self._asked: Final = asyncio.Event()
        self._reads: Final[deque[float]] = deque(maxlen=TWIN_READS)

    def ask(self) -> None:
        """Have it read soon."""
        self._asked.set()

    def ask_now(self) -> None:
        """Have it read at once."""
        self._reads.clear()
        self._asked.set()

    async def run(self) -> None:
        """Read it whenever that is due, until cancelled."""
        pause_s = _SHORTEST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(self._refresh_s()):
                    await self._asked.wait()
            except TimeoutError:
                pass
            if self._session.link is not Link.CONNECTED:
                # The link coming up will ask again.
                self._asked.clear()
                continue
            if (early_s := self._early_s()) > 0:
                await asyncio.sleep(early_s)
            self._asked.clear()
            self._reads.append(self._clock.monotonic())
            if await self._read():
                pause_s = _SHORTEST_PAUSE_S
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                self.ask_now()

    def _early_s(self) -> float:
        """Return how long to wait before the next read."""
        if len(self._reads) < TWIN_READS:
            return 0.0
        return self._reads[0] + TWIN_THROTTLE_S - self._clock.monotonic()

    async def _read(self) -> bool:
        try:
            async with self._turn, asyncio.timeout(HUB_TIMEOUT_S):
                twin = await self._session.twin()
        except NoLinkError:
            self._metrics.synced(well=False)
            return True
        except (HubError, TimeoutError) as error:
            self._metrics.synced(well=False)
            _log.warning("the twin cannot be read", error=str(error) or type(error).__name__)
            return False
        self._metrics.synced(well=True)
        self._take(twin)
        return True
