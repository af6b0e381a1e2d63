"""Devices and modules in a hub with npm's `azure-iot-device` on MQTT and AMQP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.device import hub_login, unique
from support.events import events_of, wait_for
from support.node import NodeScript, value_of
from support.secrets import new_key

if TYPE_CHECKING:
    from support.instance import Instance

every_transport = pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])


def connect(instance: Instance, device: str, key: str, transport: str) -> dict[str, str]:
    """Say to the script as whom to connect, `device` or `device/module`."""
    device_id, _, module_id = device.partition("/")
    who = f"DeviceId={device_id}" + (f";ModuleId={module_id}" if module_id else "")
    host = instance.place.hubs[0]
    return {
        "connectionString": f"HostName={host};{who};SharedAccessKey={key}",
        "transport": transport,
    }


def desired(instance: Instance, path: str, change: dict[str, Any]) -> None:
    instance.hub().must("PATCH", f"/twins/{path}", {"properties": {"desired": change}})


@every_transport
def test_devices_and_modules_talk(
    instance: Instance, transport: str, subtests: pytest.Subtests
) -> None:
    hub = instance.hub()
    device_id = unique("node-device")
    key, _ = hub.create_device(device_id)
    host_id = unique("node-host")
    hub.create_device(host_id)
    module_key, _ = hub.create_module(host_id, "m1")
    paths = (device_id, f"{host_id}/modules/m1")
    for path in paths:
        desired(instance, path, {"a": 1, "b": {"c": 2}})
    context = {
        "device": connect(instance, device_id, key, transport),
        "module": connect(instance, f"{host_id}/m1", module_key, transport),
        "wrongKey": connect(instance, device_id, new_key(), transport),
    }
    # One refused login must not end the session of the device that is connected.
    with NodeScript(instance, "device.js", context) as script:
        for _ in paths:
            script.wait_for("ready")
        for path in paths:
            desired(instance, path, {"b": {"c": None}, "last": True})
        results = script.results()

    for scenario, path in zip(("device", "module"), paths, strict=True):
        with subtests.test(msg=scenario):
            talk = value_of(results, scenario)
            assert talk["before"]["desired"] == {"a": 1, "b": {"c": 2}, "$version": 2}
            assert talk["before"]["reported"] == {"$version": 1}
            assert talk["seen"][-1] == {"b": {"c": None}, "last": True, "$version": 3}
            twin = hub.must("GET", f"/twins/{path}")
            assert twin["properties"]["reported"]["battery"] == 80
            assert "gone" not in twin["properties"]["reported"]
            assert twin["properties"]["reported"]["$version"] == 3
    with subtests.test(msg="telemetry"):
        (event,) = events_of(instance, device_id, 1)
        assert event["body"] == {"t": 21.5}
        assert event["properties"] == {"al ert": "tr/ue&x=1"}
    with subtests.test(msg="module output"):
        (event,) = events_of(instance, host_id, 1)
        assert event["moduleId"] == "m1"
        # The SDK glues a slash to the end of the whole bag (hub-device.md 12.2).
        assert event["systemProperties"]["iothub-outputname"] == "out1"
        assert event["systemProperties"]["dt-subject"] == "comp1"
    with subtests.test(msg="wrong key"):
        assert value_of(results, "wrongKey")["name"] == "UnauthorizedError"


def listen(instance: Instance, device_id: str, key: str, transport: str) -> NodeScript:
    script = NodeScript(
        instance, "device.js", {"survive": connect(instance, device_id, key, transport)}
    )
    script.wait_for("ready")
    return script


def expect_desired(script: NodeScript, instance: Instance, device_id: str) -> None:
    # The SDK comes back by itself and does not subscribe again. A change made while it is away
    # is not sent later, so wait until it is there.
    wait_for(
        lambda: (
            instance.hub().must("GET", f"/devices/{device_id}")["connectionState"] == "Connected"
        )
    )
    desired(instance, device_id, {"last": True})
    while "last" not in script.wait_for("desired"):
        pass
    assert value_of(script.results(), "survive") is True


@every_transport
def test_subscriptions_survive_a_takeover(instance: Instance, transport: str) -> None:
    device_id = unique("node-taken")
    key, _ = instance.hub().create_device(device_id)
    with listen(instance, device_id, key, transport) as script:
        with hub_login(instance, device_id, key, clean_session=False) as other:
            # Gone when the SDK takes the session back.
            other.expect_closed()
        expect_desired(script, instance, device_id)
    assert events_of(instance, device_id, 1)[0]["body"] == "still here"


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_subscriptions_survive_a_restart_of_the_service(
    own_instance: Instance, transport: str
) -> None:
    device_id = unique("node-survivor")
    key, _ = own_instance.hub().create_device(device_id)
    with listen(own_instance, device_id, key, transport) as script:
        own_instance.restart()
        expect_desired(script, own_instance, device_id)
    assert events_of(own_instance, device_id, 1)[0]["body"] == "still here"


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_tokens_are_renewed(instance: Instance, transport: str) -> None:
    device_id = unique("node-renewing")
    key, _ = instance.hub().create_device(device_id)
    context = {"renew": connect(instance, device_id, key, transport)}
    with NodeScript(instance, "device.js", context) as script:
        assert value_of(script.results(), "renew") is True
    assert [event["body"] for event in events_of(instance, device_id, 2)] == ["first", "last"]
