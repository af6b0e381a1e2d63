from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp import messages, method_messages
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.method_messages import MethodAnswer

REQUEST_IDS = st.integers(1, 2**63 - 1)


def answered(correlation_id: Any, status: Any = 200) -> MethodAnswer | None:
    properties = Properties(correlation_id=correlation_id)
    message = Message(Data([b"{}"]), properties, {"IoThub-status": status})
    return method_messages.answer(messages.encode(message))


@given(REQUEST_IDS, st.text(min_size=1), st.binary())
def test_a_call_names_its_method_and_its_request(request_id: int, name: str, body: bytes) -> None:
    call = messages.decode(method_messages.call(request_id, name, body))
    assert call.application_properties == {"IoThub-methodname": name}
    assert call.data == body
    assert answered(call.properties.correlation_id) == MethodAnswer(request_id, 200, b"{}")


@given(REQUEST_IDS)
def test_request_ids_travel_in_random_looking_uuids(request_id: int) -> None:
    correlation_id = method_messages.correlation_id(request_id)
    assert (correlation_id.version, correlation_id.variant) == (4, "specified in RFC 4122")
    for form in (correlation_id, str(correlation_id), correlation_id.bytes):
        assert answered(form) == MethodAnswer(request_id, 200, b"{}")


@pytest.mark.parametrize("correlation_id", ["", "x", b"short", None])
def test_what_names_no_request_is_no_answer(correlation_id: Any) -> None:
    assert answered(correlation_id) is None


@pytest.mark.parametrize("status", [None, "200", 1 << 31])
def test_a_status_has_32_bits(status: Any) -> None:
    correlation_id = method_messages.correlation_id(1)
    assert answered(correlation_id, status) is None
    assert answered(correlation_id, -(1 << 31)) == MethodAnswer(1, -(1 << 31), b"{}")


@given(st.binary())
def test_anything_can_be_read(payload: bytes) -> None:
    answer = method_messages.answer(payload)
    assert answer is None or method_messages.answer(payload) == answer
