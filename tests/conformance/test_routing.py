"""Message routing with `azure-iot-device`: by property, body and twin, to files and a webhook."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message

from support.device import unique
from support.events import events_of, wait_for
from support.webhook import WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

SECRET = "not-in-any-log-4711"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    receiver.start()
    yield receiver
    receiver.stop()


def routed_to_files(instance: Instance, name: str) -> list[dict[str, Any]]:
    directory = instance.data_dir / "files" / instance.place.hubs[0] / name
    return [
        json.loads(line)
        for file in sorted(directory.glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def hub_option(instance: Instance) -> tuple[str, str]:
    return ("--hub", instance.place.hubs[0])


def json_message(body: Any, **properties: str) -> Message:
    message = Message(json.dumps(body), content_type="application/json", content_encoding="utf-8")
    message.custom_properties.update(properties)
    return message


def test_messages_are_routed_by_property_body_and_twin(
    own_instance: Instance, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    instance, hub = own_instance, hub_option(own_instance)
    (tmp_path / "key").write_text(SECRET)
    signed = ("--auth", "hmac", "--secret-file", str(tmp_path / "key"))
    instance.cli("endpoint", "create-webhook", "hook", receiver.url, *signed, *hub)
    instance.cli("endpoint", "create-file", "files", *hub)
    for name, endpoint, condition in (
        ("by-property", "files", "level = 'alarm'"),
        ("by-body", "hook", "$body.temperature > 80"),
        ("by-twin", "files", "$twin.tags.site = 'north'"),
    ):
        instance.cli(
            "route", "create", name, "--endpoint", endpoint, "--condition", condition, *hub
        )
    instance.cli("enrichment", "create", "site", "$twin.tags.site", "--endpoint", "hook", *hub)

    device_id = unique("routed")
    key, _ = instance.hub().create_device(device_id)
    client = IoTHubDeviceClient.create_from_symmetric_key(
        key, instance.place.hubs[0], device_id, server_verification_cert=instance.ca
    )
    try:
        client.send_message(json_message({"n": 1}, level="alarm"))
        client.send_message(json_message({"n": 2, "temperature": 81}))
        client.send_message(json_message({"n": 3, "temperature": 80}))
        patch = {"tags": {"site": "north"}}
        instance.hub().must("PATCH", f"/twins/{device_id}", patch)
        client.send_message(json_message({"n": 4}))
        client.send_message(json_message({"n": 5, "temperature": 99}, level="alarm"))
    finally:
        client.shutdown()
    (only,) = events_of(instance, device_id, 1)
    assert only["body"]["n"] == 3
    wait_for(lambda: len(routed_to_files(instance, "files")) >= 3)
    assert [each["body"]["n"] for each in routed_to_files(instance, "files")] == [1, 4, 5]
    wait_for(lambda: len(receiver.events()) >= 2)
    got = receiver.events()
    assert [each["body"]["n"] for each in got] == [2, 5]
    assert [each["properties"].get("site") for each in got] == ["$twin.tags.site", "north"]
    assert {each["systemProperties"]["content-type"] for each in got} == {"application/json"}
    for request in receiver.requests:
        signed_text = request.headers["x-muster-timestamp"].encode() + b"." + request.body
        signature = hmac.new(SECRET.encode(), signed_text, hashlib.sha256).hexdigest()
        assert request.headers["x-muster-signature"] == f"sha256={signature}"
        assert request.headers["x-muster-hub"] == instance.place.hubs[0]
    assert SECRET not in instance.log_text()
    shown = instance.cli("endpoint", "show", "hook", *hub)
    assert SECRET not in json.dumps(shown)


def test_what_the_hub_tells_of_devices(own_instance: Instance) -> None:
    instance, hub = own_instance, hub_option(own_instance)
    for source in ("DeviceLifecycleEvents", "TwinChangeEvents", "DeviceConnectionStateEvents"):
        instance.cli("route", "create", source, "--endpoint", "events", "--source", source, *hub)
    device_id = unique("told")
    rest = instance.hub()
    key, _ = rest.create_device(device_id)
    client = IoTHubDeviceClient.create_from_symmetric_key(
        key, instance.place.hubs[0], device_id, server_verification_cert=instance.ca
    )
    client.connect()
    client.patch_twin_reported_properties({"firmware": "1.2"})
    client.shutdown()
    # Once the hub has noticed that it left.
    events_of(instance, device_id, 4)
    module = rest.must("PUT", f"/devices/{device_id}/modules/m1", {"moduleId": "m1"})
    rest.must("DELETE", f"/devices/{device_id}", if_match="*")
    found = events_of(instance, device_id, 6)
    name = instance.place.hubs[0].partition(".")[0]
    assert [(each["source"], each["properties"]["opType"], each["moduleId"]) for each in found] == [
        ("deviceLifecycleEvents", "createDeviceIdentity", None),
        ("deviceConnectionStateEvents", "deviceConnected", None),
        ("twinChangeEvents", "updateTwin", None),
        ("deviceConnectionStateEvents", "deviceDisconnected", None),
        ("deviceLifecycleEvents", "createDeviceIdentity", module["moduleId"]),
        ("deviceLifecycleEvents", "deleteDeviceIdentity", None),
    ]
    assert {each["properties"]["hubName"] for each in found} == {name}
    assert found[0]["body"]["deviceId"] == device_id
    assert found[2]["body"]["properties"]["reported"]["firmware"] == "1.2"
    shown = instance.run_cli(
        *("events", "tail", "--from", "earliest", "--no-follow", *hub),
        *("--source", "twinChangeEvents"),
    )
    assert shown.stdout.count("twinChangeEvents") == 1


def test_messages_of_modules_and_sizes(own_instance: Instance) -> None:
    instance, hub = own_instance, hub_option(own_instance)
    instance.cli("endpoint", "create-file", "files", "--max-file-size", "1KiB", *hub)
    condition = "$connectionModuleId = 'm1'"
    instance.cli(
        *("route", "create", "modules", "--endpoint", "files", "--endpoint", "events"),
        *("--condition", condition, *hub),
    )
    device_id = unique("module")
    rest = instance.hub()
    rest.create_device(device_id)
    module = rest.must("PUT", f"/devices/{device_id}/modules/m1", {"moduleId": "m1"})
    key = module["authentication"]["symmetricKey"]["primaryKey"]
    client = IoTHubModuleClient.create_from_connection_string(
        f"HostName={instance.place.hubs[0]};DeviceId={device_id};ModuleId=m1;SharedAccessKey={key}",
        server_verification_cert=instance.ca,
    )
    try:
        for number in range(4):
            client.send_message(json_message({"n": number, "pad": "x" * 600}))
    finally:
        client.shutdown()
    assert [each["body"]["n"] for each in events_of(instance, device_id, 4)] == [0, 1, 2, 3]
    wait_for(lambda: len(routed_to_files(instance, "files")) >= 4)
    directory = instance.data_dir / "files" / instance.place.hubs[0] / "files"
    assert len(list(directory.glob("*.jsonl"))) > 1
    assert {each["body"]["n"] for each in routed_to_files(instance, "files")} == {0, 1, 2, 3}
