"""The AMQP libraries below the official SDKs, against a server that sends back what it gets."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uamqp
from azure.eventhub._pyamqp import ReceiveClient, SendClient
from azure.eventhub._pyamqp.authentication import SASLPlainAuth
from azure.eventhub._pyamqp.message import Message as TheirMessage
from azure.eventhub._pyamqp.message import Properties as TheirProperties

from muster.net.amqp import AmqpLimits, AmqpPeer, amqp_protocol_factory
from muster.wire.amqp import messages
from muster.wire.amqp.connection import ServerConnection
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.events import CreditChanged, LinkAttached, LinkDetached, OutcomeReceived
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.performatives import Accepted, Close, Error, Open, SaslInit
from unit.net.loopback import PATIENCE_S

if TYPE_CHECKING:
    from muster.wire.amqp.events import Event
    from unit.net.loopback import Certificate
    from unit.net.net_fixtures import Listen

NODE = Path(__file__).parents[2] / "conformance" / "node"


class Echo:
    """Sends every message to whoever receives, over whichever connection."""

    def __init__(self) -> None:
        self.mechanisms: list[str | None] = []
        self.receivers: list[SendingLink] = []
        self.early: list[Message] = []
        self.outcomes: list[Any] = []
        self.closings: list[str] = []

    def accept(self, connection: ServerConnection, _peer: AmqpPeer) -> EchoOwner:
        return EchoOwner(self, connection)


class EchoOwner:
    def __init__(self, echo: Echo, connection: ServerConnection) -> None:
        self.echo = echo
        self.connection = connection

    def received(self, events: list[Event]) -> None:
        for event in events:
            self.answer(event)

    def answer(self, event: Event) -> None:
        echo = self.echo
        match event:
            case SaslInit():
                self.connection.sasl_accept()
            case Open():
                echo.mechanisms.append(self.connection.mechanism)
                self.connection.open()
            case LinkAttached(link=link) if "echo" not in link.address:
                link.detach(Error("amqp:not-found", "There is no such address."))
            case LinkAttached(link=ReceivingLink() as link):
                link.accept(7)
            case LinkAttached(link=SendingLink() as link):
                link.accept()
                echo.receivers.append(link)
                for message in echo.early:
                    link.send(messages.encode(message))
                echo.early.clear()
            case Delivery():
                message = messages.decode(event.payload)
                answer = Message(
                    Data([message.data]), Properties(correlation_id=message.properties.message_id)
                )
                receivers = [link for link in echo.receivers if link.attached]
                if receivers:
                    receivers[-1].send(messages.encode(answer))
                else:
                    echo.early.append(answer)
                event.accept()
            case OutcomeReceived(sent=sent, state=state):
                echo.outcomes.append(state)
                sent.settle()
            case _:
                assert isinstance(event, CreditChanged | LinkDetached | Close)

    def writable(self) -> None:
        raise AssertionError

    def closed(self, reason: str) -> None:
        self.echo.closings.append(reason)


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.mark.parametrize(
    ("options", "mechanism"),
    [
        ({}, None),
        ({"max_frame_size": 512}, None),
        ({"username": "anonymous"}, "ANONYMOUS"),
        ({"username": "u", "password": "p", "idle_time_out": 1_000}, "PLAIN"),
    ],
    ids=str,
)
async def test_rhea(
    listen: Listen, echo: Echo, options: dict[str, Any], mechanism: str | None
) -> None:
    limits = AmqpLimits(connection=ConnectionLimits(max_frame_size=700, incoming_window=20))
    listener = await listen(amqp_protocol_factory(echo, "server", limits=limits), tls=False)
    count = 60
    context = json.dumps({"port": listener.port, "options": options, "count": count})
    process = await asyncio.create_subprocess_exec(
        "node",
        str(Path(__file__).with_name("rhea_peer.js")),
        context,
        env={**os.environ, "NODE_PATH": str(NODE / "node_modules")},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    seen = json.loads(out)
    assert seen == {
        "server": "server",
        "refused": ["amqp:not-found", "There is no such address."],
        "echoes": [[number + 1, number * 37] for number in range(count)],
        "outcomes": ["accepted"] * count,
        "closed": True,
    }
    assert echo.mechanisms == [mechanism]
    assert echo.outcomes == [Accepted()] * count
    assert echo.closings == ["closed by the client"]


async def test_pyamqp(listen: Listen, echo: Echo) -> None:
    """As below azure-eventhub."""
    listener = await listen(amqp_protocol_factory(echo, "server"), tls=False)
    await asyncio.wait_for(asyncio.to_thread(talk_with_pyamqp, listener.port), 60)
    assert echo.mechanisms == ["PLAIN", "PLAIN"]
    assert echo.closings == ["closed by the client"] * 2


def talk_with_pyamqp(port: int) -> None:
    endpoint = f"127.0.0.1:{port}"

    def options() -> dict[str, Any]:
        return {
            "use_tls": False,
            "auth": SASLPlainAuth("localhost", "u", "p"),
            "keep_alive_interval": 30,
        }

    with SendClient(endpoint, f"amqps://{endpoint}/echo", **options()) as sender:
        for number in range(3):
            message = TheirMessage(
                properties=TheirProperties(message_id=str(number)), data=[b"x" * number * 50_000]
            )
            sender.send_message(message)
    with ReceiveClient(endpoint, f"amqps://{endpoint}/echo", **options()) as receiver:
        received: list[Any] = []
        while len(received) < 3:
            batch = receiver.receive_message_batch(max_batch_size=3 - len(received), timeout=10)
            assert batch
            received += batch
    assert [message.properties.correlation_id for message in received] == [b"0", b"1", b"2"]
    assert [len(message.data[0]) for message in received] == [0, 50_000, 100_000]


async def test_uamqp(listen: Listen, echo: Echo, certificate: Certificate) -> None:
    """As below azure-iot-hub and the az CLI."""
    listener = await listen(amqp_protocol_factory(echo, "server"))
    talking = asyncio.to_thread(talk_with_uamqp, listener.port, str(certificate.certificate))
    await asyncio.wait_for(talking, PATIENCE_S * 6)
    assert echo.mechanisms == ["PLAIN", "PLAIN"]
    assert echo.outcomes == [Accepted()] * 3


def talk_with_uamqp(port: int, certificate: str) -> None:
    def auth() -> Any:
        return uamqp.authentication.SASLPlain("localhost", "u", "p", port=port, verify=certificate)

    sender = uamqp.SendClient("amqps://localhost/echo", auth=auth())
    try:
        for number in range(3):
            properties = uamqp.message.MessageProperties(message_id=number)
            sender.queue_message(uamqp.Message(b"x" * number * 50_000, properties=properties))
        states = sender.send_all_messages(close_on_done=False)
    finally:
        sender.close()
    assert states == [uamqp.constants.MessageState.SendComplete] * 3
    receiver = uamqp.ReceiveClient("amqps://localhost/echo", auth=auth(), prefetch=10)
    received: list[Any] = []
    try:
        while len(received) < 3:
            batch = receiver.receive_message_batch(max_batch_size=3 - len(received), timeout=10_000)
            assert batch
            for message in batch:
                received.append(
                    (message.properties.correlation_id, sum(map(len, message.get_data())))
                )
                message.accept()
        receiver.do_work()
    finally:
        receiver.close()
    assert received == [(0, 0), (1, 50_000), (2, 100_000)]
