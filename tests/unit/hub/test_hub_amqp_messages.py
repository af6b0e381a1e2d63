from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import TooLargeError
from muster.hub.endpoints import amqp_messages
from muster.model import message as stored
from muster.model.message import AuthScope, Stamp, encode_stamp
from muster.model.queued_message import Delivery as QueuedDelivery
from muster.model.queued_message import QueuedMessage
from muster.net.amqp_properties import text_of
from muster.wire.amqp import messages
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.messages import BATCH_FORMAT, Data, Message, Properties
from muster.wire.amqp.types import Int, Timestamp, UByte, ULong
from muster.wire.mqtt import property_bag

STAMP = encode_stamp(Stamp("d1", "", "1", AuthScope.DEVICE))
NOBODY: Any = None


def delivery(payload: bytes, message_format: int = 0) -> Delivery:
    return Delivery(NOBODY, 0, b"t", message_format, payload, settled=False)


def kept(payload: bytes) -> tuple[list[tuple[str, str | None]], bytes]:
    """Store one message, and return its properties and body as they are read again."""
    (record,) = amqp_messages.Records().of(delivery(payload))
    found = stored.decode(STAMP + record)
    return property_bag.decode(found.bag), found.body


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, None),
        (True, "true"),
        (Int(-1), "-1"),
        (1.5, "1.5"),
        (b"ok", "ok"),
        (b"\xff\xfe", "//4="),
        (Timestamp(1_500), "1970-01-01T00:00:01.5Z"),
        # Beyond what a calendar has.
        (Timestamp(1 << 62), str(1 << 62)),
        (Timestamp(-(1 << 62)), str(-(1 << 62))),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1], "[1]"),
    ],
)
def test_values_become_text(value: Any, text: str | None) -> None:
    assert text_of(value) == text


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=20), max_size=5),
    st.binary(max_size=100),
)
def test_properties_and_body_are_kept(properties: dict[str, str], body: bytes) -> None:
    payload = messages.encode(Message(Data([body]), application_properties=properties))
    found, kept_body = kept(payload)
    assert kept_body == body
    assert found == list(properties.items())


@given(st.binary(max_size=200))
def test_no_payload_fails_but_by_saying_so(payload: bytes) -> None:
    for message_format in (0, BATCH_FORMAT):
        try:
            amqp_messages.Records().of(delivery(payload, message_format))
        except messages.RemoteProtocolError:
            continue


def test_the_limit_counts_properties_and_body() -> None:
    room = stored.MAX_MESSAGE_SIZE
    fits = Message(Data([bytes(room - 3)]), application_properties={"a": "bc"})
    assert len(kept(messages.encode(fits))[1]) == room - 3
    exceeds = Message(Data([bytes(room - 2)]), application_properties={"a": "bc"})
    with pytest.raises(TooLargeError):
        amqp_messages.Records().of(delivery(messages.encode(exceeds)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([0, 1, 255, 256, 300])),
        max_size=8,
    )
)
def test_what_is_repeated_is_read_as_the_first_time(sent: list[tuple[str, int]]) -> None:
    records = amqp_messages.Records()
    for name, size in sent:
        message = Message(
            Data([b"x" * size]),
            Properties(message_id=name or None),
            {"name": name} if name else {},
        )
        payload = messages.encode(message)
        expected = amqp_messages.Records().of(delivery(payload))
        assert records.of(delivery(payload)) == expected


def test_the_limit_holds_for_what_is_repeated() -> None:
    records = amqp_messages.Records()
    room = stored.MAX_MESSAGE_SIZE - 3
    for size in (room - 1, room, room + 1):
        message = Message(Data([bytes(size)]), application_properties={"a": "bc"})
        if size <= room:
            assert records.of(delivery(messages.encode(message)))
        else:
            with pytest.raises(TooLargeError):
                records.of(delivery(messages.encode(message)))


def test_a_beginning_that_lies_about_its_body_is_read_again() -> None:
    records = amqp_messages.Records()
    good = messages.encode(Message(Data([b"x" * 10])))
    records.of(delivery(good))
    # Two sections, and one that is cut off.
    assert records.of(delivery(good + good)) == amqp_messages.Records().of(delivery(good + good))
    with pytest.raises(messages.RemoteProtocolError):
        records.of(delivery(good[:-1]))


def test_times_that_no_calendar_has() -> None:
    payload = messages.encode(
        Message(Data([b""]), Properties(absolute_expiry_time=2**62, creation_time=-(2**62)))
    )
    assert dict(kept(payload)[0]) == {"$.exp": str(2**62), "$.ctime": str(-(2**62))}


def test_a_message_for_a_device() -> None:
    token = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    queued = QueuedMessage(message_id="m", user_id="ü", expires_at=2.0, body=b"b")
    payload = amqp_messages.devicebound(QueuedDelivery(7, token, queued, 1.0, 2.0, 300), "/to")
    message = messages.decode(payload)
    assert message.properties == Properties(
        message_id="m", user_id="ü".encode(), to="/to", absolute_expiry_time=2_000
    )
    assert message.message_annotations == {
        "x-opt-lock-token": token,
        "x-opt-sequence-number": ULong(7),
        "iothub-enqueuedtime": Timestamp(1_000),
        "iothub-deliverycount": UByte(255),
    }
