"""From packets to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import packet_ids, packets

from muster.wire.mqtt.codec import (
    Decoder,
    LocalProtocolError,
    encode,
    encode_puback,
    encode_pubacks,
    encode_publish,
)
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
    Will,
)
from vectors import mqtt as vectors

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Packet


@pytest.mark.parametrize("case", vectors.PACKETS, ids=str)
def test_packet(case: vectors.Case) -> None:
    assert case.packet is not None
    assert encode(case.packet) == case.data


@given(packets)
def test_decoding_gives_the_packet_back(packet: Packet) -> None:
    assert Decoder().feed(encode(packet)) == [packet]


def test_publish_by_its_arguments() -> None:
    packet = Publish("a/b", b"x", 1, 7, retain=True, dup=True)
    assert encode_publish("a/b", b"x", 1, 7, retain=True, dup=True) == encode(packet)
    assert encode_publish("a/b", b"x") == encode(Publish("a/b", b"x"))


@given(st.lists(packet_ids))
def test_pubacks(ids: list[int]) -> None:
    each = b"".join(map(encode_puback, ids))
    assert encode_pubacks(ids) == each
    assert each == b"".join(encode(Puback(packet_id)) for packet_id in ids)


def test_other_protocol_versions_can_be_asked_for() -> None:
    old = Connect("d", protocol_name="MQIsdp", protocol_level=3)
    assert encode(old) == b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01d"


LONG = "x" * 65536

IMPOSSIBLE: list[tuple[Packet, str]] = [
    (Publish("", b""), "PUBLISH topic is empty"),
    (Publish("a\0"), "PUBLISH topic holds U\\+0000"),
    (Publish("\ud800"), "PUBLISH topic holds half a surrogate pair"),
    (Publish(LONG), "PUBLISH topic is longer than 65535 bytes"),
    (Publish("é" * 32768), "PUBLISH topic is longer than 65535 bytes"),
    (Publish("t", bytes(268_435_456)), "packet is longer than a remaining length can say"),
    (Publish("t", b"", 3, 1), "PUBLISH QoS is not 0 to 2"),
    (Publish("t", b"", -1, 1), "PUBLISH QoS is not 0 to 2"),
    (Publish("t", b"", 0, 1), "PUBLISH has QoS 0 and a packet identifier or DUP"),
    (Publish("t", b"", 0, dup=True), "PUBLISH has QoS 0 and a packet identifier or DUP"),
    (Publish("t", b"", 1), "packet identifier is not 1 to 65535"),
    (Publish("t", b"", 1, 0), "packet identifier is not 1 to 65535"),
    (Publish("t", b"", 2, 65536), "packet identifier is not 1 to 65535"),
    (Puback(0), "packet identifier is not 1 to 65535"),
    (Puback(65536), "packet identifier is not 1 to 65535"),
    (Connack(6), "CONNACK return code is not 0 to 5"),
    (Connack(5, session_present=True), "CONNACK refuses and has a session"),
    (Subscribe(1, []), "SUBSCRIBE has no topic filter"),
    (Subscribe(1, [("a", 3)]), "SUBSCRIBE QoS is not 0 to 2"),
    (Subscribe(0, [("a", 1)]), "packet identifier is not 1 to 65535"),
    (Subscribe(1, [("a#", 1)]), "topic filter has '#' elsewhere than alone at its end"),
    (Suback(1, []), "SUBACK return codes"),
    (Suback(1, [3]), "SUBACK return codes"),
    (Unsubscribe(1, []), "UNSUBSCRIBE has no topic filter"),
    (Unsubscribe(1, [""]), "topic filter is empty"),
    (Connect("", clean_session=False), "client identifier is empty without a clean session"),
    (Connect("d\0"), "client identifier holds U\\+0000"),
    (Connect("d", LONG), "user name is longer than 65535 bytes"),
    (Connect("d", None, b"p"), "CONNECT has a password without a user name"),
    (Connect("d", "u", bytes(65536)), "password is longer than 65535 bytes"),
    (Connect("d", keep_alive_s=65536), "keep-alive is not 0 to 65535 s"),
    (Connect("d", protocol_level=256), "protocol level is not 0 to 255"),
    (Connect("d", will=Will("t", qos=3)), "will QoS is not 0 to 2"),
    (Connect("d", will=Will("t", bytes(65536))), "will message is longer than 65535 bytes"),
]


@pytest.mark.parametrize(("packet", "reason"), IMPOSSIBLE, ids=[reason for _, reason in IMPOSSIBLE])
def test_what_cannot_be_written(packet: Packet, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason) as caught:
        encode(packet)
    assert caught.value.reply_hint is None


@pytest.mark.parametrize("ids", [[0], [1, 0], [65536], [1, -1]])
def test_pubacks_that_cannot_be_written(ids: list[int]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_pubacks(ids)
    with pytest.raises(LocalProtocolError):
        encode_puback(ids[-1])
