"""What a client may send, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_strategies import bytes_like_packets, connects, cut, cuts, from_clients

from muster.wire.mqtt.codec import ProtocolError, RemoteProtocolError, encode
from muster.wire.mqtt.connection import MAX_CONNECT_SIZE, ServerConnection
from muster.wire.mqtt.packets import Connect, Disconnect, Pingreq, Publish, Will
from vectors import mqtt as vectors

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Packet


def connected() -> ServerConnection:
    connection = ServerConnection()
    connection.receive(vectors.CONNECT)
    return connection


def feed(connection: ServerConnection, data: bytes, chunk_size: int) -> None:
    for at in range(0, len(data), chunk_size):
        assert connection.receive(data[at : at + chunk_size]) == []


@pytest.mark.parametrize("case", vectors.SDK_CONNECTS + vectors.OTHER_CONNECTS, ids=str)
def test_connect(case: vectors.Case) -> None:
    assert ServerConnection().receive(case.data) == [case.packet]


@pytest.mark.parametrize("case", vectors.PUBLISHES, ids=str)
def test_publish(case: vectors.Case) -> None:
    assert connected().receive(case.data) == [case.packet]


@pytest.mark.parametrize(
    "case", vectors.REFUSED_FROM_CLIENTS + vectors.BAD_CONNECTS + vectors.MALFORMED, ids=str
)
def test_refused(case: vectors.Case) -> None:
    for chunk_size in (len(case.data), 1):
        connection = ServerConnection() if case.first else connected()
        with pytest.raises(RemoteProtocolError) as caught:
            feed(connection, case.data, chunk_size)
        assert (caught.value.reason, caught.value.reply_hint) == (case.error, case.reply_hint)


@pytest.mark.parametrize(
    "case", [case for case in vectors.REFUSED_FROM_CLIENTS if not case.first], ids=str
)
def test_refused_in_the_chunk_of_the_connect(case: vectors.Case) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ServerConnection().receive(vectors.CONNECT + case.data)
    assert caught.value.packets == [vectors.SDK_CONNECTS[0].packet]
    assert (caught.value.reason, caught.value.reply_hint) == (case.error, None)


def test_wrong_first_packet_is_refused_by_its_first_byte() -> None:
    with pytest.raises(RemoteProtocolError, match="the first packet is PUBLISH, not CONNECT"):
        ServerConnection().receive(b"\x32")


def test_strangers_get_little_memory() -> None:
    largest = Connect("d", "u" * 32_000, b"p" * 500, will=Will("t", bytes(65_535)))
    data = encode(largest)
    assert len(data) < MAX_CONNECT_SIZE
    connection = ServerConnection()
    assert connection.receive(data[:-1]) == []
    assert connection.buffered == len(data) - 1
    assert connection.receive(data[-1:]) == [largest]

    too_large = encode(Connect("d", "u" * 40_000, b"p" * 500, will=Will("t", bytes(65_535))))
    with pytest.raises(RemoteProtocolError, match=f"larger than {MAX_CONNECT_SIZE} bytes"):
        ServerConnection().receive(too_large[:4])


def test_limit_of_messages_begins_with_the_connect() -> None:
    message = Publish("t", bytes(262_144), 1, 1)
    assert ServerConnection().receive(vectors.CONNECT + encode(message))[1:] == [message]
    with pytest.raises(RemoteProtocolError, match="larger than 100000 bytes"):
        ServerConnection(100_000).receive(vectors.CONNECT + encode(message))


@pytest.mark.parametrize("rest", [b"", b"\xf0", b"\x32\xff\xff\xff\x7f", vectors.CONNECT])
def test_nothing_is_read_after_disconnect(rest: bytes) -> None:
    connection = connected()
    stream = encode(Pingreq()) + encode(Disconnect()) + rest
    assert connection.receive(stream) == [Pingreq(), Disconnect()]
    assert connection.receive(rest) == []
    assert connection.receive(encode(Pingreq())) == []
    assert connection.buffered == 0


@settings(max_examples=50)  # the decoder's own tests look at the bytes
@given(connects, st.lists(from_clients, max_size=6), st.booleans(), cuts)
def test_chunks_do_not_matter(
    connect: Connect,
    sent: list[Packet],
    leaves: bool,  # noqa: FBT001
    places: list[int],
) -> None:
    stream = [connect, *sent, *([Disconnect()] if leaves else [])]
    data = b"".join(map(encode, stream))
    connection = ServerConnection()
    found = [packet for chunk in cut(data, places) for packet in connection.receive(chunk)]
    assert found == stream
    assert connection.buffered == 0


@settings(max_examples=50)
@given(st.booleans(), st.lists(bytes_like_packets, max_size=4))
def test_garbage_raises_protocol_errors_only(
    greets: bool,  # noqa: FBT001
    chunks: list[bytes],
) -> None:
    connection = connected() if greets else ServerConnection()
    for chunk in chunks:
        try:
            found = connection.receive(chunk)
        except ProtocolError:
            assert connection.buffered == 0
        else:
            assert all(not isinstance(packet, Publish) or packet.qos < 2 for packet in found)
