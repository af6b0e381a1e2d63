"""The same bytes in the hands of azure-eventhub, which takes less than the standard allows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from amqp_peers import PAYLOAD, Client
from azure.eventhub._pyamqp import _decode, _encode
from azure.eventhub._pyamqp import performatives as theirs
from azure.eventhub._pyamqp.message import Message as TheirMessage
from azure.eventhub._pyamqp.message import Properties as TheirProperties

from muster.wire.amqp import bodies, messages, performatives
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.frames import FrameBuffer
from muster.wire.amqp.messages import AmqpValue, Data, Message, Properties
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Error,
    Open,
    Source,
    Target,
)
from muster.wire.amqp.types import Array, Int, Symbol, Timestamp, ULong
from vectors import amqp as vectors

# Ours has no business with extensions, and theirs does not know `received`.
_UNKNOWN_THERE = {"disposition-of-an-extension"}


def decode(body: bytes) -> tuple[int, list[Any]]:
    code, fields = _decode.decode_frame(memoryview(body))
    return code, fields


@pytest.mark.parametrize(
    "case", [case for case in vectors.PERFORMATIVES if case.name not in _UNKNOWN_THERE], ids=str
)
def test_performatives(case: vectors.Case) -> None:
    code, fields = decode(bodies.encode(case.value))
    layout = bodies.LAYOUTS[code]
    assert isinstance(case.value, layout.make)
    payload = [b""] if code == 0x14 else []
    assert len(fields) == len(layout.fields) + len(payload)
    for field, found in zip(layout.fields, fields, strict=False):
        meant = getattr(case.value, field.name)
        if isinstance(meant, str):
            assert found == meant.encode()
        elif meant is None or isinstance(meant, int | bytes):
            assert found == meant


@pytest.mark.parametrize(
    "correlation_id", [ULong(0), ULong(300), UUID(int=5), "id"], ids=lambda it: type(it).__name__
)
def test_message(correlation_id: Any) -> None:
    message = Message(
        Data([b"body"]),
        Properties(correlation_id=correlation_id, content_type="application/json"),
        {"status-code": Int(200), "status-description": "OK"},
        {"x-opt-offset": "5", "x-opt-sequence-number": 7, "x-opt-enqueued-time": Timestamp(9)},
    )
    found = _decode.decode_payload(memoryview(messages.encode(message)))
    assert found.data == [b"body"]
    expected = correlation_id.encode() if isinstance(correlation_id, str) else correlation_id
    assert found.properties.correlation_id == expected
    assert found.properties.content_type == b"application/json"
    assert found.application_properties == {b"status-code": 200, b"status-description": b"OK"}
    assert found.message_annotations == {
        b"x-opt-offset": b"5",
        b"x-opt-sequence-number": 7,
        b"x-opt-enqueued-time": 9,
    }


def test_value() -> None:
    value = {"partition_count": Int(4), "partition_ids": Array(str, ["0", "1"]), "none": None}
    encoded_message = messages.encode(Message(AmqpValue(value)))
    assert _decode.decode_payload(memoryview(encoded_message)).value == {
        b"partition_count": 4,
        b"partition_ids": [b"0", b"1"],
        b"none": None,
    }


FRAMES: list[tuple[Any, Any]] = [
    (
        theirs.OpenFrame("c", "h", 1_048_576, 65_535, 30_000, None, None, None, None, {"k": "v"}),
        Open("c", "h", 1_048_576, 65_535, 30_000, properties={Symbol("k"): "v"}),
    ),
    (
        theirs.BeginFrame(None, 0, 65_536, 65_536, 4_294_967_295, None, None, None),
        Begin(0, 65_536, 65_536),
    ),
    (theirs.DetachFrame(1, True, None), Detach(1, closed=True)),
    (theirs.CloseFrame(None), Close()),
]


@pytest.mark.parametrize(("frame", "meant"), FRAMES, ids=lambda it: type(it).__name__)
def test_what_it_writes(frame: Any, meant: Any) -> None:
    _, body = _encode.encode_frame(frame)
    assert body is not None
    assert bodies.read(bytes(body)) == (meant, len(body))


def test_message_it_writes() -> None:
    theirs_encoded = bytearray()
    message = TheirMessage(
        properties=TheirProperties(message_id=UUID(int=9), to="$cbs"),
        application_properties={"operation": b"put-token", "expiration": 5},
        value="SharedAccessSignature sr=x",
    )
    _encode.encode_payload(theirs_encoded, message)
    found = messages.decode(bytes(theirs_encoded))
    assert found.properties.message_id == UUID(int=9)
    assert found.properties.to == "$cbs"
    assert found.application_properties["expiration"] == 5
    assert found.data == b"SharedAccessSignature sr=x"


def test_whole_conversation() -> None:
    """All that a server says is understood, and whole (hub-service.md 0.3)."""
    client = Client(max_frame_size=512)
    sender = client.attach_sender()
    sender.accept(5)
    receiver = client.attach_receiver(2)
    receiver.detach(Error("amqp:link:redirect", "moved", {Symbol("hostname"): "h"}))
    receiver = client.attach(
        Attach("l", 3, role=True, source=Source("s"), target=Target("t")), type(receiver)
    )
    receiver.accept()
    client.grant(5, handle=3, echo=True)
    receiver.send(PAYLOAD + bytes(600), settled=True)
    (delivery,) = client.transfer(0)
    assert isinstance(delivery, Delivery)
    delivery.accept()
    said = client.connection.outgoing()
    sender.session.end(Error("amqp:internal-error"))
    client.connection.close(Error("amqp:connection:forced", "stops", {}))
    said += client.connection.outgoing()
    buffer = FrameBuffer()
    buffer.feed(said)
    codes = []
    while (one := buffer.next(512)) is not None:
        code, fields = decode(one[2])
        codes.append(code)
        assert (
            len(fields)
            == {
                0x12: 14,
                0x13: 11,
                0x14: 12,
                0x15: 6,
                0x16: 3,
                0x17: 1,
                0x18: 1,
            }[code]
        )
        if code == 0x12:
            # Else it says "Invalid link".
            assert fields[5] is not None
            assert fields[6] is not None
            assert fields[9] == (None if fields[2] else 0)
        if code == 0x18:
            assert len(fields[0]) == 3
    assert {0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18} == set(codes)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (performatives.Accepted(), {"accepted": []}),
        (performatives.Released(), {"released": []}),
        (
            performatives.Rejected(Error("amqp:not-found", "gone")),
            {"rejected": [[b"amqp:not-found", b"gone", None]]},
        ),
    ],
    ids=repr,
)
def test_outcomes(state: performatives.DeliveryState, found: Any) -> None:
    said = performatives.Disposition(role=True, first=0, settled=True, state=state)
    assert decode(bodies.encode(said)) == (0x15, [True, 0, None, True, found, False])
