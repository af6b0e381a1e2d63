"""MQTT and AMQP over WebSocket, with the `websockets` library as the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from muster.clock import ManualClock
from muster.ids import Randomness
from muster.net.amqp import amqp_protocol_factory
from muster.net.http import http_protocol_factory
from muster.net.mqtt import SERVICE_STOPS, MqttLimits, mqtt_protocol_factory
from muster.net.routing import RouteGroup, Router
from muster.net.websocket import (
    AMQP_SUBPROTOCOL,
    MQTT_SUBPROTOCOL,
    WEBSOCKET_PATH,
    ProtocolWebSocket,
)
from muster.wire.amqp.frames import AMQP_HEADER
from muster.wire.amqp.performatives import Close, Open
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
)
from unit.net.amqp_peers import AmqpAcceptor, encoded
from unit.net.loopback import HOST, PATIENCE_S, Certificate, until
from unit.net.loopback import connect as connect_tcp
from unit.net.mqtt_peers import Acceptor, telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.wire.mqtt.packets import Packet
    from unit.net.net_fixtures import Listen


class Server:
    def __init__(self, listen: Listen, certificate: Certificate) -> None:
        self.acceptor = Acceptor()
        self.amqp_acceptor = AmqpAcceptor()
        self._listen = listen
        self._certificate = certificate

    async def start(self, **limits: Any) -> None:
        endpoint = ProtocolWebSocket(
            {
                MQTT_SUBPROTOCOL: mqtt_protocol_factory(
                    self.acceptor, MqttLimits(**limits), transport="mqtt-ws"
                ),
                AMQP_SUBPROTOCOL: amqp_protocol_factory(
                    self.amqp_acceptor, "server", transport="amqp-ws"
                ),
            }
        )
        router = Router(
            [],
            RouteGroup("none", lambda _request, _error: None),  # type: ignore[arg-type, return-value]
            Randomness(),
            {WEBSOCKET_PATH: endpoint},
        )
        self.listener = await self._listen(http_protocol_factory(router, ManualClock()))

    @contextlib.asynccontextmanager
    async def connect(
        self, *subprotocols: str, path: str = WEBSOCKET_PATH
    ) -> AsyncIterator[ClientConnection]:
        tls = self._certificate.client()
        uri = f"wss://{HOST}:{self.listener.port}{path}"
        async with connect(
            uri,
            ssl=tls,
            server_hostname="localhost",
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]
            open_timeout=PATIENCE_S,
        ) as websocket:
            yield websocket


@pytest.fixture
async def server(listen: Listen, certificate: Certificate) -> Server:
    return Server(listen, certificate)


async def receive(websocket: ClientConnection) -> list[Packet]:
    decoder = codec.Decoder()
    packets: list[Packet] = []
    async with asyncio.timeout(PATIENCE_S):
        while not packets:
            data = await websocket.recv(decode=False)
            packets = decoder.feed(data)
    return packets


async def log_in(websocket: ClientConnection, **fields: Any) -> None:
    await websocket.send(codec.encode(Connect("d1", **fields)))
    (connack,) = await receive(websocket)
    assert isinstance(connack, Connack)
    assert connack.return_code == 0


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["mqtt"], "mqtt"), (["MQTT"], "MQTT"), (["other", "Mqtt"], "Mqtt")],
)
async def test_sub_protocol_is_echoed_as_offered(
    server: Server, offered: list[str], chosen: str
) -> None:
    await server.start()
    async with server.connect(*offered) as websocket:
        assert websocket.subprotocol == chosen
        assert websocket.response is not None
        # The clients that offer compression do without.
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers
        assert len(websocket.response.headers.get_all("Date")) == 1
        await log_in(websocket)


async def test_a_whole_life(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket, clean_session=False)
        session = server.acceptor.sessions[0]
        assert session.peer.transport == "mqtt-ws"
        host, port = websocket.local_address
        assert session.peer.remote == f"{host}:{port}"
        # Packets need not keep to frames.
        data = codec.encode(telemetry(1)) + codec.encode(telemetry(2)) + codec.encode(Pingreq())
        await websocket.send(data[:5])
        await websocket.send(b"")
        await websocket.send([data[5:9], data[9:]])
        answers = await receive(websocket)
        while len(answers) < 3:
            answers += await receive(websocket)
        assert [type(answer) for answer in answers] == [Puback, Puback, Pingresp]
        await websocket.send(codec.encode(Disconnect()))
        with pytest.raises(ConnectionClosed) as caught:
            await receive(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1000
    await until(lambda: bool(session.closings))
    assert session.closings == [(True, "closed by the client")]
    await until(lambda: server.listener.connections == 0)


@pytest.mark.parametrize(
    "path",
    [
        "/%24iothub/websocket",
        "/$IOTHUB/WebSocket/",
        "/$iothub/websocket?iothub-no-client-cert=true",
    ],
)
async def test_spellings_of_the_path(server: Server, path: str) -> None:
    await server.start()
    async with server.connect("mqtt", path=path) as websocket:
        await log_in(websocket)


@pytest.mark.parametrize(
    ("path", "offered", "status"),
    [
        (WEBSOCKET_PATH, ["amqp"], 400),
        (WEBSOCKET_PATH, [], 400),
        ("/elsewhere", ["mqtt"], 404),
        ("/%ff", ["mqtt"], 404),
    ],
)
async def test_refused_before_it_opens(
    server: Server, path: str, offered: list[str], status: int
) -> None:
    await server.start()
    with pytest.raises(InvalidStatus) as caught:
        async with server.connect(*offered, path=path):
            pass
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["Message"]
    assert caught.value.response.headers["Content-Type"].startswith("application/json")
    await until(lambda: server.listener.connections == 0)


async def test_header_as_the_python_sdk_spells_it(server: Server, certificate: Certificate) -> None:
    await server.start()
    reader, writer = await connect_tcp(server.listener.port, certificate.client())
    writer.write(
        b"GET /$iothub/websocket HTTP/1.1\r\nHost: h:443\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-Websocket-Protocol: mqtt\r\nOrigin: https://h:443\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-Websocket-Version: 13\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol: mqtt\r\n" in head.lower()
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    writer.transport.abort()
    await until(lambda: server.listener.connections == 0)


async def test_text_frame(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        await websocket.send("text")
        with pytest.raises(ConnectionClosed) as caught:
            await receive(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1003
    await until(lambda: bool(server.acceptor.sessions[0].closings))
    assert server.acceptor.sessions[0].closings == [(False, "text frame")]


async def test_frames_that_are_too_large_or_too_many(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        await websocket.send(bytes(1_100_000))
        with pytest.raises(ConnectionClosed) as caught:
            await receive(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        with contextlib.suppress(ConnectionClosed):
            await websocket.send([b""] * 5_000)
        with pytest.raises(ConnectionClosed) as caught:
            await receive(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
    await until(lambda: server.listener.connections == 0)


async def test_client_that_vanishes(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        websocket.transport.abort()
        await until(lambda: bool(server.acceptor.sessions[0].closings))
    assert server.acceptor.sessions[0].closings == [(False, "closed by the client")]


async def test_refused_client_reads_why(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await websocket.send(codec.encode(Connect("refused")))
        (connack,) = await receive(websocket)
        assert isinstance(connack, Connack)
        assert connack.return_code == 5
        with pytest.raises(ConnectionClosed):
            await receive(websocket)


async def test_closed_by_the_session(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        session = server.acceptor.sessions[0]
        session.peer.write(codec.encode(telemetry(7)))
        session.peer.close("taken over")
        (publish,) = await receive(websocket)
        assert isinstance(publish, Publish)
        with pytest.raises(ConnectionClosed):
            await receive(websocket)
    assert session.closings == [(False, "taken over")]


async def test_keep_alive(server: Server) -> None:
    await server.start(keep_alive_cap_s=0.2)
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        with pytest.raises(ConnectionClosed):
            await receive(websocket)
    assert server.acceptor.sessions[0].closings == [(False, "nothing was heard for too long")]


async def test_slow_reader_and_paused_reading(server: Server) -> None:
    await server.start(write_buffer=1_000_000)
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        session = server.acceptor.sessions[0]
        session.peer.pause_reading()
        await websocket.send(codec.encode(telemetry(1)))
        await websocket.send(codec.encode(telemetry(2)))
        await asyncio.sleep(0.1)
        # One message may have been on its way.
        assert len(session.packets) <= 1
        session.peer.resume_reading()
        await until(lambda: len(session.packets) == 2)
        websocket.transport.pause_reading()
        async with asyncio.timeout(PATIENCE_S):
            while not session.peer.closed:
                session.peer.write(bytes(300_000))
                await asyncio.sleep(0)
        await until(lambda: bool(session.closings))
        assert session.closings == [(False, "too slow a reader")]
        websocket.transport.abort()
    await until(lambda: server.listener.connections == 0)


async def test_service_stops(server: Server) -> None:
    await server.start()
    async with server.connect("mqtt") as websocket:
        await log_in(websocket)
        closing = asyncio.ensure_future(server.listener.close(5.0))
        with pytest.raises(ConnectionClosed):
            await receive(websocket)
    await closing
    assert server.acceptor.sessions[0].closings == [(False, SERVICE_STOPS)]


@pytest.mark.parametrize("offered", ["AMQPWSB10", "amqpwsb10"])
async def test_amqp(server: Server, offered: str) -> None:
    await server.start()
    async with server.connect(offered, "mqtt") as websocket:
        assert websocket.subprotocol == offered
        # Frames need not keep to WebSocket frames, nor one to the other.
        data = AMQP_HEADER + encoded(Open("c")) + encoded(Close())
        await websocket.send(data[:5])
        await websocket.send([data[5:20], data[20:]])
        with pytest.raises(ConnectionClosed) as caught:
            await receive_all(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1000
    (owner,) = server.amqp_acceptor.owners
    assert owner.peer.transport == "amqp-ws"
    assert owner.closings == ["closed by the client"]


async def test_amqp_text_frame(server: Server) -> None:
    await server.start()
    async with server.connect("AMQPWSB10") as websocket:
        await websocket.send(AMQP_HEADER + encoded(Open("c")))
        await websocket.send("text")
        with pytest.raises(ConnectionClosed) as caught:
            await receive_all(websocket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1003
    assert server.amqp_acceptor.owners[0].closings == ["text frame"]


async def test_amqp_when_the_service_stops(server: Server) -> None:
    await server.start()
    async with server.connect("AMQPWSB10") as websocket:
        await websocket.send(AMQP_HEADER + encoded(Open("c")))
        await websocket.recv(decode=False)
        closing = asyncio.ensure_future(server.listener.close(5.0))
        with pytest.raises(ConnectionClosed):
            await receive_all(websocket)
    await closing
    assert server.amqp_acceptor.owners[0].closings == [SERVICE_STOPS]


async def receive_all(websocket: ClientConnection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await websocket.recv(decode=False)
