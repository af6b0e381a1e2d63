from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from muster.net.listener import Listener
from muster.net.stream import Limits, Shared, Stream, _address
from muster.net.tls import Handshakes, TlsStream, server_context
from unit.net.loopback import (
    HOST,
    Certificate,
    Echo,
    connect,
    hang_up,
    raw_socket,
    read,
    read_all,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from unit.net.net_fixtures import Listen


async def test_counts_connections(listen: Listen) -> None:
    listener = await listen(Echo, tls=False)
    assert listener.connections == 0
    pairs = [await connect(listener.port) for _ in range(3)]
    await until(lambda: listener.connections == 3)
    await hang_up(*(writer for _, writer in pairs))
    await until(lambda: listener.connections == 0)


async def test_connection_cap(listen: Listen, log: list[Any]) -> None:
    listener = await listen(Echo, Limits(connections=2), tls=False)
    good = [await connect(listener.port) for _ in range(2)]
    await until(lambda: listener.connections == 2)
    reader, writer = await connect(listener.port)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await read(reader, 1)
    good[0][1].write(b"hi")
    assert await read(good[0][0], 2) == b"hi"
    assert [event["reason"] for event in log] == ["too many connections"]
    await hang_up(writer, good[0][1])
    await until(lambda: listener.connections == 1)
    reader, writer = await connect(listener.port)
    writer.write(b"hi")
    assert await read(reader, 2) == b"hi"
    await hang_up(writer, good[1][1])


class Busy(Echo):
    """Finishes what it is at when told to stop."""

    def shutdown(self) -> None:
        asyncio.get_running_loop().call_later(0.1, self.finish)

    def finish(self) -> None:
        assert self.transport is not None
        self.transport.write(b"done")
        self.transport.close()


async def test_close_drains(listen: Listen, certificate: Certificate) -> None:
    listener = await listen(Busy)
    reader, writer = await connect(listener.port, certificate.client())
    await until(lambda: listener.connections == 1)
    unfinished = raw_socket(listener.port)
    await until(lambda: listener.connections == 2)
    port = listener.port
    closing = asyncio.ensure_future(listener.close(drain_s=5.0))
    await asyncio.sleep(0.02)
    with pytest.raises(ConnectionRefusedError):
        await connect(port)
    assert await read_all(reader) == b"done"
    await hang_up(writer)
    await closing
    assert listener.connections == 0
    unfinished.close()


async def test_close_drops_what_does_not_finish(listen: Listen, log: list[Any]) -> None:
    class Endless(Echo):
        def shutdown(self) -> None:
            """Never finishes."""

    listener = await listen(Endless, tls=False)
    reader, writer = await connect(listener.port)
    await until(lambda: listener.connections == 1)
    await listener.close(drain_s=0.1)
    assert listener.connections == 0
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await read(reader, 1)
    assert [event["event"] for event in log] == ["connections dropped at shutdown"]
    await hang_up(writer)


async def test_certificate_is_replaced_while_running(
    listen: Listen, certificate: Certificate, tmp_path: Path
) -> None:
    listener = await listen(Echo)
    reader, writer = await connect(listener.port, certificate.client())
    renewed = Certificate.make(tmp_path)
    listener.use_context(server_context(renewed.certificate, renewed.key))
    new_reader, new_writer = await connect(listener.port, renewed.client())
    for a_reader, a_writer in ((reader, writer), (new_reader, new_writer)):
        a_writer.write(b"hi")
        assert await read(a_reader, 2) == b"hi"
    await hang_up(writer, new_writer)


async def test_taken_port() -> None:
    with socket.create_server((HOST, 0)) as taken:
        with pytest.raises(OSError, match="in use") as caught:
            await Listener.listen(HOST, taken.getsockname()[1], None, Echo)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("address", ["localhost", "", "::"])
async def test_names_and_all_addresses(address: str) -> None:
    listener = await Listener.listen(address, 0, None, Echo)
    reader, writer = await connect(listener.port)
    writer.write(b"hi")
    assert await read(reader, 2) == b"hi"
    await hang_up(writer)
    await listener.close(0)


@pytest.mark.parametrize(
    ("name", "address", "remote"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5), "192.0.2.1:5"),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5), "192.0.2.1:5"),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5), "[2001:db8::1]:5"),
        (None, ("", 0), ":0"),
    ],
)
async def test_remote_address(name: object, address: tuple[str, int], remote: str) -> None:
    stream = Stream(Shared(Echo, Limits()))
    stream.address = _address(name)
    assert stream.address == address
    assert stream.remote == remote


async def test_pauses_when_handshakes_are_too_many(
    listen: Listen, certificate: Certificate
) -> None:
    """Nobody is dropped before the grace period is over; newcomers wait in the kernel."""
    limits = Limits(handshakes=4, handshake_grace_s=0.6, handshakes_per_address=100)
    listener = await listen(Echo, limits)
    loop = asyncio.get_running_loop()
    idle = [raw_socket(listener.port) for _ in range(6)]
    await until(lambda: listener.connections >= 5)
    began = loop.time()
    reader, writer = await connect(listener.port, certificate.client())
    assert loop.time() - began > 0.3
    writer.write(b"hi")
    assert await read(reader, 2) == b"hi"
    await hang_up(writer)
    for one in idle:
        one.close()


async def test_lost_listening_socket_is_opened_again(listen: Listen, log: list[Any]) -> None:
    listener = await listen(Echo, tls=False)
    listener._servers[0].close()
    await until(lambda: bool(log))
    reader, writer = await connect(listener.port)
    writer.write(b"hi")
    assert await read(reader, 2) == b"hi"
    await hang_up(writer)


class Shaking:
    """Stands for a stream in its handshake."""

    def __init__(self, gate: Handshakes, address: str = "192.0.2.1") -> None:
        self.gate = gate
        self.address = (address, 1)
        self.since = 0.0
        self.reasons: list[str] = []

    def fail(self, reason: str) -> None:
        self.reasons.append(reason)
        self.gate.leave(cast("TlsStream", self))


def enter(gate: Handshakes, now: float, address: str = "192.0.2.1") -> Shaking:
    shaking = Shaking(gate, address)
    gate.enter(cast("TlsStream", shaking), now)
    return shaking


def test_longest_waiting_gives_way() -> None:
    gate = Handshakes(Limits(handshakes=3, handshake_grace_s=1.0))
    first, second, third = (enter(gate, float(now)) for now in range(3))
    gate.answered(cast("TlsStream", first), 3.0)
    enter(gate, 10.0)
    assert second.reasons == ["too many handshakes"]
    assert not first.reasons
    assert not third.reasons
    assert len(gate) == 3
    assert not gate.crowd


def test_nobody_gives_way_within_the_grace_period() -> None:
    gate = Handshakes(Limits(handshakes=4, handshake_grace_s=1.0))
    shaking = [enter(gate, 10.0 + number / 100) for number in range(6)]
    assert len(gate) == 6
    assert gate.crowd
    assert not gate.roomy
    gate.drop_stalled(10.5)
    assert len(gate) == 6
    gate.drop_stalled(11.03)
    assert gate.roomy
    assert [bool(one.reasons) for one in shaking] == [True, True, True, False, False, False]
    for one in shaking:
        gate.leave(cast("TlsStream", one))
        gate.leave(cast("TlsStream", one))
    assert len(gate) == 0
    assert not gate._by_address


def test_one_address_makes_way_for_itself_only() -> None:
    gate = Handshakes(Limits(handshakes=100, handshakes_per_address=1, handshake_grace_s=1.0))
    other = enter(gate, 0.0, "198.51.100.1")
    first = enter(gate, 1.0)
    second = enter(gate, 5.0)
    assert first.reasons == ["too many handshakes from one address"]
    assert not other.reasons
    gate.leave(cast("TlsStream", second))
    assert set(gate._by_address) == {"198.51.100.1"}
