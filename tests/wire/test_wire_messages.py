"""Cloud-to-device messages as raw clients get them, over MQTT and HTTPS (hub-device.md 2.6, 4)."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Disconnect, Puback, Publish
from support.device import hub_login, hub_token, unique
from support.events import events_of, wait_for
from support.https import open_tls, request
from support.service import message_path

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance

VERSION = "api-version=2021-04-12"


def inbox(device_id: str) -> str:
    return f"devices/{device_id}/messages/devicebound/#"


def created(instance: Instance, device_id: str) -> str:
    key, _ = instance.hub().create_device(device_id)
    return key


def call(
    instance: Instance,
    device: tuple[str, str],
    method: str,
    path: str,
    body: bytes = b"",
    **headers: str,
) -> Reply:
    """Call the HTTPS API as a device with its key, on a path below its own."""
    host = instance.place.hubs[0]
    device_id, key = device
    return request(
        instance.place,
        instance.ca_file,
        method,
        f"/devices/{device_id}{path}{'&' if '?' in path else '?'}{VERSION}",
        host=host,
        headers={"Authorization": hub_token(host, device_id, key), **headers},
        body=body,
    )


# MQTT.


def test_unacknowledged_messages_come_again(instance: Instance) -> None:
    device_id = unique("again")
    key, hub = created(instance, device_id), instance.hub()
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.subscribe(inbox(device_id))
        for number in range(3):
            hub.send_message(device_id, b"%d" % number, messageId=str(number))
        first, second, third = (client.expect(Publish) for _ in range(3))
        to = f"%24.to=%2Fdevices%2F{device_id}%2Fmessages%2Fdevicebound"
        assert first.topic == f"devices/{device_id}/messages/devicebound/{to}&%24.mid=0"
        assert len({each.packet_id for each in (first, second, third)}) == 3
        assert second.packet_id is not None
        client.send(Puback(second.packet_id))
        wait_for(lambda: hub.message_count(device_id) == 2)
    # No SUBSCRIBE: the session is resumed, and they come right after CONNACK.
    with hub_login(instance, device_id, key, clean_session=False) as client:
        assert [client.answer().payload for _ in range(2)] == [b"0", b"2"]
        wait_for(lambda: hub.message_count(device_id) == 0)
        client.disconnect()
    with hub_login(instance, device_id, key, clean_session=False) as client:
        assert client.is_open()
        hub.send_message(device_id, b"new")
        assert client.answer().payload == b"new"


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_messages_outlive_the_service(new_instance: Any, end: str) -> None:
    instance = new_instance()
    device_id = unique("outlive")
    key, hub = created(instance, device_id), instance.hub()
    with hub_login(instance, device_id, key, clean_session=False) as client:
        client.subscribe(inbox(device_id))
        for body in (b"done", b"open", b"unseen"):
            hub.send_message(device_id, body, ack="full", messageId=body.decode())
        done, _ = client.expect(Publish), client.expect(Publish)
        assert done.packet_id is not None
        client.send(Puback(done.packet_id))
        wait_for(lambda: hub.message_count(device_id) == 2)
        getattr(instance, end)()
        client.expect_closed()
    instance.start()
    hub = instance.hub()
    assert hub.message_count(device_id) == 2
    with hub_login(instance, device_id, key, clean_session=False) as client:
        assert [client.answer().payload for _ in range(2)] == [b"open", b"unseen"]
        wait_for(lambda: hub.message_count(device_id) == 0)
    records: list[dict[str, Any]] = []

    def told() -> bool:
        reply = hub.call("GET", "/messages/serviceBound/feedback")
        if reply.status == 200:
            records.extend(reply.json)
            token = reply.headers["ETag"].strip('"')
            hub.must("DELETE", f"/messages/serviceBound/feedback/{token}")
        return len(records) == 3

    wait_for(told, 40)
    assert [each["originalMessageId"] for each in records] == ["done", "open", "unseen"]
    assert {each["statusCode"] for each in records} == {"Success"}


def test_an_acknowledgement_counts_although_goodbye_comes_with_it(instance: Instance) -> None:
    device_id = unique("goodbye")
    key, hub = created(instance, device_id), instance.hub()
    hub.send_message(device_id, b"last")
    with hub_login(instance, device_id, key) as client:
        client.subscribe(inbox(device_id))
        packet_id = client.expect(Publish).packet_id
        assert packet_id is not None
        client.send_bytes(codec.encode(Puback(packet_id)) + codec.encode(Disconnect()))
        client.expect_closed()
    wait_for(lambda: hub.message_count(device_id) == 0)


def test_a_module_has_its_own_topic(instance: Instance) -> None:
    # As C# and Java subscribe; Python and Node have no handler for messages of modules.
    device_id = unique("module")
    created(instance, device_id)
    key, _ = instance.hub().create_module(device_id, "m1")
    with hub_login(instance, f"{device_id}/m1", key) as client:
        own = f"devices/{device_id}/modules/m1"
        assert client.subscribe(f"{own}/messages/devicebound/#") == [1]
        instance.hub().send_message(device_id, b"hello", "m1", properties={"a": "1"})
        packet = client.answer()
        bag = packet.topic.removeprefix(f"{own}/messages/devicebound/")
        assert (packet.payload, bag) == (
            b"hello",
            f"%24.to=%2Fdevices%2F{device_id}%2Fmodules%2Fm1%2Fmessages%2Fdevicebound&a=1",
        )


# HTTPS.


def test_names_and_values_of_properties(instance: Instance) -> None:
    device_id = unique("case")
    key = created(instance, device_id)
    reply = call(
        instance, (device_id, key), "POST", "/messages/events", b"x", **{"IoTHub-App-aLert": "Yes"}
    )
    assert (reply.status, reply.body) == (204, b"")
    assert events_of(instance, device_id, 1)[0]["properties"] == {"aLert": "Yes"}
    instance.hub().send_message(device_id, b"y", properties={"bElow": "No", "crlf": "a\r\nb: c"})
    reply = call(instance, (device_id, key), "GET", "/messages/deviceBound")
    assert (reply.status, reply.body) == (200, b"y")
    # The other way round, too: the C SDK takes the names as they come.
    own = {name: value for name, value in reply.headers.items() if name.startswith("iothub-app-")}
    assert own == {"iothub-app-bElow": "No", "iothub-app-crlf": "a%0D%0Ab: c"}


def test_locks_outlive_the_service(new_instance: Any) -> None:
    instance = new_instance()
    device_id = unique("lock")
    key = created(instance, device_id)
    instance.hub().send_message(device_id, b"1")
    reply = call(instance, (device_id, key), "GET", "/messages/devicebound")
    token = reply.headers["ETag"]
    instance.kill9()
    instance.start()
    assert call(instance, (device_id, key), "GET", "/messages/devicebound").status == 204
    path = f"/messages/devicebound/{token[1:-1]}"
    reply = call(instance, (device_id, key), "DELETE", path, **{"If-Match": token[1:-1]})
    assert reply.status == 204
    reply = call(instance, (device_id, key), "DELETE", path)
    assert (reply.status, reply.headers["iothub-errorcode"]) == (412, "DeviceMessageLockLost")
    assert json.loads(reply.body)["Message"].startswith("ErrorCode:DeviceMessageLockLost;")


def test_chunked_bodies_and_the_policy_of_the_command_line(instance: Instance) -> None:
    device_id = unique("chunked")
    created(instance, device_id)
    hub = instance.hub()
    connection = http.client.HTTPConnection(hub.host)
    connection.sock = open_tls(
        instance.place, instance.place.https_port, instance.ca_file, hub.host
    )
    try:
        from support.secrets import token

        resource = f"{hub.host}/devices/{device_id}"
        connection.request(
            "POST",
            f"/devices/{device_id}/messages/events?{VERSION}",
            iter([b"one ", b"two"]),
            {"Authorization": token(resource, hub.key, key_name=hub.key_name)},
            encode_chunked=True,
        )
        assert connection.getresponse().status == 204
    finally:
        connection.close()
    (event,) = events_of(instance, device_id, 1)
    assert event["body"] == "one two"
    assert '"scope":"hub"' in event["systemProperties"]["iothub-connection-auth-method"]


def test_full_queues_refuse(instance: Instance) -> None:
    device_id = unique("full")
    created(instance, device_id)
    hub = instance.hub()
    for _ in range(50):
        hub.send_message(device_id, b"")
    reply = hub.call("POST", message_path(device_id), {})
    assert reply.status == 403
    assert reply.headers["iothub-errorcode"] == "DeviceMaximumQueueDepthExceeded"
    assert hub.must("DELETE", f"/devices/{device_id}/commands") == {
        "totalMessagesPurged": 50,
        "deviceId": device_id,
        "moduleId": None,
    }


def test_the_command_line(instance: Instance) -> None:
    # The second hub: feedback goes to whoever asks first, and others ask the first one.
    device_id, host = unique("cli"), instance.place.hubs[1]
    instance.hub(host).create_device(device_id)
    options = ("--hub", host)
    for body in ("one", "two", "three"):
        instance.cli(
            *("message", "send", device_id, body, "--message-id", f"{device_id}-{body}"),
            *("--ack", "full", "--ttl", "600", "--property", "a=1", *options),
        )
    one = instance.cli("message", "receive", device_id, *options)
    assert (one["body"], one["properties"]) == ("one", {"a": "1"})
    instance.run_cli("message", "abandon", device_id, one["lockToken"], *options)
    one = instance.cli("message", "receive", device_id, *options)
    assert (one["body"], one["deliveryCount"]) == ("one", 1)
    done = instance.run_cli("message", "complete", device_id, one["lockToken"], *options)
    assert done.returncode == 0, done.stderr
    two = instance.cli("message", "receive", device_id, "--reject", *options)
    assert two["body"] == "two"
    assert instance.cli("message", "purge", device_id, *options)["totalMessagesPurged"] == 1
    found: dict[str, str] = {}
    for record in instance.follow("message", "feedback", "--follow", *options):
        if record["deviceId"] == device_id:
            found[record["originalMessageId"].removeprefix(f"{device_id}-")] = record["statusCode"]
            if len(found) == 3:
                break
    assert found == {"one": "Success", "two": "Rejected", "three": "Purged"}
