"""What a client has not asked the edge hub for, the hub in the cloud does not send (edge.md 6.3).

So whoever calls a method there is told the same of a device behind an edge hub as of any other, and
messages wait where they can be seen.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp.messages import Properties
from muster.wire.amqp.performatives import Detach
from muster.wire.amqp.types import Int
from muster.wire.mqtt.packets import Puback, Publish, Suback, Subscribe, Unsuback, Unsubscribe
from support.amqp import AmqpClient
from support.device import hub_token, unique
from support.edge_hub import EdgeDevice
from support.events import wait_for
from support.mqtt import MqttClient
from support.secrets import parse_connection_string
from wire.amqp_devices import in_background, text
from wire.mqtt_devices import DESIRED, TWIN_RESPONSES, ask, change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.https import Reply
    from support.instance import Instance

METHODS = "$iothub/methods/POST/#"
VERSION = "2021-04-12"


class Leaf:
    """A device, behind an edge hub or with the hub itself: whoever is in its place."""

    def __init__(self, edge: EdgeDevice, place: EdgeDevice | Instance, host: str) -> None:
        self.hub = edge.hub
        self.device_id = unique("leaf")
        self.key = parse_connection_string(edge.leaf(self.device_id))["SharedAccessKey"]
        self.messages = f"devices/{self.device_id}/messages/devicebound"
        self._place, self._host = place, host

    @property
    def token(self) -> str:
        return hub_token(self.hub.host, self.device_id, self.key)

    @contextmanager
    def mqtt(self) -> Iterator[MqttClient]:
        """Connect; return when the hub in the cloud knows of it."""
        with MqttClient(self._place, self._host) as client:
            name = f"{self.hub.host}/{self.device_id}/?api-version={VERSION}"
            assert client.connect(self.device_id, name, self.token).return_code == 0
            self.subscribe(client, TWIN_RESPONSES)
            self.wait_connected()
            yield client

    def wait_connected(self) -> None:
        path = f"/devices/{self.device_id}"
        wait_for(lambda: self.hub.must("GET", path)["connectionState"] == "Connected")

    def subscribe(self, client: MqttClient, topic_filter: str) -> None:
        packet_id = client.next_id()
        client.send(Subscribe(packet_id, [(topic_filter, 1)]))
        client.expect(Suback)

    def unsubscribe(self, client: MqttClient, topic_filter: str) -> None:
        client.send(Unsubscribe(client.next_id(), [topic_filter]))
        client.expect(Unsuback)

    def settle(self, client: MqttClient) -> None:
        """Return when the hub has all that was said: a twin is read behind it."""
        assert ask(client, f"GET/?$rid={client.next_id()}").topic.startswith("$iothub/twin/res/200")

    def call(self, **fields: Any) -> Callable[[], Reply]:
        """Call a method from the cloud meanwhile."""
        body = {"methodName": "turn", "payload": 1, **fields}
        path = f"/twins/{self.device_id}/methods"
        return in_background(lambda: self.hub.call("POST", path, body))

    def is_not_online(self) -> bool:
        reply = self.call()()
        return reply.status != 200 and told(reply) == NOT_ONLINE

    def answer(self, client: MqttClient, payload: bytes) -> None:
        """Answer the call that has come, or comes."""
        called = client.expect(Publish)
        name, _, request_id = called.topic.partition("?$rid=")
        assert (name, called.payload) == ("$iothub/methods/POST/turn/", b"1")
        client.publish(f"$iothub/methods/res/201/?$rid={request_id}", payload, 0)

    def receive(self, method: str = "GET", tail: str = "") -> Reply:
        """Ask the hub itself for a message, over HTTPS."""
        path = f"/{self.messages}{tail}"
        return self.hub.call(method, path, authorization=self.token, api_version=VERSION)


NOT_ONLINE = (404, 404103, "Timed out waiting for device to connect.", {"timeout": "00:00:00"})


def told(reply: Reply) -> tuple[int, int, str, Any]:
    """Return what an error says."""
    assert reply.json["ExceptionMessage"] == ""
    inner = json.loads(reply.json["Message"])
    return reply.status, inner["errorCode"], inner["message"], inner["info"]


@pytest.fixture
def edge(shared_instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    with EdgeDevice.make(shared_instance, tmp_path) as device:
        device.desire(up="FROM /messages/* INTO $upstream")
        yield device


@pytest.fixture(params=["through the edge hub", "at the hub"])
def leaf(request: pytest.FixtureRequest, shared_instance: Instance, edge: EdgeDevice) -> Leaf:
    if request.param == "at the hub":
        # What follows is true of any device: this is what the other one is compared with.
        return Leaf(edge, shared_instance, edge.hub.host)
    return behind(edge)


def behind(edge: EdgeDevice) -> Leaf:
    """Make a device behind the edge hub, and start that."""
    made = Leaf(edge, edge, edge.hostname)
    edge.start()
    edge.wait_applied()
    return made


def test_methods_of_a_device_are_called_while_it_takes_them(leaf: Leaf) -> None:
    with leaf.mqtt() as client:
        leaf.settle(client)
        assert told(leaf.call()()) == NOT_ONLINE
        # One that waits for the device does so in the cloud.
        early = leaf.call(connectTimeoutInSeconds=60)
        leaf.subscribe(client, METHODS)
        leaf.answer(client, b'"early"')
        assert early().json == {"status": 201, "payload": "early"}
        # It is there: nobody has to wait.
        at_once = leaf.call()
        leaf.answer(client, b'"at once"')
        assert at_once().json == {"status": 201, "payload": "at once"}
        leaf.unsubscribe(client, METHODS)
        leaf.settle(client)
        assert told(leaf.call()()) == NOT_ONLINE
        leaf.subscribe(client, METHODS)
        leaf.settle(client)
    wait_for(leaf.is_not_online, 60)


def test_messages_wait_in_the_cloud_until_the_device_takes_them(leaf: Leaf) -> None:
    leaf.hub.send_message(leaf.device_id, b"first")
    with leaf.mqtt() as client:
        for body, following in ((b"first", b"second"), (b"second", b"third")):
            leaf.settle(client)
            # Nobody has it, and nobody had it and gave it back.
            found = leaf.receive()
            assert (found.status, found.body) == (200, body)
            assert found.headers["iothub-deliverycount"] == "0"
            token = found.headers["etag"].strip('"')
            assert leaf.receive("DELETE", f"/{token}?reject").status == 204
            leaf.hub.send_message(leaf.device_id, body)
            leaf.subscribe(client, f"{leaf.messages}/#")
            got = client.expect(Publish)
            assert got.payload == body
            client.send(Puback(got.packet_id))
            wait_for(lambda: leaf.hub.message_count(leaf.device_id) == 0)
            leaf.unsubscribe(client, f"{leaf.messages}/#")
            leaf.settle(client)
            leaf.hub.send_message(leaf.device_id, following)
    assert leaf.hub.message_count(leaf.device_id) == 1


def test_what_was_changed_before_a_device_asks_comes_as_one_difference(
    shared_instance: Instance, edge: EdgeDevice
) -> None:
    leaf = behind(edge)
    with leaf.mqtt() as client:
        change(shared_instance, leaf.device_id, a=1, b=1)
        leaf.settle(client)
        change(shared_instance, leaf.device_id, a=2)
        change(shared_instance, leaf.device_id, b=None)
        leaf.subscribe(client, DESIRED)
        assert json.loads(client.expect(Publish).payload) == {"a": 2, "b": None, "$version": 4}
        change(shared_instance, leaf.device_id, c=3)
        assert json.loads(client.expect(Publish).payload) == {"c": 3, "$version": 5}


def test_so_it_is_over_amqp(edge: EdgeDevice) -> None:
    leaf = behind(edge)
    address = f"/devices/{leaf.device_id}/methods/devicebound"
    with AmqpClient(edge, edge.hostname) as client:
        client.log_in(leaf.token)
        client.sender(f"/devices/{leaf.device_id}/messages/events")
        leaf.wait_connected()
        assert told(leaf.call()()) == NOT_ONLINE
        waiting = leaf.call(connectTimeoutInSeconds=60)
        answers, calls = client.sender(address), client.receiver(address)
        called = client.message(calls).message
        assert called.application_properties == {"IoThub-methodname": "turn"}
        answer = text(
            b"true",
            properties=Properties(correlation_id=called.properties.correlation_id),
            application_properties={"IoThub-status": Int(201)},
        )
        client.transfer(answers, answer)
        assert waiting().json == {"status": 201, "payload": True}
        client.send(Detach(calls, closed=True))
        client.find(Detach, lambda said: said.handle == calls)
        wait_for(leaf.is_not_online, 60)
        leaf.hub.send_message(leaf.device_id, b"hello")
        got = client.message(client.receiver(f"/{leaf.messages}"))
        assert got.message.data == b"hello"
