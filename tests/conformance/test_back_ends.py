"""Back ends on AMQP: azure-iot-hub's and azure-iothub's messages, feedback, file notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from test_files import blob_client
from test_methods import python_client

from support.device import hub_login, unique
from support.node import NodeScript, run_script, value_of
from support.secrets import CLOCK

if TYPE_CHECKING:
    from support.instance import Instance

both = pytest.mark.parametrize("transport", ["amqp", "amqp-ws"])


@pytest.fixture
def trusted(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Have OpenSSL's own default, which uamqp goes by, lead to the instance's CA."""
    monkeypatch.setenv("SSL_CERT_FILE", str(instance.ca_file))
    return instance


def login(instance: Instance) -> str:
    return instance.hub_connection_string(instance.place.hubs[0])


def received(instance: Instance, device_id: str, key: str, count: int) -> list[tuple[str, bytes]]:
    """Receive and complete messages as the device: topics and bodies."""
    topic = f"devices/{device_id}/messages/devicebound/"
    with hub_login(instance, device_id, key) as client:
        client.subscribe(f"{topic}#")
        found = [client.answer() for _ in range(count)]
    return [(each.topic.removeprefix(topic), each.payload) for each in found]


def test_python_sends(trusted: Instance) -> None:
    device_id = unique("py%20c2d")
    key, _ = trusted.hub().create_device(device_id)
    manager = IoTHubRegistryManager.from_connection_string(login(trusted))
    try:
        manager.send_c2d_message(device_id, "first")
        manager.send_c2d_message(
            device_id,
            "second",
            {
                "contentType": "application/json",
                "contentEncoding": "utf-8",
                "correlationId": "c 1",
                "messageId": "m 1",
                "expiryTimeUtc": int((CLOCK.time() + 600) * 1000),
                "iothub-ack": "full",
                "alErt": "high",
            },
        )
        with pytest.raises(Exception, match="send failure"):
            manager.send_c2d_message(unique("nobody"), "x")
    finally:
        manager.amqp_svc_client.disconnect_sync()
    (first, body), (second, other) = received(trusted, device_id, key, 2)
    assert (body, other) == (b"first", b"second")
    assert "%24.mid=" in first
    for part in (
        "%24.mid=m%201",
        "%24.cid=c%201",
        "%24.ct=application%2Fjson",
        "%24.ce=utf-8",
        "iothub-ack=full",
        "alErt=high",
    ):
        assert part in second


@both
def test_node_sends(instance: Instance, transport: str) -> None:
    device_id = unique("node:c2d")
    key, _ = instance.hub().create_device(device_id)
    fields = {"messageId": "m 1", "correlationId": "c", "ack": "full", "contentType": "text/plain"}
    context: dict[str, Any] = {
        "send": {
            "messages": [
                {"device": device_id, "body": "first"},
                {
                    "device": device_id,
                    "body": "second",
                    "fields": fields,
                    "properties": {"alErt": "high"},
                },
            ],
        },
        "refusals": {
            "messages": [
                {"device": unique("nobody"), "body": "x"},
                {"device": device_id, "body": "x" * 70_000},
                {"device": device_id, "body": "x", "fields": {"ack": "maybe"}},
                {"device": device_id, "body": "x", "fields": {"expiryTimeUtc": 1000}},
            ],
        },
    }
    for chosen in context.values():
        chosen.update(connectionString=login(instance), transport=transport)
    results = run_script(instance, "back_end.js", context)
    assert value_of(results, "send") == ["MessageEnqueued"] * 2
    assert [each["name"] for each in value_of(results, "refusals")] == [
        "DeviceNotFoundError",
        "MessageTooLargeError",
        "ArgumentError",
        "ArgumentOutOfRangeError",
    ]
    (_, body), (second, other) = received(instance, device_id, key, 2)
    assert (body, other) == (b"first", b"second")
    for part in ("%24.mid=m%201", "%24.cid=c", "%24.ct=text%2Fplain", "alErt=high"):
        assert part in second


def test_node_finds_a_full_queue(instance: Instance) -> None:
    device_id = unique("full")
    instance.hub().create_device(device_id)
    for number in range(50):
        instance.hub().send_message(device_id, b"%d" % number)
    context = {
        "refusals": {
            "connectionString": login(instance),
            "transport": "amqp",
            "messages": [{"device": device_id, "body": "x"}],
        }
    }
    (error,) = value_of(run_script(instance, "back_end.js", context), "refusals")
    assert error["name"] == "DeviceMaximumQueueDepthExceededError"


@both
def test_node_receives_feedback(own_instance: Instance, transport: str) -> None:
    instance = own_instance
    device_id = unique("told")
    key, _ = instance.hub().create_device(device_id)
    instance.hub().send_message(device_id, b"x", messageId="m 1", ack="full")
    chosen = {"connectionString": login(instance), "transport": transport, "device": device_id}
    with NodeScript(instance, "back_end.js", {"feedback": chosen}) as script:
        script.wait_for("ready")
        received(instance, device_id, key, 1)
        first, again = value_of(script.results(), "feedback")
    assert first == again
    assert first["contentType"] == "application/vnd.microsoft.iothub.feedback.json"
    (record,) = first["body"]
    assert record["originalMessageId"] == "m 1"
    assert (record["deviceId"], record["statusCode"]) == (device_id, "Success")
    shown = instance.hub().must("GET", f"/devices/{device_id}")
    assert record["deviceGenerationId"] == shown["generationId"]


def test_node_receives_file_notifications(own_instance: Instance) -> None:
    instance = own_instance
    device_id = unique("uploads")
    key, _ = instance.hub().create_device(device_id)
    chosen = {"connectionString": login(instance), "transport": "amqp", "device": device_id}
    device = python_client(instance, device_id, key)
    try:
        with NodeScript(instance, "back_end.js", {"files": chosen}) as script:
            script.wait_for("ready")
            told = device.get_storage_info_for_blob("a.txt")
            with blob_client(instance, told) as blob:
                blob.upload_blob(b"hello", overwrite=True)
            device.notify_blob_upload_status(told["correlationId"], True, 200, "OK")
            (found,) = value_of(script.results(), "files")
    finally:
        device.shutdown()
    assert found["contentType"] == "application/vnd.microsoft.iothub.filenotification.json"
    said = found["body"]
    assert (said["deviceId"], said["blobName"]) == (device_id, f"{device_id}/a.txt")
    assert said["blobSizeInBytes"] == 5
    # It was completed, so nobody else gets it.
    path = "/messages/serviceBound/filenotifications"
    assert instance.hub().call("GET", path).status == 204
