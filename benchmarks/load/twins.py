"""Devices that report properties, each one patch after the other."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Final

from benchmarks.load import meter
from benchmarks.load.job import Device, Job, Result, percentiles
from benchmarks.load.link import Dialler
from benchmarks.load.subscriber import Subscriber
from muster.clock import SystemClock
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Publish

CLOCK: Final = SystemClock()
_DONE: Final = "$iothub/twin/res/204/"


class Reporter(Subscriber):
    """A device in its session."""

    __slots__ = ("_number", "_sent_at", "_tally", "latencies")
    topic_filter = "$iothub/twin/res/#"

    def __init__(self, dialler: Dialler, device: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, device)
        self._tally = tally
        self._number = 0
        self._sent_at = 0.0
        self.latencies: list[float] = []

    def report(self) -> None:
        """Send the next patch."""
        self._number += 1
        self._sent_at = CLOCK.monotonic()
        topic = f"$iothub/twin/PATCH/properties/reported/?$rid={self._number}"
        body = b'{"temperature":{"value":%d,"unit":"C"}}' % self._number
        self.write(codec.encode_publish(topic, body))

    def closed(self, reason: str) -> None:
        super().closed(reason)
        self._tally["closed"] += 1

    def published(self, packet: Publish) -> None:
        self.latencies.append(CLOCK.monotonic() - self._sent_at)
        self._tally["done" if packet.topic.startswith(_DONE) else "refused"] += 1
        self.report()


async def run(job: Job) -> Result:
    """Report for the window."""
    tally: Counter[str] = Counter()
    dialler = Dialler(job)
    reporters = [Reporter(dialler, device, tally) for device in job.devices]
    await asyncio.gather(*(dialler.open(each) for each in reporters))
    await asyncio.gather(*(each.ready for each in reporters))
    for each in reporters:
        each.report()
    await asyncio.sleep(job.warm_up_s)
    first, start = tally["done"], CLOCK.monotonic()
    server, client = meter.cpu_s(job.pids), os.times()
    for each in reporters:
        each.latencies.clear()
    await asyncio.sleep(job.seconds)
    wall, done = CLOCK.monotonic() - start, tally["done"] - first
    spent = [after - before for before, after in zip(server, meter.cpu_s(job.pids), strict=True)]
    after = os.times()
    failures = {name: tally[name] for name in ("closed", "refused") if tally[name]}
    for each in reporters:
        each.transport.abort()
    return Result(
        operations=done,
        wall_s=wall,
        server_cpu_s=spent,
        client_cpu_s=after.user + after.system - client.user - client.system,
        latencies_ms=percentiles([late for each in reporters for late in each.latencies]),
        failures=failures,
    )
