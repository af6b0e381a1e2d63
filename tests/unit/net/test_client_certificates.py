"""Client certificates: asked for, taken without a word, and handed up, whatever is above."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect as connect_websocket

from muster.clock import ManualClock
from muster.net import client_certificates
from muster.net.amqp import amqp_protocol_factory
from muster.net.http import http_protocol_factory
from muster.net.listener import Listener
from muster.net.mqtt import mqtt_protocol_factory
from muster.net.stream import PEER_CERTIFICATE
from muster.net.tls import server_context
from muster.net.websocket import MQTT_SUBPROTOCOL, WEBSOCKET_PATH, ProtocolWebSocket
from muster.wire.amqp.frames import AMQP_HEADER
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect
from support.certificates import ClientCertificate
from unit.net.amqp_peers import AmqpAcceptor
from unit.net.http_peers import answer, read_response
from unit.net.loopback import HOST, Certificate, connect, hang_up, raw_socket, read, until
from unit.net.mqtt_peers import Acceptor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    return ClientCertificate.make(tmp_path_factory.mktemp("own"), rsa_key=True)


@pytest.fixture
async def serve(certificate: Certificate) -> AsyncIterator[Any]:
    """Return a function that starts a listener which asks for certificates."""
    context = server_context(certificate.certificate, certificate.key, ask_clients=True)
    listeners = []

    async def start(protocol_factory: Callable[[], asyncio.Protocol]) -> int:
        listeners.append(await Listener.listen(HOST, 0, context, protocol_factory))
        return listeners[-1].port

    yield start
    for listener in listeners:
        await listener.close(drain_s=0.0)


class Tell(asyncio.Protocol):
    """Says which certificate the peer has, and nothing when it has none."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(transport.get_extra_info(PEER_CERTIFICATE) or b"nothing")


def client(
    certificate: Certificate, own: ClientCertificate | None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    context = certificate.client(version)
    if own is not None:
        context.load_cert_chain(own.file)
    return context


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_certificate_is_handed_up(
    serve: Any, certificate: Certificate, own: ClientCertificate, version: ssl.TLSVersion
) -> None:
    port = await serve(Tell)
    reader, writer = await connect(port, client(certificate, own, version))
    assert await read(reader, len(own.der)) == own.der
    await hang_up(writer)


@pytest.mark.parametrize("version", VERSIONS)
async def test_nobody_needs_one(
    serve: Any, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    port = await serve(Tell)
    reader, writer = await connect(port, client(certificate, None, version))
    assert await read(reader, 7) == b"nothing"
    await hang_up(writer)


async def test_a_listener_that_does_not_ask_gets_none(
    listen: Any, certificate: Certificate, own: ClientCertificate
) -> None:
    listener = await listen(Tell)
    reader, writer = await connect(listener.port, client(certificate, own))
    assert await read(reader, 7) == b"nothing"
    await hang_up(writer)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_session_keeps_the_certificate(
    serve: Any, certificate: Certificate, own: ClientCertificate, version: ssl.TLSVersion
) -> None:
    port = await serve(Tell)
    context = client(certificate, own, version)

    def talk(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        plain = raw_socket(port)
        plain.setblocking(True)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
            received = b""
            while len(received) < len(own.der):
                received += tls.recv(65_536)
            assert received == own.der
            return tls.session, bool(tls.session_reused)

    session, _ = await asyncio.to_thread(talk, None)
    _, resumed = await asyncio.to_thread(talk, session)
    assert resumed


async def test_mqtt_and_amqp_see_it(
    serve: Any, certificate: Certificate, own: ClientCertificate
) -> None:
    mqtt, amqp = Acceptor(), AmqpAcceptor()
    for factory, hello, peers in (
        (mqtt_protocol_factory(mqtt), codec.encode(Connect("d1")), mqtt.sessions),
        (amqp_protocol_factory(amqp, "server"), AMQP_HEADER, amqp.owners),
    ):
        port = await serve(factory)
        for context, expected in (
            (client(certificate, own), own.der),
            (client(certificate, None), None),
        ):
            peers.clear()
            _, writer = await connect(port, context)
            writer.write(hello)
            await until(lambda peers=peers: bool(peers))  # type: ignore[misc]
            assert peers[0].peer.certificate == expected
            await hang_up(writer)


async def test_requests_have_it(
    serve: Any, certificate: Certificate, own: ClientCertificate
) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, 200, scope[PEER_CERTIFICATE] or b"nothing")

    port = await serve(http_protocol_factory(app, ManualClock()))
    for context, expected in (
        (client(certificate, own), own.der),
        (client(certificate, None), b"nothing"),
    ):
        reader, writer = await connect(port, context)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await read_response(reader))[2] == expected
        await hang_up(writer)


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("", True),
        ("?iothub-no-client-cert=false", True),
        ("?iothub-no-client-cert=true", False),
        ("?a=b&IoTHub-No-Client-Cert=True", False),
    ],
)
async def test_websockets_have_it_unless_they_say_no(
    serve: Any,
    certificate: Certificate,
    own: ClientCertificate,
    query: str,
    seen: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    acceptor = Acceptor()
    endpoint = ProtocolWebSocket({MQTT_SUBPROTOCOL: mqtt_protocol_factory(acceptor)})
    port = await serve(http_protocol_factory(endpoint, ManualClock()))
    async with connect_websocket(
        f"wss://localhost:{port}{WEBSOCKET_PATH}{query}",
        host=HOST,
        ssl=client(certificate, own),
        subprotocols=[MQTT_SUBPROTOCOL],  # type: ignore[list-item]
    ) as websocket:
        await websocket.send(codec.encode(Connect("d1")))
        await until(lambda: bool(acceptor.sessions))
        assert acceptor.sessions[0].peer.certificate == (own.der if seen else None)


def test_it_works_here() -> None:
    assert client_certificates.trouble() is None


def test_an_interpreter_nobody_tried_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_certificates, "_KNOWN_LAYOUTS", ((3, 9), (3, 10)))
    assert "not one it was checked with" in (client_certificates.trouble() or "")


def test_a_context_elsewhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the mode is what stands between a wrong pointer and a call with it."""
    monkeypatch.setattr(client_certificates, "_VERIFY_PEER", 7)
    assert "not where it was expected" in (client_certificates.trouble() or "")


def test_an_interpreter_without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_certificates.sys.modules["_ssl"], "__file__", "/nowhere/_ssl.so")
    assert "/nowhere" in (client_certificates.trouble() or "")


def test_a_callback_that_was_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the handshake still fails, that is said and nothing is asked for."""
    refuse = client_certificates._Callback(lambda _store_context, _argument: 0)
    monkeypatch.setattr(client_certificates, "_take_any", refuse)
    assert "handshake with TLSv1_2 failed" in (client_certificates.trouble() or "")
