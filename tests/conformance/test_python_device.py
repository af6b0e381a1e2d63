"""Devices and modules in a hub with `azure-iot-device`."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import (
    IoTHubDeviceClient,
    IoTHubModuleClient,
    Message,
    ProvisioningDeviceClient,
)
from azure.iot.device.exceptions import CredentialError

from support.device import unique
from support.events import events_of
from support.secrets import new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

PATIENCE_S = 30.0

both_transports = pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])


@contextmanager
def device(
    instance: Instance, device_id: str, key: str, **options: Any
) -> Iterator[IoTHubDeviceClient]:
    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=key,
        hostname=options.pop("host", instance.place.hubs[0]),
        device_id=device_id,
        server_verification_cert=instance.ca,
        **options,
    )
    try:
        yield client
    finally:
        client.shutdown()


@contextmanager
def module(
    instance: Instance, device_id: str, module_id: str, key: str, **options: Any
) -> Iterator[IoTHubModuleClient]:
    client = IoTHubModuleClient.create_from_connection_string(
        f"HostName={instance.place.hubs[0]};DeviceId={device_id};ModuleId={module_id};"
        f"SharedAccessKey={key}",
        server_verification_cert=instance.ca,
        **options,
    )
    try:
        yield client
    finally:
        client.shutdown()


class Sessions:
    """Connects and drops as the client reports them."""

    def __init__(self, client: IoTHubDeviceClient) -> None:
        self.connects = threading.Semaphore(0)
        self.dropped = threading.Event()
        self._client = client
        client.on_connection_state_change = self._changed

    def _changed(self) -> None:
        if self._client.connected:
            self.connects.release()
        else:
            self.dropped.set()


class Patches:
    """Desired changes as the client's handler receives them."""

    def __init__(self, client: IoTHubDeviceClient | IoTHubModuleClient) -> None:
        self._seen: queue.Queue[dict[str, Any]] = queue.Queue()
        client.on_twin_desired_properties_patch_received = self._seen.put

    def next(self) -> dict[str, Any]:
        return self._seen.get(timeout=PATIENCE_S)


def test_a_provisioned_device_connects_at_once(instance: Instance) -> None:
    registration_id = unique("whole")
    primary, _ = instance.dps.enroll(registration_id)
    result = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=instance.place.dps,
        registration_id=registration_id,
        id_scope=instance.id_scope,
        symmetric_key=primary,
        server_verification_cert=instance.ca,
    ).register()
    state = result.registration_state
    with device(instance, state.device_id, primary, host=state.assigned_hub) as client:
        client.send_message("first words")
        identity = instance.hub(state.assigned_hub).must("GET", f"/devices/{state.device_id}")
        assert identity["connectionState"] == "Connected"
    (event,) = events_of(instance, state.device_id, 1, hub=state.assigned_hub)
    assert event["body"] == "first words"


@both_transports
def test_telemetry_arrives_with_its_properties(instance: Instance, *, websockets: bool) -> None:
    device_id = unique("tele.metry:(1),=")
    primary, _ = instance.hub().create_device(device_id)
    message = Message(json.dumps({"t": 21.5}))
    message.message_id = "id 1"
    message.correlation_id = "c/1"
    message.user_id = "ü"
    message.content_type = "application/json"
    message.content_encoding = "utf-8"
    message.custom_properties["al ert"] = "tr/ue&x=1"
    message.custom_properties["empty"] = ""
    with device(instance, device_id, primary, websockets=websockets) as client:
        client.send_message(message)
        client.send_message("plain")
    first, second = events_of(instance, device_id, 2)
    assert first["deviceId"] == second["deviceId"] == device_id
    assert first["body"] == {"t": 21.5}
    assert first["properties"] == {"al ert": "tr/ue&x=1", "empty": ""}
    system = first["systemProperties"]
    assert "id 1" in system.values()
    assert "c/1" in system.values()
    assert "ü" in system.values()
    assert system["iothub-connection-device-id"] == device_id
    assert json.loads(system["iothub-connection-auth-method"])["type"] == "sas"
    assert second["body"] == "plain"
    assert second["properties"] == {}
    assert second["sequenceNumber"] > first["sequenceNumber"]
    assert second["partition"] == first["partition"]


@both_transports
def test_a_twin_goes_both_ways(instance: Instance, *, websockets: bool) -> None:
    device_id = unique("twin")
    primary, _ = instance.hub().create_device(device_id)
    hub = instance.hub()
    hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"a": 1, "b": {"c": 2}}}})
    with device(instance, device_id, primary, websockets=websockets) as client:
        twin = client.get_twin()
        assert twin["desired"] == {"a": 1, "b": {"c": 2}, "$version": 2}
        assert twin["reported"] == {"$version": 1}

        client.patch_twin_reported_properties({"battery": 80, "gone": "soon"})
        client.patch_twin_reported_properties({"gone": None, "list": [1, "two"]})
        assert client.get_twin()["reported"] == {
            "battery": 80,
            "list": [1, "two"],
            "$version": 3,
        }

        patches = Patches(client)
        # The client subscribes when the handler is set, before set returns.
        hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"b": {"c": None}}}})
        assert patches.next() == {"b": {"c": None}, "$version": 3}
        twin = {"tags": {"x": 1}, "properties": {"desired": {"z": 9}}}
        hub.must("PUT", f"/twins/{device_id}", twin, if_match="*")
        assert patches.next() == {"z": 9, "$version": 4}
    service_view = hub.must("GET", f"/twins/{device_id}")
    assert service_view["properties"]["reported"]["battery"] == 80
    assert "$metadata" in service_view["properties"]["reported"]


@both_transports
def test_a_module_is_a_device_of_its_own(instance: Instance, *, websockets: bool) -> None:
    device_id, module_id = unique("host"), "sensor.1"
    instance.hub().create_device(device_id)
    primary, _ = instance.hub().create_module(device_id, module_id)
    path = f"/twins/{device_id}/modules/{module_id}"
    with module(instance, device_id, module_id, primary, websockets=websockets) as client:
        client.send_message_to_output('{"n": 1}', "out1")
        client.patch_twin_reported_properties({"ready": True})
        patches = Patches(client)
        instance.hub().must("PATCH", path, {"properties": {"desired": {"speed": 3}}})
        assert patches.next() == {"speed": 3, "$version": 2}
        assert client.get_twin()["reported"] == {"ready": True, "$version": 2}
    (event,) = events_of(instance, device_id, 1)
    assert event["moduleId"] == module_id
    assert event["systemProperties"]["iothub-outputname"] == "out1"
    twin = instance.hub().must("GET", f"/twins/{device_id}")
    assert "ready" not in twin["properties"]["reported"]


def test_a_wrong_key_is_refused_at_connect(instance: Instance) -> None:
    device_id = unique("badkey")
    instance.hub().create_device(device_id)
    with (
        device(instance, device_id, new_key(), connection_retry=False) as client,
        pytest.raises(CredentialError),
    ):
        client.connect()


def test_a_disabled_device_is_refused_at_connect(instance: Instance) -> None:
    device_id = unique("barred")
    primary, _ = instance.hub().create_device(device_id, status="disabled")
    with (
        device(instance, device_id, primary, connection_retry=False) as client,
        pytest.raises(CredentialError),
    ):
        client.connect()


def test_disabling_a_device_ends_its_session(instance: Instance) -> None:
    device_id = unique("cut")
    primary, _ = instance.hub().create_device(device_id)
    with device(instance, device_id, primary) as client:
        client.connect()
        dropped = Sessions(client).dropped
        hub = instance.hub()
        body = hub.must("GET", f"/devices/{device_id}") | {"status": "disabled"}
        hub.must("PUT", f"/devices/{device_id}", body, if_match="*")
        assert dropped.wait(PATIENCE_S)


def test_tokens_are_renewed_without_losing_anything(instance: Instance) -> None:
    # The SDK renews 120 s before the end: with 125 s of life, every five seconds, by DISCONNECT
    # and CONNECT and no new SUBSCRIBE (hub-device.md 14b).
    device_id = unique("renew")
    primary, _ = instance.hub().create_device(device_id)
    with device(instance, device_id, primary, sastoken_ttl=125) as client:
        client.connect()
        renewals = Sessions(client).connects
        patches = Patches(client)
        sent = 0
        for turn in range(2):
            assert renewals.acquire(timeout=PATIENCE_S), "the SDK did not renew"
            client.send_message(f"after renewal {turn}")
            sent += 1
            patch = {"properties": {"desired": {"turn": turn}}}
            instance.hub().must("PATCH", f"/twins/{device_id}", patch)
            while patches.next().get("turn") != turn:
                pass
    events = events_of(instance, device_id, sent)
    assert [event["body"] for event in events] == ["after renewal 0", "after renewal 1"]
    decided = {row["check"] for row in instance.explain(device_id, patience_s=0)}
    assert "taken-over" not in decided


def test_a_second_connection_takes_the_first_one_over(instance: Instance) -> None:
    device_id = unique("duel")
    primary, _ = instance.hub().create_device(device_id)
    with (
        device(instance, device_id, primary, connection_retry=False) as first,
        device(instance, device_id, primary, connection_retry=False) as second,
    ):
        first.connect()
        dropped = Sessions(first).dropped
        second.connect()
        assert dropped.wait(PATIENCE_S)
        second.send_message("from the second")
        assert second.connected
    assert events_of(instance, device_id, 1)[0]["body"] == "from the second"


@both_transports
def test_subscriptions_survive_a_restart_of_the_service(
    own_instance: Instance, *, websockets: bool
) -> None:
    device_id = unique("survivor")
    primary, _ = own_instance.hub().create_device(device_id)
    with device(own_instance, device_id, primary, websockets=websockets) as client:
        patches = Patches(client)
        client.send_message("before")
        connects = Sessions(client).connects
        own_instance.restart()
        assert connects.acquire(timeout=60), "the SDK did not come back"
        # The SDK reconnects with CleanSession 0 and does not subscribe again.
        patch = {"properties": {"desired": {"after": True}}}
        own_instance.hub().must("PATCH", f"/twins/{device_id}", patch)
        while patches.next().get("after") is not True:
            pass
        client.send_message("after")
    bodies = [event["body"] for event in events_of(own_instance, device_id, 2)]
    assert bodies == ["before", "after"]
