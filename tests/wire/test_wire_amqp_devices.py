"""Devices and modules on AMQP, frame by frame (hub-device.md 3.3 to 3.8, 14b)."""

from __future__ import annotations

import json
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import BATCH_FORMAT, Data, Message, Properties
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Close,
    Detach,
    Disposition,
    End,
    Modified,
    Rejected,
    Released,
    Transfer,
)
from muster.wire.amqp.types import Int, Symbol, Timestamp, UByte, ULong
from support.amqp import AmqpClient
from support.device import hub_login, hub_token, unique
from support.events import events_of, wait_for
from support.secrets import token

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

LARGEST = 262_144


def created(instance: Instance, prefix: str = "amqp") -> tuple[str, str]:
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


def connected(instance: Instance, *who: tuple[str, str], ttl_s: int = 3600) -> AmqpClient:
    """Open a connection with tokens of devices (`device` or `device/module`, key)."""
    host = instance.place.hubs[0]
    client = AmqpClient(instance, host)
    client.log_in(*(hub_token(host, name, key, ttl_s=ttl_s) for name, key in who))
    return client


def text(body: bytes = b"{}", **fields: Any) -> bytes:
    return messages.encode(Message(Data([body]), **fields))


def connection_state(instance: Instance, device_id: str) -> str:
    return str(instance.hub().must("GET", f"/devices/{device_id}")["connectionState"])


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Call on another thread; the result is what the returned function returns."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()

    def result() -> Any:
        thread.join(30)
        return found[0]

    return result


# Telemetry.


@pytest.mark.parametrize(
    "form",
    [
        "/devices/{id}/messages/events",
        "devices/{id}/Messages/Events",
        "amqps://{host}/devices/{id}/messages/events",
        "amqps://{host}:5671/devices/{id}/messages/events/",
    ],
)
def test_telemetry_under_every_spelling_of_its_address(instance: Instance, form: str) -> None:
    device_id, key = created(instance)
    with connected(instance, (device_id, key)) as client:
        link = client.sender(form.format(id=device_id, host=instance.place.hubs[0]))
        number = client.transfer(link, text(b'{"t":1}'))
        outcome = client.outcome(number)
        assert outcome.settled
        assert outcome.state == Accepted()
    (event,) = events_of(instance, device_id, 1)
    assert event["body"] == {"t": 1}
    assert event["systemProperties"]["iothub-connection-device-id"] == device_id


def test_an_escaped_id_in_an_address(instance: Instance) -> None:
    device_id, key = created(instance, "with:$'s")
    escaped = device_id.replace(":", "%3A").replace("$", "%24").replace("'", "%27")
    with connected(instance, (device_id, key)) as client:
        link = client.sender(f"/devices/{escaped}/messages/events")
        assert client.outcome(client.transfer(link, text())).state == Accepted()


def test_properties_of_every_kind(instance: Instance) -> None:
    device_id, key = created(instance)
    number = uuid.uuid4()
    properties = Properties(
        message_id=number,
        correlation_id=ULong(7),
        user_id=b"me",
        to=f"/devices/{device_id}/messages/events",
        content_type="application/json",
        content_encoding="utf-8",
        absolute_expiry_time=1_900_000_000_000,
    )
    application = {
        "al ert": "tr/ue&x=1",
        "n": Int(3),
        "b": True,
        "none": None,
        "at": Timestamp(1000),
        "iothub-creation-time-utc": "2020-01-01T00:00:00Z",
        "iothub-message-schema": "s1",
    }
    annotations = {"dt-subject": "comp1", "iothub-interface-id": "urn:x"}
    with connected(instance, (device_id, key)) as client:
        link = client.sender(f"/devices/{device_id}/messages/events")
        sent = text(
            properties=properties,
            application_properties=application,
            message_annotations=annotations,
        )
        client.outcome(client.transfer(link, sent))
    (event,) = events_of(instance, device_id, 1)
    assert event["properties"] == {
        "al ert": "tr/ue&x=1",
        "n": "3",
        "b": "true",
        "none": "",
        "at": "1970-01-01T00:00:01Z",
    }
    system = event["systemProperties"]
    assert system["message-id"] == str(number)
    assert system["correlation-id"] == "7"
    assert system["user-id"] == "me"
    assert system["content-type"] == "application/json"
    assert system["dt-subject"] == "comp1"
    assert system["iothub-interface-id"] == "urn:x"
    assert system["iothub-message-schema"] == "s1"
    assert system["iothub-creation-time-utc"] == "2020-01-01T00:00:00Z"
    assert system["absolute-expiry-time"].startswith("2030-03-17T17:46:40")


def test_batches_settled_and_unsettled(instance: Instance) -> None:
    device_id, key = created(instance)
    batch = messages.encode(
        Message(Data([text(b"1", properties=Properties(message_id="a")), text(b"2")]))
    )
    with connected(instance, (device_id, key)) as client:
        link = client.sender(f"/devices/{device_id}/messages/events")
        number = client.transfer(link, batch, message_format=BATCH_FORMAT)
        assert client.outcome(number).state == Accepted()
        client.transfer(link, text(b"3"), settled=True)
        assert client.outcome(client.transfer(link, text(b"4"))).state == Accepted()
    found = events_of(instance, device_id, 4)
    assert [event["body"] for event in found] == [1, 2, 3, 4]
    assert found[0]["systemProperties"]["message-id"] == "a"


def test_output_of_a_module(instance: Instance) -> None:
    device_id, _ = created(instance)
    key, _ = instance.hub().create_module(device_id, "m1")
    with connected(instance, (f"{device_id}/m1", key)) as client:
        link = client.sender(f"/devices/{device_id}/modules/m1/messages/events")
        # Where the SDKs' module clients wait for input (hub-device.md 13.15).
        client.receiver(f"/devices/{device_id}/modules/m1/messages/events")
        sent = text(application_properties={"iothub-outputname": "out1"})
        client.outcome(client.transfer(link, sent))
    (event,) = events_of(instance, device_id, 1)
    assert event["moduleId"] == "m1"
    assert event["systemProperties"]["iothub-outputname"] == "out1"
    assert event["properties"] == {}


def test_what_is_no_message_or_too_large_is_rejected_alone(instance: Instance) -> None:
    device_id, key = created(instance)
    with connected(instance, (device_id, key)) as client:
        link = client.sender(f"/devices/{device_id}/messages/events")
        for payload, condition in (
            (b"garbage", "amqp:decode-error"),
            (text(bytes(LARGEST + 1)), "amqp:link:message-size-exceeded"),
        ):
            state = client.outcome(_in_parts(client, link, payload)).state
            assert isinstance(state, Rejected)
            assert state.error is not None
            assert state.error.condition == condition
        number = _in_parts(client, link, text(bytes(LARGEST)))
        assert client.outcome(number).state == Accepted()


def _in_parts(client: AmqpClient, link: int, payload: bytes) -> int:
    """Send a message in frames of at most 64 KB and return its delivery id."""
    room = 65_000
    parts = [payload[start : start + room] for start in range(0, len(payload), room)]
    number = client.transfer(link, parts[0], more=len(parts) > 1)
    for part in parts[1:]:
        client.send(Transfer(link, more=part is not parts[-1]), payload=part)
    return number


# Who may.


def test_links_of_others_are_refused(instance: Instance) -> None:
    device_id, key = created(instance)
    other, _ = created(instance)
    host = instance.place.hubs[0]
    with AmqpClient(instance, host) as client:
        client.open()
        without = client.refusal(sends=True, address=f"/devices/{device_id}/messages/events")
        assert without.error is not None
        assert without.error.condition == "amqp:unauthorized-access"
        client.put_token(client.cbs(), hub_token(host, device_id, key))
        for address in (
            f"/devices/{other}/messages/events",
            f"/devices/{device_id}/modules/m1/twin",
            f"/devices/{device_id.upper()}/twin",
        ):
            refused = client.refusal(sends=True, address=address)
            assert refused.error is not None
            assert refused.error.condition == "amqp:unauthorized-access"
        client.sender(f"/devices/{device_id}/messages/events")
    assert instance.explain(other)[0]["check"] == "wrong-audience"


def test_a_policy_speaks_for_every_device_that_exists(instance: Instance) -> None:
    device_id, _ = created(instance)
    hub = instance.hub()
    sas = token(hub.host, hub.key, key_name=hub.key_name)
    with AmqpClient(instance, instance.place.hubs[0]) as client:
        client.log_in(sas)
        client.sender(f"/devices/{device_id}/messages/events")
        refused = client.refusal(sends=True, address=f"/devices/{unique('no')}/messages/events")
        assert refused.error is not None
        assert refused.error.condition == "amqp:not-found"


def test_disabling_ends_links_of_that_device_only(instance: Instance) -> None:
    (first, first_key), (second, second_key) = created(instance), created(instance)
    with connected(instance, (first, first_key), (second, second_key)) as client:
        one = client.sender(f"/devices/{first}/messages/events")
        two = client.sender(f"/devices/{second}/messages/events")
        identity = instance.hub().must("GET", f"/devices/{first}")
        instance.hub().must(
            "PUT", f"/devices/{first}", identity | {"status": "disabled"}, if_match="*"
        )
        detach = client.find(Detach)
        assert detach.handle == one
        assert detach.error is not None
        assert detach.error.condition == "amqp:unauthorized-access"
        assert client.outcome(client.transfer(two, text())).state == Accepted()
        again = client.refusal(sends=True, address=f"/devices/{first}/messages/events")
        assert again.error is not None
        assert again.error.condition == "amqp:unauthorized-access"


def test_connection_state_follows_the_links(instance: Instance) -> None:
    device_id, key = created(instance)
    with connected(instance, (device_id, key)) as client:
        assert connection_state(instance, device_id) == "Disconnected"
        link = client.sender(f"/devices/{device_id}/messages/events")
        assert connection_state(instance, device_id) == "Connected"
        client.send(Detach(link, closed=True))
        client.find(Detach)
        assert connection_state(instance, device_id) == "Disconnected"
        client.sender(f"/devices/{device_id}/messages/events")
        client.send(End())
        client.find(End)
        wait_for(lambda: connection_state(instance, device_id) == "Disconnected")


# Takeover.


def test_the_newer_connection_wins_across_protocols(instance: Instance) -> None:
    device_id, key = created(instance)
    address = f"/devices/{device_id}/messages/events"
    with connected(instance, (device_id, key)) as first:
        first.sender(address)
        with connected(instance, (device_id, key)) as second:
            second.sender(address)
            # Without a close frame, which Node's SDK takes 45 seconds to get over.
            assert not [said for said in first.expect_closed() if isinstance(said, Close)]
            with hub_login(instance, device_id, key) as third:
                second.expect_closed()
                with connected(instance, (device_id, key)) as fourth:
                    fourth.sender(address)
                    third.expect_closed()
                    assert connection_state(instance, device_id) == "Connected"
    assert instance.explain(device_id)[0]["check"] == "taken-over"


def test_a_takeover_leaves_the_others_on_a_shared_connection(instance: Instance) -> None:
    (first, first_key), (second, second_key) = created(instance), created(instance)
    with connected(instance, (first, first_key), (second, second_key)) as client:
        one = client.sender(f"/devices/{first}/messages/events")
        two = client.sender(f"/devices/{second}/messages/events")
        with hub_login(instance, first, first_key):
            detach = client.find(Detach)
            assert detach.handle == one
            assert detach.error is not None
            assert detach.error.condition == "amqp:internal-error"
            assert client.outcome(client.transfer(two, text())).state == Accepted()


# Expiry: the service allows five minutes more than a token says (hub-device.md 0.12).


def test_an_expired_token_ends_the_connection_unless_it_is_renewed(instance: Instance) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    old = hub_token(host, device_id, key, ttl_s=-297)
    with AmqpClient(instance, host) as renewed:
        links = renewed.log_in(old)
        link = renewed.sender(f"/devices/{device_id}/messages/events")
        renewed.put_token(links, hub_token(host, device_id, key))
        other, other_key = created(instance)
        with connected(instance, (other, other_key), ttl_s=-298) as client:
            client.sender(f"/devices/{other}/messages/events")
            closed = client.expect_closed()[-1]
            assert isinstance(closed, Close)
            assert closed.error is not None
            assert closed.error.condition == "amqp:unauthorized-access"
        assert instance.explain(other)[0]["check"] == "connection-expired"
        with AmqpClient(instance, host) as probe:
            probe.open()
            probe_links = probe.cbs()
            wait_for(lambda: _status(probe.put_token(probe_links, old)) == 401)
        assert renewed.outcome(renewed.transfer(link, text())).state == Accepted()


def _status(answer: Message) -> int:
    return int(answer.application_properties["status-code"])


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
