"""Devices over MQTT: telemetry, and what ends a connection (hub-device.md 2)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from support.device import hub_connect, hub_login
from support.events import events_of
from support.secrets import token
from wire.mqtt_devices import DESIRED, LARGEST, TWIN_RESPONSES, ask, change, created

if TYPE_CHECKING:
    from support.instance import Instance


# Telemetry.


def test_property_bags_of_every_client(instance: Instance) -> None:
    device_id, key = created(instance)
    base = f"devices/{device_id}/messages/events"
    bags = {
        f"{base}/": ({}, {}),
        base: ({}, {}),
        f"{base}/a=1&b=2": ({}, {"a": "1", "b": "2"}),
        f"{base}/a=1&b=2/": ({}, {"a": "1", "b": "2"}),
        f"{base}/?a=1": ({}, {"a": "1"}),
        f"{base}/al%20ert=tr%2Fue%26x%3D1": ({}, {"al ert": "tr/ue&x=1"}),
        f"{base}/plus=a+b": ({}, {"plus": "a+b"}),
        f"{base}/empty=&null": ({}, {"empty": "", "null": None}),
        f"{base}/first=a=b": ({}, {"first": "a=b"}),
        f"{base}/%24.mid=m1&%24.cid=c1": ({"m1", "c1"}, {}),
        f"{base}/$.mid=m2&$.uid=u2&x=y": ({"m2", "u2"}, {"x": "y"}),
        f"{base}/%24.unknown=z&k=v": ({}, {"k": "v"}),
    }
    with hub_login(instance, device_id, key) as client:
        for number, topic in enumerate(bags):
            client.publish(topic, str(number).encode(), qos=number % 2)
    events = events_of(instance, device_id, len(bags))
    for number, (event, (system, properties)) in enumerate(zip(events, bags.values(), strict=True)):
        assert event["body"] == number
        assert event["properties"] == properties, list(bags)[number]
        assert set(system) <= set(event["systemProperties"].values())
    sequence = [event["sequenceNumber"] for event in events]
    assert sequence == sorted(set(sequence))
    assert len({event["partition"] for event in events}) == 1


def test_events_are_stamped(instance: Instance) -> None:
    device_id, key = created(instance)
    instance.hub().create_module(device_id, "m1")
    generation = instance.hub().must("GET", f"/devices/{device_id}")["generationId"]
    hub = instance.hub()
    topic = f"devices/{device_id}/messages/events/"
    with hub_login(instance, device_id, key) as client:
        client.publish(topic, b"\xff\x00binary")
    policy = token(instance.place.hubs[0], hub.key, key_name=hub.key_name)
    client, _ = hub_connect(instance, device_id, policy)
    with client:
        client.publish(topic, b"text")
    first, second = events_of(instance, device_id, 2)
    system = first["systemProperties"]
    assert system["iothub-connection-device-id"] == device_id
    assert system["iothub-connection-auth-generation-id"] == generation
    method = json.loads(system["iothub-connection-auth-method"])
    assert (method["scope"], method["type"], method["issuer"]) == ("device", "sas", "iothub")
    assert system["iothub-message-source"] == "Telemetry"
    assert first["enqueuedTime"].endswith("Z")
    assert base64.b64decode(first["body"]) == b"\xff\x00binary"
    method = json.loads(second["systemProperties"]["iothub-connection-auth-method"])
    assert method["scope"] == "hub"


def test_retained_messages_are_marked(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key) as client:
        client.send(Publish(f"devices/{device_id}/messages/events/", b"1", 0, retain=True))
        assert client.is_open()
    (event,) = events_of(instance, device_id, 1)
    assert event["properties"] == {"mqtt-retain": "true"}


def test_module_output_with_nodes_slash(instance: Instance) -> None:
    device_id, _ = created(instance)
    key, _ = instance.hub().create_module(device_id, "m1")
    topic = f"devices/{device_id}/modules/m1/messages/events/%24.on=out1&%24.sub=comp1/"
    with hub_login(instance, f"{device_id}/m1", key) as client:
        client.publish(topic, b"{}")
    (event,) = events_of(instance, device_id, 1)
    assert event["moduleId"] == "m1"
    assert event["systemProperties"]["iothub-outputname"] == "out1"
    assert event["systemProperties"]["dt-subject"] == "comp1"


def test_a_will_is_published_only_when_the_device_vanishes(instance: Instance) -> None:
    device_id, key = created(instance)
    topic = f"devices/{device_id}/messages/events/reason=gone"
    with hub_login(instance, device_id, key, will=Will(topic, b"polite")) as client:
        client.disconnect()
    with hub_login(instance, device_id, key, will=Will(topic, b"vanished")) as client:
        client.drop()
    (event,) = events_of(instance, device_id, 1)
    assert event["body"] == "vanished"
    assert event["properties"]["reason"] == "gone"
    assert "Will" in {**event["properties"], **event["systemProperties"]}.values()


def test_the_largest_message_and_one_too_large(instance: Instance) -> None:
    device_id, key = created(instance)
    topic = f"devices/{device_id}/messages/events/"
    with hub_login(instance, device_id, key) as client:
        client.publish(topic, b"x" * (LARGEST - 1024))
        too_large = codec.encode(Publish(topic, b"x" * (LARGEST + 1024), 1, 9))
        try:
            client.send_bytes(too_large)
        except OSError:
            return
        client.expect_closed()


# What ends a connection.


def test_illegal_publishes_end_the_connection(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    device_id, key = created(instance)
    other, _ = created(instance)
    topics = [
        "a/b/c",
        f"devices/{other}/messages/events/",
        f"devices/{device_id}/modules/m1/messages/events/",
        f"devices/{device_id.upper()}/messages/events/",
        "$iothub/twin/DELETE/?$rid=1",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$dps/registrations/PUT/iotdps-register/?$rid=1",
        f"devices/{device_id}/messages/devicebound/",
    ]
    for topic in topics:
        with subtests.test(msg=topic), hub_login(instance, device_id, key) as client:
            client.send(Publish(topic, b"{}", 1, 9))
            client.expect_closed()
    with subtests.test(msg="QoS 2"), hub_login(instance, device_id, key) as client:
        client.send(Publish(f"devices/{device_id}/messages/events/", b"{}", 2, 9))
        client.expect_closed()


def test_illegal_subscriptions_are_not_granted(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    device_id, key = created(instance)
    other, _ = created(instance)
    for topic in ("#", "$iothub/#", f"devices/{other}/messages/devicebound/#", "devices/+/#"):
        with subtests.test(msg=topic), hub_login(instance, device_id, key) as client:
            client.send(Subscribe(1, [(topic, 1)]))
            answer = client.receive()
            assert answer is None or (isinstance(answer, Suback) and answer.return_codes == [0x80])


def test_many_filters_in_one_packet(instance: Instance) -> None:
    # As the C SDK subscribes (hub-device.md 12.5), and QoS 2 is granted as 1.
    device_id, key = created(instance)
    with hub_login(instance, device_id, key) as client:
        filters = [
            (f"devices/{device_id}/messages/devicebound/#", 1),
            (TWIN_RESPONSES, 0),
            (DESIRED, 2),
            ("$iothub/methods/POST/#", 0),
        ]
        client.send(Subscribe(7, filters))
        answer = client.expect(Suback)
        assert answer.packet_id == 7
        assert list(answer.return_codes) == [1, 0, 1, 0]
        client.send(Unsubscribe(8, [DESIRED]))
        assert client.expect(Unsuback).packet_id == 8
        change(instance, device_id, unheard=True)
        assert client.is_open()
        assert ask(client, "GET/?$rid=1").topic == "$iothub/twin/res/200/?$rid=1"


def test_a_device_may_ask_for_messages_without_its_name(instance: Instance) -> None:
    # The Embedded C SDK subscribes so; nobody gets another's messages by it.
    device_id, key = created(instance)
    other, _ = created(instance)
    with hub_login(instance, device_id, key) as client:
        assert client.subscribe("devices/+/messages/devicebound/#", qos=1) == [1]
        instance.hub().send_message(other, b"not for us")
        instance.hub().send_message(device_id, b"for us")
        packet = client.answer()
        assert packet.topic.startswith(f"devices/{device_id}/messages/devicebound/")
        assert packet.payload == b"for us"
