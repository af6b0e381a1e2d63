"""Connections that do nothing: how much memory they cost the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.load import meter
from benchmarks.load.job import Device, Job, Result
from muster.clock import SystemClock

if TYPE_CHECKING:
    from collections import Counter

    from benchmarks.load.link import Link

CLOCK: Final = SystemClock()
_SETTLE_S: Final = 2.0


async def measure(
    job: Job,
    tally: Counter[str],
    connect: Callable[[list[Device]], Awaitable[Sequence[Link]]],
) -> Result:
    """Connect everybody and see how the server's memory has grown.

    The first tenth is not counted: it pays for what a server has once, not per connection.

    Args:
        job: who.
        tally: counts under `closed` the connections that were lost.
        connect: connects devices.
    """
    tenth = len(job.devices) // 10
    start = CLOCK.monotonic()
    links = list(await connect(job.devices[:tenth]))
    await asyncio.sleep(_SETTLE_S)
    memory, server = meter.memory(job.pids), meter.cpu_s(job.pids)
    links += await connect(job.devices[tenth:])
    await asyncio.sleep(_SETTLE_S)
    grown = meter.memory(job.pids) - memory
    spent = [after - before for before, after in zip(server, meter.cpu_s(job.pids), strict=True)]
    lost = tally["closed"]
    for link in links:
        link.transport.abort()
    return Result(
        operations=len(links) - tenth,
        wall_s=CLOCK.monotonic() - start,
        server_cpu_s=spent,
        client_cpu_s=0.0,
        server_memory=grown,
        failures={"connection lost": lost} if lost else {},
    )
