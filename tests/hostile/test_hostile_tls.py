"""Peers that do their worst before there is a TLS session."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.stream import Limits
from unit.net.loopback import HOST, Certificate, Echo, connect, hang_up, raw_socket, read, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unit.net.net_fixtures import Listen


def memory_kib() -> int:
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Rss")).split()[1])


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def served(port: int, certificate: Certificate) -> float:
    """Return the seconds in which an honest client gets its answer."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    reader, writer = await connect(port, certificate.client())
    writer.write(b"honest")
    assert await read(reader, 6) == b"honest"
    took = loop.time() - began
    await hang_up(writer)
    return took


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "random": bytes(range(256)) * 40,
    "zeros": bytes(100_000),
    "huge record": b"\x16\x03\x01\xff\xff" + b"\x01" * 65_535,
    "truncated hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x10" + bytes(16),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_instead_of_a_client_hello(
    listen: Listen, certificate: Certificate, log: list[Any], garbage: bytes
) -> None:
    listener = await listen(Echo, Limits(handshake_s=0.5))
    client = raw_socket(listener.port)
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(client, garbage)
    await until(lambda: listener.connections == 1 or bool(log))
    await until(lambda: listener.connections == 0)
    client.close()
    assert [event["event"] for event in log] == ["tls handshake failed"]
    await served(listener.port, certificate)


async def test_reset_in_mid_handshake(
    listen: Listen, certificate: Certificate, log: list[Any]
) -> None:
    listener = await listen(Echo)
    hello = client_hello(certificate)
    for part in (b"", hello[:100], hello):
        client = raw_socket(listener.port)
        client.send(part)
        await until(lambda: listener.connections == 1)
        await asyncio.sleep(0.02)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: listener.connections == 0)
    assert len(log) <= 2
    await served(listener.port, certificate)


def client_hello(certificate: Certificate) -> bytes:
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_handshakes_that_never_finish(
    listen: Listen, certificate: Certificate, log: list[Any]
) -> None:
    # Long enough for a busy machine to open them all before the first one is dropped.
    listener = await listen(Echo, Limits(handshake_s=25.0))
    await served(listener.port, certificate)
    hello = client_hello(certificate)
    before = memory_kib()
    clients = [raw_socket(listener.port) for _ in range(1_000)]
    for number, client in enumerate(clients):
        # A third says nothing, a third stops in the middle, a third leaves us waiting.
        client.send((b"", hello[:200], hello)[number % 3])
    await until(lambda: listener.connections == 1_000, 24.0)
    # Everything sent has been dealt with when an honest client has been.
    for _ in range(5):
        await served(listener.port, certificate)
    grown = memory_kib() - before
    assert listener.connections >= 1_000, "honest clients are served while all of them wait"
    assert grown < 40 * 1_000, f"{grown} KiB for 1,000 handshakes"
    await until(lambda: listener.connections == 0, 60.0)
    assert len([event for event in log if event["event"] == "tls handshake failed"]) <= 10
    for client in clients:
        client.close()


@pytest.mark.usefixtures("many_files")
async def test_more_handshakes_than_are_kept(listen: Listen, certificate: Certificate) -> None:
    """Those who wait longest give way, so that honest clients still get in."""
    limits = Limits(handshakes=200, handshakes_per_address=100, handshake_grace_s=0.2)
    listener = await listen(Echo, limits)
    clients = []
    most = 0
    for _ in range(10):
        clients += [raw_socket(listener.port) for _ in range(60)]
        await served(listener.port, certificate)
        most = max(most, listener.connections)
    assert most <= 500
    for client in clients:
        client.close()


async def test_handshake_byte_by_byte(listen: Listen, certificate: Certificate) -> None:
    """Slow progress does not put the deadline off."""
    listener = await listen(Echo, Limits(handshake_s=0.5))
    hello = client_hello(certificate)
    client = raw_socket(listener.port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with contextlib.suppress(OSError):
        for position in range(len(hello)):
            client.send(hello[position : position + 1])
            await asyncio.sleep(0.02)
            if position > 1 and listener.connections == 0:
                break
    assert loop.time() - began < 2.0
    assert listener.connections == 0
    client.close()


async def test_broken_record_after_the_handshake(
    listen: Listen, certificate: Certificate, log: list[Any]
) -> None:
    import ssl

    listener = await listen(Echo)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await connect(listener.port)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(10_000))
    tls.write(b"hello")
    record = bytearray(outgoing.read())
    record[-1] ^= 1
    writer.write(record)
    await until(lambda: listener.connections == 0)
    assert len(log) == 1
    assert log[0]["reason"].startswith("connection broken")
    await hang_up(writer)
    await served(listener.port, certificate)


SERVER = """
import asyncio, json, resource, sys, time
from pathlib import Path
import uvloop
from muster.net.listener import Listener
from muster.net.tls import server_context
from unit.net.loopback import Echo

async def main():
    # Lower than the listener believes, as if databases had taken the rest.
    listener = await Listener.listen(
        "127.0.0.1", 0, server_context(Path(sys.argv[1]), Path(sys.argv[2])), Echo
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))
    print(listener.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    used = time.process_time()
    await asyncio.sleep(0.3)
    print(json.dumps({"spun": time.process_time() - used}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

uvloop.run(main())
"""


async def test_out_of_files_does_not_spin(certificate: Certificate) -> None:
    root = Path(__file__).parents[1]
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, certificate.certificate, certificate.key),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        clients = [socket.create_connection((HOST, port)) for _ in range(100)]
        server.stdin.write(b"\n")
        assert json.loads(await server.stdout.readline())["spun"] < 0.15
        for client in clients:
            client.close()
        await asyncio.sleep(0.1)
        await served(port, certificate)
    finally:
        async with asyncio.timeout(10):
            await server.communicate(b"\n")
    assert server.returncode == 0
