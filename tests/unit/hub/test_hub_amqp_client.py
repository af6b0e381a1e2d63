"""How much of a client on AMQP is looked at together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from muster.hub.endpoints.amqp_client import MAX_REQUESTS, AmqpClient
from muster.hub.endpoints.service_amqp import DeviceboundSenders
from muster.wire.amqp import addresses, messages
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.messages import Data, Message, Properties

if TYPE_CHECKING:
    from muster.hub.cloud_to_device import CloudToDevice


class Peer:
    """A connection that can be read from or not."""

    certificate = None

    def __init__(self) -> None:
        self.reading = asyncio.Event()
        self.reading.set()

    def pause_reading(self) -> None:
        self.reading.clear()

    def resume_reading(self) -> None:
        self.reading.set()


class Slow:
    """Queues that take a message when they are told to."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(0)

    async def send(self, *_: Any) -> None:
        await self.free.acquire()


async def test_messages_to_devices_that_wait_stop_the_reading() -> None:
    peer, queues = Peer(), Slow()
    client = AmqpClient(cast("Any", None), cast("Any", None), cast("Any", peer))
    grant = SimpleNamespace(hub=SimpleNamespace(id=1))
    client.grants = cast("Any", SimpleNamespace(service=lambda *_: grant))
    link = cast("Any", SimpleNamespace(accept=lambda *_, **__: None))
    address = addresses.parse("/messages/devicebound")
    handler = await DeviceboundSenders(cast("CloudToDevice", queues)).attach(client, link, address)
    to = Properties(to="/devices/d1/messages/devicebound")
    payload = messages.encode(Message(Data([b"x"]), to))
    # Settled, as they come from clients that wait for nothing.
    each = [Delivery(link, n, b"t", 0, payload, settled=True) for n in range(MAX_REQUESTS)]
    handler.received(each[:-1])
    assert peer.reading.is_set()
    handler.received(each[-1:])
    assert not peer.reading.is_set()
    queues.free.release()
    async with asyncio.timeout(20):
        await peer.reading.wait()
    for _ in each[1:]:
        queues.free.release()
