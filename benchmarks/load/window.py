"""What was done in some seconds, and what it cost both sides."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, final

from benchmarks.load import meter
from benchmarks.load.job import Job, Result, percentiles
from muster.clock import SystemClock

_LOOK_S: Final = 0.05
_clock = SystemClock()


@final
class Window:
    """Begins when it is made.

    Args:
        pids: processes of the server.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._began = _clock.monotonic()
        self._server = meter.cpu_s(pids)
        self._client = _own_cpu_s()

    def result(self, operations: int) -> Result:
        """End it, and return what came of it.

        Args:
            operations: finished in it.
        """
        return Result(
            operations=operations,
            wall_s=_clock.monotonic() - self._began,
            server_cpu_s=[
                after - before
                for before, after in zip(self._server, meter.cpu_s(self._pids), strict=True)
            ],
            client_cpu_s=_own_cpu_s() - self._client,
        )


async def measure(
    job: Job,
    tally: Counter[str],
    done: str,
    *,
    latencies_s: Callable[[], list[float]] | None = None,
) -> Result:
    """Watch a crowd that works already for the window of a job, or until so much is done.

    Args:
        job: says how long, and after how long.
        tally: counts what is done, and under `closed` the connections that were lost.
        done: under what it counts the operations.
        latencies_s: returns how long each has taken since it was last asked.
    """
    await asyncio.sleep(job.warm_up_s)
    first = tally[done]
    if latencies_s is not None:
        latencies_s()
    window = Window(job.pids)
    if job.count:
        while tally[done] - first < job.count:  # noqa: ASYNC110 - no time for events
            await asyncio.sleep(_LOOK_S)
    else:
        await asyncio.sleep(job.seconds)
    result = window.result(tally[done] - first)
    if latencies_s is not None:
        result.latencies_ms = percentiles(latencies_s())
    result.failures = {"connection lost": tally["closed"]} if tally["closed"] else {}
    return result


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system
