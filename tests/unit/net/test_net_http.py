"""HTTP over the pump and in plain, as real clients speak it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response

from muster.clock import ManualClock
from muster.net.http import HttpLimits, http_protocol_factory
from muster.net.routing import CasedName
from unit.net.http_peers import DATE, NOW, app, read_response
from unit.net.loopback import HOST, Certificate, connect, hang_up, read, read_all, until

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from unit.net.net_fixtures import Listen


class Server:
    """A listener with the application above, and how to reach it."""

    def __init__(self, listen: Listen, certificate: Certificate, *, tls: bool) -> None:
        self._listen = listen
        self._context = certificate.client() if tls else None
        self._tls = tls

    async def start(self, **limits: Any) -> None:
        clock = ManualClock(NOW)
        factory = http_protocol_factory(app, clock, HttpLimits(**limits))
        self.listener = await self._listen(factory, tls=self._tls)

    async def connect(self) -> Any:
        return await connect(self.listener.port, self._context)


@pytest.fixture(params=["tls", "plain"])
def server(request: pytest.FixtureRequest, listen: Listen, certificate: Certificate) -> Server:
    return Server(listen, certificate, tls=request.param == "tls")


async def test_request_and_response(server: Server) -> None:
    await server.start()
    reader, writer = await server.connect()
    writer.write(b"PUT /a%2Fb?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
    status, headers, body = await read_response(reader)
    assert status == 200
    assert headers["date"] == DATE.decode().lower()
    assert "server" not in headers
    assert "connection" not in headers
    seen = json.loads(body)
    assert (seen["method"], seen["path"], seen["size"]) == ("PUT", "/a%2Fb", 5)
    assert seen["client"] == "127.0.0.1"
    assert seen["scheme"] == ("https" if server._tls else "http")
    await hang_up(writer)
    await until(lambda: server.listener.connections == 0)


async def test_header_and_body_leave_as_one_record(
    listen: Listen, certificate: Certificate
) -> None:
    listener = await listen(http_protocol_factory(app, ManualClock(NOW)))

    def talk() -> bytes:
        with (
            socket.create_connection((HOST, listener.port)) as tcp,
            certificate.client().wrap_socket(tcp, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET /one HTTP/1.1\r\n\r\n")
            # Gives at most one record.
            return tls.recv(65_536)

    response = await asyncio.to_thread(talk)
    assert response.startswith(b"HTTP/1.1 200")
    assert b'"path": "/one"' in response


async def test_names_that_some_clients_compare_with_their_case(listen: Listen) -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(headers={"Plain": "1"})
        response.raw_headers.append((CasedName(b"ETag"), b'"x"'))
        await response(scope, receive, send)

    listener = await listen(http_protocol_factory(respond, ManualClock(NOW)), tls=False)
    reader, writer = await connect(listener.port, None)
    writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    head = await read_all(reader)
    assert b'\r\nETag: "x"\r\n' in head
    assert b"\r\nplain: 1\r\n" in head
    await hang_up(writer)


async def test_keep_alive_and_pipelining(server: Server) -> None:
    await server.start()
    reader, writer = await server.connect()
    requests = [b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(20)]
    requests[3] = b"POST /3 HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000
    requests[5] = b"GET /slow HTTP/1.1\r\n\r\n"
    writer.write(b"".join(requests))
    for number in range(20):
        _, _, body = await read_response(reader)
        assert json.loads(body)["path"] == ("/slow" if number == 5 else f"/{number}")
    writer.write(requests[0])
    assert (await read_response(reader))[0] == 200
    await hang_up(writer)


async def test_one_byte_at_a_time(server: Server) -> None:
    await server.start()
    reader, writer = await server.connect()
    for byte in b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    _, _, body = await read_response(reader)
    assert json.loads(body)["size"] == 3
    await hang_up(writer)


async def test_streaming_response(server: Server) -> None:
    await server.start()
    reader, writer = await server.connect()
    writer.write(b"GET /stream HTTP/1.1\r\nConnection: close\r\n\r\n")
    head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n"
    await hang_up(writer)


async def test_expect_100_continue(server: Server) -> None:
    await server.start()
    reader, writer = await server.connect()
    writer.write(b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await read(reader, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert (await read_response(reader))[0] == 200
    await hang_up(writer)


async def test_answered_before_the_body_has_arrived(server: Server) -> None:
    """The connection stays usable, as clients expect that are still sending."""
    await server.start(keep_alive_s=0.4)
    reader, writer = await server.connect()
    writer.write(b"PUT /early HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + b"x" * 100)
    status, _, _ = await read_response(reader)
    assert status == 401
    writer.write(b"x" * 49_900)
    writer.write(b"GET /next HTTP/1.1\r\n\r\n")
    assert json.loads((await read_response(reader))[2])["path"] == "/next"
    # And when its body comes after the answer and nothing else, the keep-alive still ends it.
    writer.write(b"PUT /early HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
    assert (await read_response(reader))[0] == 401
    writer.write(b"xxxxx")
    assert await read_all(reader) == b""
    await hang_up(writer)


async def test_keep_alive_ends(server: Server) -> None:
    await server.start(keep_alive_s=0.1)
    reader, writer = await server.connect()
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await read_response(reader))[0] == 200
    assert await read_all(reader) == b""
    await hang_up(writer)


async def test_client_that_half_closes_gets_its_answer(listen: Listen) -> None:
    factory = http_protocol_factory(app, ManualClock(NOW))
    listener = await listen(factory, tls=False)
    reader, writer = await connect(listener.port)
    writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
    writer.write_eof()
    head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
    assert json.loads(body)["path"] == "/slow"
    assert b"connection: close" in head
    await hang_up(writer)
    await until(lambda: listener.connections == 0)


async def test_failing_application(server: Server, log: list[Any]) -> None:
    await server.start()
    reader, writer = await server.connect()
    writer.write(b"GET /boom HTTP/1.1\r\n\r\n")
    assert (await read_response(reader))[0] == 500
    await hang_up(writer)
    assert [(event["event"], event["path"]) for event in log] == [("application failed", "/boom")]


async def test_shutdown_finishes_the_request_in_progress(server: Server) -> None:
    await server.start()
    idle_reader, idle_writer = await server.connect()
    idle_writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await read_response(idle_reader)
    reader, writer = await server.connect()
    writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.05)
    closing = asyncio.ensure_future(server.listener.close(5.0))
    assert await read_all(idle_reader) == b""
    status, headers, _ = await read_response(reader)
    assert status == 200
    assert headers["connection"] == "close"
    await hang_up(writer, idle_writer)
    await closing


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n",
    ],
)
async def test_invalid_http(listen: Listen, log: list[Any], request_: bytes) -> None:
    listener = await listen(http_protocol_factory(app, ManualClock(NOW)), tls=False)
    reader, writer = await connect(listener.port)
    writer.write(request_)
    response = await read_all(reader)
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert response.count(b"HTTP/1.1") == 1
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"date: " + DATE in head
    assert re.search(rb"content-length: %d\r" % len(body), head)
    assert "Message" in json.loads(body)
    await hang_up(writer)
    await until(lambda: listener.connections == 0)
    assert not log


async def test_garbage_after_a_good_request_does_not_spoil_its_answer(listen: Listen) -> None:
    listener = await listen(http_protocol_factory(app, ManualClock(NOW)), tls=False)
    reader, writer = await connect(listener.port)
    writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"\x00\x01\x02 garbage\r\n\r\n")
    response = await read_all(reader)
    assert response.startswith(b"HTTP/1.1 200 OK")
    assert response.count(b"HTTP/1.1") == 1
    await hang_up(writer)


async def test_a_long_body_has_time_for_what_has_come(server: Server) -> None:
    await server.start(request_s=0.2, body_rate=1)
    reader, writer = await server.connect()
    writer.write(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n" + b"x" * 19)
    # Long after the deadline of a request whose body has not begun.
    await asyncio.sleep(0.8)
    writer.write(b"x")
    status, _, body = await read_response(reader)
    assert (status, json.loads(body)["size"]) == (200, 20)
    await hang_up(writer)
