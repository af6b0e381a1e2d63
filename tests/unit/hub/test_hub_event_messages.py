"""Stored messages as AMQP messages (hub-service.md 4.4)."""

from __future__ import annotations

import pytest

from muster.hub.endpoints import event_messages
from muster.hub.endpoints.event_messages import EventEncoder, runtime_metrics
from muster.hub.event_readers import PartitionState
from muster.model.message import (
    BUILT_IN,
    FLAG_WILL,
    AuthScope,
    Delivery,
    Stamp,
    body_at,
    decode,
    encode_head,
    encode_stamp,
    routed,
)
from muster.store.journal import JournalRecord
from muster.wire.amqp import messages
from muster.wire.amqp.types import Symbol, Timestamp


def record(
    bag: str = "",
    body: bytes = b"body",
    *,
    sequence: int = 7,
    module_id: str = "",
    model_id: str = "",
    flags: int = 0,
) -> JournalRecord:
    stamp = Stamp("d 1", module_id, "g1", AuthScope.DEVICE, model_id)
    data = encode_stamp(stamp) + encode_head(bag, flags)
    assert body_at(data + body) == len(data)
    return JournalRecord(2, sequence, 1000 + sequence, 1_700_000_000.1234, data + body)


def test_everything_an_event_can_say() -> None:
    bag = (
        "%24.mid=m&%24.cid=c&%24.uid=%C3%BC&%24.to=t&%24.ct=text%2Fplain&%24.ce=utf-8"
        "&%24.exp=2023-11-14T22%3A13%3A20.5Z&%24.sub=part&%24.on=out&%24.x=odd&a=1&none"
    )
    message = messages.decode(
        EventEncoder().encode(record(bag, module_id="m1", model_id="dtmi:a;1"))
    )
    properties = message.properties
    assert (properties.message_id, properties.correlation_id, properties.to) == ("m", "c", "t")
    assert properties.user_id == "ü".encode()
    assert (properties.content_type, properties.content_encoding) == ("text/plain", "utf-8")
    assert properties.absolute_expiry_time == 1_700_000_000_500
    assert message.application_properties == {"a": "1", "none": None}
    assert message.data == b"body"
    found = message.message_annotations
    assert found == {
        "x-opt-sequence-number": 7,
        "x-opt-offset": "1007",
        "x-opt-enqueued-time": 1_700_000_000_123,
        "iothub-enqueuedtime": 1_700_000_000_123,
        "iothub-connection-device-id": "d 1",
        "iothub-connection-module-id": "m1",
        "iothub-connection-auth-method": (
            '{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
        ),
        "iothub-connection-auth-generation-id": "g1",
        "iothub-message-source": "Telemetry",
        "dt-dataschema": "dtmi:a;1",
        "dt-subject": "part",
        "iothub-outputname": "out",
        "$.x": "odd",
    }
    assert {type(name) for name in found} == {Symbol}
    assert type(found["x-opt-sequence-number"]) is int
    assert type(found["x-opt-enqueued-time"]) is type(found["iothub-enqueuedtime"]) is Timestamp


def test_what_cannot_be_said_is_left_out() -> None:
    message = messages.decode(
        EventEncoder().encode(record("%24.ct=t%C3%BCr&%24.exp=soon&%24.%C3%BC=1", flags=FLAG_WILL))
    )
    assert message.properties == messages.Properties()
    assert message.application_properties == {"iothub-MessageType": "Will"}
    assert all(str(name).isascii() for name in message.message_annotations)


def test_what_routing_says() -> None:
    plain = record("a=1&b=2")
    deliveries = (Delivery(3, "x=1"), Delivery(BUILT_IN, "b=3&c=%C3%BC"))
    data = routed(plain.data, decode(plain.data), deliveries)
    message = messages.decode(EventEncoder().encode(JournalRecord(0, 1, 2, 3.0, data)))
    assert message.application_properties == {"a": "1", "b": "3", "c": "ü"}
    assert message.data == b"body"


def test_events_of_the_hub_itself() -> None:
    stamp = Stamp("d1", "", "", None, source="deviceLifecycleEvents")
    data = encode_stamp(stamp) + encode_head("%24.ct=application%2Fjson&opType=x") + b"{}"
    message = messages.decode(EventEncoder().encode(JournalRecord(0, 1, 2, 3.0, data)))
    found = message.message_annotations
    assert found["iothub-message-source"] == "deviceLifecycleEvents"
    assert "iothub-connection-auth-method" not in found
    assert (message.properties.content_type, message.data) == ("application/json", b"{}")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_messages, "_MAX_TEMPLATES", 3)
    encoder = EventEncoder()
    for sequence in range(20):
        data = record(f"n={sequence}", sequence=sequence)
        for _ in range(2):
            message = messages.decode(encoder.encode(data))
            assert message.application_properties == {"n": str(sequence)}
            assert message.message_annotations["x-opt-sequence-number"] == sequence
        encoder.encode(record(f"n={'x' * 5000}"))
        assert len(encoder._templates) <= 3


def test_a_record_of_another_version() -> None:
    good = record()
    for data in (b"", b"\x09" + good.data[1:], good.data[:10]):
        with pytest.raises(ValueError, match="message record"):
            EventEncoder().encode(JournalRecord(0, 0, 0, 0.0, data))


def test_runtime_metrics() -> None:
    state = PartitionState(0, 9, "123", 1_700_000_000.5, False)
    message = messages.decode(
        EventEncoder().encode(record(), runtime_metrics(state, 1_700_000_001))
    )
    assert message.delivery_annotations == {
        "last_enqueued_sequence_number": 9,
        "last_enqueued_offset": "123",
        "last_enqueued_time_utc": 1_700_000_000_500,
        "runtime_info_retrieval_time_utc": 1_700_000_001_000,
    }
