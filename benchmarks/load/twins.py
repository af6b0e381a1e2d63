"""Devices that report properties, each one patch after the other."""

from __future__ import annotations

from collections import Counter
from typing import Final

from benchmarks.load import client, window
from benchmarks.load.job import Device, Job, Result
from benchmarks.load.link import Dialler
from benchmarks.load.subscriber import Subscriber
from muster.clock import SystemClock
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Publish

CLOCK: Final = SystemClock()
_DONE: Final = "$iothub/twin/res/204/"


class Reporter(Subscriber):
    """A device in its session."""

    __slots__ = ("_number", "_sent_at", "latencies")
    topic_filter = "$iothub/twin/res/#"

    def __init__(self, dialler: Dialler, device: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, device, tally)
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

    def published(self, packet: Publish) -> None:
        self.latencies.append(CLOCK.monotonic() - self._sent_at)
        self._tally["done" if packet.topic.startswith(_DONE) else "refused"] += 1
        self.report()


async def run(job: Job) -> Result:
    """Report for the window."""
    tally: Counter[str] = Counter()
    dialler = Dialler(job)
    reporters = await client.connect(
        dialler, job.devices, lambda device: Reporter(dialler, device, tally)
    )
    for each in reporters:
        each.report()

    def latencies_s() -> list[float]:
        found = [late for each in reporters for late in each.latencies]
        for each in reporters:
            each.latencies.clear()
        return found

    result = await window.measure(job, tally, "done", latencies_s=latencies_s)
    if tally["refused"]:
        result.failures["refused"] = tally["refused"]
    for each in reporters:
        each.transport.abort()
    return result
