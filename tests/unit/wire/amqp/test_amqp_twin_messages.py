from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from muster.errors import InvalidArgumentError
from muster.wire.amqp import messages, twin_messages
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.twin_messages import TwinAnswer, TwinOperation
from muster.wire.amqp.types import Int

NOTIFICATIONS = "/notifications/twin/properties/desired"


def request(**annotations: Any) -> Message:
    return Message(Data([b" "]), message_annotations=dict(annotations))


@pytest.mark.parametrize(
    ("verb", "resource", "operation"),
    [
        ("GET", None, TwinOperation.GET),
        ("get", "/", TwinOperation.GET),
        ("PATCH", "/properties/reported", TwinOperation.REPORT),
        ("PATCH", "/Properties/Reported", TwinOperation.REPORT),
        ("PUT", NOTIFICATIONS, TwinOperation.SUBSCRIBE),
        ("DELETE", NOTIFICATIONS, TwinOperation.UNSUBSCRIBE),
    ],
)
def test_what_is_asked(verb: str, resource: str | None, operation: TwinOperation) -> None:
    assert twin_messages.operation(request(operation=verb, resource=resource)) is operation


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("", ""),
        (None, None),
        (7, NOTIFICATIONS),
        ("PATCH", "/properties/desired"),
        ("PATCH", NOTIFICATIONS),
        ("PUT", "/properties/reported"),
        ("POST", "/"),
    ],
)
def test_what_nobody_can_ask(verb: Any, resource: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        twin_messages.operation(request(operation=verb, resource=resource))


@pytest.mark.parametrize(("version", "expected"), [(7, 7), (None, None), ("7", None)])
def test_the_version_that_a_client_means(version: Any, expected: int | None) -> None:
    assert twin_messages.expected_version(request(version=version)) == expected


@pytest.mark.parametrize("correlation_id", ["Get7", UUID(int=7), b"\x07"])
def test_answers_go_with_the_request_as_it_was_named(correlation_id: Any) -> None:
    sent = twin_messages.answer(TwinAnswer(200, b"{}", 12), correlation_id)
    came = messages.decode(messages.encode(sent))
    assert came.properties.correlation_id == correlation_id
    assert came.message_annotations == {"status": Int(200), "version": 12}
    assert came.data == b"{}"
    assert "version" not in twin_messages.answer(TwinAnswer(404), None).message_annotations


def test_a_change_goes_with_no_request() -> None:
    came = messages.decode(messages.encode(twin_messages.desired_changed(b"{}", 3)))
    assert came.properties.correlation_id is None
    assert came.message_annotations == {"resource": "/properties/desired", "version": 3}
