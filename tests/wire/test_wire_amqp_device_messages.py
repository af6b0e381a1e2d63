"""Devices over AMQP: messages from the cloud, methods, twins (hub-device.md 3.5 to 3.7)."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Detach,
    Disposition,
    Modified,
    Rejected,
    Released,
    Transfer,
)
from muster.wire.amqp.types import Int, Symbol, Timestamp, UByte, ULong
from support.amqp import AmqpClient
from support.device import hub_token, unique
from support.events import events_of, wait_for
from wire.amqp_devices import connected, connection_state, created, in_background, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance


# Cloud to device.


def test_a_message_has_the_types_that_the_sdks_insist_on(instance: Instance) -> None:
    device_id, key = created(instance)
    properties = {"al": "ert", "none": None}
    instance.hub().send_message(
        device_id, b"hello", messageId="m1", ack="full", properties=properties
    )
    with connected(instance, (device_id, key)) as client:
        link = client.receiver(f"/devices/{device_id}/messages/devicebound")
        got = client.message(link)
        annotations = got.message.message_annotations
        lock_token = annotations["x-opt-lock-token"]
        assert got.transfer.delivery_tag == uuid.UUID(lock_token).bytes_le
        assert got.transfer.settled is False
        assert type(lock_token) is str
        assert {key: type(value) for key, value in annotations.items()} == {
            "x-opt-lock-token": str,
            "x-opt-sequence-number": ULong,
            "iothub-enqueuedtime": Timestamp,
            "iothub-deliverycount": UByte,
        }
        assert all(type(key) is Symbol for key in annotations)
        assert got.message.data == b"hello"
        assert got.message.properties.message_id == "m1"
        assert got.message.properties.to == f"/devices/{device_id}/messages/devicebound"
        assert got.message.application_properties == {
            "al": "ert",
            "none": "",
            "iothub-ack": "full",
        }
        # As C# does: it waits until the service has settled (rcv-settle-mode second).
        client.settle(got.transfer, Accepted(), settled=False)
        answer = client.find(Disposition, lambda said: not said.role)
        assert answer.settled
        assert answer.state == Accepted()
        client.settle(got.transfer, Accepted(), settled=False)
    assert instance.hub().message_count(device_id) == 0


def test_outcomes(instance: Instance) -> None:
    device_id, key = created(instance)
    for body in (b"reject", b"release", b"modify", b"leave"):
        instance.hub().send_message(device_id, body)
    address = f"/devices/{device_id}/messages/devicebound"
    with connected(instance, (device_id, key)) as client:
        link = client.receiver(address, credit=4)
        got = [client.message(link) for _ in range(4)]
        for one, state in zip(got[:3], (Rejected(), Released(), Modified()), strict=True):
            client.settle(one.transfer, state)
        client.grant(link, 10, 4)
        again = {client.message(link).message.data: None for _ in range(2)}
        assert set(again) == {b"release", b"modify"}
        client.send(Detach(link, closed=True))
        client.find(Detach, lambda said: said.handle == link)
        # What was not settled comes again at once, and only abandoning counts.
        link = client.receiver(address, credit=10)
        counts = {}
        for _ in range(3):
            one = client.message(link)
            counts[one.message.data] = one.message.message_annotations["iothub-deliverycount"]
            client.settle(one.transfer, Accepted())
        assert counts == {b"release": 1, b"modify": 1, b"leave": 0}
    wait_for(lambda: instance.hub().message_count(device_id) == 0)


def test_an_outcome_counts_although_the_link_is_closed_with_the_same_breath(
    instance: Instance,
) -> None:
    device_id, key = created(instance)
    instance.hub().send_message(device_id, b"last")
    address = f"/devices/{device_id}/messages/devicebound"
    with connected(instance, (device_id, key)) as client:
        link = client.receiver(address)
        number = client.message(link).transfer.delivery_id or 0
        client.send(
            Disposition(True, number, number, settled=True, state=Accepted()),
            Detach(link, closed=True),
        )
        client.find(Detach)
        wait_for(lambda: instance.hub().message_count(device_id) == 0)


def test_no_more_messages_than_credit(instance: Instance) -> None:
    device_id, key = created(instance)
    for number in range(3):
        instance.hub().send_message(device_id, b"%d" % number)
    with connected(instance, (device_id, key)) as client:
        link = client.receiver(f"/devices/{device_id}/messages/devicebound", credit=1)
        first = client.message(link)
        client.settle(first.transfer, Accepted())
        # An answer that comes after anything the service might have sent.
        client.cbs()
        assert not [said for said in client._inbox if isinstance(said.performative, Transfer)]
        client.grant(link, 2, 1)
        assert [client.message(link).message.data for _ in range(2)] == [b"1", b"2"]


# Methods.


def call(instance: Instance, path: str, **fields: Any) -> Callable[[], Any]:
    body = {"methodName": "doIt", "payload": {"x": 1}, "responseTimeoutInSeconds": 20, **fields}
    return in_background(lambda: instance.hub().call("POST", f"/twins/{path}/methods", body))


def test_a_method_over_a_pair_of_links(instance: Instance) -> None:
    device_id, key = created(instance)
    address = f"/devices/{device_id}/methods/devicebound"
    channel = {"properties": {Symbol("com.microsoft:channel-correlation-id"): "methods:1"}}
    with connected(instance, (device_id, key)) as client:
        sends = client.sender(address, **channel)
        assert call(instance, device_id)().status == 404
        requests = client.receiver(address, **channel)
        for reply_id in (lambda value: value, str, lambda value: value.bytes):
            answer = call(instance, device_id, connectTimeoutInSeconds=10)
            got = client.message(requests)
            correlation_id = got.message.properties.correlation_id
            assert type(correlation_id) is uuid.UUID
            # The form by which Node's SDK tells a UUID from text.
            assert correlation_id.version == 4
            assert correlation_id.variant == uuid.RFC_4122
            assert got.message.application_properties == {"IoThub-methodname": "doIt"}
            assert json.loads(got.message.data) == {"x": 1}
            assert len(got.transfer.delivery_tag or b"") == 16
            reply = text(
                b'{"ok":true}',
                properties=Properties(correlation_id=reply_id(correlation_id)),
                application_properties={"IoThub-status": Int(201)},
            )
            assert client.outcome(client.transfer(sends, reply)).state == Accepted()
            assert answer().json == {"status": 201, "payload": {"ok": True}}
        # Late and senseless answers are dropped in silence.
        assert client.outcome(client.transfer(sends, text())).state == Accepted()
        assert client.outcome(client.transfer(sends, b"garbage")).state == Accepted()


def test_links_of_two_pairs_are_no_pair(instance: Instance) -> None:
    device_id, key = created(instance)
    address = f"/devices/{device_id}/methods/devicebound"
    name = Symbol("com.microsoft:channel-correlation-id")
    with connected(instance, (device_id, key)) as client:
        client.sender(address, properties={name: "methods:1"})
        client.receiver(address, properties={name: "methods:2"})
        assert call(instance, device_id)().status == 404


def test_a_method_fails_with_the_link(instance: Instance) -> None:
    device_id, key = created(instance)
    address = f"/devices/{device_id}/methods/devicebound"
    with connected(instance, (device_id, key)) as client:
        client.sender(address)
        requests = client.receiver(address)
        answer = call(instance, device_id)
        client.message(requests)
        client.drop()
        assert answer().json["Message"].find("404104") > 0


# Twins.


class Twin:
    """A pair of twin links."""

    def __init__(self, client: AmqpClient, path: str) -> None:
        name = Symbol("com.microsoft:channel-correlation-id")
        fields: dict[str, Any] = {"properties": {name: "twin:1"}, "snd_settle_mode": 1}
        self.client = client
        self.sends = client.sender(f"/devices/{path}/twin", **fields)
        self.receives = client.receiver(f"/devices/{path}/twin", 50, **fields)

    def ask(
        self,
        operation: str,
        resource: str | None = None,
        body: bytes | None = b" ",
        correlation_id: Any = "Get1",
        version: Any = None,
    ) -> Message:
        annotations = {"operation": operation, "resource": resource, "version": version}
        request = Message(
            None if body is None else Data([body]),
            Properties(correlation_id=correlation_id),
            message_annotations=annotations,
        )
        self.client.transfer(self.sends, messages.encode(request), settled=True)
        return self.next()

    def next(self) -> Message:
        got = self.client.message(self.receives)
        assert got.transfer.settled
        return got.message


def test_a_twin_over_a_pair_of_links(instance: Instance) -> None:
    device_id, key = created(instance)
    hub = instance.hub()
    hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"a": 1}}})
    number = uuid.uuid4()
    with connected(instance, (device_id, key)) as client:
        twin = Twin(client, device_id)
        got = twin.ask("GET", correlation_id=number)
        assert got.properties.correlation_id == number
        assert type(got.message_annotations["status"]) is Int
        assert got.message_annotations["status"] == 200
        assert all(type(name) is Symbol for name in got.message_annotations)
        assert json.loads(got.data) == {
            "desired": {"a": 1, "$version": 2},
            "reported": {"$version": 1},
        }
        got = twin.ask("GET", body=None)
        assert got.properties.correlation_id == "Get1"
        got = twin.ask("PATCH", "/properties/reported", b'{"b":2}', "Patch1")
        assert got.message_annotations["status"] == 200
        # A plain int is how a long is read.
        assert type(got.message_annotations["version"]) is int
        assert got.message_annotations["version"] == 2
        got = twin.ask("PATCH", "/properties/reported", b'{"b":3}', version=7)
        assert got.message_annotations["status"] == 412
        assert json.loads(got.data)["errorCode"] == 412001
        for body in (b"no json", b"[]"):
            got = twin.ask("PATCH", "/properties/reported", body)
            assert type(got.message_annotations["status"]) is Int
            assert got.message_annotations["status"] == 400
        assert twin.ask("POST").message_annotations["status"] == 400
        resource = "/notifications/twin/properties/desired"
        assert twin.ask("PUT", resource).message_annotations["status"] == 200
        hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"a": None}}})
        change = twin.next()
        assert change.properties.correlation_id is None
        assert change.message_annotations == {"resource": "/properties/desired", "version": 3}
        assert type(change.message_annotations["version"]) is int
        assert json.loads(change.data) == {"a": None, "$version": 3}
        assert twin.ask("DELETE", resource).message_annotations["status"] == 200
        hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"a": 2}}})
        assert json.loads(twin.ask("GET").data)["desired"] == {"a": 2, "$version": 4}
    assert hub.must("GET", f"/twins/{device_id}")["properties"]["reported"]["b"] == 2


def test_a_client_is_sent_what_it_missed_of_its_twin(
    new_instance: Callable[..., Instance],
) -> None:
    own_instance = new_instance()
    host, resource = own_instance.place.hubs[0], "/notifications/twin/properties/desired"
    own_instance.dps.must("PUT", f"/admin/v1/hubs/{host}/twin-catch-up", {"enabled": True})
    device_id, key = created(own_instance)
    hub = own_instance.hub()
    hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"a": 1, "b": 2}}})
    with connected(own_instance, (device_id, key)) as client:
        twin = Twin(client, device_id)
        assert twin.ask("PUT", resource).message_annotations["status"] == 200
        change = twin.next()
        assert change.message_annotations == {"resource": "/properties/desired", "version": 2}
        assert json.loads(change.data) == {"a": 1, "b": 2, "$version": 2}
    wait_for(lambda: connection_state(own_instance, device_id) == "Disconnected")
    hub.must("PATCH", f"/twins/{device_id}", {"properties": {"desired": {"b": None, "c": 3}}})
    with connected(own_instance, (device_id, key)) as client:
        twin = Twin(client, device_id)
        assert twin.ask("PUT", resource).message_annotations["status"] == 200
        patch = json.loads(twin.next().data)
        # What it was sent within the last second it may be sent again.
        patch.pop("a", None)
        assert patch == {"b": None, "c": 3, "$version": 3}


def test_a_model_is_remembered_and_stamped(instance: Instance) -> None:
    device_id, key = created(instance)
    properties = {Symbol("com.microsoft:model-id"): "dtmi:com:example:thing;1"}
    with connected(instance, (device_id, key)) as client:
        link = client.sender(f"/devices/{device_id}/messages/events", properties=properties)
        client.outcome(client.transfer(link, text()))
    (event,) = events_of(instance, device_id, 1)
    assert event["systemProperties"]["dt-dataschema"] == "dtmi:com:example:thing;1"
    twin = instance.hub().must("GET", f"/twins/{device_id}")
    assert twin["modelId"] == "dtmi:com:example:thing;1"


def test_small_frames_are_honoured(instance: Instance) -> None:
    device_id, key = created(instance)
    instance.hub().send_message(device_id, b"x" * 3000)
    host = instance.place.hubs[0]
    with AmqpClient(instance, host) as client:
        client.open(max_frame_size=512)
        client.put_token(client.cbs(), hub_token(host, device_id, key))
        link = client.receiver(f"/devices/{device_id}/messages/devicebound")
        assert client.message(link).message.data == b"x" * 3000


def test_sessions_of_a_pool(instance: Instance) -> None:
    who = [created(instance) for _ in range(3)]
    with connected(instance, *who) as client:
        for channel, (device_id, _) in enumerate(who, start=1):
            client.begin(channel)
            link = client.sender(f"/devices/{device_id}/messages/events", channel)
            client.transfer(link, text(), channel=channel)
            client.find(Disposition)
        answer = Attach("h", 0, role=True)
        assert answer.name == "h"
    for device_id, _ in who:
        events_of(instance, device_id, 1)


def test_devices_whose_ids_differ_in_case_share_a_connection(instance: Instance) -> None:
    name = unique("case")
    who = [(each, instance.hub().create_device(each)[0]) for each in (name, name.upper())]
    with connected(instance, *who) as client:
        for device_id, _ in who:
            link = client.sender(f"/devices/{device_id}/messages/events")
            assert client.outcome(client.transfer(link, text())).state == Accepted()


def test_a_client_that_takes_no_answers_loses_the_link(instance: Instance) -> None:
    device_id, key = created(instance)
    with connected(instance, (device_id, key)) as client:
        channel = {Symbol("com.microsoft:channel-correlation-id"): "twin:1"}
        asks = client.sender(f"/devices/{device_id}/twin", properties=channel)
        hears = client.receiver(f"/devices/{device_id}/twin", 0, properties=channel)
        ask = messages.encode(
            Message(
                Data([b" "]),
                Properties(correlation_id="a"),
                message_annotations={"operation": "GET"},
            )
        )
        for _ in range(101):
            assert client.outcome(client.transfer(asks, ask)).state == Accepted()
        lost = client.find(Detach)
    assert lost.handle == hears
    assert lost.error is not None
    assert lost.error.condition == "amqp:resource-limit-exceeded"
