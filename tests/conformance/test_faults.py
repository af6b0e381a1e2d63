"""Injected faults with `azure-iot-device`: it recovers, and nothing it was told is safe is lost."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubDeviceClient, Message

from support.device import unique
from support.events import events_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

PATIENCE_S = 60.0
FAULT = "AzIoTHub_FaultOperation"

KINDS = {
    "refuse": (),
    "delay": ("--delay", "0.5"),
    "throttle": (),
    "drop": ("--probability", "0.5"),
    "reset": (),
}


@pytest.fixture(autouse=True)
def _enabled(instance: Instance) -> None:
    instance.cli("fault", "enable", "--hub", instance.place.hubs[0])


@contextmanager
def device(instance: Instance, device_id: str, **options: Any) -> Iterator[IoTHubDeviceClient]:
    primary, _ = instance.hub().create_device(device_id)
    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=primary,
        hostname=instance.place.hubs[0],
        device_id=device_id,
        server_verification_cert=instance.ca,
        connection_retry_interval=1,
        **options,
    )
    try:
        yield client
    finally:
        client.shutdown()


class Sender:
    """Sends numbers one after the other; knows which of them the client said were sent."""

    def __init__(self, client: IoTHubDeviceClient) -> None:
        self.acknowledged: list[int] = []
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._over.wait(0.01):
            if number and not self._client.connected:
                # It comes back by itself. A send now would make it connect a second time at once,
                # upon which it may do neither (azure-iot-device 2.14).
                continue
            number += 1
            try:
                self._client.send_message(str(number))
            except Exception:  # noqa: BLE001 - whatever the client makes of the fault
                continue
            self.acknowledged.append(number)

    def wait_for_more(self) -> None:
        seen = len(self.acknowledged)
        wait_for(lambda: len(self.acknowledged) > seen + 1, PATIENCE_S)

    def stop(self) -> list[int]:
        self._over.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.acknowledged


def assert_stored(instance: Instance, device_id: str, acknowledged: list[int]) -> None:
    """Read until the last acknowledged message, and find all others before it."""
    found: set[int] = set()
    follow = instance.follow(
        *("events", "tail", "--hub", instance.place.hubs[0]),
        *("--device-id", device_id, "--from", "earliest"),
    )
    for event in follow:
        found.add(int(event["body"]))
        if found >= set(acknowledged):
            break
    follow.close()
    assert found >= set(acknowledged)


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_recovers_and_nothing_is_lost(instance: Instance, kind: str) -> None:
    device_id = unique(f"rehearsal-{kind}")
    with device(instance, device_id, websockets=kind == "reset") as client:
        sender = Sender(client)
        try:
            sender.wait_for_more()
            fault = instance.cli(
                *("fault", "create", kind, "--device-id", device_id, "--duration", "3"),
                *("--hub", instance.place.hubs[0], *KINDS[kind]),
            )
            wait_for(lambda: not _lasts(instance, fault["id"]), PATIENCE_S)
            sender.wait_for_more()
        finally:
            acknowledged = sender.stop()
    assert_stored(instance, device_id, acknowledged)
    assert "fault-injected" in {each["check"] for each in instance.explain(device_id)}


def _lasts(instance: Instance, fault_id: str) -> bool:
    listed = instance.dps.must("GET", f"/admin/v1/hubs/{instance.place.hubs[0]}/faults")
    return fault_id in {each["id"] for each in listed}


@pytest.mark.parametrize("operation", ["KillTcp", "ShutDownMqtt", "InvokeThrottling"])
def test_a_client_orders_a_fault_and_recovers(instance: Instance, operation: str) -> None:
    device_id = unique("orders")
    with device(instance, device_id) as client:
        dropped = threading.Event()
        client.on_connection_state_change = lambda: client.connected or dropped.set()
        order = Message("1")
        order.custom_properties[f"{FAULT}Type"] = operation
        order.custom_properties[f"{FAULT}CloseReason"] = "boom"
        order.custom_properties[f"{FAULT}DelayInSecs"] = "1"
        order.custom_properties[f"{FAULT}DurationInSecs"] = "2"
        client.send_message(order)
        sender = Sender(client)
        try:
            assert dropped.wait(PATIENCE_S)
            sender.wait_for_more()
        finally:
            acknowledged = sender.stop()
    assert_stored(instance, device_id, acknowledged)
    assert operation in instance.explain(device_id)[0]["cause"]


def test_switched_off_the_properties_are_ordinary(instance: Instance) -> None:
    other = instance.place.hubs[1]
    device_id = unique("ordinary")
    primary, _ = instance.hub(other).create_device(device_id)
    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=primary,
        hostname=other,
        device_id=device_id,
        server_verification_cert=instance.ca,
    )
    dropped = threading.Event()
    client.on_connection_state_change = lambda: client.connected or dropped.set()
    message = Message("ordinary")
    message.custom_properties[f"{FAULT}Type"] = "KillTcp"
    try:
        client.send_message(message)
        # Faults begin a tenth of a second after the message; this takes longer.
        (event,) = events_of(instance, device_id, 1, hub=other)
        client.send_message("more")
        assert not dropped.is_set()
    finally:
        client.shutdown()
    assert event["properties"] == {f"{FAULT}Type": "KillTcp"}
