"""Work that a direct method begins and `GetTaskStatus` asks about (edge.md 5.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from muster.ids import Randomness
from muster.net.tasks import spawn

JsonObject: TypeAlias = dict[str, Any]

_REMEMBERED: Final = 100

_log = structlog.get_logger(__name__)


class _Errand(msgspec.Struct):
    status: str
    message: str = ""


class Errands:
    """What is under way, and what came of the last hundred. They are forgotten with the agent."""

    def __init__(self, randomness: Randomness) -> None:
        self._randomness: Final = randomness
        self._errands: Final[dict[str, _Errand]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def begin(self, what: str, work: Coroutine[Any, Any, None]) -> JsonObject:
        """Begin something; return its status.

        Args:
            what: it is, for people.
            work: raises an error whose text may be shown when it fails.
        """
        correlation_id = self._randomness.uuid()
        errand = _Errand("Running")
        self._errands[correlation_id] = errand
        while len(self._errands) > _REMEMBERED:
            del self._errands[next(iter(self._errands))]
        task = spawn(self._run(what, errand, work), what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self.status(correlation_id)

    async def _run(self, what: str, errand: _Errand, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever it was, somebody waits to hear of it
            errand.status = "Failed"
            errand.message = f"Task {what} failed because of error {error}"
            _log.warning("an errand failed", errand=what, error=str(error))
        else:
            errand.status = "Completed"

    def status(self, correlation_id: str) -> JsonObject:
        """Return what is known of one."""
        errand = self._errands.get(correlation_id, _Errand("Unknown"))
        return {
            "status": errand.status,
            "message": errand.message,
            "correlationId": correlation_id,
        }

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
