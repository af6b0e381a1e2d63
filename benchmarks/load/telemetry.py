"""Devices that stay connected: they send telemetry, or nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from benchmarks.load import client, idle, window
from benchmarks.load.client import Client
from benchmarks.load.job import Device, Job, Result
from benchmarks.load.link import Dialler
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Disconnect, Pingreq, Suback, Subscribe

_ACK_BYTES: Final = 4


class Session(Client):
    """A device in its session."""

    __slots__ = ("_at", "_chunks", "_device", "_job", "_kept", "_rest", "acked")

    def __init__(
        self, dialler: Dialler, job: Job, device: Device, tally: Counter[str], *, kept: bool = False
    ) -> None:
        super().__init__(dialler, tally)
        self._job = job
        self._device = device
        self._kept = kept
        self._rest = 0
        self._at = 0
        self._chunks = _chunks(job, device) if device.topic else []
        self.acked = 0

    def secured(self) -> None:
        device = self._device
        self.write(
            codec.encode(
                Connect(
                    client_id=device.client_id,
                    username=device.username or None,
                    password=device.password.encode() or None,
                    clean_session=not self._kept,
                    keep_alive_s=1_100,
                )
            )
        )

    def received(self, data: bytes) -> None:
        if self.ready.done():
            # Only PUBACKs come now, all of one size.
            count, self._rest = divmod(self._rest + len(data), _ACK_BYTES)
            before, self.acked = self.acked, self.acked + count
            self._tally["acked"] += count
            batch = self._job.batch
            for _ in range(self.acked // batch - before // batch):
                self._send()
            return
        for packet in codec.Decoder().feed(data):
            if isinstance(packet, Connack) and packet.return_code:
                self.closed(f"CONNACK {packet.return_code}")
            elif isinstance(packet, Connack) and self._kept:
                self.write(codec.encode(Subscribe(1, [("devices/#", 1)])))
            elif isinstance(packet, Connack | Suback):
                self.ready.set_result(None)

    def start(self) -> None:
        """Begin to send."""
        for _ in range(self._job.window // self._job.batch):
            self._send()

    def ping(self) -> None:
        """Say that it is still there."""
        self.write(codec.encode(Pingreq()))

    def leave(self) -> None:
        """Go, in good order."""
        self.write(codec.encode(Disconnect()))
        self.close()

    def _send(self) -> None:
        # The packet ids of a chunk are free again: acknowledgements come in order.
        self.write(self._chunks[self._at])
        self._at = (self._at + 1) % len(self._chunks)


def _chunks(job: Job, device: Device) -> list[bytes]:
    payload = b"x" * job.payload_bytes
    messages = [
        codec.encode_publish(device.topic, payload, qos=1, packet_id=number)
        for number in range(1, job.window + 1)
    ]
    return [
        b"".join(messages[start : start + job.batch])
        for start in range(0, len(messages), job.batch)
    ]


async def _connect(job: Job, devices: list[Device], tally: Counter[str]) -> list[Session]:
    dialler = Dialler(job)
    return await client.connect(
        dialler, devices, lambda device: Session(dialler, job, device, tally)
    )


async def run(job: Job) -> Result:
    """Send telemetry for the window."""
    tally: Counter[str] = Counter()
    if job.offline_subscriber:
        dialler = Dialler(job)
        keeper = Session(dialler, job, Device("keeper"), tally, kept=True)
        await dialler.open(keeper)
        await keeper.ready
        keeper.leave()
        await asyncio.sleep(0.2)
    sessions = await _connect(job, job.devices, tally)
    tally.clear()
    for session in sessions:
        session.start()
    result = await window.measure(job, tally, "acked")
    for session in sessions:
        session.transport.abort()
    return result


async def run_idle(job: Job) -> Result:
    """Connect everybody and see how the server's memory has grown."""
    tally: Counter[str] = Counter()
    return await idle.measure(job, tally, lambda devices: _connect(job, devices, tally))
