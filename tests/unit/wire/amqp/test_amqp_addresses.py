from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp import addresses
from muster.wire.amqp.addresses import Address


@pytest.mark.parametrize(
    ("text", "host", "segments"),
    [
        ("/devices/d1/messages/events", "", ("devices", "d1", "messages", "events")),
        ("devices/d1/messages/events/", "", ("devices", "d1", "messages", "events")),
        ("amqps://Hub.Example/messages/devicebound", "hub.example", ("messages", "devicebound")),
        ("amqps://hub.example:5671/devices/d%201/twin", "hub.example", ("devices", "d 1", "twin")),
        ("amqps://me@you:x@hub.example:5671/$management", "hub.example", ("$management",)),
        ("sb://hub.example", "hub.example", ()),
        ("amqps://[::1]:5671/a", "[::1]", ("a",)),
        ("$cbs", "", ("$cbs",)),
        ("", "", ()),
        ("///", "", ()),
        ("a/b://c", "", ("a", "b:", "c")),
    ],
)
def test_spellings(text: str, host: str, segments: tuple[str, ...]) -> None:
    assert addresses.parse(text) == Address(host, segments)


@given(st.text())
def test_anything_can_be_read(text: str) -> None:
    address = addresses.parse(text)
    assert all(address.segments) or "%" in text


def test_patterns() -> None:
    address = addresses.parse("/Devices/D1/Modules/M1/Messages/deviceBound")
    assert address.match("devices/*/modules/*/messages/devicebound") == ("D1", "M1")
    assert address.match("devices/*/modules/*/messages/events") is None
    assert address.match("devices/*/messages/devicebound") is None
    assert addresses.parse("$CBS").match("$cbs") == ()
    assert address.path == "Devices/D1/Modules/M1/Messages/deviceBound"
