"""Links of back ends on the wire: what the SDKs do not show (hub-service.md 3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.performatives import Accepted, Disposition, Rejected, Released
from muster.wire.amqp.types import Timestamp, ULong
from support.amqp import AmqpClient
from support.device import hub_login, unique
from support.events import wait_for
from support.secrets import CLOCK, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance


def back_end(instance: Instance, policy: str = "iothubowner") -> AmqpClient:
    """Connect without SASL, as Node does, with a token of a policy."""
    host = instance.place.hubs[0]
    key = instance.dps.must("GET", f"/admin/v1/policies/hubs/{host}/{policy}")["primaryKey"]
    client = AmqpClient(instance, host)
    try:
        client.log_in(token(host, key, key_name=policy))
    except BaseException:
        client.drop()
        raise
    return client


def c2d(to: str | None, body: bytes = b"x", **fields: Any) -> bytes:
    application = fields.pop("application", {})
    return messages.encode(Message(Data([body]), Properties(to=to, **fields), application))


def to(device_id: str) -> str:
    return f"/devices/{device_id}/messages/devicebound"


@pytest.mark.parametrize("absolute", [False, True])
def test_both_forms_of_the_address(instance: Instance, *, absolute: bool) -> None:
    device_id = unique("c2d")
    key, _ = instance.hub().create_device(device_id)
    host = instance.place.hubs[0]
    address = f"amqps://{host}/messages/DeviceBound" if absolute else "/messages/devicebound"
    with back_end(instance) as client:
        link = client.sender(address, rcv_settle_mode=1, max_message_size=1_048_576)
        numbers = [client.transfer(link, c2d(to(device_id), b"%d" % n)) for n in range(20)]
        settled: set[int] = set()
        while not settled >= set(numbers):
            outcome = client.find(Disposition, lambda said: said.role)
            assert (outcome.settled, outcome.state) == (True, Accepted())
            settled.update(range(outcome.first, (outcome.last or outcome.first) + 1))
    # In the order in which they were sent, although they are written together.
    topic = f"devices/{device_id}/messages/devicebound/#"
    with hub_login(instance, device_id, key) as device:
        device.subscribe(topic)
        assert [device.answer().payload for _ in numbers] == [b"%d" % n for n in range(20)]


def test_every_property_arrives(instance: Instance) -> None:
    device_id = unique("c2d%41")
    key, _ = instance.hub().create_device(device_id)
    instance.hub().create_module(device_id, "m1")
    payload = c2d(
        to(device_id.replace("%", "%25")),
        b"body",
        message_id=ULong(7),
        correlation_id=UUID(int=1),
        user_id=b"u",
        content_type="text/plain",
        content_encoding="utf-8",
        absolute_expiry_time=Timestamp((CLOCK.time() + 600) * 1000),
        application={"n": 1, "yes": True, "iothub-ack": "full", "ack": "x"},
    )
    with back_end(instance) as client:
        link = client.sender("/messages/devicebound")
        # IDs are percent-encoded by some clients and not by others.
        for each in (
            payload,
            c2d(to(device_id)),
            c2d(f"/devices/{device_id}/modules/m1/messages/devicebound"),
        ):
            assert client.outcome(client.transfer(link, each)).state == Accepted()
    topic = f"devices/{device_id}/messages/devicebound/"
    with hub_login(instance, device_id, key) as device:
        device.subscribe(f"{topic}#")
        found = device.answer()
        assert found.payload == b"body"
        for part in (
            "%24.mid=7",
            f"%24.cid={UUID(int=1)}",
            "%24.uid=u",
            "%24.ct=text%2Fplain",
            "%24.exp=",
            "iothub-ack=full",
            "n=1",
            "yes=true",
            "ack=x",
        ):
            assert part in found.topic, part
        assert device.answer().payload == b"x"


def test_every_refusal_has_its_condition(instance: Instance) -> None:
    device_id = unique("refused")
    instance.hub().create_device(device_id)
    past = Timestamp(1_000)
    table = [
        (c2d(to(unique("nobody"))), "amqp:not-found"),
        (c2d(f"/devices/{device_id}/modules/no/messages/devicebound"), "amqp:not-found"),
        (c2d(None), "com.microsoft:argument-error"),
        (c2d(f"/devices/{device_id}"), "com.microsoft:argument-error"),
        (c2d(to(device_id), application={"iothub-ack": "maybe"}), "com.microsoft:argument-error"),
        (c2d(to(device_id), absolute_expiry_time=past), "com.microsoft:argument-out-of-range"),
        (c2d(to(device_id), application={"a": "b" * 17_000}), "amqp:link:message-size-exceeded"),
        (b"\0\0", "amqp:decode-error"),
    ]
    with back_end(instance) as client:
        link = client.sender("/messages/devicebound")
        for payload, condition in table:
            state = client.outcome(client.transfer(link, payload)).state
            assert isinstance(state, Rejected)
            assert state.error is not None
            assert state.error.condition == condition
        for _ in range(50):
            assert client.outcome(client.transfer(link, c2d(to(device_id)))).state == Accepted()
        state = client.outcome(client.transfer(link, c2d(to(device_id)))).state
        assert isinstance(state, Rejected)
        assert state.error is not None
        assert state.error.condition == "amqp:resource-limit-exceeded"


def test_only_service_connect_may(instance: Instance) -> None:
    with back_end(instance, "device") as client:
        for sends, address in (
            (True, "/messages/devicebound"),
            (False, "/messages/serviceBound/feedback"),
            (False, "/messages/serviceBound/filenotifications"),
        ):
            error = client.refusal(sends=sends, address=address).error
            assert error is not None
            assert error.condition == "amqp:unauthorized-access"


def test_feedback_is_settled(
    new_instance: Callable[..., Instance],
) -> None:
    instance = new_instance()
    device_id = unique("feedback")
    key, _ = instance.hub().create_device(device_id)
    instance.hub().send_message(device_id, b"x", messageId="m 1", ack="full")
    with hub_login(instance, device_id, key) as device:
        device.subscribe(f"devices/{device_id}/messages/devicebound/#")
        device.answer()
    wait_for(lambda: instance.hub().message_count(device_id) == 0)
    host = instance.place.hubs[0]
    address = f"amqps://{host}/messages/servicebound/feedback"
    with back_end(instance) as client:
        first = client.receiver(address)
        transfer, message, _ = client.message(first)
        assert not transfer.settled
        assert transfer.delivery_tag is not None
        token_bytes = transfer.delivery_tag
        assert len(token_bytes) == 16
        assert message.properties.content_type == "application/vnd.microsoft.iothub.feedback.json"
        assert message.properties.user_id == host.partition(".")[0].encode()
        assert type(message.message_annotations["iothub-enqueuedtime"]) is Timestamp
        (record,) = json.loads(message.data)
        assert (record["originalMessageId"], record["statusCode"]) == ("m 1", "Success")
        # Given back, it comes again; without a word it comes to whoever is next.
        client.settle(transfer, Released())
        again = client.message(first).transfer
        assert again.delivery_tag != token_bytes
    with back_end(instance) as client:
        link = client.receiver(address)
        transfer, message, _ = client.message(link)
        assert json.loads(message.data)[0]["originalMessageId"] == "m 1"
        client.settle(transfer, Accepted(), settled=False)
        settled = client.find(Disposition, lambda said: not said.role)
        assert (settled.first, settled.settled) == (transfer.delivery_id, True)
    assert instance.hub().call("GET", "/messages/serviceBound/feedback").status == 204
