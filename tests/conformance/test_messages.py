"""Cloud-to-device messages and the HTTPS device API with the official clients of devices."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubDeviceClient

from support.device import unique
from support.events import events_of, wait_for
from support.node import NodeScript, run_script, value_of
from support.secrets import new_key

if TYPE_CHECKING:
    from support.instance import Instance

PATIENCE_S = 30.0


def connection(instance: Instance, device_id: str, key: str) -> str:
    return f"HostName={instance.place.hubs[0]};DeviceId={device_id};SharedAccessKey={key}"


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_python_device(instance: Instance, *, websockets: bool) -> None:
    device_id, hub = unique("py-c2d"), instance.hub()
    key, _ = hub.create_device(device_id)

    def new_client() -> Any:
        return IoTHubDeviceClient.create_from_connection_string(
            connection(instance, device_id, key),
            server_verification_cert=instance.ca,
            websockets=websockets,
        )

    found: queue.Queue[Any] = queue.Queue()
    client = new_client()
    try:
        client.on_message_received = found.put
        hub.send_message(
            device_id,
            b'{"a": "\xc3\xbc"}',
            messageId="m 1",
            correlationId="c&1",
            userId="u",
            contentType="application/json",
            contentEncoding="utf-8",
            ack="full",
            properties={"al ert": "t=r/u+e", "none": None},
        )
        message = found.get(timeout=PATIENCE_S)
        assert message.data == b'{"a": "\xc3\xbc"}'
        assert (message.message_id, message.correlation_id, message.user_id) == ("m 1", "c&1", "u")
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
        assert message.ack == "full"
        assert message.custom_properties == {"al ert": "t=r/u+e", "none": None}
        wait_for(lambda: hub.message_count(device_id) == 0)
    finally:
        client.shutdown()
    # Sent while it was away; the client subscribes to nothing when it comes back.
    hub.send_message(device_id, b"later")
    client = new_client()
    try:
        client.on_message_received = found.put
        assert found.get(timeout=PATIENCE_S).data == b"later"
        wait_for(lambda: hub.message_count(device_id) == 0)
    finally:
        client.shutdown()


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws", "http"])
def test_node_device_receives(instance: Instance, transport: str) -> None:
    device_id, hub = unique("node-c2d"), instance.hub()
    key, _ = hub.create_device(device_id)
    # MQTT can only complete, and azure-iot-device says so when it is asked for more.
    mqtt = transport.startswith("mqtt")
    bodies = ["1", "2", "3"] if mqtt else ["complete", "reject", "abandon"]
    count = len(bodies) + (not mqtt)
    chosen = {
        "connectionString": connection(instance, device_id, key),
        "transport": transport,
        "count": count,
    }
    with NodeScript(instance, "messages.js", {"receive": chosen}) as script:
        script.wait_for("ready")
        for body in bodies:
            hub.send_message(
                device_id,
                body.encode(),
                messageId=f"id {body}",
                correlationId="c/1",
                properties={"al&ert": "tr/ue"} if transport != "http" else {"alert": "yes"},
            )
        seen = value_of(script.results(), "receive")
    assert sorted({each["body"] for each in seen}) == sorted(bodies)
    assert len(seen) == count
    for each in seen:
        assert each["messageId"] == f"id {each['body']}"
        assert each["correlationId"] == "c/1"
        assert each["to"] == f"/devices/{device_id}/messages/devicebound"
        expected = ("iothub-app-alert", "yes") if transport == "http" else ("al&ert", "tr/ue")
        assert [(item["key"], item["value"]) for item in each["properties"]] == [expected]
    wait_for(lambda: hub.message_count(device_id) == 0)


@pytest.mark.parametrize("transport", ["http", "amqp", "amqp-ws"])
def test_node_device_sends(instance: Instance, transport: str) -> None:
    device_id = unique("node-sends")
    key, _ = instance.hub().create_device(device_id)
    context = {
        "transport": transport,
        "send": connection(instance, device_id, key),
        "wrongKey": connection(instance, device_id, new_key()),
    }
    results = run_script(instance, "messages.js", context)
    assert value_of(results, "send") is True
    refusal = value_of(results, "wrongKey")
    assert refusal["name"] == "UnauthorizedError"
    if transport == "http":
        assert refusal["statusCode"] == 401
    single, first, second = events_of(instance, device_id, 3)
    assert single["body"] == {"t": 21.5}
    assert single["properties"] == {"alErt": "true"}
    stamped = single["systemProperties"]
    assert (stamped["message-id"], stamped["correlation-id"]) == ("id 1", "c/1")
    assert (stamped["content-type"], stamped["content-encoding"]) == ("application/json", "utf-8")
    assert (first["body"], first["systemProperties"]["dt-subject"]) == ({"n": 1}, "part")
    assert (second["body"], second["bodyEncoding"]) == ("AP8=", "base64")
    shown = instance.hub().must("GET", f"/devices/{device_id}")
    assert shown["connectionState"] == "Disconnected"
    assert shown["lastActivityTime"] > "2001"
