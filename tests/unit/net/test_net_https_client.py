"""HTTPS requests, against a server that answers what the test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from muster.net import https_client
from muster.net.dial import HandshakeError, client_context, reason
from muster.net.https_client import HttpError, HttpsClient, Server, TooLongError
from unit.net.loopback import HOST, PATIENCE_S, Certificate, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unit.net.net_fixtures import Listen

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Y: a b\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """What the server answers, in this order; `None` hangs up, and so does its end."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.lines: list[Line] = []
        self.piecewise = False

    def line(self) -> Line:
        self.lines.append(Line(self))
        return self.lines[-1]


class Line(asyncio.Protocol):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._held = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        length = next(
            (int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")),
            0,
        )
        if not end or len(body) < length:
            return
        self._peer.requests.append(self._held)
        self._held = b""
        answer = self._peer.answers.pop(0) if self._peer.answers else None
        if answer is None:
            self.transport.close()
        elif self._peer.piecewise:
            for byte in answer:
                asyncio.get_running_loop().call_soon(self.transport.write, bytes([byte]))
        else:
            self.transport.write(answer)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def client(
    peer: Peer, listen: Listen, certificate: Certificate
) -> AsyncIterator[Callable[..., HttpsClient]]:
    """Return a function that makes a client of the peer."""
    listener = await listen(peer.line)
    made: list[HttpsClient] = []

    def make(**options: float) -> HttpsClient:
        server = Server(host="localhost", port=listener.port, address=HOST)
        context = client_context(certificate.certificate)
        made.append(HttpsClient(server, context, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    await until(lambda: all(line.lost for line in peer.lines))


@pytest.mark.parametrize("piecewise", [False, True])
async def test_requests_share_a_connection(
    peer: Peer, client: Callable[..., HttpsClient], *, piecewise: bool
) -> None:
    peer.piecewise = piecewise
    peer.answers = [OK, b"HTTP/1.1 204 No Content\r\n\r\n", OK]
    requests = client()
    first = await requests.request("PUT", "/a%20b?c=d", {"X": "y"}, b"body")
    assert (first.status, first.body, first.headers["x-y"]) == (200, b"ok", "a b")
    assert (await requests.request("DELETE", "/a", {})).status == 204
    assert (await requests.request("POST", "/a", {})).body == b"ok"
    assert len(peer.lines) == 1
    put, delete, post = (request.split(b"\r\n") for request in peer.requests)
    assert put[0] == b"PUT /a%20b?c=d HTTP/1.1"
    assert put[1].startswith(b"Host: localhost:")
    assert put[2:] == [b"X: y", b"Content-Length: 4", b"", b"body"]
    assert delete[2:] == [b"", b""]
    assert post[2:] == [b"Content-Length: 0", b"", b""]


async def test_requests_at_the_same_time(peer: Peer, client: Callable[..., HttpsClient]) -> None:
    peer.answers = [OK] * 6
    requests = client()
    await asyncio.gather(*(requests.request("GET", "/", {}) for _ in range(5)))
    assert len(peer.lines) == 5
    # Some are kept, the others are closed.
    await until(lambda: sum(not line.lost for line in peer.lines) == 2)
    await requests.request("GET", "/", {})
    assert len(peer.lines) == 5


@pytest.mark.parametrize("how", ["at once", "when asked"])
async def test_a_kept_connection_that_the_server_has_closed(
    peer: Peer, client: Callable[..., HttpsClient], how: str
) -> None:
    requests = client()
    peer.answers = [OK]
    await requests.request("GET", "/", {})
    if how == "at once":
        peer.lines[0].transport.close()
        await until(lambda: peer.lines[0].lost)
    else:
        peer.answers = [None]
    peer.answers.append(OK)
    assert (await requests.request("GET", "/", {})).status == 200
    assert len(peer.lines) == 2


async def test_a_kept_connection_is_not_kept_for_ever(
    peer: Peer, client: Callable[..., HttpsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_client, "IDLE_S", 0.05)
    peer.answers = [OK, OK]
    requests = client()
    await requests.request("GET", "/", {})
    await until(lambda: peer.lines[0].lost)
    await requests.request("GET", "/", {})
    assert len(peer.lines) == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED + b"2\r\nok\r\n3\r\n...\r\n0\r\n\r\n", b"ok..."),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 401 X\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", b"no"),
    ],
)
async def test_forms_of_answers(
    peer: Peer, client: Callable[..., HttpsClient], answer: bytes, body: bytes
) -> None:
    peer.answers = [answer]
    assert (await client().request("GET", "/", {})).body == body


async def test_an_answer_that_ends_with_its_connection(
    peer: Peer, client: Callable[..., HttpsClient]
) -> None:
    peer.answers = [b"HTTP/1.0 200 OK\r\n\r\nall of it"]
    asking = asyncio.ensure_future(client().request("GET", "/", {}))
    await until(lambda: bool(peer.requests))
    peer.lines[0].transport.close()
    assert (await asking).body == b"all of it"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"nonsense", HttpError, "no HTTP"),
        (b"\x16\x03\x01\x00", HttpError, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000), TooLongError, "long"),
        (
            CHUNKED + b"1388\r\n" + bytes(5000),
            TooLongError,
            "too long",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000, TooLongError, "headers are too long"),
        (None, HttpError, "answers nothing"),
    ],
)
async def test_answers_that_are_none(
    peer: Peer,
    client: Callable[..., HttpsClient],
    answer: bytes | None,
    error: type[HttpError],
    words: str,
) -> None:
    peer.answers = [answer]
    with pytest.raises(error, match=words):
        async with asyncio.timeout(PATIENCE_S):
            await client(max_body=4096).request("GET", "/", {})


async def test_an_answer_that_breaks_off(peer: Peer, client: Callable[..., HttpsClient]) -> None:
    peer.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"]
    asking = asyncio.ensure_future(client().request("GET", "/", {}))
    await until(lambda: bool(peer.requests))
    peer.lines[0].transport.close()
    with pytest.raises(HttpError, match="within its answer"):
        await asking


async def test_a_server_that_is_too_slow(peer: Peer, client: Callable[..., HttpsClient]) -> None:
    peer.answers = [b"HTTP/1.1 200 OK\r\n"]
    with pytest.raises(TimeoutError):
        await client(answer_s=0.2).request("GET", "/", {})
    await until(lambda: peer.lines[0].lost)


async def test_who_gives_up_closes(peer: Peer, client: Callable[..., HttpsClient]) -> None:
    peer.answers = [b"HTTP/1.1 200 OK\r\n"]
    asking = asyncio.ensure_future(client().request("GET", "/", {}))
    await until(lambda: bool(peer.requests))
    asking.cancel()
    await asyncio.wait([asking])
    await until(lambda: peer.lines[0].lost)


async def test_a_stranger(listen: Listen, peer: Peer) -> None:
    listener = await listen(peer.line)
    server = Server(host="localhost", port=listener.port, address=HOST)
    requests = HttpsClient(server, client_context(None))
    with pytest.raises(HandshakeError) as stranger:
        await requests.request("GET", "/", {})
    assert stranger.value.untrusted
    assert reason(stranger.value) == "tls: self-signed certificate"
    await requests.close()


async def test_a_server_that_says_nothing(certificate: Certificate) -> None:
    async def wait(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.read()
        writer.close()

    silent = await asyncio.start_server(wait, HOST, 0)
    port = silent.sockets[0].getsockname()[1]
    server = Server(host="localhost", port=port, address=HOST)
    requests = HttpsClient(server, client_context(certificate.certificate), connect_s=0.2)
    with pytest.raises(TimeoutError):
        await requests.request("GET", "/", {})
    await requests.close()
    silent.close()
    await silent.wait_closed()


@pytest.mark.parametrize(
    ("target", "headers"),
    [("/a b", {}), ("/ä", {}), ("/", {"X": "a\r\nY: b"}), ("/\n", {}), ("/", {"X\0": "a"})],
)
async def test_what_cannot_be_sent(
    peer: Peer, client: Callable[..., HttpsClient], target: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="request"):
        await client().request("GET", target, headers)
    assert peer.lines == []
