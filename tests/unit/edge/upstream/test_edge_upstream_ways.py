"""The session with the hub: how it gets there, and what when it does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from muster.edge.identity import DeviceIdentity
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import Link
from muster.edge.upstream.hub import Hub
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway, Transport
from muster.ids import Randomness
from support.edge import SessionOwner, ShiftedClock, until
from unit.edge.upstream.session_subject import LOGIN, TUNING, Subject
from unit.edge.upstream.upstream_peer import Peer
from unit.net.loopback import HOST, Certificate, Echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.net.net_fixtures import Listen


@pytest.mark.parametrize(
    ("connack", "link"), [(3, Link.UNREACHABLE), (5, Link.REFUSED), (2, Link.REFUSED)]
)
async def test_a_hub_that_does_not_accept(
    peer: Peer, begin: Callable[..., Subject], connack: int, link: Link
) -> None:
    peer.connack = connack
    subject = begin(ways=[Transport.MQTT, Transport.WEBSOCKET])
    await until(lambda: bool(subject.owner.links))
    assert subject.owner.links[0][0] is link
    assert f"with {connack}," in subject.details
    peer.connack = 0
    await subject.connected()
    # It was the hub that said no, so no other way was tried.
    assert all(line.connect is not None for line in peer.lines)


async def test_hurry(peer: Peer, begin: Callable[..., Subject]) -> None:
    peer.connack = 5
    never = Backoff(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    subject = begin(tuning=msgspec.structs.replace(TUNING, refused=never))
    await until(lambda: subject.session.link is Link.REFUSED)
    peer.connack = 0
    # Its turn may come before the pause has begun, so it is said until it is heard.
    while subject.session.link is not Link.CONNECTED:
        subject.session.hurry()
        await asyncio.sleep(0.01)


class Counted(Backoff, frozen=True, kw_only=True):
    """Pauses that know for how many failures, and for how many sessions, each was made."""

    asked: list[int] = msgspec.field(default_factory=list)
    together: list[int] = msgspec.field(default_factory=list)

    def pause_s(
        self, failures: int, chance: float, asked_s: float = 0.0, together: int = 1
    ) -> float:
        self.asked.append(failures)
        self.together.append(together)
        return super().pause_s(failures, chance, asked_s, together)


async def test_attempts_that_others_asked_for_make_no_pause_longer(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    """Several sessions of a device reach a hub that is gone the moment after."""
    peer.connack = 3
    never = Counted(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    subject = begin(tuning=msgspec.structs.replace(TUNING, unreachable=never))
    while len(never.asked) < 4:
        subject.session.hurry()
        await asyncio.sleep(0.01)
    assert set(never.asked) == {1}


async def test_a_way_that_has_worked_is_tried_alone_each_other_time(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin(ways=[Transport.MQTT, Transport.WEBSOCKET])
    await subject.connected()
    owner, session = subject.owner, subject.session
    session._gateway = Gateway(host="localhost", address=HOST, mqtt_port=9, https_port=9)
    assert peer.line.transport is not None
    peer.line.transport.abort()
    # The first is the loss itself; the same words are told once.
    await until(lambda: len(owner.links) >= 6)
    tried = [detail.count("localhost:9") for _, detail in owner.links[2:6]]
    assert tried == [1, 2, 1, 2]


async def test_a_stranger_is_not_trusted(listen: Listen) -> None:
    peer = Peer()
    subject = Subject(await listen(peer.make_line), None)
    await until(lambda: len(subject.owner.links) > 0)
    assert subject.session.link is Link.UNREACHABLE
    assert ": tls: self-signed certificate (this device's clock says 20" in subject.details
    assert peer.lines == []
    await subject.session.close()
    await subject.dialler.close(5.0)


async def test_a_server_without_websockets(listen: Listen, certificate: Certificate) -> None:
    class Http(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert data.startswith(b"GET /$iothub/websocket HTTP/1.1\r\n")
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    subject = Subject(await listen(Http), certificate, ways=[Transport.WEBSOCKET])
    await until(lambda: bool(subject.owner.links))
    assert subject.owner.links[0][0] is Link.UNREACHABLE
    assert "mqtt-ws: localhost:" in subject.details
    assert "HTTP 404" in subject.details
    await subject.session.close()
    await subject.dialler.close(5.0)


async def test_both_ways_are_named_when_neither_works(
    listen: Listen, certificate: Certificate
) -> None:
    listener = await listen(Echo)
    ways = [Transport.MQTT, Transport.WEBSOCKET]
    subject = Subject(listener, certificate, ways=ways)
    await until(lambda: bool(subject.owner.links))
    assert "mqtt: localhost:" in subject.details
    assert "; mqtt-ws: localhost:" in subject.details
    await subject.session.close()
    await subject.dialler.close(5.0)


async def test_where_one_session_comes_through_the_others_follow(
    listen: Listen, certificate: Certificate
) -> None:
    peer = Peer()
    listener = await listen(peer.make_line)
    nobody = Gateway(host="localhost", address=HOST, mqtt_port=9, https_port=9)
    hub = Hub(
        DeviceIdentity(hub_host="localhost", device_id="d1", key=b"k" * 32),
        trust_bundle=certificate.certificate,
        parent_hostname=None,
        upstream_protocol="Mqtt",
        time=HubTime(ShiftedClock()),
        randomness=Randomness(),
        environment={},
        gateway=nobody,
    )
    never = Backoff(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    owners = [SessionOwner() for _ in range(4)]
    sessions = [
        hub.session(
            msgspec.structs.replace(LOGIN, module_id=f"m{number}"),
            owner,
            tuning=msgspec.structs.replace(TUNING, unreachable=never),
        )
        for number, owner in enumerate(owners)
    ]
    for session in sessions:
        session.open()
    await until(lambda: all(owner.links for owner in owners))
    # The link is back, and one of them tries.
    for session in sessions:
        session._gateway = msgspec.structs.replace(nobody, mqtt_port=listener.port)
    while sessions[2].link is not Link.CONNECTED:
        sessions[2].hurry()
        await asyncio.sleep(0.01)
    await until(lambda: all(session.link is Link.CONNECTED for session in sessions))
    for session in sessions:
        await session.close()
    await hub.close()
