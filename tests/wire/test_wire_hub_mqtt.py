"""A hub over MQTT as raw clients and the other SDKs speak to it (hub-device.md 2, 5, 13)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Pingreq,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from support.device import hub_connect, hub_login, hub_token, unique
from support.events import events_of, wait_for
from support.mqtt import MqttClient
from support.secrets import new_key, raw_token, token

if TYPE_CHECKING:
    from support.instance import Instance

TWIN_RESPONSES = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
LARGEST = 262_144


def created(instance: Instance, prefix: str = "raw", **fields: Any) -> tuple[str, str]:
    """Create a device and return its id and primary key."""
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id, **fields)
    return device_id, key


def ask(client: MqttClient, topic: str, payload: bytes = b" ", qos: int = 1) -> Publish:
    """Publish a twin request and return the answer."""
    client.publish(f"$iothub/twin/{topic}", payload, qos)
    return client.answer()


def change(instance: Instance, path: str, **desired: Any) -> None:
    instance.hub().must("PATCH", f"/twins/{path}", {"properties": {"desired": desired}})


# CONNECT.


@pytest.mark.parametrize(
    "form",
    [
        "{host}/{id}/?api-version=2019-10-01&DeviceClientType=py%2F2.14%28x%3BLinux%20%231%29",
        "{host}/{id}/?api-version=2021-04-12&model-id=dtmi:com:x;1&DeviceClientType=node",
        "{host}/{id}/?api-version=2020-09-30&auth-chain={id}",
        "{host}/{id}/api-version=2018-06-30",
        "{host}/{id}/?api-version=2017-11-08-preview",
        "{host}/{id}",
        "{HOST}/{id}/?api-version=2021-04-12&api-version=first-one-wins",
    ],
)
def test_user_names_of_every_age(instance: Instance, form: str) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    name = form.format(host=host, HOST=host.upper(), id=device_id)
    with hub_login(instance, device_id, key, username=name) as client:
        assert client.is_open()


def test_tokens_of_every_client(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id = unique("Token-Of")
    keys = instance.hub().create_device(device_id)
    hub, host = instance.hub(), instance.place.hubs[0]
    resource = f"{host}/devices/{device_id}"
    good = {
        "primary": token(resource, keys[0]),
        "secondary": token(resource, keys[1]),
        "lower hex": raw_token(resource.replace("/", "%2f"), keys[0]),
        "lower case, in the clear": raw_token(resource.lower(), keys[0]),
        "old tail": token(f"{resource}/api-version=2016-11-14", keys[0]),
        "policy over the device": token(resource, hub.key, key_name=hub.key_name),
        "policy over devices": token(f"{host}/devices", hub.key, key_name=hub.key_name),
        "policy over the hub": token(host, hub.key, key_name=hub.key_name),
        "a little late": token(resource, keys[0], ttl_s=-240),
    }
    bad = {
        "wrong key": token(resource, new_key()),
        "expired": token(resource, keys[0], ttl_s=-3600),
        "another device": token(f"{host}/devices/{unique('other')}", keys[0]),
        "a prefix of the name": token(f"{host}/devices/{device_id[:-1]}", keys[0]),
        "another hub": token(f"{instance.place.hubs[1]}/devices/{device_id}", keys[0]),
        "unknown policy": token(host, hub.key, key_name="nobody"),
        "device key over the hub": token(host, keys[0]),
        "the service's policy": token(resource, instance.dps.key, key_name=hub.key_name),
        "not a token": "password",
        "none": None,
    }
    for case, password in (good | bad).items():
        with subtests.test(msg=case):
            client, connack = hub_connect(instance, device_id, password)
            with client:
                assert connack.return_code == (0 if case in good else 5)
                assert connack.session_present is False
                if case in bad:
                    client.expect_closed()


def test_refusals_at_connect(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id, key = created(instance, "Case")
    disabled, disabled_key = created(instance, "off", status="disabled")
    unknown = unique("unknown")
    host = instance.place.hubs[0]
    good = hub_token(host, device_id, key)
    cases: dict[str, tuple[int, tuple[Any, ...], dict[str, Any]]] = {
        "unknown device": (5, (unknown, hub_token(host, unknown, key)), {}),
        "disabled device": (5, (disabled, hub_token(host, disabled, disabled_key)), {}),
        "client id in another case": (2, (device_id, good), {"client_id": device_id.lower()}),
        "client id of another": (2, (device_id, good), {"client_id": unknown}),
        "protocol level 5": (1, (device_id, good), {"level": 5}),
        "protocol level 3": (1, (device_id, good), {"level": 3}),
        "no such module": (5, (f"{device_id}/m1", good), {}),
    }
    for case, (code, args, options) in cases.items():
        with subtests.test(msg=case):
            client, connack = hub_connect(instance, *args, **options)
            with client:
                assert connack.return_code == code
                assert connack.session_present is False
                client.expect_closed()
    for case, name in {
        "no slash": device_id,
        "unknown host": f"elsewhere.example/{device_id}/?api-version=2021-04-12",
        "four parts": f"{host}/{device_id}/m1/m2/?api-version=2021-04-12",
        "none": None,
    }.items():
        with subtests.test(msg=f"user name: {case}"):
            password = None if name is None else good
            client, connack = hub_connect(instance, device_id, password, username=name)
            if name is None:
                # hub_connect writes the usual name when told none, so say none at all here.
                client.drop()
                client = MqttClient(instance, host)
                connack = client.connect(device_id, None, None)
            with client:
                assert connack.return_code in (4, 5)
                client.expect_closed()


def test_refused_logins_are_explained(instance: Instance) -> None:
    unknown = unique("who")
    host = instance.place.hubs[0]
    hub_connect(instance, unknown, hub_token(host, unknown, new_key()))[0].drop()
    device_id, _ = created(instance)
    hub_connect(instance, device_id, hub_token(host, device_id, new_key()))[0].drop()
    assert instance.explain(unknown)[0]["check"] == "unknown-device"
    assert instance.explain(device_id)[0]["check"] == "wrong-key"


def test_modules_prove_their_own_keys(instance: Instance) -> None:
    device_id, device_key = created(instance)
    primary, secondary = instance.hub().create_module(device_id, "m1")
    host = instance.place.hubs[0]
    for key in (primary, secondary):
        with hub_login(instance, f"{device_id}/m1", key) as client:
            assert client.is_open()
    for password in (
        token(f"{host}/devices/{device_id}/modules/m1", device_key),
        hub_token(host, device_id, device_key),
    ):
        client, connack = hub_connect(instance, f"{device_id}/m1", password)
        with client:
            assert connack.return_code == 5


def test_connect_comes_first_and_once(instance: Instance) -> None:
    with MqttClient(instance, instance.place.hubs[0]) as client:
        client.send(Pingreq())
        client.expect_closed()
    device_id, key = created(instance)
    with hub_login(instance, device_id, key) as client:
        client.send(Connect(device_id))
        client.expect_closed()


def test_a_new_connection_takes_over_the_old_one(instance: Instance) -> None:
    device_id, key = created(instance)
    with (
        hub_login(instance, device_id, key) as old,
        hub_login(instance, device_id, key, websocket="mqtt") as new,
    ):
        old.expect_closed()
        assert new.is_open()
    wait_for(
        lambda: (
            instance.hub().must("GET", f"/devices/{device_id}")["connectionState"] == "Disconnected"
        )
    )


@pytest.mark.parametrize("websocket", [None, "mqtt", "MQTT"])
def test_presence_is_true(instance: Instance, websocket: str | None) -> None:
    device_id, key = created(instance)
    path = f"/devices/{device_id}"
    before = instance.hub().must("GET", path)
    assert before["connectionState"] == "Disconnected"
    assert before["connectionStateUpdatedTime"].startswith("0001-01-01T00:00:00")
    with hub_login(instance, device_id, key, websocket=websocket) as client:
        during = instance.hub().must("GET", path)
        assert during["connectionState"] == "Connected"
        assert not during["connectionStateUpdatedTime"].startswith("0001")
        assert not during["lastActivityTime"].startswith("0001")
        client.disconnect()
    wait_for(lambda: instance.hub().must("GET", path)["connectionState"] == "Disconnected")


def test_silence_ends_a_connection(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key, keep_alive_s=1) as client:
        assert client.is_open()
        client.expect_closed()


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


# Twins.


def test_a_twin_is_asked_for_and_answered(instance: Instance) -> None:
    device_id, key = created(instance)
    change(instance, device_id, a=1, big=4503599627370495)
    with hub_login(instance, device_id, key) as client:
        client.subscribe(TWIN_RESPONSES)
        for rid, payload in (("1", b""), ("b0-A", b" "), ("x%2Fy", b"null")):
            answer = ask(client, f"GET/?$rid={rid}", payload)
            assert answer.topic == f"$iothub/twin/res/200/?$rid={rid}"
            assert json.loads(answer.payload) == {
                "desired": {"a": 1, "big": 4503599627370495, "$version": 2},
                "reported": {"$version": 1},
            }
        assert ask(client, "GET/?$rid=q0", b" ", qos=0).topic.endswith("200/?$rid=q0")


def test_reported_properties_are_merged(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key) as client:
        client.subscribe(TWIN_RESPONSES)
        patches = [{"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": "x"}}, {}]
        for number, patch in enumerate(patches, start=2):
            answer = ask(
                client,
                f"PATCH/properties/reported/?$rid={number}",
                json.dumps(patch).encode(),
            )
            assert answer.topic == f"$iothub/twin/res/204/?$rid={number}&$version={number}"
            assert answer.payload == b""
        reported = json.loads(ask(client, "GET/?$rid=g").payload)["reported"]
        assert reported == {"b": {"c": "x", "d": 3}, "$version": 4}
    twin = instance.hub().must("GET", f"/twins/{device_id}")
    assert "$lastUpdated" in twin["properties"]["reported"]["$metadata"]["b"]["c"]


def test_bad_reported_properties(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id, key = created(instance)
    deep: Any = 1
    for _ in range(12):
        deep = {"d": deep}
    bad = {
        "malformed": b"{",
        "not an object": b"[1]",
        "dots in a key": b'{"a.b": 1}',
        "space in a key": b'{"a b": 1}',
        "dollar in a key": b'{"$a": 1}',
        "too deep": json.dumps(deep).encode(),
        "too long": json.dumps({"a": "x" * 4097}).encode(),
        "too large": json.dumps({f"k{n}": "x" * 4000 for n in range(9)}).encode(),
        "too big a number": b'{"a": 4503599627370496}',
        "deep beyond reason": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    }
    with hub_login(instance, device_id, key) as client:
        client.subscribe(TWIN_RESPONSES)
        for case, body in bad.items():
            with subtests.test(msg=case):
                answer = ask(client, "PATCH/properties/reported/?$rid=1", body)
                assert answer.topic.startswith("$iothub/twin/res/400/?$rid=1"), answer.topic
                error = json.loads(answer.payload)
                assert error["errorCode"] // 1000 == 400
                assert error["trackingId"]
                assert error["message"]
        with subtests.test(msg="a version that is no number"):
            answer = ask(client, "PATCH/properties/reported/?$rid=1&$version=x", b'{"a": 1}')
            assert answer.topic == "$iothub/twin/res/400/?$rid=1"
        reported = json.loads(ask(client, "GET/?$rid=g").payload)["reported"]
        assert reported == {"$version": 1}


def test_python_may_ask_before_it_subscribes(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.publish("$iothub/twin/GET/?$rid=1", b" ")
        assert client.is_open()


def test_desired_changes_are_sent_to_those_who_listen(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key) as client:
        assert client.subscribe(DESIRED, qos=0) == [0]
        change(instance, device_id, a={"b": 1}, gone=None)
        packet = client.answer()
        assert packet.topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
        assert packet.qos == 0
        assert json.loads(packet.payload) == {"a": {"b": 1}, "gone": None, "$version": 2}
        instance.hub().must("PATCH", f"/twins/{device_id}", {"tags": {"not": "sent"}})
        change(instance, device_id, next=3)
        assert client.answer().topic.endswith("?$version=3")


# Sessions (hub-device.md 0.1, 13.1).


def test_subscriptions_outlive_the_connection(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.subscribe(DESIRED, TWIN_RESPONSES)
        client.drop()
    host = instance.place.hubs[0]
    client, connack = hub_connect(
        instance, device_id, hub_token(host, device_id, key), clean_session=False
    )
    with client:
        assert (connack.return_code, connack.session_present) == (0, True)
        change(instance, device_id, back=True)
        assert json.loads(client.answer().payload)["back"] is True
        assert ask(client, "GET/?$rid=1").topic.startswith("$iothub/twin/res/200/")
        client.send(Unsubscribe(5, [DESIRED]))
        client.expect(Unsuback)
        client.disconnect()
    with hub_login(instance, device_id, key, clean_session=False) as client:
        change(instance, device_id, back=False)
        # Still subscribed to answers and no longer to changes.
        assert ask(client, "GET/?$rid=2").topic == "$iothub/twin/res/200/?$rid=2"
        client.disconnect()
    with hub_login(instance, device_id, key, clean_session=True) as client:
        client.disconnect()
    client, connack = hub_connect(
        instance, device_id, hub_token(host, device_id, key), clean_session=False
    )
    with client:
        assert connack.session_present is False


def test_subscriptions_end_with_the_identity(instance: Instance) -> None:
    device_id, key = created(instance)
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.subscribe(DESIRED)
        instance.hub().must("DELETE", f"/devices/{device_id}", if_match="*")
        client.expect_closed()
    key, _ = instance.hub().create_device(device_id)
    password = hub_token(instance.place.hubs[0], device_id, key)
    client, connack = hub_connect(instance, device_id, password, clean_session=False)
    with client:
        assert (connack.return_code, connack.session_present) == (0, False)


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_sessions_outlive_the_service(new_instance: Any, end: str) -> None:
    instance = new_instance()
    device_id, key = created(instance)
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.subscribe(DESIRED, TWIN_RESPONSES)
        patch = b'{"acknowledged": true}'
        assert ask(client, "PATCH/properties/reported/?$rid=1", patch).topic.startswith(
            "$iothub/twin/res/204/"
        )
        client.publish(f"devices/{device_id}/messages/events/", b"acknowledged")
        getattr(instance, end)()
        client.expect_closed()
    instance.start()
    identity = instance.hub().must("GET", f"/devices/{device_id}")
    assert identity["connectionState"] == "Disconnected"
    password = hub_token(instance.place.hubs[0], device_id, key)
    client, connack = hub_connect(instance, device_id, password, clean_session=False)
    with client:
        assert (connack.return_code, connack.session_present) == (0, True)
        twin = json.loads(ask(client, "GET/?$rid=2").payload)
        assert twin["reported"] == {"acknowledged": True, "$version": 2}
        change(instance, device_id, after=1)
        assert json.loads(client.answer().payload)["after"] == 1
    assert events_of(instance, device_id, 1)[0]["body"] == "acknowledged"


def test_one_address_serves_all_hubs(instance: Instance) -> None:
    device_id, key = created(instance)
    other = instance.hub(instance.place.hubs[1])
    other_key, _ = other.create_device(device_id)
    with (
        hub_login(instance, device_id, key) as first,
        hub_login(instance, device_id, other_key, host=instance.place.hubs[1]) as second,
    ):
        # One id in two hubs: two devices, and neither takes the other over.
        assert first.is_open()
        assert second.is_open()
        second.subscribe(DESIRED)
        first.subscribe(DESIRED)
        other.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"two": 2}}})
        assert b"two" in second.answer().payload
        assert first.is_open()


def test_the_name_in_the_certificate_does_not_choose_the_hub(instance: Instance) -> None:
    # A gateway dials another name than the one in the user name (hub-device.md 1.2).
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    with MqttClient(instance, instance.place.dps) as client:
        name = f"{host}/{device_id}/?api-version=2021-04-12"
        answer = client.connect(device_id, name, hub_token(host, device_id, key))
        assert isinstance(answer, Connack)
        assert answer.return_code == 0
