"""Devices over MQTT: twins and sessions (hub-device.md 2, 6, 13.1)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.mqtt.packets import (
    Connack,
    Unsuback,
    Unsubscribe,
)
from support.device import hub_connect, hub_login, hub_token
from support.events import events_of
from support.mqtt import MqttClient
from wire.mqtt_devices import DESIRED, TWIN_RESPONSES, ask, change, created

if TYPE_CHECKING:
    from support.instance import Instance


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
