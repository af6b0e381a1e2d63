"""Devices that connect over MQTT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.wire.mqtt.packets import Publish
from support.device import unique
from support.mqtt import MqttClient

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
