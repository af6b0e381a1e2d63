"""Direct methods by raw MQTT and HTTPS: time-outs and lost connections (hub-service.md 1.7)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from muster.wire.mqtt.packets import Publish
from support.device import hub_login, unique

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from support.https import Reply
    from support.instance import Instance
    from support.mqtt import MqttClient

METHODS = "$iothub/methods/POST/#"

Call: TypeAlias = "Callable[..., Future[Reply]]"


@pytest.fixture
def device(instance: Instance) -> tuple[str, str]:
    """Return the ID and the key of a new device."""
    device_id = unique("called")
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


@pytest.fixture
def call(instance: Instance, device: tuple[str, str]) -> Iterator[Call]:
    """Return what calls a method of the device meanwhile."""
    with ThreadPoolExecutor() as pool:
        yield lambda **fields: pool.submit(
            instance.hub().call, "POST", f"/twins/{device[0]}/methods", {"methodName": "m"} | fields
        )


def error(reply: Reply) -> tuple[int, Any]:
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.json["ExceptionMessage"] == ""
    inner = json.loads(reply.json["Message"])
    assert inner["errorCode"] // 1000 == reply.status
    return inner["errorCode"], inner.get("info")


def asked(client: MqttClient) -> Publish:
    packet = client.expect(Publish)
    assert packet.qos == 0
    assert packet.packet_id is None
    return packet


def test_a_stored_subscription_is_enough(
    instance: Instance, device: tuple[str, str], call: Call
) -> None:
    with hub_login(instance, *device, clean_session=False) as client:
        assert client.subscribe(METHODS, qos=0) == [0]
    waiting = call(payload={"a": 1}, connectTimeoutInSeconds=60)
    with hub_login(instance, *device, clean_session=False) as client:
        request = asked(client)
        topic, _, request_id = request.topic.partition("?$rid=")
        assert topic == "$iothub/methods/POST/m/"
        assert json.loads(request.payload) == {"a": 1}
        client.publish(f"$iothub/methods/res/299/?$rid={request_id}", b'"done"')
        assert waiting.result().json == {"status": 299, "payload": "done"}
        # Once answered, it is over: this one changes nothing, and is acknowledged.
        client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b'"again"')
        assert client.is_open()


def test_silence_and_a_late_answer(instance: Instance, device: tuple[str, str], call: Call) -> None:
    with hub_login(instance, *device) as client:
        client.subscribe(METHODS)
        waiting = call(responseTimeoutInSeconds=5)
        request_id = asked(client).topic.partition("?$rid=")[2]
        assert error(waiting.result()) == (504101, {})
        client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"1")
        assert client.is_open()


def test_the_connection_is_lost_during_the_call(
    instance: Instance, device: tuple[str, str], call: Call
) -> None:
    with hub_login(instance, *device) as client:
        client.subscribe(METHODS)
        waiting = call()
        asked(client)
    assert error(waiting.result()) == (404104, None)
    assert error(call().result()) == (404103, {"timeout": "00:00:00"})
    assert error(call(connectTimeoutInSeconds=1).result()) == (404103, {"timeout": "00:00:01"})


def test_the_largest_payload_both_ways(
    instance: Instance, device: tuple[str, str], call: Call
) -> None:
    largest = "x" * (128 * 1024 - 2)
    with hub_login(instance, *device) as client:
        client.subscribe(METHODS)
        waiting = call(payload=largest)
        request = asked(client)
        assert json.loads(request.payload) == largest
        request_id = request.topic.partition("?$rid=")[2]
        client.publish(f"$iothub/methods/res/200/?$rid={request_id}", request.payload, 0)
        assert waiting.result().json["payload"] == largest
        waiting = call()
        request_id = asked(client).topic.partition("?$rid=")[2]
        client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"oops", 0)
        assert error(waiting.result()) == (502000, None)
    assert error(call(payload=largest + "x").result()) == (413001, None)
