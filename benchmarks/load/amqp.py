"""Devices that send telemetry over AMQP: one link each, so many messages unsettled at a time."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final

from benchmarks.load import client, idle, window
from benchmarks.load.client import Client
from benchmarks.load.job import Device, Job, Result
from benchmarks.load.link import Dialler
from muster.wire.amqp import bodies, messages
from muster.wire.amqp.frames import AMQP_HEADER, SASL_FRAME, SASL_HEADER, FrameBuffer, frame
from muster.wire.amqp.messages import Data, Header, Message
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Disposition,
    Flow,
    Open,
    SaslInit,
    SaslOutcome,
    Source,
    Target,
)

_DIALLING: Final = 50
_transfer: Final = struct.Struct(">IBBH 3sBBB BI BI BBI BI B").pack
_SIZE: Final = 36


class Sender(Client):
    """A device and its link."""

    __slots__ = (
        "_acked",
        "_buffer",
        "_credit",
        "_device",
        "_headers",
        "_job",
        "_let_in",
        "_next",
        "_opened",
        "_payload",
    )

    def __init__(self, dialler: Dialler, job: Job, device: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, tally)
        self._job = job
        self._device = device
        self._buffer = FrameBuffer()
        # How many protocol headers are to come.
        self._headers = 2
        self._let_in = False
        self._opened = False
        self._next = 0
        self._acked = 0
        self._credit = 0
        # Durable, for a broker that asks.
        self._payload = messages.encode(
            Message(Data([b"x" * job.payload_bytes]), header=Header(durable=True))
        )

    def secured(self) -> None:
        device = self._device
        response = f"\0{device.username}\0{device.password}".encode()
        init = SaslInit("PLAIN", response, self._job.host)
        self.write(SASL_HEADER + frame(0, bodies.encode(init), frame_type=SASL_FRAME))

    def received(self, data: bytes) -> None:
        self._buffer.feed(data)
        if not self._opened and not self._greet():
            return
        while (one := self._buffer.next(1 << 20)) is not None:
            if one[2]:
                self._take(bodies.read(one[2])[0])
        batch = self._job.batch
        while self._room() >= batch:
            self._send(batch)

    def start(self) -> None:
        """Begin to send."""
        batch = self._job.batch
        while self._room() >= batch:
            self._send(batch)

    def _greet(self) -> bool:
        """Go on with what comes before frames of the connection; tell whether it is over."""
        if self._headers == 2:
            if self._buffer.header() is None:
                return False
            self._headers = 1
        while not self._let_in:
            one = self._buffer.next(1 << 20)
            if one is None:
                return False
            said, _ = bodies.read(one[2])
            if isinstance(said, SaslOutcome):
                if said.code:
                    self.closed(f"SASL outcome {said.code}")
                    return False
                self._let_in = True
                self.write(AMQP_HEADER + self._opening())
        self._opened = self._buffer.header() is not None
        return self._opened

    def _opening(self) -> bytes:
        attach = Attach(
            "telemetry",
            0,
            role=False,
            source=Source(self._device.client_id),
            target=Target(self._device.topic),
            initial_delivery_count=0,
        )
        opening = (Open(self._device.client_id, self._job.host), Begin(0, 65_535, 65_535), attach)
        return b"".join(frame(0, bodies.encode(one)) for one in opening)

    def _take(self, said: object) -> None:
        if isinstance(said, Disposition):
            last = said.first if said.last is None else said.last
            count = last - said.first + 1
            self._acked += count
            self._tally["acked"] += count
        elif isinstance(said, Flow) and said.link_credit is not None:
            self._credit = (said.delivery_count or 0) + said.link_credit
            if not self.ready.done():
                self.ready.set_result(None)

    def payload(self, number: int) -> bytes:
        """Return the message with a number."""
        return self._payload

    def limit(self) -> int:
        """Return how many messages may have been sent by now, whatever the credit."""
        return self._acked + self._job.window

    def _room(self) -> int:
        if not self.ready.done() or not self._tally["started"]:
            return 0
        return min(self.limit(), self._credit) - self._next

    def _send(self, count: int) -> None:
        parts = []
        for number in range(self._next, self._next + count):
            payload = self.payload(number)
            size = _SIZE + len(payload)
            parts += (
                _transfer(
                    *(size, 2, 0, 0, b"\0\x53\x14", 0xC0, _SIZE - 13, 5),
                    *(0x70, 0, 0x70, number, 0xA0, 4, number, 0x70, 0, 0x42),
                ),
                payload,
            )
        self._next += count
        self.write(b"".join(parts))


async def _connect(job: Job, devices: list[Device], tally: Counter[str]) -> list[Sender]:
    dialler = Dialler(job)
    return await client.connect(
        dialler, devices, lambda device: Sender(dialler, job, device, tally), at_once=_DIALLING
    )


async def run_idle(job: Job) -> Result:
    """Connect everybody, each with a link to send on, and see how the server's memory has grown."""
    tally: Counter[str] = Counter()
    return await idle.measure(job, tally, lambda devices: _connect(job, devices, tally))


async def run(job: Job) -> Result:
    """Send telemetry for the window."""
    tally: Counter[str] = Counter()
    senders = await _connect(job, job.devices, tally)
    tally["started"] = 1
    for sender in senders:
        sender.start()
    result = await window.measure(job, tally, "acked")
    for sender in senders:
        sender.transport.abort()
    return result
