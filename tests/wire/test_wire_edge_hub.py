"""The edge hub with raw clients: killed at any moment, cut off, with a ledger of every message."""

from __future__ import annotations

import json
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from muster.wire.mqtt.packets import Puback, Publish, Suback, Subscribe
from support.device import hub_token, unique
from support.edge_hub import EdgeDevice
from support.events import wait_for
from support.ledger import Ledger, numbers
from support.mqtt import MqttClient
from support.secrets import parse_connection_string

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

UP = "FROM /messages/* INTO $upstream"
WINDOW = 40


@pytest.fixture
def edge(shared_instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    with EdgeDevice.make(shared_instance, tmp_path) as device:
        yield device


@contextmanager
def connected(edge: EdgeDevice, who: str, key: str, **options) -> Iterator[MqttClient]:
    """Connect as `device` or `device/module`."""
    with MqttClient(edge, edge.hostname) as client:
        host = edge.hub.host
        connack = client.connect(
            who, f"{host}/{who}/?api-version=2021-04-12", hub_token(host, who, key), **options
        )
        assert connack.return_code == 0
        yield client


class Sender:
    """Sends numbers at QoS 1 until told to stop; what is not acknowledged is sent again."""

    def __init__(self, edge: EdgeDevice, module_id: str, ledger: Ledger) -> None:
        self._edge = edge
        self._who = f"{edge.device_id}/{module_id}"
        self._topic = f"devices/{edge.device_id}/modules/{module_id}/messages/events/%24.on=out"
        self._key = edge.module_key(module_id)
        self._ledger = ledger
        self._unacknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.connects = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not (self._stop.is_set() and not self._unacknowledged):
            try:
                with connected(self._edge, self._who, self._key) as client:
                    self.connects += 1
                    self._talk(client)
            except (OSError, AssertionError):
                # It is being killed, or not there yet.
                self._stop.wait(0.05)

    def _talk(self, client: MqttClient) -> None:
        flying: dict[int, int] = {}
        for number in self._unacknowledged:
            self._send(client, flying, number)
        while True:
            while len(flying) < WINDOW and not self._stop.is_set():
                number = self._ledger.next()
                self._unacknowledged.append(number)
                self._send(client, flying, number)
            if not flying:
                return
            packet = client.receive()
            if packet is None:
                return
            assert isinstance(packet, Puback)
            number = flying.pop(packet.packet_id)
            self._unacknowledged.remove(number)
            self._ledger.accepted.append(number)

    def _send(self, client: MqttClient, flying: dict[int, int], number: int) -> None:
        packet_id = client.next_id() % 65_000 + 1
        flying[packet_id] = number
        client.send(Publish(self._topic, str(number).encode(), 1, packet_id))


def test_killed_again_and_again_nothing_accepted_is_lost(
    shared_instance: Instance, edge: EdgeDevice
) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    edge.desire(up=UP)
    edge.module("a")
    edge.start()
    edge.wait_applied()
    ledger = Ledger()
    with Sender(edge, "a", ledger) as sender:
        for life in range(8):
            if life % 3 == 1:
                # Killed while it buffers, and begun again without the cloud.
                edge.proxy.cut()
            if life % 3 == 2:
                # Killed while it drains.
                edge.proxy.restore()
            enough = len(ledger.accepted) + moments.randrange(1, 300)
            wait_for(lambda enough=enough: len(ledger.accepted) >= enough, 60)
            edge.kill9()
            edge.start()
        edge.proxy.restore()
    assert sender.connects > 8
    # What was sent and never acknowledged may have arrived or not; this one surely does.
    seen = numbers(shared_instance, edge.device_id, ledger.accepted[-1])
    duplicates = ledger.check(seen)
    print(f"{len(ledger.accepted)} accepted, {duplicates} arrived twice")
    wait_for(lambda: not edge.view()["queues"], 60)


def test_it_begins_without_the_cloud_and_serves_who_it_knows(edge: EdgeDevice) -> None:
    edge.desire(across='FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/in")', up=UP)
    device = edge.device_id
    keys = {name: edge.module_key(name) for name in ("a", "b")}
    edge.start()
    edge.wait_applied()
    assert edge.stop() == 0
    edge.proxy.cut()
    edge.start()
    with (
        connected(edge, f"{device}/a", keys["a"]) as a,
        connected(edge, f"{device}/b", keys["b"]) as b,
    ):
        b.send(Subscribe(1, [(f"devices/{device}/modules/b/inputs/#", 1)]))
        b.expect(Suback)
        a.send(Publish(f"devices/{device}/modules/a/messages/events/k=v", b"without cloud", 1, 1))
        a.expect(Puback)
        got = b.expect(Publish)
        assert got.topic.startswith(f"devices/{device}/modules/b/inputs/in/")
        assert "k=v" in got.topic
        assert got.payload == b"without cloud"
        b.send(Puback(got.packet_id))
    wait_for(lambda: len(edge.view()["queues"]) == 1)
    (left,) = edge.view()["queues"]
    assert (left["sink"], left["messages"]) == ("upstream", 1)
    # A device nobody knows here comes again later: it is not told that it is refused.
    with MqttClient(edge, edge.hostname) as stranger:
        who = unique("stranger")
        connack = stranger.connect(
            who, f"{edge.hub.host}/{who}/?api-version=1", hub_token(edge.hub.host, who, keys["a"])
        )
        assert connack.return_code == 3


def test_what_is_not_acknowledged_comes_again_in_order(edge: EdgeDevice) -> None:
    edge.desire(across='FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/in")')
    device = edge.device_id
    keys = {name: edge.module_key(name) for name in ("a", "b")}
    edge.start()
    edge.wait_applied()
    inputs = f"devices/{device}/modules/b/inputs/#"
    with connected(edge, f"{device}/b", keys["b"], clean_session=False) as b:
        b.send(Subscribe(1, [(inputs, 1)]))
        b.expect(Suback)
        with connected(edge, f"{device}/a", keys["a"]) as a:
            for number in range(20):
                topic = f"devices/{device}/modules/a/messages/events/"
                a.send(Publish(topic, str(number).encode(), 1, number + 1))
            for _ in range(20):
                a.expect(Puback)
        for number in range(5):
            got = b.expect(Publish)
            assert got.payload == str(number).encode()
            b.send(Puback(got.packet_id))
        wait_for(lambda: edge.view()["queues"][0]["messages"] == 15)
    edge.kill9()
    edge.start()
    # The session is kept: it need not subscribe again.
    with connected(edge, f"{device}/b", keys["b"], clean_session=False) as b:
        seen = []
        while len(seen) < 15 or seen[-1] != 19:
            got = b.expect(Publish)
            b.send(Puback(got.packet_id))
            seen.append(int(got.payload))
        # Some of the first five may come twice: their deletion was not on disk yet.
        assert list(dict.fromkeys(seen))[-15:] == list(range(5, 20))
        assert seen == sorted(seen)
    wait_for(lambda: not edge.view()["queues"])


def test_a_slow_reader_gets_much_that_waits(edge: EdgeDevice) -> None:
    edge.desire(across='FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/in")')
    device = edge.device_id
    keys = {name: edge.module_key(name) for name in ("a", "b")}
    edge.start()
    edge.wait_applied()
    body, count = b"x" * 200_000, 60
    with connected(edge, f"{device}/a", keys["a"]) as a:
        for number in range(count):
            topic = f"devices/{device}/modules/a/messages/events/n={number}"
            a.publish(topic, body)
    with connected(edge, f"{device}/b", keys["b"]) as b:
        b.subscribe(f"devices/{device}/modules/b/inputs/#")
        # Far more waits than may be on its way to a client.
        wait_for(lambda: edge.view()["queues"][0]["messages"] == count)
        for number in range(count):
            got = b.answer()
            assert f"n={number}&" in got.topic
            assert got.payload == body
    wait_for(lambda: not edge.view()["queues"])


def test_the_newer_connection_of_an_identity_has_its_place(edge: EdgeDevice) -> None:
    edge.desire(up=UP)
    who, key = f"{edge.device_id}/a", edge.module_key("a")
    edge.start()
    edge.wait_applied()
    with connected(edge, who, key) as older, connected(edge, who, key) as newer:
        older.expect_closed()
        newer.send(Publish(f"devices/{edge.device_id}/modules/a/messages/events/", b"x", 1, 1))
        newer.expect(Puback)


@pytest.mark.parametrize(
    "topic",
    [
        "devices/{device}/modules/b/messages/events/",
        "devices/{device}/messages/events/",
        "devices/{device}/modules/a/messages/eventsx",
        "$iothub/twin/POST/?$rid=1",
        "anything",
    ],
)
def test_a_topic_of_somebody_else_ends_the_connection(edge: EdgeDevice, topic: str) -> None:
    edge.desire(up=UP)
    who, key = f"{edge.device_id}/a", edge.module_key("a")
    edge.start()
    edge.wait_applied()
    with connected(edge, who, key) as client:
        client.send(Publish(topic.format(device=edge.device_id), b"x", 1, 1))
        client.expect_closed()


def test_a_leaf_device_that_is_deleted_or_disabled_is_let_go(edge: EdgeDevice) -> None:
    edge.desire(up=UP)
    leaf = unique("leaf")
    key = parse_connection_string(edge.leaf(leaf))["SharedAccessKey"]
    edge.start()
    edge.wait_applied()
    with connected(edge, leaf, key) as client:
        identity = edge.hub.must("GET", f"/devices/{leaf}")
        edge.hub.must("PUT", f"/devices/{leaf}", {**identity, "status": "disabled"}, if_match="*")
        target = f"/twins/{edge.device_id}/modules/%24edgeHub/methods"
        call = {
            "methodName": "RefreshDeviceScopeIdentityCache",
            "payload": {"deviceIds": [leaf]},
            "responseTimeoutInSeconds": 30,
        }
        assert edge.hub.must("POST", target, call)["status"] == 200
        client.expect_closed()
    unknown = edge.hub.must("POST", target, {**call, "methodName": "Nothing"})
    assert unknown["status"] == 404


def test_a_change_of_a_twin_goes_where_its_route_says(edge: EdgeDevice) -> None:
    edge.desire(
        changes="FROM /twinChangeNotifications WHERE twin_change_includes(properties.reported.door)"
        ' INTO BrokeredEndpoint("/modules/b/inputs/changes")',
        plain="FROM /messages/* WHERE (level ?? 'none') = 'none'"
        ' INTO BrokeredEndpoint("/modules/b/inputs/plain")',
    )
    device = edge.device_id
    keys = {name: edge.module_key(name) for name in ("a", "b")}
    edge.start()
    edge.wait_applied()
    with (
        connected(edge, f"{device}/a", keys["a"]) as a,
        connected(edge, f"{device}/b", keys["b"]) as b,
    ):
        inputs = f"devices/{device}/modules/b/inputs"
        b.send(Subscribe(1, [(f"{inputs}/#", 1)]))
        b.expect(Suback)
        a.send(Subscribe(1, [("$iothub/twin/res/#", 0)]))
        a.expect(Suback)
        patch = "$iothub/twin/PATCH/properties/reported/?$rid="
        a.send(Publish(f"{patch}1", b'{"window":"open"}'))
        assert a.expect(Publish).topic.startswith("$iothub/twin/res/204/")
        a.send(Publish(f"{patch}2", b'{"door":"open"}'))
        assert a.expect(Publish).topic.startswith("$iothub/twin/res/204/")
        got = b.expect(Publish)
        assert got.topic.startswith(f"{inputs}/changes/")
        assert json.loads(got.payload)["properties"]["reported"]["door"] == "open"
        b.send(Puback(got.packet_id))
        events = f"devices/{device}/modules/a/messages/events"
        a.send(Publish(f"{events}/level=low", b"low", 1, 1))
        a.expect(Puback)
        a.send(Publish(f"{events}/", b"none", 1, 2))
        a.expect(Puback)
        got = b.expect(Publish)
        assert got.topic.startswith(f"{inputs}/plain/")
        assert got.payload == b"none"
        b.send(Puback(got.packet_id))
