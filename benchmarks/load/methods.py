"""Callers and answerers: direct methods of the hub, and requests of a bare NATS."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, cast

from benchmarks.load import client
from benchmarks.load.job import Job, Result, percentiles
from benchmarks.load.link import Dialler, Link
from benchmarks.load.subscriber import Subscriber
from benchmarks.load.window import Window
from muster.clock import SystemClock
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Publish

CLOCK: Final = SystemClock()
_PAYLOAD: Final = b'{"seconds":5}'
_ANSWER: Final = b'{"ok":true}'
_HEADER_END: Final = b"\r\n\r\n"


class _Caller(Protocol):
    """Makes one call at a time."""

    ready: asyncio.Future[None]

    def call(self, number: int) -> asyncio.Future[bool]:
        """Call one of the answerers; the result is whether it was a success."""


class Answerer(Subscriber):
    """A device that answers every method at once."""

    __slots__ = ()
    topic_filter = "$iothub/methods/POST/#"

    def published(self, packet: Publish) -> None:
        request_id = packet.topic.partition("?$rid=")[2]
        self.write(codec.encode_publish(f"$iothub/methods/res/200/?$rid={request_id}", _ANSWER))


class HttpCaller(Link):
    """A service that calls methods over one HTTPS connection that stays open."""

    __slots__ = ("_answer", "_buffer", "_requests", "ready")

    def __init__(self, dialler: Dialler, job: Job) -> None:
        super().__init__(*dialler.link_arguments())
        body = b'{"methodName":"setRate","responseTimeoutInSeconds":30,"payload":%s}' % _PAYLOAD
        self._requests = [
            (
                f"POST /twins/{device.client_id}/methods?api-version=2021-04-12 HTTP/1.1\r\n"
                f"Host: {job.host}\r\nAuthorization: {job.authorization}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            + body
            for device in job.devices
        ]
        self._buffer = b""
        self._answer: asyncio.Future[bool] | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def secured(self) -> None:
        self.ready.set_result(None)

    def call(self, number: int) -> asyncio.Future[bool]:
        self._answer = asyncio.get_running_loop().create_future()
        self.write(self._requests[number % len(self._requests)])
        return self._answer

    def received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(_HEADER_END)
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length and self._answer is not None:
            self._buffer = b""
            _settle(self._answer, head.startswith(b"HTTP/1.1 200 ") and _ANSWER in body)

    def closed(self, reason: str) -> None:
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(ConnectionError(reason))


class NatsClient(asyncio.Protocol):
    """The least of a NATS client, without TLS: it requests, or answers what it subscribed to."""

    def __init__(self, name: str, answers: Sequence[str] = (), asks: Sequence[str] = ()) -> None:
        self._inbox = f"_INBOX.{name}"
        self._answers = answers
        self._asks = [
            f"PUB {subject} {self._inbox} {len(_PAYLOAD)}\r\n".encode() + _PAYLOAD + b"\r\n"
            for subject in asks
        ]
        self._buffer = b""
        self._answer: asyncio.Future[bool] | None = None
        self._transport: asyncio.Transport
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        subjects = [*self._answers, self._inbox]
        subscriptions = "".join(f"SUB {each} {at}\r\n" for at, each in enumerate(subjects, 1))
        hello = 'CONNECT {"verbose":false,"pedantic":false}\r\n' + subscriptions + "PING\r\n"
        self._transport.write(hello.encode())

    def call(self, number: int) -> asyncio.Future[bool]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._asks[number % len(self._asks)])
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                return
            if not line.startswith(b"MSG "):
                self._buffer = rest
                if line == b"PONG" and not self.ready.done():
                    self.ready.set_result(None)
                elif line == b"PING":
                    self._transport.write(b"PONG\r\n")
                continue
            # MSG subject sid [reply-to] size
            fields = line.split()
            size = int(fields[-1])
            if len(rest) < size + 2:
                return
            self._buffer = rest[size + 2 :]
            if len(fields) == 5:
                answer = b"PUB %s %d\r\n%s\r\n" % (fields[3], len(_ANSWER), _ANSWER)
                self._transport.write(answer)
            elif self._answer is not None:
                _settle(self._answer, rest[:size] == _ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(ConnectionError("closed"))


def _settle(answer: asyncio.Future[bool], good: bool) -> None:  # noqa: FBT001
    # At the end of the window it is not waited for any more.
    if not answer.done():
        answer.set_result(good)


async def run(job: Job) -> Result:
    """Call the devices of a hub for the window."""
    dialler = Dialler(job)
    tally: Counter[str] = Counter()
    await client.connect(dialler, job.devices, lambda device: Answerer(dialler, device, tally))
    callers = [HttpCaller(dialler, job) for _ in range(job.connections)]
    loop = asyncio.get_running_loop()
    for caller in callers:
        await loop.create_connection(lambda found=caller: found, job.address, job.https_port)
        await caller.ready
    return await _measured(job, callers)


async def run_nats(job: Job) -> Result:
    """Send requests through a bare NATS for the window."""
    loop = asyncio.get_running_loop()
    subjects = [device.client_id for device in job.devices]
    answerers = [NatsClient(f"a{subject}", [subject]) for subject in subjects]
    callers = [NatsClient(f"c{number}", asks=subjects) for number in range(job.connections)]
    for each in [*answerers, *callers]:
        await loop.create_connection(lambda found=each: found, job.address, job.port)
        await each.ready
    return await _measured(job, callers)


async def _measured(job: Job, callers: Sequence[_Caller]) -> Result:
    latencies: list[float] = []
    failures: Counter[str] = Counter()

    async def call(caller: _Caller, number: int) -> None:
        while True:
            start = CLOCK.monotonic()
            done = await caller.call(number)
            latencies.append(CLOCK.monotonic() - start)
            failures["not answered"] += not done
            number += len(callers)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(each, at)) for at, each in enumerate(callers)]
        await asyncio.sleep(job.warm_up_s)
        latencies.clear()
        window = Window(job.pids)
        await asyncio.sleep(job.seconds)
        result = window.result(len(latencies))
        result.latencies_ms = percentiles(list(latencies))
        for task in tasks:
            task.cancel()
    result.failures = {reason: count for reason, count in failures.items() if count}
    return result
