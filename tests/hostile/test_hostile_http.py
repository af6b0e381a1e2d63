"""HTTP clients that send slowly, too much, or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.clock import ManualClock
from muster.net.http import HttpLimits, http_protocol_factory
from muster.net.stream import Limits
from unit.net.http_peers import app, read_response
from unit.net.loopback import connect, hang_up, raw_socket, read, read_all, until

if TYPE_CHECKING:
    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen


async def start(listen: Listen, application: Any = app, **limits: Any) -> Listener:
    factory = http_protocol_factory(application, ManualClock(), HttpLimits(**limits))
    return await listen(factory, Limits(first_byte_s=0.5, linger_s=0.2), tls=False)


async def trickle(port: int, head: bytes, drop: bytes, within_s: float) -> bytes:
    """Send `head`, then `drop` again and again until the server has had enough."""
    reader, writer = await connect(port)
    writer.write(head)
    answer = asyncio.ensure_future(read_all(reader))
    async with asyncio.timeout(within_s):
        while not answer.done():
            writer.write(drop)
            await asyncio.sleep(0.02)
    await hang_up(writer)
    return answer.result()


SLOW = {
    "request line": (b"GET /", b"a"),
    "header": (b"GET / HTTP/1.1\r\nHost: h\r\n", b"X-A: b\r\n"),
    "header value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"a"),
    "body": (b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", b"b"),
    "chunked body": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@pytest.mark.parametrize(("head", "drop"), SLOW.values(), ids=SLOW)
async def test_slow_loris(listen: Listen, log: list[Any], head: bytes, drop: bytes) -> None:
    listener = await start(listen, header_s=0.3, request_s=0.3)
    # One that stops altogether, and one that goes on for ever.
    reader, writer = await connect(listener.port)
    writer.write(head)
    for response in (await trickle(listener.port, head, drop, 3.0), await read_all(reader)):
        assert response.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"content-type: application/json" in response
        assert "Message" in json.loads(response.partition(b"\r\n\r\n")[2])
    await hang_up(writer)
    await until(lambda: listener.connections == 0)
    assert not log


async def test_nothing_at_all_or_only_line_ends(listen: Listen) -> None:
    listener = await start(listen, keep_alive_s=0.4)
    silent = raw_socket(listener.port)
    reader, writer = await connect(listener.port)
    writer.write(b"\r\n" * 100)
    assert await read_all(reader) == b""
    await hang_up(writer)
    await until(lambda: listener.connections == 0)
    silent.close()


async def test_slow_second_request_while_the_first_is_answered(listen: Listen) -> None:
    listener = await start(listen, header_s=0.1)
    reader, writer = await connect(listener.port)
    writer.write(b"GET /slow HTTP/1.1\r\n\r\nGET /next HTT")
    response = await read_all(reader)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    await hang_up(writer)


BIG = {
    "url": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "field": b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "name": b"GET / HTTP/1.1\r\n" + b"a" * 70_000 + b": x\r\n\r\n",
    "size": b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 1_000 + b"\r\n") * 70 + b"\r\n",
    "number": b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 300 + b"\r\n",
    "endless": b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000,
}


@pytest.mark.parametrize("request_", BIG.values(), ids=BIG)
async def test_oversized_header(listen: Listen, request_: bytes) -> None:
    listener = await start(listen)
    reader, writer = await connect(listener.port)
    writer.write(request_)
    response = await read_all(reader)
    assert response.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert response.count(b"HTTP/1.1") == 1
    await hang_up(writer)
    await until(lambda: listener.connections == 0)


async def test_large_header_that_is_allowed(listen: Listen) -> None:
    listener = await start(listen)
    reader, writer = await connect(listener.port)
    request_ = b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 1_000 + b"\r\n") * 60 + b"\r\n"
    for position in range(0, len(request_), 5_000):
        writer.write(request_[position : position + 5_000])
        await asyncio.sleep(0.001)
    assert (await read_response(reader))[0] == 200
    await hang_up(writer)


async def test_body_after_the_answer_is_bounded(listen: Listen) -> None:
    listener = await start(listen, unread_body=200_000)
    reader, writer = await connect(listener.port)
    writer.write(b"POST /early HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n")
    assert (await read_response(reader))[0] == 401
    sent = 0
    with contextlib.suppress(OSError):
        async with asyncio.timeout(5):
            while not reader.at_eof():
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000
                await asyncio.sleep(0.001)
    assert sent < 100_000_000
    await hang_up(writer)
    await until(lambda: listener.connections == 0)


async def test_thousands_of_pipelined_requests(listen: Listen) -> None:
    running = most = 0

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await app(scope, receive, send)
        running -= 1

    listener = await start(listen, counting)
    reader, writer = await connect(listener.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 14_000)
    response = await read_all(reader)
    answered = response.count(b"HTTP/1.1 200 OK")
    assert 100 <= answered <= 14_000
    assert most == 1
    await hang_up(writer)


async def test_client_that_reads_nothing(listen: Listen) -> None:
    paused = asyncio.Event()

    async def endless(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sent = 0
        while sent < 100_000_000:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await send(
                        {"type": "http.response.body", "body": b"e" * 100_000, "more_body": True}
                    )
                    sent += 100_000
                    continue
            paused.set()
            return

    factory = http_protocol_factory(endless, ManualClock())
    listener = await listen(factory, Limits(write_stall_s=0.3, linger_s=0.2), tls=False)
    client = raw_socket(listener.port)
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        await paused.wait()
    await until(lambda: listener.connections == 0)
    client.close()


async def test_many_slow_clients_do_not_disturb(listen: Listen) -> None:
    listener = await start(listen, header_s=30.0)
    slow = [raw_socket(listener.port) for _ in range(200)]
    for client in slow:
        client.send(b"GET / HTTP/1.1\r\nX")
    await until(lambda: listener.connections == 200)
    for _ in range(5):
        reader, writer = await connect(listener.port)
        writer.write(b"GET /ok HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(1.0):
            await read(reader, 10)
        await hang_up(writer)
    for client in slow:
        client.close()
