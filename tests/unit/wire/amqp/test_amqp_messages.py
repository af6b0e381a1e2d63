"""Messages between bytes and Python."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from amqp_strategies import junk, symbols, texts, typed, values, whole
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp import messages
from muster.wire.amqp.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.messages import (
    AmqpSequence,
    AmqpValue,
    Data,
    Header,
    Message,
    Properties,
)
from muster.wire.amqp.types import ULong
from vectors import amqp as vectors


@pytest.mark.parametrize("case", vectors.MESSAGES, ids=str)
def test_encode(case: vectors.Case) -> None:
    assert messages.encode(case.value).hex(" ") == case.data.hex(" ")


@pytest.mark.parametrize("case", vectors.MESSAGES + vectors.OTHER_MESSAGES, ids=str)
def test_decode(case: vectors.Case) -> None:
    assert messages.decode(case.data) == case.value


@pytest.mark.parametrize("case", vectors.MALFORMED_MESSAGES, ids=str)
def test_malformed(case: vectors.Case) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        messages.decode(case.data)
    assert (caught.value.description, caught.value.condition) == (case.error, case.condition)


ids = st.one_of(st.none(), whole(ULong, 64, signed=False), st.uuids(), st.binary(), texts)
bodies = st.one_of(
    st.none(),
    st.builds(Data, st.lists(st.binary(max_size=300), min_size=1, max_size=3)),
    st.builds(AmqpSequence, st.lists(st.lists(values, max_size=3), min_size=1, max_size=2)),
    st.builds(AmqpValue, values),
)
annotations = st.dictionaries(symbols, values, max_size=3)
uints = st.none() | st.integers(0, 2**32 - 1)
times = st.none() | st.integers(-(2**63), 2**63 - 1)
optional = st.none() | texts
messages_of_all_kinds = st.builds(
    Message,
    bodies,
    st.builds(
        Properties,
        ids,
        st.none() | st.binary(),
        optional,
        optional,
        optional,
        ids,
        st.none() | symbols.map(str),
        st.none() | symbols.map(str),
        times,
        times,
        optional,
        uints,
        optional,
    ),
    st.dictionaries(texts, values, max_size=3),
    annotations,
    annotations,
    st.none()
    | st.builds(
        Header,
        st.booleans(),
        st.integers(0, 255),
        uints,
        st.booleans(),
        st.integers(0, 2**32 - 1),
    ),
    annotations,
)


def parts(message: Message) -> list[Any]:
    body: Any = message.body
    content = getattr(body, "sections", None) or getattr(body, "value", None)
    properties = message.properties
    return [
        type(body),
        typed(content),
        typed(properties.message_id),
        typed(properties.correlation_id),
        properties,
        message.header,
        *map(
            typed,
            (
                message.application_properties,
                message.message_annotations,
                message.delivery_annotations,
                message.footer,
            ),
        ),
    ]


@given(messages_of_all_kinds)
def test_decoding_gives_the_message_back(message: Message) -> None:
    assert parts(messages.decode(messages.encode(message))) == parts(message)


@given(junk)
def test_garbage_raises_protocol_errors_only(data: bytes) -> None:
    try:
        message = messages.decode(data)
    except RemoteProtocolError:
        return
    assert repr(messages.decode(messages.encode(message))) == repr(message)


@pytest.mark.parametrize(
    "message_id", [ULong(0), ULong(7), UUID(int=7), b"\x07", "7", "0"], ids=repr
)
def test_correlation_id_is_echoed_with_its_type(message_id: Any) -> None:
    request = messages.decode(messages.encode(Message(properties=Properties(message_id))))
    answer = Message(properties=Properties(correlation_id=request.properties.message_id))
    echoed = messages.decode(messages.encode(answer)).properties.correlation_id
    assert typed(echoed) == typed(message_id)


def test_data() -> None:
    assert Message(Data([b"a", b"b"])).data == b"ab"
    assert Message(Data([b"a"])).data == b"a"
    assert Message(AmqpValue("é")).data == "é".encode()
    assert Message(AmqpValue(b"x")).data == b"x"
    assert Message(AmqpValue(1)).data == b""
    assert Message(AmqpSequence([[1]])).data == b""
    assert Message().data == b""


def test_batch() -> None:
    singles = [messages.encode(Message(Data([b"1"]))), messages.encode(Message(Data([b"2"])))]
    batch = messages.encode(Message(Data(singles)))
    assert messages.decode_batch(batch) == singles
    with pytest.raises(RemoteProtocolError, match="batch has no data section"):
        messages.decode_batch(messages.encode(Message(AmqpValue("x"))))


def test_keys_of_annotations_are_written_as_symbols() -> None:
    encoded = messages.encode(Message(message_annotations={"operation": "GET"}))
    assert b"\xa3\x09operation\xa1\x03GET" in encoded


def test_repr_tells_no_content() -> None:
    message = Message(AmqpValue("SharedAccessSignature"), Properties("1"))
    assert "SharedAccess" not in repr(message)
    assert "secret" not in repr(Message(Data([b"secret"])))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(application_properties={ULong(1): 1}), "a key that is no string"),
        (Message(properties=Properties(content_type="é")), "symbol is not ASCII"),
        (Message(AmqpValue(object())), "AMQP has no type for object"),
        (Message(properties=Properties(creation_time=2**63)), "outside the range"),
    ],
    ids=repr,
)
def test_what_cannot_be_written(message: Message, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        messages.encode(message)
