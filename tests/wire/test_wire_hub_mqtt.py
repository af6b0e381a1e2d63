"""Devices over MQTT: CONNECT, presence and takeover (hub-device.md 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.mqtt.packets import (
    Connect,
    Pingreq,
)
from support.device import hub_connect, hub_login, hub_token, unique
from support.events import wait_for
from support.mqtt import MqttClient
from support.secrets import new_key, raw_token, token
from wire.mqtt_devices import created

if TYPE_CHECKING:
    from support.instance import Instance


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
