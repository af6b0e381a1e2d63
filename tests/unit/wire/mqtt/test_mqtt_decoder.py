"""From bytes to packets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import bytes_like_packets, cut, cuts, packets, telemetry

from muster.wire.mqtt.codec import (
    DEFAULT_MAX_PACKET_SIZE,
    SMALLEST_MAX_PACKET_SIZE,
    Decoder,
    ProtocolError,
    RemoteProtocolError,
    encode,
)
from muster.wire.mqtt.packets import Puback, Publish
from vectors import mqtt as vectors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.wire.mqtt.packets import Packet

Outcome = tuple[list["Packet"], tuple[str, int | None] | None]


def outcome(decoder: Decoder, chunks: Iterable[bytes]) -> Outcome:
    """Return all packets until the end or the fault, and the fault."""
    found: list[Packet] = []
    for chunk in chunks:
        try:
            found += decoder.feed(chunk)
        except RemoteProtocolError as error:
            return found + error.packets, (error.reason, error.reply_hint)
    return found, None


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("case", vectors.PACKETS + vectors.UNUSUAL, ids=str)
def test_packet(case: vectors.Case) -> None:
    assert Decoder().feed(case.data) == [case.packet]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes(kind: type) -> None:
    packet = Publish("t", b"payload", 1, 1)
    (decoded,) = Decoder().feed(kind(encode(packet)))
    assert decoded == packet
    assert isinstance(decoded, Publish)
    assert type(decoded.payload) is bytes


@pytest.mark.parametrize(
    "case",
    vectors.MALFORMED + vectors.MALFORMED_FROM_SERVERS + vectors.BAD_CONNECTS,
    ids=str,
)
def test_malformed(case: vectors.Case) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Decoder().feed(case.data)
    assert (caught.value.reason, caught.value.reply_hint) == (case.error, case.reply_hint)
    assert str(caught.value) == case.error
    in_bytes = outcome(Decoder(), one_by_one(case.data))
    assert in_bytes == ([], (case.error, case.reply_hint))


def test_vectors_in_one_stream_and_byte_by_byte() -> None:
    cases = [case for case in vectors.PACKETS if len(case.data) < 1000]
    stream = b"".join(case.data for case in cases)
    expected = [case.packet for case in cases]
    assert Decoder().feed(stream) == expected
    assert outcome(Decoder(), one_by_one(stream)) == (expected, None)


def test_packets_before_a_fault_are_told() -> None:
    decoder = Decoder()
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.feed(encode(Puback(1)) + encode(Puback(2)) + b"\xf0\x00" + encode(Puback(3)))
    assert caught.value.packets == [Puback(1), Puback(2)]


def test_after_a_fault_everything_is_refused() -> None:
    decoder = Decoder()
    with pytest.raises(RemoteProtocolError):
        decoder.feed(encode(Puback(1)) + b"\xf0\x00")
    for data in (encode(Puback(2)), b""):
        with pytest.raises(RemoteProtocolError, match="packet of reserved type 15") as caught:
            decoder.feed(data)
        assert caught.value.packets == []
    assert decoder.buffered == 0


def test_nothing_in_nothing_out() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\x40") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\x02\x00") == []
    assert decoder.feed(b"") == []
    assert decoder.buffered == 3
    assert decoder.feed(b"\x07") == [Puback(7)]
    assert decoder.buffered == 0


class TestSize:
    def test_largest(self) -> None:
        size = SMALLEST_MAX_PACKET_SIZE + 1000
        # Fixed header of four bytes, topic of three.
        packet = Publish("t", bytes(size - 7))
        data = encode(packet)
        assert len(data) == size
        assert Decoder(size).feed(data) == [packet]
        assert outcome(Decoder(size), cut(data, [1, 2, 3, 4, 5, 9000])) == ([packet], None)

    @pytest.mark.parametrize("missing", [0, 1, 9000])
    def test_one_byte_more(self, missing: int) -> None:
        size = SMALLEST_MAX_PACKET_SIZE + 1000
        data = encode(Publish("t", bytes(size - 6)))
        with pytest.raises(RemoteProtocolError, match=f"larger than {size} bytes"):
            Decoder(size).feed(data[: len(data) - missing])

    def test_refused_by_its_header_alone(self) -> None:
        decoder = Decoder()
        assert decoder.feed(b"\x32\xff\xff\xff") == []
        with pytest.raises(RemoteProtocolError, match="larger than"):
            decoder.feed(b"\x7f")
        assert decoder.buffered == 0

    def test_limit_that_two_bytes_of_length_could_pass_is_refused(self) -> None:
        Decoder(SMALLEST_MAX_PACKET_SIZE)
        with pytest.raises(ValueError, match="max_packet_size"):
            Decoder(SMALLEST_MAX_PACKET_SIZE - 1)

    def test_default_has_room_for_the_largest_message(self) -> None:
        packet = Publish("t" * 65535, bytes(262_144), 1, 1)
        data = encode(packet)
        assert len(data) <= DEFAULT_MAX_PACKET_SIZE
        assert Decoder().feed(data) == [packet]


def test_large_packet_in_single_bytes_takes_linear_time() -> None:
    packet = Publish("t", bytes(262_144), 1, 1)
    data = encode(packet)
    decoder = Decoder()
    started = time.thread_time()
    for at in range(len(data) - 1):
        assert not decoder.feed(data[at : at + 1])
    assert decoder.buffered == len(data) - 1
    assert decoder.feed(data[-1:]) == [packet]
    # About 0.15 s here; copying the buffer each time would take over 5 s.
    assert time.thread_time() - started < 2


class TestKeptTopic:
    """The decoder keeps the last topic; that must never show."""

    def test_topics_that_begin_alike(self) -> None:
        topics = ["a", "ab", "a", "abc", "b", "abc", "abcd", "ab"]
        found = [Publish(topic, b"", 1, 1) for topic in topics]
        assert Decoder().feed(b"".join(map(encode, found))) == found

    def test_packet_that_ends_within_the_kept_topic(self) -> None:
        good = encode(Publish("abcdef", b"", 1, 1))
        decoder = Decoder()
        decoder.feed(good)
        for cut_off in (b"\x32\x05\x00\x06abc", b"\x30\x05\x00\x06abc"):
            # What follows happens to go on as the topic would.
            with pytest.raises(RemoteProtocolError, match="PUBLISH is too short"):
                Decoder().feed(good + cut_off + b"def\x00\x01")

    def test_topic_that_reaches_into_the_next_packet(self) -> None:
        for first in (0x30, 0x32):
            with pytest.raises(RemoteProtocolError, match="PUBLISH is too short"):
                Decoder().feed(bytes((first, 3)) + b"\x00\x03t\xff\xff")

    def test_packet_without_identifier_after_the_kept_topic(self) -> None:
        decoder = Decoder()
        decoder.feed(encode(Publish("a", b"", 1, 1)))
        with pytest.raises(RemoteProtocolError, match="PUBLISH is too short"):
            decoder.feed(b"\x32\x04\x00\x01a\x00\xc0\x00")

    def test_empty_topic_first(self) -> None:
        with pytest.raises(RemoteProtocolError, match="PUBLISH topic is empty"):
            Decoder().feed(b"\x30\x02\x00\x00")

    @pytest.mark.parametrize("size", [1021, 1022, 1023, 1024, 65535])
    def test_long_topics_are_not_kept(self, size: int) -> None:
        decoder = Decoder()
        long, short = Publish("é" * (size // 2), b"x", 1, 1), Publish("t", b"y", 1, 2)
        stream = [short, long, long, short, long]
        assert decoder.feed(b"".join(map(encode, stream))) == stream
        for packet in stream:
            assert decoder.feed(encode(packet)) == [packet]
        assert len(decoder._topic_field or b"") <= 1024


@given(st.lists(st.one_of(telemetry, packets), max_size=8), cuts)
def test_chunks_do_not_matter(sent: list[Packet], places: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    decoder = Decoder()
    assert outcome(decoder, cut(stream, places)) == (sent, None)
    assert decoder.buffered == 0


@given(st.lists(telemetry, max_size=3), bytes_like_packets, cuts)
def test_chunks_do_not_matter_for_garbage(
    sent: list[Packet], garbage: bytes, places: list[int]
) -> None:
    stream = b"".join(map(encode, sent)) + garbage
    whole = outcome(Decoder(), [stream])
    assert outcome(Decoder(), cut(stream, places)) == whole
    assert whole[0][: len(sent)] == sent


@given(st.lists(bytes_like_packets, max_size=6))
def test_garbage_raises_protocol_errors_only_and_is_not_hoarded(chunks: list[bytes]) -> None:
    decoder = Decoder(SMALLEST_MAX_PACKET_SIZE)
    for chunk in chunks:
        try:
            found = decoder.feed(chunk)
        except ProtocolError:
            assert decoder.buffered == 0
        else:
            # What was read can be written, and means the same again.
            assert Decoder().feed(b"".join(map(encode, found))) == found


@given(st.integers(0, 255), st.integers(0, 2**28 - 1), st.binary(max_size=3), st.integers(1, 5000))
def test_never_holds_more_than_one_packet(
    first: int, remaining: int, body: bytes, chunk_size: int
) -> None:
    decoder = Decoder(SMALLEST_MAX_PACKET_SIZE)
    header = bytes(
        (first, *(remaining >> shift & 127 | 128 for shift in (0, 7, 14)), remaining >> 21)
    )
    stream = header + body + bytes(40_000)
    for at in range(0, len(stream), chunk_size):
        try:
            decoder.feed(stream[at : at + chunk_size])
        except ProtocolError:
            assert decoder.buffered == 0
            break
        assert decoder.buffered < SMALLEST_MAX_PACKET_SIZE
