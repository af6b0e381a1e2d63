"""Messages to devices: a back end sends, devices take and acknowledge, so many on their way."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Final

from benchmarks.load import client, window
from benchmarks.load.amqp import Sender
from benchmarks.load.job import Device, Job, Result
from benchmarks.load.link import Dialler
from benchmarks.load.subscriber import Subscriber
from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Puback, Publish

_MAX_PACKET_ID: Final = 60_000


class Receiver(Subscriber):
    """A device that takes messages with QoS 1, and says so to whoever sends them."""

    __slots__ = ("_topic", "taken")

    def __init__(self, dialler: Dialler, device: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, device, tally)
        self._topic = _topic(device)
        self.taken: Callable[[], None] = _nobody

    def subscription(self) -> tuple[str, int]:
        return f"{self._topic}#", 1

    def published(self, packet: Publish) -> None:
        if packet.packet_id is not None:
            self.write(codec.encode(Puback(packet.packet_id)))
        self._tally["taken"] += 1
        self.taken()


class Backend(Sender):
    """A back end with one AMQP link for the messages to all devices, in turn."""

    __slots__ = ("_payloads",)

    def __init__(self, dialler: Dialler, job: Job, backend: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, job, backend, tally)
        body = Data([b"x" * job.payload_bytes])
        self._payloads = [
            messages.encode(Message(body, properties=Properties(to=f"/{_topic(device)}"[:-1])))
            for device in job.devices
        ]

    def payload(self, number: int) -> bytes:
        return self._payloads[number % len(self._payloads)]

    def limit(self) -> int:
        return self._tally["taken"] + self._job.window


class Publisher(Subscriber):
    """The same over MQTT, for a plain broker."""

    __slots__ = ("_job", "_next", "_topics")
    topic_filter = "nothing"

    def __init__(self, dialler: Dialler, job: Job, tally: Counter[str]) -> None:
        super().__init__(dialler, Device("backend"), tally)
        self._job = job
        self._topics = itertools.cycle([_topic(device) for device in job.devices])
        self._next = 0

    def start(self) -> None:
        """Send what may be sent now."""
        while self._next < self._tally["taken"] + self._job.window and self._tally["started"]:
            self._next += 1
            packet_id = self._next % _MAX_PACKET_ID + 1
            body = b"x" * self._job.payload_bytes
            self.write(codec.encode_publish(next(self._topics), body, qos=1, packet_id=packet_id))


def _topic(device: Device) -> str:
    return f"devices/{device.client_id}/messages/devicebound/"


def _nobody() -> None:
    return


async def run(job: Job) -> Result:
    """Send for the window; what is counted is what the devices have taken."""
    tally: Counter[str] = Counter()
    dialler = Dialler(job)
    receivers = await client.connect(
        dialler, job.devices, lambda device: Receiver(dialler, device, tally)
    )
    backend: Backend | Publisher
    if job.backend is None:
        backend = Publisher(dialler, job, tally)
        await dialler.open(backend)
    else:
        backend = Backend(dialler, job, job.backend, tally)
        link = backend
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: link, job.address, job.amqp_port)
    await backend.ready
    for each in receivers:
        each.taken = backend.start
    tally["started"] = 1
    backend.start()
    result = await window.measure(job, tally, "taken")
    for link_ in (*receivers, backend):
        link_.transport.abort()
    return result
