"""Devices over AMQP: telemetry, who may, takeover, expiry (hub-device.md 3)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import BATCH_FORMAT, Data, Message, Properties
from muster.wire.amqp.performatives import (
    Accepted,
    Close,
    Detach,
    End,
    Rejected,
    Transfer,
)
from muster.wire.amqp.types import Int, Timestamp, ULong
from support.amqp import AmqpClient
from support.device import hub_login, hub_token, unique
from support.events import events_of, wait_for
from support.secrets import token
from wire.amqp_devices import LARGEST, connected, connection_state, created, text

if TYPE_CHECKING:
    from support.instance import Instance


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
