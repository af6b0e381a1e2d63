"""Devices that register, each over a new connection (and plain requests, for comparison)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from benchmarks.load.job import Job, Result, percentiles
from benchmarks.load.link import Dialler, Link
from benchmarks.load.window import Window
from muster.auth import sas_token, symmetric_keys
from muster.clock import SystemClock
from muster.net.tasks import spawn
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Disconnect, Publish, Suback, Subscribe

CLOCK: Final = SystemClock()
_DISCONNECT: Final = codec.encode(Disconnect())
_PATIENCE_S: Final = 60.0


class Conversation(Link):
    """What is counted: from the connection to the last answer."""

    __slots__ = ("_done", "_ended", "_started")

    def __init__(self, dialler: Dialler, done: Callable[[float, str], None]) -> None:
        super().__init__(*dialler.link_arguments())
        self._done = done
        self._started = CLOCK.monotonic()
        self._ended = False

    def end(self, failure: str = "") -> None:
        """Report, once."""
        if not self._ended:
            self._ended = True
            self._done(CLOCK.monotonic() - self._started, failure)

    def closed(self, reason: str) -> None:
        self.end(f"{type(self).__name__}: {reason}")

    def give_up(self) -> None:
        """End a conversation that takes too long."""
        if not self._ended:
            self.end("no answer in time")
            self.transport.abort()


class Registration(Conversation):
    """CONNECT, SUBSCRIBE, register, poll until assigned, DISCONNECT."""

    __slots__ = ("_decoder", "_id", "_job", "_requests")

    def __init__(
        self, dialler: Dialler, job: Job, registration_id: str, done: Callable[[float, str], None]
    ) -> None:
        super().__init__(dialler, done)
        self._job = job
        self._id = registration_id
        self._decoder = codec.Decoder()
        self._requests = 0

    def secured(self) -> None:
        job, name = self._job, self._id
        if job.id_scope:
            username = f"{job.id_scope}/registrations/{name}/api-version=2019-03-31"
            key = symmetric_keys.derive(symmetric_keys.decode(job.group_key), name)
            resource = f"{job.id_scope}/registrations/{name}"
            expiry = int(CLOCK.time()) + 3_600
            password = sas_token.sign(resource, key, expiry, "registration")
        else:
            username = password = "any"
        self.write(
            codec.encode(
                Connect(
                    client_id=name,
                    username=username,
                    password=password.encode(),
                    clean_session=True,
                    keep_alive_s=30,
                )
            )
        )

    def received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, Publish):
                self._answered(packet)
            elif isinstance(packet, Suback):
                self._request("register", b'{"registrationId":"%s"}' % self._id.encode())
            elif isinstance(packet, Connack):
                if packet.return_code:
                    self.end(f"CONNACK {packet.return_code}")
                    self.close()
                    return
                scoped = bool(self._job.id_scope)
                topic = "$dps/registrations/res/#" if scoped else f"dps/res/{self._id}"
                self.write(codec.encode(Subscribe(1, [(topic, 1)])))

    def _request(self, verb: str, payload: bytes, operation: str = "") -> None:
        self._requests += 1
        number = self._requests
        if not self._job.id_scope:
            topic = f"dps/req/{self._id}/{verb}/{number}/{operation}"
        elif verb == "register":
            topic = f"$dps/registrations/PUT/iotdps-register/?$rid={number}"
        else:
            topic = (
                f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid={number}"
                f"&operationId={operation}"
            )
        self.write(codec.encode_publish(topic, payload, qos=1, packet_id=number + 1))

    def _answered(self, packet: Publish) -> None:
        if packet.qos and packet.packet_id is not None:
            self.write(codec.encode_puback(packet.packet_id))
        payload = packet.payload
        if b'"assigned"' in payload:
            owner = b'"deviceId":"%s"' % self._id.encode()
            self.end("" if owner in payload else "assigned to somebody else")
            self.write(_DISCONNECT)
            self.close()
        elif b'"assigning"' in payload and self._requests < 20:
            operation = payload.partition(b'"operationId":"')[2].partition(b'"')[0]
            self._request("poll", b" ", operation.decode())
        else:
            self.end(f"answer: {packet.topic[:40]} {payload[:80]!r}")
            self.close()


class Request(Conversation):
    """A GET over a new connection."""

    __slots__ = ()

    def secured(self) -> None:
        self.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    def received(self, data: bytes) -> None:
        self.end("" if data.startswith(b"HTTP/1.1 200") else "answer")
        self.close()


class _Crowd:
    """Keeps a number of conversations going and counts them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._dialler = Dialler(job)
        self._begun = 0
        self._open = 0
        self._stopping = False
        self._limit = job.count or 1 << 60
        self._loop = asyncio.get_running_loop()
        self.finished = asyncio.Event()
        self.latencies_s: list[float] = []
        self.failures: Counter[str] = Counter()

    def start(self) -> None:
        for _ in range(min(self._job.connections, self._limit)):
            self._next()

    def stop(self) -> None:
        self._stopping = True

    def _next(self) -> None:
        if self._stopping or self._begun >= self._limit:
            if not self._open:
                self.finished.set()
            return
        number = self._begun
        self._begun += 1
        self._open += 1
        job = self._job
        conversation: Conversation
        if job.kind == "http":
            conversation = Request(self._dialler, self._ended)
        else:
            pick = job.picks[number % len(job.picks)] if job.picks else number
            conversation = Registration(self._dialler, job, f"{job.prefix}{pick}", self._ended)
        spawn(self._dial(conversation), "dial")

    async def _dial(self, conversation: Conversation) -> None:
        if await self._dialler.open(conversation):
            self._loop.call_later(_PATIENCE_S, conversation.give_up)

    def _ended(self, latency_s: float, failure: str) -> None:
        self._open -= 1
        if failure:
            self.failures[failure] += 1
        else:
            self.latencies_s.append(latency_s)
        self._loop.call_soon(self._next)


async def run(job: Job) -> Result:
    """Run for the window, or until `count` conversations are over."""
    crowd = _Crowd(job)
    crowd.start()
    if not job.count:
        await asyncio.sleep(job.warm_up_s)
    first = len(crowd.latencies_s)
    window = Window(job.pids)
    if job.count:
        await crowd.finished.wait()
    else:
        await asyncio.sleep(job.seconds)
    latencies = crowd.latencies_s[first:]
    result = window.result(len(latencies))
    crowd.stop()
    await crowd.finished.wait()
    result.latencies_ms = percentiles(latencies)
    result.failures = dict(crowd.failures)
    return result
