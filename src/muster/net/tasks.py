"""Background work that nobody awaits: kept alive, and never failing in silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import structlog

from muster.errors import MusterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

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


async def repeat(every_s: float, work: Callable[[], Awaitable[None]], name: str) -> NoReturn:
    """Do something again and again, for ever, whatever it fails of.

    Args:
        every_s: seconds between two turns.
        work: what is done; a failure is logged, and the next turn comes.
        name: what the log calls it.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except MusterError as error:
            # Whoever raised it has told its own trouble already.
            _log.warning("upkeep failed", upkeep=name, reason=error.message)
        except Exception:  # noqa: BLE001 - without the next turn nothing would ever be due again
            _log.exception("upkeep failed", upkeep=name)


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("background task failed", task=task.get_name(), exc_info=error)
