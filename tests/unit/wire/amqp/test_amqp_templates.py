"""Messages of which many are alike."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_strategies import symbols, texts, typed, values
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp import messages
from muster.wire.amqp.errors import LocalProtocolError
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.templates import Template, delivery_annotations
from muster.wire.amqp.types import Timestamp

maps = st.dictionaries(symbols.filter(lambda name: not name.startswith("v-")), values, max_size=3)


@given(
    fixed=maps,
    changing=st.lists(values, max_size=4),
    properties=st.builds(Properties, message_id=st.none() | texts, user_id=st.binary()),
    application=st.dictionaries(texts, st.none() | texts, max_size=3),
    body=st.binary(max_size=300),
    delivery=maps,
)
def test_it_is_the_same_message(  # noqa: PLR0917 - by name
    fixed: dict[Any, Any],
    changing: list[Any],
    properties: Properties,
    application: dict[Any, Any],
    body: bytes,
    delivery: dict[Any, Any],
) -> None:
    alike = Message(
        properties=properties, application_properties=application, message_annotations=fixed
    )
    names = [f"v-{number}" for number in range(len(changing))]
    template = Template(alike, names)
    before = delivery_annotations(delivery) if delivery else b""
    found = messages.decode(template.encode(changing, body, before))
    expected = messages.decode(
        messages.encode(
            Message(
                Data([body]),
                properties,
                application,
                {**fixed, **dict(zip(names, changing, strict=True))},
                delivery,
            )
        )
    )
    assert found.body == expected.body
    assert found.properties == expected.properties
    assert found.application_properties == expected.application_properties
    assert typed(found.message_annotations) == typed(expected.message_annotations)
    assert typed(found.delivery_annotations) == typed(expected.delivery_annotations)


def test_every_message_has_its_own() -> None:
    template = Template(Message(message_annotations={"a": "b"}), ["n", "t"])
    first = messages.decode(template.encode((1, Timestamp(2)), b"x"))
    second = messages.decode(template.encode((3, Timestamp(4)), b"y"))
    assert (first.message_annotations, first.data) == ({"a": "b", "n": 1, "t": 2}, b"x")
    assert (second.message_annotations, second.data) == ({"a": "b", "n": 3, "t": 4}, b"y")
    with pytest.raises(LocalProtocolError):
        template.encode((object(), 1), b"")
    with pytest.raises(ValueError, match="shorter"):
        template.encode((1,), b"")
