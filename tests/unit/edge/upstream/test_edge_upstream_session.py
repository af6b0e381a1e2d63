"""The session with the hub, against one that does what the test says."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.edge.identity import DeviceIdentity
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import Feature, HubError, Link, Message, NoLinkError
from muster.edge.upstream.connection import MAX_INBOX, MAX_METHODS
from muster.edge.upstream.hub import Hub
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway, Login, Transport
from muster.edge.upstream.session import MqttSession, Tuning
from muster.ids import Randomness
from muster.net.dial import Dialler, client_context
from support.edge import PATIENCE_S, SessionOwner, ShiftedClock, until
from unit.edge.upstream.upstream_peer import Peer
from unit.net.loopback import HOST, Certificate, Echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen


class Counted(Backoff, frozen=True, kw_only=True):
    """Pauses that know for how many failures each was made."""

    asked: list[int] = msgspec.field(default_factory=list)

    def pause_s(self, failures: int, chance: float, asked_s: float = 0.0) -> float:
        self.asked.append(failures)
        return super().pause_s(failures, chance, asked_s)


SOON = Backoff(first_s=0.05, cap_s=0.1)
TUNING = Tuning(unreachable=SOON, refused=SOON)
LOGIN = Login(hub_host="localhost", device_id="d1", key=b"k" * 32)


class Subject:
    """A session and who wanted it."""

    def __init__(self, listener: Listener, certificate: Certificate | None, **options: Any) -> None:
        self.owner = SessionOwner()
        context = client_context(None if certificate is None else certificate.certificate)
        self.dialler = Dialler(context)
        port = listener.port
        self.session = MqttSession(
            options.pop("login", LOGIN),
            Gateway(host="localhost", address=HOST, mqtt_port=port, https_port=port),
            self.owner,
            dialler=self.dialler,
            time=HubTime(ShiftedClock()),
            randomness=Randomness(),
            **{"tuning": TUNING, "ways": [Transport.MQTT], **options},
        )
        self.session.open()

    @property
    def details(self) -> str:
        return " | ".join(detail for _, detail in self.owner.links)

    async def connected(self) -> None:
        await until(lambda: self.session.link is Link.CONNECTED)

    def send(self, *bodies: bytes) -> list[asyncio.Task[None]]:
        return [
            asyncio.ensure_future(self.session.send(Message(bag="a=b", body=body)))
            for body in bodies
        ]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def begin(
    peer: Peer, listen: Listen, certificate: Certificate
) -> AsyncIterator[Callable[..., Subject]]:
    """Return a function that opens a session with the peer."""
    listener = await listen(peer.make_line)
    subjects: list[Subject] = []

    def start(**options: Any) -> Subject:
        subjects.append(Subject(listener, certificate, **options))
        return subjects[-1]

    yield start
    for subject in subjects:
        await subject.session.close()
        await subject.dialler.close(5.0)
    # Nothing goes on after `close`.
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_connect_is_that_of_a_device(peer: Peer, begin: Callable[..., Subject]) -> None:
    subject = begin()
    await subject.connected()
    connect = peer.line.connect
    assert connect is not None
    assert connect.client_id == "d1"
    assert connect.clean_session
    assert (connect.username or "").startswith("localhost/d1/?api-version=2021-04-12&")
    assert (connect.password or b"").startswith(
        b"SharedAccessSignature sr=localhost%2Fdevices%2Fd1&"
    )
    assert set(peer.line.subscribed) == {
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
        "$iothub/methods/POST/#",
        "devices/d1/messages/devicebound/#",
    }


async def test_a_module_wants_what_it_is_told_to(peer: Peer, begin: Callable[..., Subject]) -> None:
    login = msgspec.structs.replace(LOGIN, module_id="$edgeHub", hub_host="localhost:4430")
    subject = begin(login=login, features=frozenset({Feature.MESSAGES}))
    await subject.connected()
    assert list(peer.line.subscribed) == [*("$iothub/twin/res/#", "devices/d1/modules/$edgeHub/#")]
    connect = peer.line.connect
    assert connect is not None
    assert (connect.username or "").startswith("localhost/d1/$edgeHub/?")
    assert b"sr=localhost%2Fdevices%2Fd1%2Fmodules%2F%24edgeHub&" in (connect.password or b"")


async def test_what_is_wanted_may_change(peer: Peer, begin: Callable[..., Subject]) -> None:
    subject = begin(features=frozenset({Feature.METHODS}))
    await subject.connected()
    subject.session.want(frozenset({Feature.MESSAGES, Feature.DESIRED}))
    await subject.session.twin()
    assert set(peer.line.subscribed) == {
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
        "devices/d1/messages/devicebound/#",
    }
    # A connection that comes later has the same.
    peer.line.drop()
    await until(lambda: len(peer.lines) == 2)
    await subject.connected()
    assert peer.line.subscribed == peer.lines[0].subscribed


async def test_a_hub_that_acknowledges_nothing_is_left(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.acknowledging = False
    subject = begin(tuning=msgspec.structs.replace(TUNING, progress_s=0.3))
    await subject.connected()
    lost = await asyncio.gather(*subject.send(b"1", b"2"), return_exceptions=True)
    assert [type(each) for each in lost] == [NoLinkError, NoLinkError]
    await until(lambda: "has left 2 packets unanswered" in subject.details)
    peer.acknowledging = True
    await subject.connected()
    await asyncio.gather(*subject.send(b"3"))
    assert peer.telemetry == [b"1", b"2", b"3"]


async def test_a_hub_that_answers_no_question_about_the_twin_is_left(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.twin = None
    subject = begin(tuning=msgspec.structs.replace(TUNING, progress_s=0.3))
    await subject.connected()
    with pytest.raises(NoLinkError):
        await subject.session.twin()
    await until(lambda: "a request about the twin" in subject.details)


async def test_a_hub_that_is_idle_is_not_left(peer: Peer, begin: Callable[..., Subject]) -> None:
    tuning = msgspec.structs.replace(TUNING, progress_s=0.05, keep_alive_s=1, answer_s=5.0)
    subject = begin(tuning=tuning)
    await subject.connected()
    pings = 0
    receive = peer.line.data_received

    def count(data: bytes) -> None:
        nonlocal pings
        pings += data == b"\xc0\x00"
        receive(data)

    assert peer.line.transport is not None
    peer.line.data_received = count  # type: ignore[method-assign]
    await until(lambda: pings >= 2)
    assert len(peer.lines) == 1


async def test_a_hub_that_answers_no_ping_is_left(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.ponging = False
    subject = begin(tuning=msgspec.structs.replace(TUNING, keep_alive_s=1, answer_s=0.3))
    await subject.connected()
    await until(lambda: len(peer.lines) > 1)
    assert "no answer to a ping" in subject.details


async def test_telemetry_in_flight_is_bounded(peer: Peer, begin: Callable[..., Subject]) -> None:
    peer.acknowledging = False
    subject = begin(tuning=msgspec.structs.replace(TUNING, in_flight=3, in_flight_size=60))
    await subject.connected()
    small = subject.send(b"1", b"2", b"3", b"4")
    await until(lambda: len(peer.telemetry) == 3)
    large = subject.send(bytes(50), bytes(51))
    peer.line.acknowledge(2)
    # The fourth has room; the large one has not, beside two small ones.
    await until(lambda: len(peer.line.published) == 2)
    peer.line.acknowledge(2)
    await until(lambda: peer.line.published != [])
    assert [packet.payload for packet in peer.line.published] == [bytes(50)]
    peer.line.acknowledge(1)
    await until(lambda: peer.line.published != [])
    peer.line.acknowledge(1)
    await asyncio.gather(*small, *large)


async def test_a_sender_that_goes_away(peer: Peer, begin: Callable[..., Subject]) -> None:
    peer.acknowledging = False
    subject = begin(tuning=msgspec.structs.replace(TUNING, in_flight=1))
    await subject.connected()
    sent, waiting, last = subject.send(b"1", b"2", b"3")
    await until(lambda: peer.telemetry == [b"1"])
    sent.cancel()
    waiting.cancel()
    await asyncio.gather(sent, waiting, return_exceptions=True)
    peer.acknowledging = True
    peer.line.acknowledge(1)
    await last
    assert peer.telemetry == [b"3"]  # the first was taken out by `acknowledge`


async def test_who_sends_in_the_moment_of_a_loss_is_told(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.acknowledging = False
    subject = begin()
    await subject.connected()

    async def send_twice() -> None:
        with pytest.raises(NoLinkError):
            await subject.session.send(Message(body=b"1"))
        # At once, before the session has drawn its conclusions.
        await subject.session.send(Message(body=b"2"))

    sending = asyncio.ensure_future(send_twice())
    await until(lambda: peer.telemetry == [b"1"])
    peer.line.drop()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(NoLinkError):
            await sending


async def test_what_the_hub_says_is_acknowledged_in_order(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin()
    await subject.connected()
    subject.owner.taking.clear()
    peer.line.message(b"1", 11)
    peer.line.message(b"2", 12)
    peer.line.patch({"x": 1, "$version": 2}, 13)
    await until(lambda: bool(subject.owner.patches))
    await subject.session.twin()  # whatever is acknowledged comes before its answer
    assert peer.line.acknowledged == []
    subject.owner.taking.set()
    await until(lambda: peer.line.acknowledged == [11, 12, 13])
    assert [(each.bag, each.body) for each in subject.owner.messages] == [
        *(("%24.to=x&a=b", b"1"), ("%24.to=x&a=b", b"2"))
    ]


async def test_more_messages_than_the_hub_may_send(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin()
    await subject.connected()
    subject.owner.taking.clear()
    for number in range(MAX_INBOX + 2):
        peer.line.message(b"x", number + 1)
    await until(lambda: len(peer.lines) > 1)
    assert "too many messages" in subject.details
    subject.owner.taking.set()


async def test_a_message_that_waits_for_its_owner_waits_no_longer_than_the_connection(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin()
    await subject.connected()
    subject.owner.taking.clear()
    peer.line.message(b"1", 11)
    await until(lambda: subject.owner.taken == 1)
    peer.line.drop()
    await until(lambda: len(peer.lines) == 2)
    await subject.connected()
    subject.owner.taking.set()
    peer.line.message(b"1", 12)
    await until(lambda: peer.line.acknowledged == [12])
    assert [each.body for each in subject.owner.messages] == [b"1"]


async def test_methods(peer: Peer, begin: Callable[..., Subject]) -> None:
    subject = begin()
    await subject.connected()
    line = peer.line
    line.call("echo", b'{"a":1}', "1f")
    line.call("empty", b"", "2")
    line.call("bad", b"{", "3")
    await until(lambda: len(line.method_answers()) == 3)
    assert sorted(line.method_answers()) == [
        ("$iothub/methods/res/200/?$rid=1f", b'["echo",{"a":1}]'),
        ("$iothub/methods/res/200/?$rid=2", b'["empty",null]'),
        ("$iothub/methods/res/400/?$rid=3", b'{"message":"the payload is not JSON"}'),
    ]

    enough = asyncio.Event()

    async def wait() -> tuple[int, Any]:
        await enough.wait()
        return 200, {"done": True}

    subject.owner.answer = lambda _name, _payload: wait()
    for number in range(MAX_METHODS + 1):
        line.call("slow", b"null", f"s{number}")
    await until(lambda: len(line.method_answers()) == 4)
    assert line.method_answers()[-1][0] == f"$iothub/methods/res/429/?$rid=s{MAX_METHODS}"
    enough.set()
    await until(lambda: len(line.method_answers()) == 4 + MAX_METHODS)


@pytest.mark.parametrize("twin", [(200, b"[]"), (200, b"{}"), (200, b"\xff"), (200, b"")])
async def test_a_twin_that_is_none(
    peer: Peer, begin: Callable[..., Subject], twin: tuple[int, bytes]
) -> None:
    peer.twin = twin
    subject = begin()
    await subject.connected()
    with pytest.raises(HubError) as nonsense:
        await subject.session.twin()
    assert nonsense.value.status == 502


@pytest.mark.parametrize(
    ("body", "words"),
    [(b'{"errorCode":400004,"message":"Not so."}', "Not so."), (b"<html>", "the hub answers 429")],
)
async def test_a_refusal_about_the_twin(
    peer: Peer, begin: Callable[..., Subject], body: bytes, words: str
) -> None:
    peer.twin = (429, body)
    subject = begin()
    await subject.connected()
    with pytest.raises(HubError, match=words) as refused:
        await subject.session.report({"a": 1})
    assert refused.value.status == 429


@pytest.mark.parametrize(
    "data",
    [b"\x20\x02\x00\x00", b"\xff\xff\xff", b"\x40\x02\x01\x01", b"\x32\x05\x00\x01x\x00\x00"],
)
async def test_a_hub_that_speaks_no_mqtt_is_left(
    peer: Peer, begin: Callable[..., Subject], data: bytes
) -> None:
    subject = begin()
    await subject.connected()
    peer.line.write(data)
    await until(lambda: len(peer.lines) > 1)
    assert "protocol: " in subject.details
    await subject.connected()


@pytest.mark.parametrize("body", [b"[1]", b"nonsense", b""])
async def test_a_patch_that_is_none(peer: Peer, begin: Callable[..., Subject], body: bytes) -> None:
    from muster.wire.mqtt.packets import Publish

    subject = begin()
    await subject.connected()
    peer.line.say(Publish("$iothub/twin/PATCH/properties/desired/?$version=2", body))
    await until(lambda: len(peer.lines) > 1)
    assert subject.owner.patches == []


async def test_what_is_in_flight_has_a_moment_at_the_end(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.acknowledging = False
    subject = begin(tuning=msgspec.structs.replace(TUNING, in_flight=1))
    await subject.connected()
    sent, waiting = subject.send(b"1", b"2")
    await until(lambda: peer.telemetry == [b"1"])
    closing = asyncio.ensure_future(subject.session.close())
    with pytest.raises(NoLinkError):
        await waiting
    assert not closing.done()
    peer.line.acknowledge(1)
    await closing
    await sent
    await until(lambda: peer.line.lost)
    assert peer.line.said_goodbye
    with pytest.raises(NoLinkError):
        await subject.session.send(Message())


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


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_sent_is_there_once_for_each_call_and_in_order(
    peer: Peer, begin: Callable[..., Subject], seed: int
) -> None:
    """Connections that break at any moment, acknowledgements that never come."""
    chance = random.Random(seed)
    tuning = msgspec.structs.replace(TUNING, in_flight=7, in_flight_size=100, progress_s=0.2)
    subject = begin(tuning=tuning)
    calls: list[bytes] = []
    done: list[bytes] = []
    bodies = [b"%03d" % number for number in range(100)]

    mishaps = ["drop", "ignore", *[""] * 38]
    peer.mishap = lambda: chance.choice(mishaps)

    async def send(body: bytes) -> None:
        while body not in done:
            if subject.session.link is Link.CONNECTED:
                calls.append(body)
            try:
                await subject.session.send(Message(body=body))
            except NoLinkError:
                await asyncio.sleep(0.01)
            else:
                done.append(body)

    async with asyncio.timeout(PATIENCE_S):
        for start in range(0, len(bodies), 25):
            await asyncio.gather(*(send(body) for body in bodies[start : start + 25]))
    assert len(peer.lines) > 1
    there = [[packet.payload for packet in line.published] for line in peer.lines]
    counts = Counter(body for line in there for body in line)
    assert set(counts) == set(done) == set(bodies)
    assert all(counts[body] <= calls.count(body) for body in bodies)
    for line in there:
        # In the order of the calls: each is found behind the one before.
        rest = iter(calls)
        assert all(body in rest for body in line)


async def test_an_owner_that_fails_does_not_cost_the_session(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    peer.connack = 3
    subject = begin()

    def fail(*_arguments: object) -> None:
        raise ValueError("broken")

    subject.owner.link_changed = fail  # type: ignore[method-assign]
    subject.owner.desired_changed = fail  # type: ignore[method-assign]
    await until(lambda: len(peer.lines) > 1)
    peer.connack = 0
    await subject.connected()
    peer.line.patch({"x": 1, "$version": 2}, 7)
    await until(lambda: peer.line.acknowledged == [7])
    await subject.session.twin()
