"""MQTT connections to a hub: telemetry, wills, twins and sessions."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from muster.hub.endpoints.mqtt_session import MAX_WAITING
from muster.hub.twins import TwinProperties, TwinRequest
from muster.net.mqtt import Accepted
from muster.net.peer import SERVICE_STOPS
from muster.wire.mqtt.packets import Puback, Publish, Suback, Subscribe, Unsuback, Unsubscribe
from unit.hub.hub_parts import HOST, Parts, Peer, build, will_of
from unit.hub.mqtt_cases import DESIRED, EVENTS, RESPONSES, desired

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import ManualClock
    from unit.hub.hub_parts import Parts


# Telemetry.


async def test_a_batch_is_acknowledged_in_order_once_it_is_stored(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    client.send(
        Publish(EVENTS, b"1", 1, 7),
        Publish(EVENTS + "a=1", b"2", 0, None),
        Publish(EVENTS + "a=1", b"3", 1, 3),
        Publish(EVENTS[:-1], b"4", 1, 9),
        Publish(EVENTS, b"5", 1, 2, retain=True),
        Publish(EVENTS, b"6", 1, 4),
    )
    assert client.peer.packets == []
    assert await client.take(5) == [Puback(n) for n in (7, 3, 9, 2, 4)]
    events = await parts.events()
    assert [bytes(event.body) for event in events] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [event.properties for event in events] == [
        {},
        {"a": "1"},
        {"a": "1"},
        {},
        {"mqtt-retain": "true"},
        {},
    ]


async def test_pubacks_keep_the_order_of_the_publishes(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    client.send(
        Publish("$iothub/twin/PATCH/properties/reported/?$rid=1", b'{"a":1}', 1, 1),
        Publish(EVENTS, b"x", 1, 2),
        Publish("$iothub/twin/GET/?$rid=2", b" ", 1, 3),
        Publish(EVENTS, b"y", 1, 4),
    )
    packets = await client.take(6)
    assert [p.packet_id for p in packets if isinstance(p, Puback)] == [1, 2, 3, 4]
    assert [p.topic for p in packets if isinstance(p, Publish)] == [
        "$iothub/twin/res/204/?$rid=1&$version=2",
        "$iothub/twin/res/200/?$rid=2",
    ]


@pytest.mark.parametrize(
    "topic",
    [
        "devices/d2/messages/events/",
        "devices/d1x/messages/events/",
        "devices/D1/messages/events/",
        "devices/d1/messages/eventsx",
        "devices/d1/modules/m1/messages/events/",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "anything",
    ],
)
async def test_foreign_topics_end_the_connection(parts: Parts, topic: str) -> None:
    client = await parts.connect(await parts.device())
    client.send(Publish(EVENTS, b"before", 1, 1), Publish(topic, b"x", 1, 2))
    await client.gone()
    assert await parts.checks("d1") == ["topic-not-allowed"]
    assert len(await parts.awaited_events(1)) == 1


async def test_the_size_limit_counts_decoded_properties(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    # Encoded it is over the limit, decoded it is not.
    client.publish(EVENTS + "k=" + "%41" * 100, b"x" * (262_144 - 101))
    assert await client.take() == [Puback(1)]
    client.publish(EVENTS + "k=" + "%41" * 100, b"x" * (262_144 - 100), 2)
    await client.gone()
    assert await parts.checks("d1") == ["message-too-large"]


async def test_reading_stops_while_too_much_waits_for_the_disk(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    for number in range(1, 9):
        client.publish(EVENTS, b"x" * 200_000, number)
    assert client.peer.paused
    await client.take(8)
    assert not client.peer.paused
    assert parts.telemetry.pending == 0


async def test_a_will_is_published_when_the_device_dies(parts: Parts) -> None:
    ref = await parts.device()
    will = will_of(EVENTS + "why=gone", b"bye")
    await (await parts.connect(ref, will=will)).disconnect()
    stopped = await parts.connect(ref, will=will)
    stopped.peer.close(SERVICE_STOPS)
    await stopped.gone()
    await (await parts.connect(ref, will=will)).vanish()
    (event,) = await parts.awaited_events(1)
    assert event.properties == {"why": "gone", "iothub-MessageType": "Will"}


async def test_a_client_that_left_before_its_connack_leaves_no_will(parts: Parts) -> None:
    ref = await parts.device()
    packet = parts.connect_packet(ref, will=will_of(EVENTS, b"bye"))
    answer = await parts.mqtt.accept(packet, Peer())
    assert isinstance(answer, Accepted)
    answer.session.closed(graceful=False, reason="connection lost")
    await asyncio.sleep(0.05)
    assert await parts.events() == []
    assert parts.connections.get(ref) is None


# Twins.


async def test_a_twin_is_read_without_any_subscription(parts: Parts) -> None:
    ref = await parts.device()
    await parts.twins.change(ref, TwinRequest({"secret": 1}, TwinProperties({"a": {"b": 1}})))
    client = await parts.connect(ref)
    client.publish("$iothub/twin/GET/?$rid=a%2Fb", b" ", 5)
    puback, answer = await client.take(2)
    assert puback == Puback(5)
    assert isinstance(answer, Publish)
    assert answer.topic == "$iothub/twin/res/200/?$rid=a%2Fb"
    assert json.loads(answer.payload) == {
        "desired": {"a": {"b": 1}, "$version": 2},
        "reported": {"$version": 1},
    }


@pytest.mark.parametrize(
    ("tail", "body", "status"),
    [
        ("?$rid=1", b"{", 400),
        ("?$rid=1", b"[1]", 400),
        ("?$rid=1", b'{"a.b":1}', 400),
        ("?$rid=1", b'{"a":' * 20_000, 400),
        ("?$rid=1&$version=x", b"{}", 400),
        ("?$rid=1&$version=7", b"{}", 412),
    ],
)
async def test_bad_reports(parts: Parts, tail: str, body: bytes, status: int) -> None:
    client = await parts.connect(await parts.device())
    client.publish("$iothub/twin/PATCH/properties/reported/" + tail, body, 5)
    puback, answer = await client.take(2)
    assert puback == Puback(5)
    assert isinstance(answer, Publish)
    assert answer.topic.startswith(f"$iothub/twin/res/{status}/?$rid=")
    error = json.loads(answer.payload)
    assert error["errorCode"] // 1000 == status
    assert {"trackingId", "message", "timestampUtc"} <= error.keys()


async def test_a_report_on_condition_of_its_version(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    topic = "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=1"
    client.publish(topic, b'{"$version":9,"a":1}', None)
    (answer,) = await client.take()
    assert isinstance(answer, Publish)
    assert answer.topic == "$iothub/twin/res/204/?$rid=1&$version=2"
    assert answer.payload == b""


async def test_desired_changes_reach_subscribers_in_order(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await parts.twins.change(ref, desired(unheard=1))
    client.send(Subscribe(9, [(DESIRED, 2), (RESPONSES, 0)]))
    assert await client.take() == [Suback(9, [1, 0])]
    await asyncio.gather(*(parts.twins.change(ref, desired(n=n)) for n in range(20)))
    await parts.twins.change(ref, TwinRequest({"tag": 1}))
    await parts.twins.change(ref, desired(a=None), replace=True)
    packets = await client.take(21)
    bodies = [json.loads(p.payload) for p in packets if isinstance(p, Publish)]
    assert [body["$version"] for body in bodies] == list(range(3, 24))
    assert [body["n"] for body in bodies[:20]] == list(range(20))
    assert bodies[-1] == {"a": None, "$version": 23}
    client.send(Unsubscribe(10, [DESIRED]))
    assert await client.take() == [Unsuback(10)]
    await parts.twins.change(ref, desired(b=1))
    assert client.peer.packets == []


async def test_a_loop_of_questions_is_answered_slowly_and_in_order(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    client.send(*(Publish(f"$iothub/twin/GET/?$rid={n}", b" ", 0, None) for n in range(300)))
    assert client.peer.paused
    answers = await client.take(100)
    await asyncio.sleep(0.25)
    # The clock stands still, so nobody's turn comes.
    assert len(client.peer.packets) <= 4
    while len(answers) < 300:
        parts.clock.advance(1000)
        answers += await client.take(min(100, 300 - len(answers)))
    rids = [p.topic.rpartition("=")[2] for p in answers if isinstance(p, Publish)]
    assert rids == [str(n) for n in range(300)]
    assert not client.peer.paused
    assert MAX_WAITING < 300


# Sessions.


async def test_subscriptions_survive_and_clean_sessions_forget(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    assert not client.session_present
    client.send(Subscribe(1, [(DESIRED, 1), ("devices/d1/messages/devicebound/#", 1)]))
    await client.take()
    await client.vanish()
    client = await parts.connect(ref)
    assert client.session_present
    await parts.twins.change(ref, desired(a=1))
    (packet,) = await client.take()
    assert isinstance(packet, Publish)
    await client.disconnect()
    clean = await parts.connect(ref, clean=True)
    assert not clean.session_present
    clean.send(Subscribe(1, [(DESIRED, 1)]))
    await clean.take()
    await clean.disconnect()
    assert not (await parts.connect(ref)).session_present


async def test_sessions_survive_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    first = await build(tmp_path, clock)
    ref = await first.device()
    client = await first.connect(ref)
    client.send(Subscribe(1, [(DESIRED, 0)]))
    await client.take()
    await first.crash()
    second = await build(tmp_path, clock)
    again = await second.connect(ref)
    assert again.session_present
    await second.twins.change(ref, desired(a=1))
    await again.take()
    await second.close()


async def test_a_takeover_knows_the_latest_subscriptions(parts: Parts) -> None:
    ref = await parts.device()
    old = await parts.connect(ref)
    for _ in range(4):
        old = await parts.connect(ref)
    # This one waits for its turn while the old one subscribes.
    parts.clock.advance(0.8)
    peer = Peer()
    accepting = asyncio.ensure_future(parts.mqtt.accept(parts.connect_packet(ref), peer))
    await asyncio.sleep(0.05)
    old.send(Subscribe(1, [(DESIRED, 1)]))
    await old.take()
    answer = await accepting
    assert isinstance(answer, Accepted)
    assert answer.session_present


@pytest.mark.parametrize(
    "topic_filter", ["#", "$iothub/#", "devices/d2/messages/devicebound/#", "devices/+/#", "a"]
)
async def test_foreign_filters_end_the_connection(parts: Parts, topic_filter: str) -> None:
    client = await parts.connect(await parts.device())
    client.send(Subscribe(1, [(RESPONSES, 1), (topic_filter, 1)]))
    await client.gone()


async def test_a_model_id_is_kept_and_stamped(parts: Parts) -> None:
    ref = await parts.device()
    name = f"{HOST}/d1/?api-version=2021-04-12&model-id=dtmi:com:x;1&DeviceClientType=a%2Fb"
    client = await parts.connect(ref, username=name)
    client.publish(EVENTS)
    await client.take()
    assert (await parts.twins.get(ref)).model_id == "dtmi:com:x;1"
    (event,) = await parts.events()
    assert event.system_properties["dt-dataschema"] == "dtmi:com:x;1"
    await parts.connect(ref)
    assert (await parts.twins.get(ref)).model_id == ""
