"""Desired properties that a device missed reach `azure-iot-device` when it comes back.

Every time with a new client, as after a restart of the device: a client that lives on reads the
whole twin by itself when it reconnects.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Self

import pytest
from azure.iot.device import IoTHubDeviceClient

from support.device import unique
from support.events import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

PATIENCE_S = 60.0


@pytest.fixture
def switch(own_instance: Instance) -> Iterator[Any]:
    """Switch it for the first hub of an instance of the test's own, with the CLI."""

    def switch(*, on: bool) -> None:
        host = own_instance.place.hubs[0]
        said = own_instance.cli("hub", "twin-catch-up", host, "--on" if on else "--off")
        assert said == {"enabled": on}

    yield switch
    switch(on=False)


class Device:
    """A device that has started and set its handler of patches."""

    def __init__(self, instance: Instance, device_id: str, key: str) -> None:
        self.patches: queue.Queue[dict[str, Any]] = queue.Queue()
        self.client = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=key,
            hostname=instance.place.hubs[0],
            device_id=device_id,
            server_verification_cert=instance.ca,
        )
        self.client.connect()
        self.client.on_twin_desired_properties_patch_received = self.patches.put

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.shutdown()

    def next(self) -> dict[str, Any]:
        return self.patches.get(timeout=PATIENCE_S)


def desired(instance: Instance, device_id: str, **properties: Any) -> None:
    body = {"properties": {"desired": properties}}
    instance.hub().must("PATCH", f"/twins/{device_id}", body)


def away(instance: Instance, device_id: str) -> None:
    path = f"/devices/{device_id}"
    wait_for(lambda: instance.hub().must("GET", path)["connectionState"] == "Disconnected")


def test_a_patch_that_was_missed_comes_after_the_reconnect(
    own_instance: Instance, switch: Any
) -> None:
    switch(on=True)
    device_id = unique("away")
    key, _ = own_instance.hub().create_device(device_id)
    with Device(own_instance, device_id, key) as device:
        desired(own_instance, device_id, first=1, nested={"a": 1, "b": 2})
        assert device.next() == {"first": 1, "nested": {"a": 1, "b": 2}, "$version": 2}
    away(own_instance, device_id)
    desired(own_instance, device_id, nested={"a": None, "b": 3})
    desired(own_instance, device_id, second=2)
    # What is known of deliveries and removals must not hang on a clean end.
    own_instance.kill9()
    own_instance.start()
    with Device(own_instance, device_id, key) as device:
        patch = device.next()
        # What it was sent within the last second it may be sent again.
        patch.pop("first", None)
        assert patch == {"nested": {"a": None, "b": 3}, "second": 2, "$version": 4}
        desired(own_instance, device_id, third=3)
        assert device.next() == {"third": 3, "$version": 5}


def test_off_a_patch_that_was_missed_does_not_come(own_instance: Instance, switch: Any) -> None:
    switch(on=False)
    device_id = unique("away")
    key, _ = own_instance.hub().create_device(device_id)
    with Device(own_instance, device_id, key) as device:
        desired(own_instance, device_id, first=1)
        assert device.next() == {"first": 1, "$version": 2}
    away(own_instance, device_id)
    desired(own_instance, device_id, missed=2)
    with Device(own_instance, device_id, key) as device:
        # What comes first is what is changed afterwards.
        desired(own_instance, device_id, after=3)
        assert device.next() == {"after": 3, "$version": 4}
