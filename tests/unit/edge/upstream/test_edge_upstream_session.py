"""The session with the hub: what is said on a connection, and what when it is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.edge.upstream.base import Feature, HubError, Link, Message, NoLinkError
from muster.edge.upstream.connection import MAX_INBOX, MAX_METHODS
from support.edge import PATIENCE_S, until
from unit.edge.upstream.session_subject import LOGIN, TUNING, Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.edge.upstream.upstream_peer import Peer


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


async def test_what_is_wanted_after_a_long_rest_is_waited_for(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin(features=frozenset())
    await subject.connected()
    connection = subject.session._connection
    assert connection is not None
    # The hub had nothing to acknowledge for longer than it may leave something unacknowledged.
    connection.progress_at -= 2 * TUNING.progress_s
    subject.session.want(frozenset({Feature.METHODS}))
    connection.watch(TUNING.answer_s, TUNING.progress_s)
    await subject.session.twin()
    assert "$iothub/methods/POST/#" in peer.line.subscribed
    assert len(peer.lines) == 1


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
