"""Readers of events, as processes of their own: `python -m benchmarks.load.events < job`.

One with azure-eventhub, and one that only counts frames, to know how much of the time is the
client's own.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from azure.eventhub import EventHubConsumerClient, TransportType

from muster.clock import SystemClock
from muster.wire.amqp import bodies, messages
from muster.wire.amqp.frames import AMQP_HEADER, FrameBuffer, frame
from muster.wire.amqp.messages import AmqpValue, Message, Properties
from muster.wire.amqp.performatives import Attach, Begin, Flow, Open, Source, Target, Transfer

if TYPE_CHECKING:
    from muster.wire.amqp.performatives import Performative

_FLOW: Final = 0x13
_TRANSFER: Final = 0x14
_CREDIT: Final = 2_000
_WINDOW: Final = 1 << 20


class ReaderJob(msgspec.Struct, kw_only=True):
    """What to read.

    Attributes:
        sdk: with azure-eventhub; else frames are counted.
        address, port, host, ca_file: where the service is, and whom to trust.
        connection_string: of the stream.
        token: for the hub, of a policy.
        count: events in partition 0, which is read.
    """

    sdk: bool
    address: str
    port: int
    host: str
    ca_file: str
    connection_string: str
    token: str
    count: int


class Reading(msgspec.Struct):
    """How long it took, from the first event to the last: of the clock, and of this process."""

    wall_s: float
    client_cpu_s: float
    events: int


class _Stopwatch:
    def __init__(self, count: int) -> None:
        self._clock = SystemClock()
        self._left = count
        self._count = count
        self._begin = (0.0, 0.0)
        self.reading: Reading | None = None

    def saw(self, count: int) -> bool:
        """Count events; return whether these were the last."""
        if self._left == self._count:
            self._begin = (self._clock.monotonic(), time.process_time())
        self._left -= count
        if self._left <= 0:
            wall, cpu = self._clock.monotonic(), time.process_time()
            seen = self._count - self._left
            self.reading = Reading(wall - self._begin[0], cpu - self._begin[1], seen)
        return self._left <= 0


def _with_sdk(job: ReaderJob, watch: _Stopwatch) -> None:
    client = EventHubConsumerClient.from_connection_string(
        job.connection_string,
        consumer_group="$Default",
        connection_verify=job.ca_file,
        custom_endpoint_address=f"sb://{job.host}:{job.port}",
        transport_type=TransportType.Amqp,
    )
    done = threading.Event()

    def take(_: Any, events: list[Any]) -> None:
        if not done.is_set() and watch.saw(len(events)):
            done.set()

    # One partition, so that the client never waits for another.
    reading = threading.Thread(
        target=client.receive_batch,
        kwargs={"on_event_batch": take, "starting_position": "-1", "partition_id": "0"},
        daemon=True,
    )
    reading.start()
    done.wait()
    client.close()


class _Frames:
    """A connection that counts what comes."""

    def __init__(self, job: ReaderJob) -> None:
        context = ssl.create_default_context(cafile=job.ca_file)
        plain = socket.create_connection((job.address, job.port), 30)
        self._tls = context.wrap_socket(plain, server_hostname=job.host)
        self._buffer = FrameBuffer()
        self._tls.sendall(AMQP_HEADER)
        while self._buffer.header() is None:
            self._buffer.feed(self._tls.recv(65_536))

    def say(self, *said: Performative, payload: bytes = b"") -> None:
        """Say these, the last with a payload."""
        parts = [frame(0, bodies.encode(each)) for each in said[:-1]]
        self._tls.sendall(b"".join([*parts, frame(0, bodies.encode(said[-1]), payload)]))

    def wait_for(self, code: int) -> int:
        """Wait for frames of a kind and return how many have come."""
        found = 0
        while not found:
            self._buffer.feed(self._tls.recv(1 << 18))
            while (one := self._buffer.next(1 << 20)) is not None:
                found += one[2][2] == code
        return found


def _frames(job: ReaderJob, watch: _Stopwatch) -> None:
    peer = _Frames(job)
    peer.say(
        Open("counter", hostname=job.host, max_frame_size=1 << 20),
        Begin(0, _WINDOW, _WINDOW),
        Attach(
            "a", 0, role=False, source=Source(), target=Target("$cbs"), initial_delivery_count=0
        ),
        Attach("b", 1, role=True, source=Source("$cbs"), target=Target()),
        Flow(_WINDOW, 0, _WINDOW, 0, 1, delivery_count=0, link_credit=10),
    )
    peer.wait_for(_FLOW)
    request = Message(
        AmqpValue(job.token),
        Properties(message_id="a"),
        {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": job.host},
    )
    peer.say(Transfer(0, 0, b"0", 0, settled=True), payload=messages.encode(request))
    peer.wait_for(_TRANSFER)
    address = f"{job.host}/ConsumerGroups/$Default/Partitions/0"
    arrived, seen, granted = 1, 0, _CREDIT
    peer.say(Attach("c", 2, role=True, source=Source(address), target=Target("x")))
    peer.say(Flow(_WINDOW, 1, _WINDOW, arrived, 2, delivery_count=0, link_credit=_CREDIT))
    while True:
        found = peer.wait_for(_TRANSFER)
        if watch.saw(found):
            return
        arrived, seen = arrived + found, seen + found
        if granted - seen <= _CREDIT // 2:
            granted = seen + _CREDIT
            peer.say(
                Flow(_WINDOW, 1, _WINDOW, arrived, 2, delivery_count=seen, link_credit=_CREDIT)
            )


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=ReaderJob)
    watch = _Stopwatch(job.count)
    (_with_sdk if job.sdk else _frames)(job, watch)
    sys.stdout.buffer.write(msgspec.json.encode(watch.reading))


if __name__ == "__main__":
    main()
