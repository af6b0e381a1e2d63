"""Background work that nobody awaits: kept alive, and never failing in silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

# The loop keeps only weak references to tasks: without this set a task could be collected half-way.
_running: Final[set[asyncio.Task[Any]]] = set()


def spawn(coroutine: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
    """Run a coroutine in the running loop without awaiting it.

    Args:
        coroutine: what to run.
        name: what the log calls it when it fails.

    Returns:
        The task. Awaiting it is allowed; its failure is logged in any case, once.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("background task failed", task=task.get_name(), exc_info=error)
