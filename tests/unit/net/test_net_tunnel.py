"""Connections through an HTTP proxy."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from muster.net import dial
from muster.net.dial import Dialler, client_context
from muster.net.tunnel import Proxy, TunnelError
from support.proxy import ProxyServer
from unit.net.loopback import HOST, PATIENCE_S, Certificate, Echo, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unit.net.net_fixtures import Listen


class Caller(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"hello" * 10_000)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@pytest.fixture
async def server() -> AsyncIterator[ProxyServer]:
    async with ProxyServer().listening() as made:
        yield made


@pytest.fixture
def dialler(certificate: Certificate) -> Callable[[], Dialler]:
    return lambda: Dialler(client_context(certificate.certificate))


async def test_tls_goes_through(
    listen: Listen, server: ProxyServer, dialler: Callable[[], Dialler]
) -> None:
    listener = await listen(Echo)
    caller = Caller()
    dials = dialler()
    await dials.open(HOST, listener.port, caller, "localhost", server.proxy)
    await until(lambda: caller.heard == b"hello" * 10_000)
    target = f"{HOST}:{listener.port}"
    assert server.asked == [
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic eA==\r\n\r\n"
    ]
    caller.transport.close()
    await until(lambda: caller.lost)
    await dials.close(PATIENCE_S)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 502\r\n\r\n", "it answers 502"),
        (b"nonsense\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 2oo OK\r\n\r\n", "no HTTP"),
        (b"x" * 40_000, "too long"),
        (b"", "hangs up"),
    ],
)
async def test_a_proxy_that_does_not(
    server: ProxyServer, dialler: Callable[[], Dialler], answer: bytes, words: str
) -> None:
    server.answer = answer
    with pytest.raises(TunnelError, match=words):
        async with asyncio.timeout(PATIENCE_S):
            await dialler().open("hub.example", 443, Caller(), None, server.proxy)


async def test_who_gives_up_leaves_nothing(dialler: Callable[[], Dialler]) -> None:
    listening = socket.create_server((HOST, 0))  # connects, and never answers
    proxy = Proxy(host=HOST, port=listening.getsockname()[1])
    opening = asyncio.ensure_future(dialler().open("hub.example", 443, Caller(), None, proxy))
    accepted, _ = await asyncio.to_thread(listening.accept)
    opening.cancel()
    await asyncio.wait([opening])
    accepted.settimeout(PATIENCE_S)
    while await asyncio.to_thread(accepted.recv, 1000):
        pass
    accepted.close()
    listening.close()


async def test_the_next_address_has_its_turn(
    listen: Listen, dialler: Callable[[], Dialler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that swallows what is sent to it, as broken IPv6 does."""
    full = socket.socket()
    full.bind((HOST, 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    listener = await listen(Echo)
    monkeypatch.setattr(dial, "_NEXT_ADDRESS_S", 0.2)
    dials = dialler()
    loop = asyncio.get_running_loop()
    create = loop.create_connection

    async def connect(factory: Callable[[], asyncio.Protocol], host: str, port: int) -> object:
        there = full.getsockname()[1] if host == "swallowed" else port
        return await create(factory, HOST, there)

    monkeypatch.setattr(loop, "create_connection", connect, raising=False)
    dials._resolved["localhost", listener.port] = (loop.time(), ["swallowed", HOST])
    caller = Caller()
    async with asyncio.timeout(PATIENCE_S):
        await dials.open("localhost", listener.port, caller)
    await until(lambda: caller.heard != b"")
    caller.transport.close()
    for each in (full, *fillers):
        each.close()
    await dials.close(PATIENCE_S)


@pytest.mark.parametrize(
    ("url", "host", "port", "authorization"),
    [
        ("http://proxy:3128", "proxy", 3128, None),
        ("proxy:3128", "proxy", 3128, None),
        ("http://proxy.example/", "proxy.example", 80, None),
        ("http://a%40b:p%3Aw@proxy:1", "proxy", 1, "Basic YUBiOnA6dw=="),
        ("http://[::1]:8080", "::1", 8080, None),
    ],
)
def test_addresses_of_proxies(url: str, host: str, port: int, authorization: str | None) -> None:
    proxy = Proxy.parse(url)
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, authorization)
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize("url", ["https://proxy", "socks5://p:1", "http://", "http://p:port"])
def test_what_is_no_proxy(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message may be Python's own
        Proxy.parse(url)


@pytest.mark.parametrize(
    ("environment", "host", "found"),
    [
        ({}, "hub.example", None),
        ({"https_proxy": "http://p:1"}, "hub.example", 1),
        ({"HTTPS_PROXY": "http://p:2", "https_proxy": ""}, "hub.example", 2),
        ({"http_proxy": "http://p:1"}, "hub.example", None),
        ({"https_proxy": "http://p:1", "no_proxy": "a, .Example"}, "hub.example", None),
        ({"https_proxy": "http://p:1", "NO_PROXY": "hub.example"}, "HUB.example", None),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, "hub.example", None),
        ({"https_proxy": "http://p:1", "no_proxy": "ample"}, "hub.example", 1),
        ({"https_proxy": "http://p:1", "no_proxy": ","}, "hub.example", 1),
    ],
)
def test_what_the_environment_says(
    environment: dict[str, str], host: str, found: int | None
) -> None:
    proxy = Proxy.of(host, environment)
    assert (None if proxy is None else proxy.port) == found
