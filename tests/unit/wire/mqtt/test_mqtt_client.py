"""What a server may send, and what answers what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import cut, cuts

from muster.wire.mqtt.client import MAX_IN_FLIGHT, ClientConnection
from muster.wire.mqtt.codec import LocalProtocolError, RemoteProtocolError, encode, encode_puback
from muster.wire.mqtt.connection import ServerConnection
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

CONNACK = b"\x20\x02\x00\x00"
GOOD = [
    Publish("t", b"x"),
    Publish("t", b"x", 1, 7),
    Publish("t", b"x", 1, 7, dup=True, retain=True),
    Puback(1),
    Suback(2, [1, 0x80]),
    Pingresp(),
]


def connected() -> ClientConnection[str]:
    connection = ClientConnection[str]()
    assert connection.receive(CONNACK) == [Connack(0)]
    return connection


@given(st.lists(st.sampled_from(GOOD), max_size=6), cuts)
def test_packets_of_a_server_in_any_chunks(packets: list[Packet], at: list[int]) -> None:
    connection = ClientConnection[str]()
    whole = CONNACK + b"".join(map(encode, packets))
    found: list[Packet] = []
    for chunk in cut(whole, at):
        found += connection.receive(chunk)
    assert found == [Connack(0), *packets]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Connack(0), "second CONNACK"),
        (Connect("c"), "CONNECT is for clients to send"),
        (Subscribe(1, [("t", 0)]), "SUBSCRIBE is for clients to send"),
        (Unsubscribe(1, ["t"]), "UNSUBSCRIBE is for clients to send"),
        (Pingreq(), "PINGREQ is for clients to send"),
        (Disconnect(), "DISCONNECT is for clients to send"),
        (Publish("t", b"", 2, 1), "PUBLISH that nothing asked for"),
        (Pubrec(1), "PUBREC that nothing asked for"),
        (Pubrel(1), "PUBREL that nothing asked for"),
        (Pubcomp(1), "PUBCOMP that nothing asked for"),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, str) else "",
)
def test_what_a_server_must_not_send(packet: Packet, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        connected().receive(encode(packet))
    assert caught.value.reason == reason


def test_connack_comes_first() -> None:
    with pytest.raises(RemoteProtocolError, match="the first packet is PUBACK, not CONNACK"):
        ClientConnection[str]().receive(encode_puback(1))


def test_answers_give_the_notes_back() -> None:
    connection = connected()
    server = ServerConnection()
    server.receive(encode(Connect("c")))
    sent = server.receive(
        connection.publish("t", b"1", "first")
        + connection.subscribe([("t", 1)], "second")
        + connection.publish("t", b"2", "third")
        + connection.unsubscribe(["t", "u"], "fourth")
    )
    assert sent == [
        Publish("t", b"1", 1, 1),
        Subscribe(2, [("t", 1)]),
        Publish("t", b"2", 1, 3),
        Unsubscribe(4, ["t", "u"]),
    ]
    assert connection.in_flight == 4
    assert connection.settle(Unsuback(4)) == "fourth"
    assert connection.settle(Puback(3)) == "third"
    assert connection.settle(Suback(2, [1])) == "second"
    assert connection.settle(Puback(1)) == "first"
    assert connection.in_flight == 0


def test_an_answer_to_nothing_is_an_error() -> None:
    connection = connected()
    connection.publish("t", b"", "note")
    with pytest.raises(RemoteProtocolError, match="PUBACK answers nothing"):
        connection.settle(Puback(2))
    with pytest.raises(RemoteProtocolError, match="SUBACK answers nothing"):
        connection.settle(Suback(1, [0]))
    with pytest.raises(RemoteProtocolError, match="UNSUBACK answers nothing"):
        connection.settle(Unsuback(1))
    assert connection.settle(Puback(1)) == "note"
    with pytest.raises(RemoteProtocolError, match="PUBACK answers nothing"):
        connection.settle(Puback(1))


def test_identifiers_that_wait_are_not_used_again() -> None:
    connection = ClientConnection[int]()
    for number in range(MAX_IN_FLIGHT):
        connection.publish("t", b"", number)
    with pytest.raises(LocalProtocolError, match="no packet identifier is free"):
        connection.publish("t", b"", -1)
    assert connection.settle(Puback(40_000)) == 39_999
    assert connection.publish("t", b"", -1).endswith((40_000).to_bytes(2))


def test_what_is_abandoned_waits_no_longer() -> None:
    connection = connected()
    connection.publish("t", b"", "first")
    connection.subscribe([("t", 1)], "second")
    assert connection.abandon() == ["first", "second"]
    assert connection.abandon() == []
    assert connection.in_flight == 0


def test_what_cannot_be_written_takes_no_identifier() -> None:
    connection = ClientConnection[str]()
    with pytest.raises(LocalProtocolError):
        connection.publish("", b"", "note")
    assert connection.in_flight == 0
